"""Files out of a Debian package, without installing it and without writing the rest of it to disk."""

from __future__ import annotations

import gzip
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from .errors import LabError
from .packages import WantedFile


def unpack(deb: Path, wanted: Sequence[WantedFile], version: str, directory: Path) -> list[tuple[str, str]]:
    """Write the wanted files of a package, reading its tar stream once; returns (key, name written) of each."""
    found: list[tuple[str, str]] = []
    patterns = [(file, file.matcher(version)) for file in wanted]
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as archive,
        ):
            for member in archive:
                path = member.name.removeprefix("./")
                for file, pattern in patterns:
                    if member.isfile() and member.size >= file.min_size and pattern.fullmatch(path):
                        name = file.name_in_cache(path, version)
                        _write(archive, member, directory / name, gunzip=file.gunzip)
                        found.append((file.key, name))
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise LabError(f"{deb} cannot be unpacked: {error}", hint="remove it and run this again") from error
    return found


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, *, gunzip: bool) -> None:
    stream = archive.extractfile(member)
    assert stream is not None  # it is a regular file
    content = stream.read()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.decompress(content) if gunzip else content)
