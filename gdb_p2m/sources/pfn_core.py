"""Writes an ELF64 core in PFN order: p_paddr is the PFN's address, as if the guest's memory were a machine's.

The twin of elf_writer.py, which writes machine memory. Pages are streamed: memory grows with runs, not with pages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from gdb_p2m.mapping import batches
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Mask, Note, Pages, Source
from gdb_p2m.sources.elf_writer import PN_XNUM, note_bytes
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
BATCH = 1024
EXPAND = 1 << 20
"""Frames that are looked at together while it is found out which are held."""

Change = Callable[[FrameArray, Pages], Pages]


@dataclass(frozen=True)
class PageRuns:
    """Pages to write: `count` PFNs from `pfn`, in machine frames from `mfn` on; sorted by PFN, without overlaps."""

    pfn: FrameArray
    mfn: FrameArray
    count: FrameArray

    @property
    def pages(self) -> int:
        """How many."""
        return int(self.count.sum())

    def batches(self, size: int) -> Iterator[tuple[FrameArray, FrameArray]]:
        """(PFNs, MFNs) of all pages in order, `size` at a time."""
        return batches(self.pfn, self.count, self.mfn, size)

    def segments(self) -> list[tuple[int, int]]:
        """(first PFN, pages) of stretches of consecutive PFNs, wherever their frames lie."""
        if not len(self.pfn):
            return []
        end = self.pfn + self.count
        first = np.flatnonzero(np.concatenate(([True], self.pfn[1:] != end[:-1])))
        last = np.concatenate((first[1:], [len(end)])) - 1
        return list(zip(self.pfn[first].tolist(), (end[last] - self.pfn[first]).tolist(), strict=True))


def held_pages(source: Source, wanted: PageRuns, without: FrameArray) -> PageRuns:
    """The part of `wanted` that the source says it holds, but for PFNs `without` (sorted). No page is read."""
    parts = []
    for pfn, mfn in wanted.batches(EXPAND):
        keep = _held(source, mfn)
        if len(without):
            i = np.minimum(np.searchsorted(without, pfn), len(without) - 1)
            keep &= without[i] != pfn
        parts.append(_as_runs(pfn[keep], mfn[keep]))
    if not parts:
        return wanted
    return PageRuns(*(np.concatenate([p[i] for p in parts]) for i in range(3)))


def _held(source: Source, mfn: FrameArray) -> Mask:
    """Inside the extents, and (where a format leaves pages out) not left out."""
    extents = source.extents()
    starts = np.array([-(-e.start >> PAGE_SHIFT) for e in extents], dtype=np.int64)
    ends = np.array([e.end >> PAGE_SHIFT for e in extents], dtype=np.int64)
    if not len(starts):
        return np.zeros(len(mfn), dtype=bool)
    i = np.searchsorted(starts, mfn, side="right") - 1
    inside: Mask = (i >= 0) & (mfn < ends[np.maximum(i, 0)])
    return inside & (source.frames_below(mfn + 1) - source.frames_below(mfn) == 1)


def _as_runs(pfn: FrameArray, mfn: FrameArray) -> tuple[FrameArray, FrameArray, FrameArray]:
    if not len(pfn):
        return pfn, mfn, pfn
    first = np.flatnonzero(np.concatenate(([True], (np.diff(pfn) != 1) | (np.diff(mfn) != 1))))
    return pfn[first], mfn[first], np.diff(np.concatenate((first, [len(pfn)])))


def write_pfn_core(
    file: BinaryIO,
    source: Source,
    runs: PageRuns,
    notes: Sequence[Note],
    *,
    machine: int,
    direct_map: int | None,
    change: Change,
    progress: Progress = no_progress,
) -> FrameArray:
    """Write the core; returns the PFNs whose pages could not be read after all (then the file is not good).

    machine: e_machine. direct_map: virtual address of PFN 0, for p_vaddr; None: p_vaddr is 0. change: what is
    done to pages (their machine frames, their bytes) before they are written.
    """
    segments = runs.segments()
    blob = b"".join(note_bytes(n) for n in notes)
    count = len(segments) + 1
    large = count >= PN_XNUM
    phoff = 64 + (64 if large else 0)
    note_at = phoff + 56 * count
    data_at = (note_at + len(blob) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    shown = min(count, PN_XNUM)
    file.write(_EHDR.pack(ident, 4, machine, 1, 0, phoff, 64 if large else 0, 0, 64, 56, shown, 64, int(large), 0))
    if large:
        file.write(_SHDR.pack(0, 0, 0, 0, 0, 0, 0, count, 0, 0))
    file.write(_PHDR.pack(4, 0, note_at, 0, 0, len(blob), len(blob), 4))
    at = data_at
    for pfn, pages in segments:
        size, address = pages << PAGE_SHIFT, pfn << PAGE_SHIFT
        virtual = 0 if direct_map is None else (direct_map + address) & (1 << 64) - 1
        file.write(_PHDR.pack(1, 7, at, virtual, address, size, size, PAGE_SIZE))
        at += size
    file.write(blob)
    file.write(b"\0" * (data_at - note_at - len(blob)))
    return _write_pages(file, source, runs, change, progress)


def _write_pages(file: BinaryIO, source: Source, runs: PageRuns, change: Change, progress: Progress) -> FrameArray:
    bad = []
    done = 0
    with progress("writing pages", runs.pages) as step:
        for pfn, mfn in runs.batches(BATCH):
            pages, ok = source.read_pages(mfn)
            if not ok.all():
                bad.append(pfn[~ok])
            file.write(np.ascontiguousarray(change(mfn, pages)).data)
            done += len(pfn)
            step(done)
    return np.concatenate(bad) if bad else np.zeros(0, dtype=np.int64)
