"""Writes ELF64 cores whose PT_LOADs carry machine addresses (excerpts). The twin of elf.py."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import BinaryIO

from gdb_p2m.sources.base import Note, Source, contiguous_groups
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray

EM = {"x86-64": 62, "i386": 3, "riscv64": 243}
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
PN_XNUM = 0xFFFF


def note_bytes(note: Note) -> bytes:
    """One ELF note, padded to 4 bytes."""
    name = note.name.encode() + b"\0"
    head = struct.pack("<III", len(name), len(note.desc), note.type)
    return head + name.ljust((len(name) + 3) & ~3, b"\0") + note.desc.ljust((len(note.desc) + 3) & ~3, b"\0")


def write_elf(file: BinaryIO, source: Source, frames: FrameArray, notes: Sequence[Note]) -> int:
    """Frames of `source` (rising, all readable) and notes as a core. Returns the number of segments."""
    groups = [(int(frames[a]), n) for a, n in contiguous_groups(frames)]
    blob = b"".join(note_bytes(n) for n in notes)
    count = len(groups) + 1
    large = count >= PN_XNUM
    shoff = 64 if large else 0
    phoff = 64 + (64 if large else 0)
    note_at = phoff + 56 * count
    data_at = (note_at + len(blob) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    machine = EM.get(source.info.machine, 62)
    file.write(
        _EHDR.pack(ident, 4, machine, 1, 0, phoff, shoff, 0, 64, 56, min(count, PN_XNUM), 64, int(large), 0)
    )
    if large:
        # More segments than e_phnum can say: the count goes into sh_info of section 0 (ELF gABI, PN_XNUM).
        file.write(_SHDR.pack(0, 0, 0, 0, 0, 0, 0, count, 0, 0))
    file.write(_PHDR.pack(4, 0, note_at, 0, 0, len(blob), len(blob), 4))
    at = data_at
    for mfn, pages in groups:
        size = pages << PAGE_SHIFT
        file.write(_PHDR.pack(1, 4, at, 0, mfn << PAGE_SHIFT, size, size, PAGE_SIZE))
        at += size
    file.write(blob)
    file.write(b"\0" * (data_at - note_at - len(blob)))
    for mfn, pages in groups:
        for first in range(0, pages, 256):
            n = min(256, pages - first)
            file.write(source.read((mfn + first) << PAGE_SHIFT, n << PAGE_SHIFT))
    return len(groups)
