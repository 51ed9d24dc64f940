"""ELF notes: (name, type, description) records, as in PT_NOTE segments and .note sections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_HEADER = 12
NT_GNU_BUILD_ID = 3
XEN_ELFNOTE_INIT_P2M = 15
"""Address at which the kernel wants its initial P2M (Xen public/elfnote.h)."""


@dataclass(frozen=True, slots=True)
class Note:
    """One note; `name` without its final NUL."""

    name: bytes
    type: int
    desc: bytes


def notes(data: bytes) -> Iterator[Note]:
    """The notes in `data` (4-byte aligned), up to the first one that does not fit or is empty padding."""
    position = 0
    while position + _HEADER <= len(data):
        name_size, desc_size, kind = (
            int.from_bytes(data[position + i : position + i + 4], "little") for i in (0, 4, 8)
        )
        name_at = position + _HEADER
        desc_at = name_at + (name_size + 3 & ~3)
        end = desc_at + desc_size
        if name_size == 0 or end > len(data):
            return
        yield Note(data[name_at : name_at + name_size].rstrip(b"\0"), kind, data[desc_at:end])
        position = end + 3 & ~3


def build_id(found: Iterable[Note]) -> str | None:
    """The GNU build id among the notes, as hex, or None."""
    ids = (n.desc.hex() for n in found if n.name == b"GNU" and n.type == NT_GNU_BUILD_ID)
    return next((text for text in ids if text), None)
