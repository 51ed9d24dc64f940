"""Downloaded and unpacked suites. A suite is either whole (`current` leads to a manifest) or not there.

    SUITE/apt/              the private apt tree
    SUITE/debs/*.deb        the packages
    SUITE/boot-HASH/        the files taken from them, and manifest.json
    SUITE/current           symbolic link to the boot-HASH in use, replaced in one step
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import packages
from .apt import Package, PrivateApt
from .errors import LabError
from .packages import ROLES, Role
from .places import cache_root
from .progress import Progress, size_text

_FORMAT = 1  # of the manifest: a cache of another format is unpacked again


@dataclass(frozen=True)
class CachedSuite:
    """A suite that is ready to boot. files: key of packages.WantedFile to path; versions: "xen" and "linux"."""

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
    """The suite, downloaded first if it is not in the cache; refresh looks for newer packages than the cached ones.

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
        raise LabError(f"{root} is not whole right after it was written", hint=f"remove {root} and run this again")
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
    if said := apt.update():
        progress.warn(f"apt said:\n    {said.replace(chr(10), chr(10) + '    ')}")
    versions = _versions(apt)
    chosen = [(role, package) for role in ROLES if (package := _choose(apt, role, versions))]
    for _, package in chosen:
        _download(apt, package, root / "debs", progress)
    fingerprint = json.dumps([_FORMAT, [(package.name, package.version) for _, package in chosen]])
    directory = root / f"boot-{hashlib.sha256(fingerprint.encode()).hexdigest()[:12]}"
    progress.step(f"{suite}: unpacking Xen {versions['xen']} and Linux {versions['linux']}")
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=root) as scratch:
        work = Path(scratch) / "boot"
        work.mkdir()
        _unpack_all(chosen, versions, root / "debs", work)
        shutil.rmtree(directory, ignore_errors=True)
        work.rename(directory)
        (Path(scratch) / "current").symlink_to(directory.name)
        os.replace(Path(scratch) / "current", root / "current")
    _forget_others(root, directory, {package.filename for _, package in chosen})


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
    if target.is_file() and target.stat().st_size == package.size:
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


def _unpack_all(
    chosen: list[tuple[Role, Package]], versions: dict[str, str], debs: Path, directory: Path
) -> None:
    """Take the wanted files out of the packages and write the manifest, last."""
    entries: dict[str, dict[str, object]] = {}
    for role, package in chosen:
        version = versions.get(role.version_of or "", "")
        wanted = {file.key: file for file in role.files if file.key not in entries}
        for key, name in _unpack(debs / package.filename, wanted, version, directory).items():
            entries[key] = {"name": name, "size": (directory / name).stat().st_size}
        missing = [key for key, file in wanted.items() if file.required and key not in entries]
        if missing:
            raise LabError(f"{package.filename} holds no file for {', '.join(missing)}: its layout is not known")
    manifest = {
        "format": _FORMAT,
        "versions": versions,
        "packages": {package.name: package.version for _, package in chosen},
        "files": entries,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _unpack(
    deb: Path, wanted: dict[str, packages.WantedFile], version: str, directory: Path
) -> dict[str, str]:
    """Read the package's tar stream once and write the wanted files; most of a kernel package is modules."""
    found: dict[str, str] = {}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                path = member.name.removeprefix("./")
                for key, file in wanted.items():
                    if key in found or not member.isfile() or member.size < file.min_size:
                        continue
                    if file.matcher(version).fullmatch(path) and (data := archive.extractfile(member)):
                        found[key] = file.saved_as.format(version=version)
                        content = data.read()
                        (directory / found[key]).write_bytes(gzip.decompress(content) if file.gunzip else content)
    if process.returncode != 0:
        raise LabError(f"dpkg-deb cannot read {deb}", hint=f"remove {deb} and run this again")
    return found


def _forget_others(root: Path, directory: Path, filenames: set[str]) -> None:
    """Remove what earlier versions left: a cache that only grows is a nuisance."""
    for path in root.glob("boot-*"):
        if path != directory:
            shutil.rmtree(path, ignore_errors=True)
    for path in (root / "debs").iterdir():
        if path.name not in filenames:
            path.unlink()
