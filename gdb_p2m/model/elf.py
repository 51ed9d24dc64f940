"""Writes model memory as ELF cores: QEMU's dump-guest-memory layout, sparse, of any size.

Facts: QEMU target/i386/arch_dump.c (CPU notes), dump/dump.c (PT_LOADs by machine address); docs/model.md.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gdb_p2m.model.memory import Memory, Rows
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray

EM_X86_64 = 62
PRSTATUS_SIZE_X86_64 = 336
QEMU_NOTE_SIZE = 440
QEMU_RIP, QEMU_CR3 = 136, 416
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")


@dataclass(frozen=True, slots=True)
class CoreNote:
    """An ELF note: name (without NUL), type, descriptor."""

    name: str
    type: int
    desc: bytes

    def pack(self) -> bytes:
        """The note as bytes, padded to 4."""
        name = self.name.encode("ascii") + b"\0"
        head = struct.pack("<III", len(name), len(self.desc), self.type)
        return head + name.ljust(-(-len(name) // 4) * 4, b"\0") + self.desc.ljust(-(-len(self.desc) // 4) * 4, b"\0")


@dataclass(frozen=True, slots=True)
class Segment:
    """Machine memory start..end-1 (bytes, whole pages) as one PT_LOAD.

    content: bytes to store instead of the memory's (for dumps that contradict themselves).
    """

    start: int
    end: int
    content: bytes | None = None


def qemu_cpu_notes(cr3: int, rip: int) -> list[CoreNote]:
    """The notes of one x86-64 CPU: CORE/NT_PRSTATUS and QEMU's own with the control registers."""
    qemu = bytearray(QEMU_NOTE_SIZE)
    struct.pack_into("<II", qemu, 0, 1, QEMU_NOTE_SIZE)
    struct.pack_into("<Q", qemu, QEMU_RIP, rip)
    struct.pack_into("<Q", qemu, QEMU_CR3, cr3)
    return [CoreNote("CORE", 1, bytes(PRSTATUS_SIZE_X86_64)), CoreNote("QEMU", 0, bytes(qemu))]


def write_core(
    path: str | os.PathLike[str],
    memory: Memory,
    segments: Iterable[Segment],
    notes: Iterable[CoreNote],
    *,
    machine: int = EM_X86_64,
    note_slack: int = 0,
) -> None:
    """Write an ELF64 core. The file is as large as the segments, but only what is stored takes disk space.

    note_slack: bytes by which PT_NOTE claims to be longer than its notes are (a fault). Raises OSError.
    """
    parts = list(segments)
    blob = b"".join(n.pack() for n in notes)
    notes_at = _EHDR.size + _PHDR.size * (1 + len(parts))
    data_at = -(-(notes_at + len(blob)) // PAGE_SIZE) * PAGE_SIZE
    offsets = []
    end = data_at
    for s in parts:
        offsets.append(end)
        end += s.end - s.start
    claimed = len(blob) if not note_slack else end - notes_at + note_slack
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = _EHDR.pack(ident, 4, machine, 1, 0, _EHDR.size, 0, 0, _EHDR.size, _PHDR.size, 1 + len(parts), 0, 0, 0)
    head += _PHDR.pack(4, 0, notes_at, 0, 0, claimed, claimed, 0)
    for s, offset in zip(parts, offsets, strict=True):
        size = s.end - s.start
        head += _PHDR.pack(1, 0, offset, 0, s.start, size, size, 0)
    with open(path, "w+b") as file:
        file.write(head + blob)
        file.flush()
        file.truncate(end)
        for s, offset in zip(parts, offsets, strict=True):
            if s.content is not None:
                os.pwrite(file.fileno(), s.content, offset)
        plain = [(s, o) for s, o in zip(parts, offsets, strict=True) if s.content is None]
        for frames, rows in memory.stored():
            for s, offset in plain:
                _put(file.fileno(), frames, rows, s, offset)


def _put(file: int, frames: FrameArray, rows: Rows, segment: Segment, offset: int) -> None:
    """Write the rows whose frames lie in `segment`, neighbours in one call."""
    first, end = segment.start >> PAGE_SHIFT, segment.end >> PAGE_SHIFT
    inside = (frames >= first) & (frames < end)
    if not inside.any():
        return
    if not inside.all():
        frames, rows = frames[inside], rows[inside]
    edges = np.flatnonzero(np.diff(frames) != 1) + 1
    for a, b in zip([0, *edges.tolist()], [*edges.tolist(), len(frames)], strict=True):
        os.pwrite(file, rows[a:b].data, offset + ((int(frames[a]) - first) << PAGE_SHIFT))
