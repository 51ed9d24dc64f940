"""Writes ELF cores byte by byte, also broken ones, without the program's own writer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.machine import Machine

PT_LOAD, PT_NOTE = 1, 4
ET_EXEC, ET_DYN, ET_CORE = 2, 3, 4
EM_386, EM_X86_64, EM_RISCV = 3, 62, 243


def note(name: str, kind: int, desc: bytes) -> bytes:
    """One ELF note."""
    raw = name.encode() + b"\0"
    return (
        struct.pack("<III", len(raw), len(desc), kind)
        + raw.ljust((len(raw) + 3) & ~3, b"\0")
        + desc.ljust((len(desc) + 3) & ~3, b"\0")
    )


@dataclass
class Load:
    """A PT_LOAD. file_size: what the header claims, when that is not the length of data. at: share an offset."""

    address: int
    data: bytes | bytearray
    file_size: int | None = None
    at: int | None = None


@dataclass
class ElfFile:
    """An ELF64 file to be written. pad: bytes before each segment's data (1: unaligned offsets)."""

    loads: Sequence[Load] = field(default_factory=list)
    notes: bytes | None = b""
    type: int = ET_CORE
    machine: int = EM_X86_64
    pad: int = 0
    phentsize: int = 56
    extra_headers: Sequence[bytes] = ()
    note_size: int | None = None

    def to_bytes(self) -> bytes:
        """The file."""
        headers = len(self.loads) + (self.notes is not None) + len(self.extra_headers)
        many = headers >= 0xFFFF
        phoff = 64 + (64 if many else 0)
        at = phoff + 56 * headers
        table, body = [], []
        if self.notes is not None:
            size = len(self.notes) if self.note_size is None else self.note_size
            table.append(struct.pack("<IIQQQQQQ", PT_NOTE, 0, at, 0, 0, size, size, 4))
            body.append(bytes(self.notes))
            at += len(self.notes)
        for load in self.loads:
            size = len(load.data) if load.file_size is None else load.file_size
            if load.at is not None:
                table.append(struct.pack("<IIQQQQQQ", PT_LOAD, 4, load.at, 0, load.address, size, size, 1))
                continue
            body.append(b"\xee" * self.pad + bytes(load.data))
            table.append(struct.pack("<IIQQQQQQ", PT_LOAD, 4, at + self.pad, 0, load.address, size, size, 1))
            at += self.pad + len(load.data)
        table.extend(self.extra_headers)
        ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        head = struct.pack(
            "<16sHHIQQQIHHHHHH",
            ident,
            self.type,
            self.machine,
            1,
            0,
            phoff if headers else 0,
            64 if many else 0,
            0,
            64,
            self.phentsize,
            min(headers, 0xFFFF),
            64,
            int(many),
            0,
        )
        section = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, headers, 0, 0) if many else b""
        return b"".join([head, section, *table, *body])

    def write(self, path: Path) -> Path:
        """Write it there."""
        path.write_bytes(self.to_bytes())
        return path


def notes_of(machine: Machine) -> bytes:
    """The notes of an excerpt, packed again."""
    return b"".join(note(n.name, n.type, n.desc) for n in machine.info.notes)


def write_machine(path: Path, machine: Machine, without: set[int] | None = None) -> Path:
    """A machine's memory and notes as an ELF core, without some frames."""
    loads = []
    for start, data in machine.pieces.items():
        at = 0
        for mfn in sorted(without or ()):
            hole = (mfn << 12) - start
            if 0 <= hole < len(data):
                loads.append(Load(start + at, data[at:hole]))
                at = hole + 4096
        loads.append(Load(start + at, data[at:]))
    return ElfFile([x for x in loads if x.data], notes_of(machine)).write(path)
