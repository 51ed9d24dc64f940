"""What all dump writers of the model share: an image of machine memory, raw files, compressed files, QEMU's `-p`.

The writers are the formats' executable documentation: they follow the documents on their own and never look
at the readers in sources/. See writers_kdump, writers_flattened and writers_xen.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast

import numpy as np

from gdb_p2m.model.elf import EM_X86_64, CoreNote, Segment
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.memory import Memory, Rows
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray

Path = str | os.PathLike[str]
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
PN_XNUM = 0xFFFF


@dataclass
class Image:
    """Machine memory as a dump holds it: RAM stretches (whole pages, sorted), what they hold, and the notes.

    notes: of CPUs and kernels, as the writer of the dump would add them. nr_cpus: for headers that count them.
    """

    memory: Memory
    ram: list[tuple[int, int]]
    notes: list[CoreNote] = field(default_factory=list)
    nr_cpus: int = 1

    @property
    def max_frame(self) -> int:
        """Frame after the last one of RAM."""
        return self.ram[-1][1] >> PAGE_SHIFT

    def frames(self) -> FrameArray:
        """Every frame of RAM, rising."""
        parts = [np.arange(s >> PAGE_SHIFT, e >> PAGE_SHIFT, dtype=np.int64) for s, e in self.ram]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def stored(self) -> Iterator[tuple[FrameArray, Rows]]:
        """What is not zero, in the order of Memory.stored, cut to RAM."""
        edges = np.array([x >> PAGE_SHIFT for pair in self.ram for x in pair], dtype=np.int64)
        for frames, rows in self.memory.stored():
            inside = np.searchsorted(edges, frames, "right") % 2 == 1
            yield frames[inside], rows[inside]


def image_of(machine: Machine, notes: Sequence[CoreNote] | None = None) -> Image:
    """The machine as QEMU dumps it, or with other notes."""
    own = [*machine.cpu_notes(), *machine.notes] if notes is None else list(notes)
    return Image(machine.memory, [(s.start, s.end) for s in machine.segments], own)


def write_raw(path: Path, image: Image, base: int = 0) -> None:
    """Nothing but memory from machine address `base` on; gaps in RAM are zeros. Sparse."""
    with open(path, "wb") as file:
        for frames, rows in image.stored():
            for frame, row in zip(frames.tolist(), rows, strict=True):
                if frame << PAGE_SHIFT >= base:
                    file.seek((frame << PAGE_SHIFT) - base)
                    file.write(row.tobytes())
        file.truncate((image.max_frame << PAGE_SHIFT) - base)


def write_paged_elf(path: Path, image: Image, mappings: Sequence[tuple[int, int]], *, machine: int = EM_X86_64) -> None:
    """As QEMU's `dump-guest-memory -p`: RAM is stored once, and each of `mappings` (machine start, end) has a PT_LOAD.

    Mappings may overlap in any way; parts that are no RAM have a header without bytes. The guest's virtual
    addresses are made up. More than 65,534 headers are counted in section 0.
    """
    blob = b"".join(n.pack() for n in image.notes)
    pieces = [(a, b, ram) for s, e in mappings for a, b, ram in _cut(image.ram, s, e)]
    count = 1 + len(pieces)
    large = count >= PN_XNUM
    phoff = _EHDR.size + (_SHDR.size if large else 0)
    notes_at = phoff + _PHDR.size * count
    data_at = -(-(notes_at + len(blob)) // PAGE_SIZE) * PAGE_SIZE
    offsets, end = {}, data_at
    for s, e in image.ram:
        offsets[s] = end
        end += e - s
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    shown = min(count, PN_XNUM)
    head = [_EHDR.pack(ident, 4, machine, 1, 0, phoff, 64 if large else 0, 0, 64, 56, shown, 64, int(large), 0)]
    if large:
        head.append(_SHDR.pack(0, 0, 0, 0, 0, 0, 0, count, 0, 0))
    head.append(_PHDR.pack(4, 0, notes_at, 0, 0, len(blob), len(blob), 0))
    for start, stop, ram in pieces:
        at = (1 << 64) - 1 if ram is None else offsets[ram] + start - ram
        size = 0 if ram is None else stop - start
        head.append(_PHDR.pack(1, 0, at, 0x8880_0000_0000 + start, start, size, stop - start, 0))
    with open(path, "wb") as file:
        file.write(b"".join(head) + blob)
        _put_pages(file, image, offsets)
        file.truncate(end)


def _cut(ram: list[tuple[int, int]], start: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """start..end cut at the borders of RAM: (start, end, start of the stretch of RAM or None)."""
    at = start
    for s, e in ram:
        if e <= at or s >= end:
            continue
        if at < s:
            yield at, s, None
        yield max(at, s), min(e, end), s
        at = min(e, end)
    if at < end:
        yield at, end, None


def _put_pages(file: BinaryIO, image: Image, offsets: dict[int, int]) -> None:
    starts = np.array(sorted(offsets), dtype=np.int64)
    for frames, rows in image.stored():
        which = np.searchsorted(starts, frames << PAGE_SHIFT, "right") - 1
        for frame, row, i in zip(frames.tolist(), rows, which.tolist(), strict=True):
            ram = int(starts[i])
            file.seek(offsets[ram] + (frame << PAGE_SHIFT) - ram)
            file.write(row.tobytes())


def write_cut_elf(path: Path, image: Image, left_out: FrameArray, *, machine: int = EM_X86_64) -> None:
    """As `makedumpfile -E`: frames `left_out` (sorted) end a segment early, whose p_memsz covers them.

    Every PT_LOAD holds frames and then lacks some; RAM that begins with frames left out has an empty one.
    """
    missing = set(left_out.tolist())
    parts: list[tuple[int, int, int]] = []
    for s, e in image.ram:
        frame, last = s >> PAGE_SHIFT, e >> PAGE_SHIFT
        while frame < last:
            first = frame
            while frame < last and frame not in missing:
                frame += 1
            held = frame
            while frame < last and frame in missing:
                frame += 1
            parts.append((first << PAGE_SHIFT, held << PAGE_SHIFT, frame << PAGE_SHIFT))
    blob = b"".join(n.pack() for n in image.notes)
    at = _EHDR.size + _PHDR.size * (1 + len(parts))
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = [_EHDR.pack(ident, 4, machine, 1, 0, _EHDR.size, 0, 0, 64, 56, 1 + len(parts), 0, 0, 0)]
    head.append(_PHDR.pack(4, 0, at, 0, 0, len(blob), len(blob), 0))
    end = at + len(blob)
    for first, held, stop in parts:
        head.append(_PHDR.pack(1, 0, end, 0, first, held - first, stop - first, 0))
        end += held - first
    with open(path, "wb") as file:
        file.write(b"".join(head) + blob)
        for first, held, _ in parts:
            for address in range(first, held, PAGE_SIZE):
                file.write(image.memory.read(address, PAGE_SIZE))


def pack_file(source: Path, out: Path) -> None:
    """`source` compressed into `out`, which ends in .gz or .zst."""
    name = os.fspath(out)
    with open(source, "rb") as plain, open(out, "wb") as raw:
        if name.endswith(".gz"):
            with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, compresslevel=1) as zipped:
                shutil.copyfileobj(plain, cast(io.BufferedIOBase, zipped), 1 << 20)
        else:
            import zstandard

            with zstandard.ZstdCompressor(level=1).stream_writer(raw, closefd=False) as packed:
                shutil.copyfileobj(plain, packed, 1 << 20)


__all__ = ["Image", "Segment", "image_of", "pack_file", "write_cut_elf", "write_paged_elf", "write_raw"]
