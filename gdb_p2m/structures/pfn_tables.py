"""Page tables of a PV guest as they would be without Xen: PFNs where the hardware's tables hold MFNs.

A PV guest's tables hold machine frames, because the hardware walks them. A tool that takes the guest's memory for
that of an ordinary machine (PFN order) needs pseudo-physical frames in them. A table is found from its root on: the
kernel's own, and every other L4 of the guest by the link to itself that Xen keeps in slot 258
(LINEAR_PT_VIRT_START, Xen asm/config.h). Slots 256..271 of an L4 are Xen's own and lead nowhere a guest could name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.pagetables import I386_PAE, X86_FRAME_MASK, X86_PRESENT
from gdb_p2m.layout.x86_pv import LINEAR_PT_SLOT, RO_MPT_SLOT
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Extent, Pages, as_u64
from gdb_p2m.spaces.entries import decode_array
from gdb_p2m.units import PAGE_SHIFT, FrameArray, U64Array

XEN_SLOTS = slice(RO_MPT_SLOT, RO_MPT_SLOT + 16)
"""ROOT_PAGETABLE_FIRST_XEN_SLOT..LAST_XEN_SLOT of a 64-bit guest (Xen asm/config.h)."""
PAE_ROOT_ENTRIES = 4
SCAN_PAGES = 1 << 14
FRAME_BITS = np.uint64(X86_FRAME_MASK)
PRESENT = np.uint64(X86_PRESENT)


class PfnOfFrame:
    """The P2M the other way round, for many frames at once: a sorted table of its runs."""

    def __init__(self, mapping: Mapping, kinds: tuple[Kind, ...] = (Kind.MFN,)) -> None:
        has = np.isin(mapping.kind, [int(k) for k in kinds])
        by = np.argsort(mapping.frame[has], kind="stable")
        self.frame = mapping.frame[has][by]
        self.count = mapping.count[has][by]
        self.pfn = mapping.start[has][by]

    def __call__(self, frames: FrameArray) -> FrameArray:
        """PFN of each machine frame, -1 where the P2M has none."""
        if not len(self.frame):
            return np.full(len(frames), -1, dtype=np.int64)
        i = np.maximum(np.searchsorted(self.frame, frames, side="right") - 1, 0)
        inside = (self.frame[i] <= frames) & (frames < self.frame[i] + self.count[i])
        pfn: FrameArray = np.where(inside, self.pfn[i] + frames - self.frame[i], -1)
        return pfn

    def extents(self) -> list[Extent]:
        """Machine memory of the runs, in order, neighbours joined."""
        if not len(self.frame):
            return []
        end = np.maximum.accumulate(self.frame + self.count)
        first = np.flatnonzero(np.concatenate(([True], self.frame[1:] > end[:-1])))
        last = np.concatenate((first[1:], [len(end)])) - 1
        pairs = zip(self.frame[first].tolist(), end[last].tolist(), strict=True)
        return [Extent(a << PAGE_SHIFT, b << PAGE_SHIFT) for a, b in pairs]


@dataclass
class Rewritten:
    """What became of the entries so far, for the report."""

    translated: int = 0
    kept_identity: int = 0
    foreign: int = 0
    dropped: int = 0


@dataclass
class PfnTables:
    """The table pages of one guest and how to translate them.

    roots, tables: machine frames, rising. unreadable: tables above the last level that are not in the dump.
    """

    guest: LinuxGuest
    mapping: Mapping
    own: PfnOfFrame
    foreign: PfnOfFrame
    roots: FrameArray
    tables: FrameArray
    unreadable: int
    done: Rewritten = field(default_factory=Rewritten)

    def rewrite(self, mfns: FrameArray, pages: Pages) -> Pages:
        """`pages` of frames `mfns` with PFNs in those that are tables; the others as they are."""
        row = _is_in(mfns, self.tables)
        if not row.any():
            return pages
        out = np.array(pages)
        words = out.view("<u8").reshape(len(out), -1)
        for i in np.flatnonzero(row).tolist():
            words[i] = self._translated(int(mfns[i]), words[i])
        return out

    def _translated(self, mfn: int, words: U64Array) -> U64Array:
        """One table: own frames by their PFN, identity as it is, foreign frames by the PFN that maps them.

        What no PFN stands for (Xen's own memory above all) becomes an entry that is not present. Entries without
        the present bit hold PFNs already or are swap entries (Linux mmu_pv.c, pte_pfn_to_mfn).
        """
        present = (words & PRESENT) != 0
        if bool(_is_in(np.array([mfn]), self.roots)[0]):
            if self.guest.space.shape is I386_PAE:
                present[PAE_ROOT_ENTRIES:] = False
            else:
                words = words.copy()
                words[XEN_SLOTS] = 0
                present[XEN_SLOTS] = False
        frames = ((words & FRAME_BITS) >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        pfn = np.where(present, self.own(frames), -1)
        foreign = np.where(present & (pfn < 0), self.foreign(frames), -1)
        identity = present & (pfn < 0) & (foreign < 0) & (self.mapping.kinds_at(frames) == Kind.IDENTITY)
        dropped = present & (pfn < 0) & (foreign < 0) & ~identity
        target = np.where(pfn >= 0, pfn, foreign)
        self.done.translated += int(np.count_nonzero(pfn >= 0))
        self.done.foreign += int(np.count_nonzero(foreign >= 0))
        self.done.kept_identity += int(np.count_nonzero(identity))
        self.done.dropped += int(np.count_nonzero(dropped))
        moved = (words & ~FRAME_BITS) | (np.maximum(target, 0).astype(np.uint64) << np.uint64(PAGE_SHIFT))
        words = np.where(target >= 0, moved, words)
        return np.where(dropped, np.uint64(0), words)


def pfn_tables(guest: LinuxGuest, mapping: Mapping, progress: Progress = no_progress) -> PfnTables:
    """Every page table of the guest that can be found. Cost: one word of every page of the guest, each table once."""
    own = PfnOfFrame(mapping)
    roots = _roots(guest, own, progress)
    tables, unreadable = _below(guest, own, roots)
    return PfnTables(guest, mapping, own, PfnOfFrame(mapping, (Kind.FOREIGN,)), roots, tables, unreadable)


def _roots(guest: LinuxGuest, own: PfnOfFrame, progress: Progress) -> FrameArray:
    """The kernel's root, and the guest's other L4s; a 32-bit guest's other roots cannot be told from data."""
    found = [np.array([guest.root.mfn], dtype=np.int64)]
    if guest.space.shape is not I386_PAE:
        extents = own.extents()
        done = 0
        with progress("looking for page tables", sum(e.end - e.start for e in extents)) as step:
            for extent in extents:
                found.append(_self_linked(guest, extent))
                done += extent.end - extent.start
                step(done)
    return np.unique(np.concatenate(found))


def _self_linked(guest: LinuxGuest, extent: Extent) -> FrameArray:
    hits = []
    for start in range(extent.start, extent.end, SCAN_PAGES << PAGE_SHIFT):
        part = Extent(start, min(start + (SCAN_PAGES << PAGE_SHIFT), extent.end))
        for held in _held(guest, part):
            words = guest.source.strided_u64(held, LINEAR_PT_SLOT * 8)
            first = held.start >> PAGE_SHIFT
            own = np.arange(first, first + len(words), dtype=np.uint64) << np.uint64(PAGE_SHIFT)
            hit = ((words & FRAME_BITS) == own) & ((words & PRESENT) != 0)
            hits.append(first + np.flatnonzero(hit))
    return np.concatenate(hits) if hits else np.zeros(0, dtype=np.int64)


def _held(guest: LinuxGuest, part: Extent) -> list[Extent]:
    """The pieces of `part` that the source speaks of."""
    cut = [(max(part.start, e.start), min(part.end, e.end)) for e in guest.source.extents()]
    return [Extent(a, b) for a, b in cut if a < b]


def _below(guest: LinuxGuest, own: PfnOfFrame, roots: FrameArray) -> tuple[FrameArray, int]:
    """All tables below the roots, level by level, and how many of them cannot be read."""
    shape = guest.space.shape
    level_frames, found, lost = roots, [roots], 0
    for depth, level in enumerate(shape.levels[:-1]):
        children = []
        for _part, pages, ok in guest.source.iter_pages(level_frames):
            words = as_u64(pages)[ok]
            lost += int(np.count_nonzero(~ok))
            if depth == 0:
                words = words.copy()
                words[:, slice(PAE_ROOT_ENTRIES, None) if shape is I386_PAE else XEN_SLOTS] = 0
            entries = decode_array("x86", words.reshape(-1), level, False)
            frames = np.unique(entries.frame[entries.table])
            children.append(frames[own(frames) >= 0])
        level_frames = np.unique(np.concatenate(children)) if children else level_frames[:0]
        found.append(level_frames)
    return np.unique(np.concatenate(found)), lost


def _is_in(values: FrameArray, sorted_set: FrameArray) -> npt.NDArray[np.bool_]:
    if not len(sorted_set):
        return np.zeros(len(values), dtype=bool)
    i = np.minimum(np.searchsorted(sorted_set, values), len(sorted_set) - 1)
    hit: npt.NDArray[np.bool_] = sorted_set[i] == values
    return hit
