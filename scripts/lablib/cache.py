"""Downloaded and unpacked suites. A suite is either whole (`current` leads to a manifest) or not there.

- SUITE/apt/: the private apt tree, only while it is needed
- SUITE/debs/: the packages
- SUITE/boot-HASH/: the files taken from them, and manifest.json
- SUITE/current: symbolic link to the boot-HASH in use, replaced in one step
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import packages
from .apt import Package, PrivateApt
from .errors import LabError
from .packages import ROLES, Role
from .places import cache_root
from .progress import Progress, size_text
from .unpack import unpack

_FORMAT = 1  # one more whenever packages.ROLES or the manifest change: older caches are then made again


@dataclass(frozen=True)
class CachedSuite:
    """A suite that is ready to boot.

    versions: "xen" and "linux". packages: name to version. files: key of a WantedFile to its path.
    """

    suite: str
    versions: dict[str, str]
    packages: dict[str, str]
    files: dict[str, Path]

    def path(self, key: str) -> Path:
        """A file every lab needs."""
        return self.files[key]


def cached(suite: str) -> CachedSuite | None:
    """The suite as it is in the cache; None when it is not there or not whole."""
    current = cache_root() / suite / "current"
    try:
        manifest = json.loads((current / "manifest.json").read_text())
        directory = current.resolve(strict=True)
        files = {key: directory / entry["name"] for key, entry in manifest["files"].items()}
        whole = all(files[key].stat().st_size == entry["size"] for key, entry in manifest["files"].items())
        if manifest["format"] != _FORMAT or not whole:
            return None
        return CachedSuite(suite, manifest["versions"], manifest["packages"], files)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ensure(suite: str, progress: Progress, *, refresh: bool = False) -> CachedSuite:
    """The suite, downloaded first if it is not in the cache; refresh looks for newer packages.

    Several labs may ask at once: one downloads, the others wait for it.
    """
    if not refresh and (found := cached(suite)):
        return found
    root = cache_root() / suite
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / "lock", progress):
        if refresh or not (found := cached(suite)):
            _fetch(suite, root, progress)
            found = cached(suite)
    if found is None:
        raise LabError(f"{root} is not whole although it was just written", hint=f"remove {root}")
    return found


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.step(f"another lab is downloading into {path.parent}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch(suite: str, root: Path, progress: Progress) -> None:
    apt = PrivateApt(suite, root / "apt")
    progress.step(f"{suite}: updating the package lists (this machine's apt sources, a private apt tree)")
    complaints = apt.update()
    versions = _versions(apt)
    if complaints:
        progress.warn("apt said:\n    " + complaints.replace("\n", "\n    "))
    chosen = [(role, package) for role in ROLES if (package := _choose(apt, role, versions))]
    for _, package in chosen:
        _download(apt, package, root / "debs", progress)
    fingerprint = json.dumps([_FORMAT, [(package.name, package.version) for _, package in chosen]])
    directory = root / f"boot-{hashlib.sha256(fingerprint.encode()).hexdigest()[:12]}"
    if (now := cached(suite)) and now.path("xen").parent.name == directory.name:
        progress.step(f"{suite}: the cached packages are the newest")
    else:
        progress.step(f"{suite}: unpacking Xen {versions['xen']} and Linux {versions['linux']}")
        _put(root, directory, lambda work: _unpack_all(chosen, versions, root / "debs", work))
    _forget_others(root, directory, {package.filename for _, package in chosen})


def _put(root: Path, directory: Path, fill: Callable[[Path], None]) -> None:
    """Fill a scratch directory, give it its name and let `current` lead to it: each in one step."""
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=root) as scratch:
        work = Path(scratch) / "boot"
        work.mkdir()
        fill(work)
        shutil.rmtree(directory, ignore_errors=True)  # it is not whole, or it would be in use
        work.rename(directory)
        (Path(scratch) / "current").symlink_to(directory.name)
        os.replace(Path(scratch) / "current", root / "current")


def _versions(apt: PrivateApt) -> dict[str, str]:
    depends = apt.record(packages.LINUX_META).get("Depends", "")
    if not depends:
        raise apt.cannot(f"cannot find package {packages.LINUX_META}")
    return {
        "xen": packages.newest_xen(apt.names(packages.XEN_PREFIX), apt.suite),
        "linux": packages.newest_linux(depends, apt.suite),
    }


def _choose(apt: PrivateApt, role: Role, versions: dict[str, str]) -> Package | None:
    names = [name.format(version=versions.get(role.version_of or "", "")) for name in role.candidates]
    for name in names:
        if package := apt.locate(name):
            return package
    if role.required:
        raise apt.cannot(f"cannot find the {role.key} package ({' or '.join(names)})")
    return None


def _download(apt: PrivateApt, package: Package, debs: Path, progress: Progress) -> None:
    """Download into a scratch directory and rename: a name in debs/ is a whole package, whatever happens."""
    debs.mkdir(exist_ok=True)
    target = debs / package.filename
    label = f"{package.name} {package.version} ({size_text(package.size)})"
    if _is_whole(target, package):
        progress.step(f"{apt.suite}: have {label}")
        return
    progress.step(f"{apt.suite}: downloading {label}")
    with tempfile.TemporaryDirectory(prefix="download-", dir=debs.parent) as scratch:
        apt.download(
            package,
            Path(scratch),
            lambda size: progress.moving(f"  {size_text(size)} of {size_text(package.size)}"),
        )
        os.replace(Path(scratch) / package.filename, target)
    progress.clear()


def _is_whole(path: Path, package: Package) -> bool:
    """Whether a package is in the cache already: from an earlier fetch that failed, or before a refresh."""
    if not path.is_file() or path.stat().st_size != package.size:
        return False
    with path.open("rb") as stream:
        return package.sha256 in ("", hashlib.file_digest(stream, "sha256").hexdigest())


def _unpack_all(
    chosen: list[tuple[Role, Package]], versions: dict[str, str], debs: Path, directory: Path
) -> None:
    """Take the wanted files out of the packages and write the manifest, last."""
    entries: dict[str, dict[str, object]] = {}
    for role, package in chosen:
        version = versions.get(role.version_of or "", "")
        wanted = {file.key: file for file in role.files if file.key not in entries}
        for key, name in unpack(debs / package.filename, wanted, version, directory).items():
            entries[key] = {"name": name, "size": (directory / name).stat().st_size}
        missing = [key for key, file in wanted.items() if file.required and key not in entries]
        if missing:
            raise LabError(f"{package.filename} has no file known as {' or '.join(missing)}")
    manifest = {
        "format": _FORMAT,
        "versions": versions,
        "packages": {package.name: package.version for _, package in chosen},
        "files": entries,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _forget_others(root: Path, directory: Path, filenames: set[str]) -> None:
    """Remove what is not needed any more: other versions, scratch directories of commands that were killed,
    and the package lists, which are large and age.
    """
    scratch = (*root.glob("unpack-*"), *root.glob("download-*"))
    for path in (root / "apt", *scratch, *root.glob("boot-*")):
        if path != directory:
            shutil.rmtree(path, ignore_errors=True)
    for path in (root / "debs").iterdir():
        if path.name not in filenames:
            path.unlink()
