"""Fetching a part of a suite: choosing its packages, downloading and unpacking them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import packages, toolstack
from .apt import Package, PrivateApt
from .errors import LabError
from .packages import Part, Role, WantedFile
from .progress import Progress, size_text
from .unpack import unpack


@dataclass(frozen=True)
class _Chosen:
    """A package and what is taken from it. version: what {version} stands for in its files.

    any_of: the files are those of several packages, each has some of them.
    """

    package: Package
    files: tuple[WantedFile, ...]
    version: str
    any_of: bool = False


def fetch(
    suite: str, root: Path, parts: list[Part], versions: dict[str, str] | None, whole: set[str], progress: Progress
) -> None:
    """Make parts of a suite whole.

    versions: "xen" and "linux"; None for the newest there are. whole: names of directories that need not be made.
    """
    apt = PrivateApt(suite, root / "apt")
    progress.step(f"{suite}: updating the package lists (this machine's apt sources, a private apt tree)")
    complaints = apt.update()
    versions = versions or _newest(apt)
    if complaints:
        progress.warn("apt said:\n    " + complaints.replace("\n", "\n    "))
    for part in parts:
        chosen = _choose(apt, part, versions)
        _download([one.package for one in chosen], apt, root / "debs", progress)
        directory = root / f"{part.key}-{_fingerprint(part, chosen, versions)}"
        if directory.name in whole:
            progress.step(f"{suite}: the cached packages of the {part.key} are the newest")
        else:
            progress.step(f"{suite}: unpacking, for Xen {versions['xen']} and Linux {versions['linux']}")
            _put(root, directory, part.link, partial(_fill, part, chosen, versions, root / "debs"))


def _newest(apt: PrivateApt) -> dict[str, str]:
    depends = apt.record(packages.LINUX_META).get("Depends", "")
    if not depends:
        raise apt.cannot(f"cannot find package {packages.LINUX_META}")
    return {
        "xen": packages.newest_xen(apt.names(packages.XEN_PREFIX), apt.suite),
        "linux": packages.newest_linux(depends, apt.suite),
    }


def _choose(apt: PrivateApt, part: Part, versions: dict[str, str]) -> list[_Chosen]:
    """The packages of a part, in the order in which their files are looked for."""
    chosen = []
    for role in part.roles:
        version = versions.get(role.version_of or "", "")
        if package := _play(apt, role, version):
            chosen.append(_Chosen(package, role.files, version))
    if part.closure:
        roots = [name.format(version=versions["xen"]) for name in part.closure.roots]
        for package in apt.closure(roots):
            if re.fullmatch(part.closure.kept, package.name):
                chosen.append(_Chosen(package, part.closure.files, versions["xen"], any_of=True))
    return chosen


def _play(apt: PrivateApt, role: Role, version: str) -> Package | None:
    names = [name.format(version=version) for name in role.candidates]
    for name in names:
        if package := apt.locate(name):
            return package
    if role.required:
        raise apt.cannot(f"cannot find the {role.key} package ({' or '.join(names)})")
    return None


def _download(wanted: list[Package], apt: PrivateApt, debs: Path, progress: Progress) -> None:
    """Download into a scratch directory and rename: a name in debs/ is a whole package, whatever happens."""
    debs.mkdir(exist_ok=True)
    missing = [package for package in wanted if not _is_whole(debs / package.filename, package)]
    if len(missing) < len(wanted):
        progress.step(f"{apt.suite}: have {len(wanted) - len(missing)} of {len(wanted)} packages")
    if not missing:
        return
    total = sum(package.size for package in missing)
    largest = sorted(missing, key=lambda package: -package.size)
    names = ", ".join(package.name for package in largest[:6]) + (" ..." if len(missing) > 6 else "")
    progress.step(f"{apt.suite}: downloading {size_text(total)}, {len(missing)} packages: {names}")
    with tempfile.TemporaryDirectory(prefix="download-", dir=debs.parent) as scratch:
        try:
            apt.download(
                missing,
                Path(scratch),
                lambda size: progress.moving(f"  {size_text(size)} of {size_text(total)}"),
            )
        finally:  # also when it ended early: the whole ones need not be downloaded again
            for package in missing:
                with suppress(FileNotFoundError):
                    if _is_whole(Path(scratch) / package.filename, package):
                        os.replace(Path(scratch) / package.filename, debs / package.filename)
            progress.clear()


def _is_whole(path: Path, package: Package) -> bool:
    """Whether a package is in the cache already: from an earlier fetch that failed, or before a refresh."""
    if not path.is_file() or path.stat().st_size != package.size:
        return False
    with path.open("rb") as stream:
        return package.sha256 in ("", hashlib.file_digest(stream, "sha256").hexdigest())


def _fingerprint(part: Part, chosen: list[_Chosen], versions: dict[str, str]) -> str:
    content = [part.form, versions, sorted((one.package.name, one.package.version) for one in chosen)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _put(root: Path, directory: Path, link: str, fill: Callable[[Path], None]) -> None:
    """Fill a scratch directory, give it its name and let the link lead to it: each in one step."""
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=root) as scratch:
        work = Path(scratch) / "work"
        work.mkdir()
        fill(work)
        shutil.rmtree(directory, ignore_errors=True)  # it is not whole, or it would be in use
        work.rename(directory)
        (Path(scratch) / "link").symlink_to(directory.name)
        os.replace(Path(scratch) / "link", root / link)


def _fill(part: Part, chosen: list[_Chosen], versions: dict[str, str], debs: Path, directory: Path) -> None:
    """Take the wanted files out of the packages and write the manifest, last."""
    names: dict[str, str] = {}
    for one in chosen:
        wanted = [file for file in one.files if file.key not in names or file.saved_as.endswith("/")]
        found = dict(unpack(debs / one.package.filename, wanted, one.version, directory))
        names |= found
        missing = [file.key for file in wanted if file.required and file.key not in found]
        if missing and not one.any_of:
            raise LabError(f"{one.package.filename} has no file known as {' or '.join(missing)}")
    if part.closure:
        toolstack.arrange(directory, versions["xen"])
        names = {name: name for name in _files_below(directory)}
    manifest = {
        "format": part.form,
        "versions": versions,
        "packages": {one.package.name: one.package.version for one in chosen},
        "files": {key: {"name": name, "size": (directory / name).stat().st_size} for key, name in names.items()},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _files_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
