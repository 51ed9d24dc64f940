"""An initramfs: a gzipped cpio archive (newc), written here so that neither cpio nor root is needed."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Entry:
    """One name in the archive. mode: type and permissions as in stat; device: major, minor of a node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str) -> Entry:
    """A directory everybody can enter."""
    return Entry(name, 0o040755)


def program(name: str, data: bytes) -> Entry:
    """An executable file."""
    return Entry(name, 0o100755, data)


def link(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name, 0o120777, target.encode())


def parents(names: Iterable[str]) -> list[Entry]:
    """The directories that files of these names need, each after the one it is in."""
    found = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    return [directory(name) for name in sorted(found - {"."})]


def write_initramfs(path: Path, entries: Iterable[Entry]) -> None:
    """Write the archive; the same entries give the same bytes. A name that comes twice is taken once."""
    known = {entry.name: entry for entry in entries}
    parts = [_cpio_member(number, entry) for number, entry in enumerate(known.values(), 1)]
    parts.append(_cpio_member(0, Entry("TRAILER!!!", 0)))
    path.write_bytes(gzip.compress(b"".join(parts), compresslevel=1, mtime=0))


def _cpio_member(inode: int, entry: Entry) -> bytes:
    """Header (6 bytes of magic, 13 fields of 8 hexadecimal digits), name and data, each padded to 4 bytes.

    Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst, and usr/gen_init_cpio.c.
    """
    name = entry.name.encode() + b"\0"
    links = 2 if entry.mode & 0o170000 == 0o040000 else 1
    # inode, mode, uid, gid, links, mtime, size, device of the file, device of the node, name, checksum
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(header) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
