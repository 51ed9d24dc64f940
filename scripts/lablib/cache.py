"""Downloaded and unpacked suites. A part of a suite is either whole (its link leads to a manifest) or not there.

- SUITE/apt/: the private apt tree, only while it is needed
- SUITE/debs/: the packages
- SUITE/boot-HASH/, SUITE/toolstack-HASH/: the files taken from them, and manifest.json
- SUITE/current, SUITE/toolstack: symbolic links to the ones in use, replaced in one step
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import fetching
from .errors import LabError
from .packages import BOOT, TOOLSTACK, Part
from .places import cache_root
from .progress import Progress


@dataclass(frozen=True)
class CachedSuite:
    """A suite that is ready to boot.

    versions: "xen" and "linux". packages: name to version. files: key of a WantedFile to its path.
    toolstack: a name in dom0's file system to the file with its content; empty when it was not asked for.
    """

    suite: str
    versions: dict[str, str]
    packages: dict[str, str]
    files: dict[str, Path]
    toolstack: dict[str, Path] = field(default_factory=dict)

    def path(self, key: str) -> Path:
        """A file every lab needs."""
        return self.files[key]


def cached(suite: str) -> CachedSuite | None:
    """The suite as it is in the cache; None when it is not there or not whole.

    A toolstack for another hypervisor or another kernel counts as absent.
    """
    found = _read(suite, BOOT)
    if found is None:
        return None
    manifest, files = found
    more = _read(suite, TOOLSTACK)
    usable = more is not None and more[0]["versions"] == manifest["versions"]
    tools, used = (more[1], more[0]["packages"]) if more is not None and usable else ({}, {})
    return CachedSuite(suite, manifest["versions"], {**used, **manifest["packages"]}, files, tools)


def _read(suite: str, part: Part) -> tuple[dict[str, Any], dict[str, Path]] | None:
    """The manifest of a part and its files; None when it is not there or not whole."""
    link = cache_root() / suite / part.link
    try:
        manifest = json.loads((link / "manifest.json").read_text())
        directory = link.resolve(strict=True)
        files = {key: directory / entry["name"] for key, entry in manifest["files"].items()}
        whole = all(files[key].stat().st_size == entry["size"] for key, entry in manifest["files"].items())
        if manifest["format"] != part.form or not whole or not {"versions", "packages"} <= set(manifest):
            return None
        return manifest, files
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ensure(suite: str, progress: Progress, *, refresh: bool = False, toolstack: bool = False) -> CachedSuite:
    """The suite, downloaded first if it is not in the cache; refresh looks for newer packages.

    Several labs may ask at once: one downloads, the others wait for it.
    """
    if not refresh and _enough(found := cached(suite), toolstack):
        assert found is not None
        return found
    root = cache_root() / suite
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / "lock", progress):
        now = cached(suite)
        if refresh or not _enough(now, toolstack):
            both = toolstack or _read(suite, TOOLSTACK) is not None
            versions = None if refresh or now is None else now.versions
            parts = [*([BOOT] if versions is None else []), *([TOOLSTACK] if both else [])]
            whole = {_directory(root, part) for part in parts if _read(suite, part)}
            fetching.fetch(suite, root, parts, versions, whole, progress)
            _forget_unused(suite, root)
        found = cached(suite)
    if not _enough(found, toolstack):
        raise LabError(f"{root} is not whole although it was just written", hint=f"remove {root}")
    assert found is not None
    return found


def _enough(found: CachedSuite | None, toolstack: bool) -> bool:
    return found is not None and (bool(found.toolstack) or not toolstack)


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.step(f"another lab is downloading into {path.parent}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _directory(root: Path, part: Part) -> str:
    """The name of the directory in use for a part; empty when there is none."""
    link = root / part.link
    return link.readlink().name if link.is_symlink() else ""


def _forget_unused(suite: str, root: Path) -> None:
    """Remove what is not needed any more: other versions, scratch directories of commands that were killed,
    and the package lists, which are large and age.
    """
    used = {_directory(root, part) for part in (BOOT, TOOLSTACK)}
    for pattern in ("apt", "unpack-*", "download-*", *(f"{part.key}-*" for part in (BOOT, TOOLSTACK))):
        for path in root.glob(pattern):
            if path.name not in used:
                shutil.rmtree(path, ignore_errors=True)
    manifests = [found[0] for part in (BOOT, TOOLSTACK) if (found := _read(suite, part))]
    kept = [f"{name}_{version.replace(':', '%3a')}_" for one in manifests for name, version in one["packages"].items()]
    for path in (root / "debs").iterdir():
        if not path.name.startswith(tuple(kept)):
            path.unlink()
