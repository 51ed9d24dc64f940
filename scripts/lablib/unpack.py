"""Files out of a Debian package, without installing it and without writing the rest of it to disk."""

from __future__ import annotations

import gzip
import subprocess
import tarfile
from pathlib import Path

from .errors import LabError
from .packages import WantedFile


def unpack(deb: Path, wanted: dict[str, WantedFile], version: str, directory: Path) -> dict[str, str]:
    """Write the wanted files of a package, reading its tar stream once; returns key to the name written."""
    found: dict[str, str] = {}
    patterns = {key: file.matcher(version) for key, file in wanted.items()}
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as archive,
        ):
            for member in archive:
                for key, file in wanted.items():
                    path = member.name.removeprefix("./")
                    if member.isfile() and member.size >= file.min_size and patterns[key].fullmatch(path):
                        found[key] = file.saved_as.format(version=version)
                        _write(archive, member, directory / found[key], gunzip=file.gunzip)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise LabError(f"{deb} cannot be unpacked: {error}", hint="remove it and run this again") from error
    return found


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, *, gunzip: bool) -> None:
    stream = archive.extractfile(member)
    assert stream is not None  # it is a regular file
    content = stream.read()
    path.write_bytes(gzip.decompress(content) if gunzip else content)
