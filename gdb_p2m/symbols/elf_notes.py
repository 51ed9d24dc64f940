"""ELF notes: (name, type, description) records, as in PT_NOTE segments and .note sections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = 12
NT_GNU_BUILD_ID = 3


@dataclass(frozen=True, slots=True)
class Note:
    """One note; `name` without its final NUL."""

    name: bytes
    type: int
    desc: bytes


def notes(data: bytes, *, align: int = 4) -> Iterator[Note]:
    """The notes in `data`, up to the first one that does not fit or is empty padding.

    align: of name and description, 4 by the gABI practice (8 in .note.gnu.property sections of 64-bit files).
    """
    position = 0
    while position + _HEADER <= len(data):
        name_size, desc_size, kind = (
            int.from_bytes(data[position + i : position + i + 4], "little") for i in (0, 4, 8)
        )
        name_at = position + _HEADER
        desc_at = -(-(name_at + name_size) // align) * align
        end = desc_at + desc_size
        if name_size == 0 or end > len(data):
            return
        yield Note(data[name_at : name_at + name_size].rstrip(b"\0"), kind, data[desc_at:end])
        position = -(-end // align) * align


def build_id(data: bytes) -> str | None:
    """The GNU build id among the notes in `data`, as hex, or None."""
    for note in notes(data):
        if note.name == b"GNU" and note.type == NT_GNU_BUILD_ID and note.desc:
            return note.desc.hex()
    return None
