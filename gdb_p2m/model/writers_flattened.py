"""Turns a file into a flattened stream, as `makedumpfile -F` and QEMU's `dump-guest-memory -z` write it.

Facts: makedumpfile's makedumpfile.h (makedumpfile_header, makedumpfile_data_header): a header of 4096 bytes,
then big-endian (offset, size) and the bytes, and (-1, -1) at the end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import BinaryIO

from gdb_p2m.model.writers import Path

HEADER_SIZE = 4096
RECORD = 16 << 10
Piece = tuple[int, bytes]
"""Offset in the file, the bytes there."""


def header() -> bytes:
    """The stream's header."""
    return (b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)).ljust(HEADER_SIZE, b"\0")


def write_pieces(file: BinaryIO, pieces: Iterable[Piece], *, ended: bool = True) -> None:
    """A stream of these pieces in this order; a later piece overrides earlier ones where they overlap."""
    file.write(header())
    for offset, data in pieces:
        file.write(struct.pack(">qq", offset, len(data)))
        file.write(data)
    if ended:
        file.write(struct.pack(">qq", -1, -1))


def flatten(source: Path, out: Path, *, record: int = RECORD, rewrite_header: bool = True) -> None:
    """`source` as a stream of records of `record` bytes; blocks of zeros are left out but for the last.

    rewrite_header: the first block is written as garbage at first and once more, right, at the end: what
    writers do that know their header's numbers only then.
    """
    with open(source, "rb") as plain, open(out, "wb") as file:
        write_pieces(file, _pieces(plain, record, rewrite_header))


def _pieces(plain: BinaryIO, record: int, rewrite_header: bool) -> Iterable[Piece]:
    size = plain.seek(0, 2)
    plain.seek(0)
    first = b""
    for offset in range(0, size, record):
        data = plain.read(record)
        if offset == 0 and rewrite_header:
            first = data
            yield 0, b"\xa5" * len(data)
        elif data.strip(b"\0") or offset + len(data) == size:
            yield offset, data
    if first:
        yield 0, first
