"""The hypervisor's side of a model machine: RAM, which frames guests can get, the M2P and its mapping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gdb_p2m.layout.pagetables import X86_FRAME_MASK
from gdb_p2m.layout.x86_pv import (
    LINEAR_PT_SLOT,
    M2P_VA_64,
    MACH2PHYS_VIRT_START_PAE,
    RO_MPT_SLOT,
)
from gdb_p2m.layout.xen_x86 import PAGE_INFO_SIZE
from gdb_p2m.model.boot import Move
from gdb_p2m.model.description import Description, DescriptionError
from gdb_p2m.model.frames import LOW_FRAMES, FrameRange, Frames, Pool
from gdb_p2m.model.kernel import Kernel
from gdb_p2m.model.memory import Memory, Rows
from gdb_p2m.model.pieces import Fate, PieceMap
from gdb_p2m.model.tables import M2P_PAGE, M2P_TABLE, Tables, pte
from gdb_p2m.units import MIB, PAGE_SHIFT, PAGE_SIZE, FrameArray

LARGE_FRAMES = 512
"""Frames of a 2 MiB page."""
MISC_FRAMES = 32
"""Xen's frames besides the M2P: shared_info, page tables of the M2P, the root of 32-bit guests."""
LINEAR_PT_FLAGS = 0x8000_0000_0000_0063
"""Slot 258 of a PV L4 (seen)."""
PAE_MAX_M2P_FRAMES = 1 << 22
"""The compat M2P has 16 MiB of address space: 16 GiB of machine memory."""


@dataclass
class Xen:
    """Where Xen's own things lie. ram: bytes; frames are machine frames.

    m2p_first: first frame of the M2P, m2p_entry: bytes of an entry as the guest sees it.
    table_first, table_frames: the frame table, when the description asks for it.
    """

    ram: tuple[tuple[int, int], ...]
    pool: Pool
    m2p_first: int
    m2p_frames: int
    m2p_entry: int
    shared_info: int
    table_first: int
    table_frames: int
    _next: int

    @property
    def max_frame(self) -> int:
        """Number of the machine's frames: the M2P's length."""
        return self.ram[-1][1] >> PAGE_SHIFT

    def take(self, memory: Memory) -> int:
        """A fresh, zeroed frame of Xen's."""
        frame = self._next
        self._next += 1
        memory.page(frame)
        return frame

    def m2p_address(self, mfn: int) -> int:
        """Machine address of the M2P entry of `mfn`."""
        return (self.m2p_first << PAGE_SHIFT) + mfn * self.m2p_entry


def _large(size: int) -> int:
    """Frames of the 2 MiB pages that hold `size` bytes."""
    return -(-size // (2 * MIB)) * LARGE_FRAMES


def _table_frames(d: Description, frames: int) -> int:
    return _large(frames * PAGE_INFO_SIZE) if d.frame_table else 0


def make_xen(d: Description) -> Xen:
    """The machine of a description. Raises DescriptionError when the guest does not fit into its RAM."""
    entry = d.width.bytes
    ram = d.machine or ((0, _enough_ram(d, entry)),)
    end = ram[-1][1] >> PAGE_SHIFT
    m2p_frames, table_frames = _large(end * entry), _table_frames(d, end)
    first = (end - MISC_FRAMES - m2p_frames - table_frames) // LARGE_FRAMES * LARGE_FRAMES
    if first < max(ram[-1][0] >> PAGE_SHIFT, LOW_FRAMES):
        raise DescriptionError(d.name, 0, "machine", "the last stretch of RAM has no room for Xen's M2P")
    if d.width.bits == 32 and end > PAE_MAX_M2P_FRAMES:
        raise DescriptionError(d.name, 0, "machine", "a 32-bit guest sees the M2P of 16 GiB at most")
    ranges = [FrameRange(max(s >> PAGE_SHIFT, LOW_FRAMES), min(e >> PAGE_SHIFT, first)) for s, e in ram]
    pool = Pool(ranges)
    if pool.size < d.nr_pages:
        raise DescriptionError(d.name, 0, "machine", f"{pool.size} frames for guests, {d.nr_pages} wanted")
    table = first + m2p_frames
    misc = table + table_frames
    return Xen(tuple(ram), pool, first, m2p_frames, entry, misc, table, table_frames, misc + 1)


def _enough_ram(d: Description, entry: int) -> int:
    """RAM for the guest, its foreign frames and Xen, in whole 2 MiB. The M2P covers itself too."""
    frames = LOW_FRAMES + d.nr_pages + 2 * LARGE_FRAMES
    if d.first_mfn is not None:
        frames = max(frames, d.first_mfn + d.nr_pages + 2 * LARGE_FRAMES)
    for f in d.foreign:
        frames = max(frames, f.mfn + f.count + 2 * LARGE_FRAMES)
    total = 0
    while (need := frames + _large(total * entry) + _table_frames(d, total) + 2 * LARGE_FRAMES) > total:
        total = -(-need // LARGE_FRAMES) * LARGE_FRAMES
    return total * PAGE_SIZE


def make_frames(d: Description, xen: Xen) -> Frames:
    """The frames that the domain builder gave the guest. Raises DescriptionError."""
    first = 0
    if d.order == "contiguous" and d.first_mfn is not None:
        first = int(xen.pool.index(np.array([d.first_mfn], dtype=np.int64))[0])
        if first < 0 or first + d.nr_pages > xen.pool.size:
            raise DescriptionError(d.name, 0, "frames", f"{d.nr_pages} frames at {d.first_mfn:#x} do not fit into RAM")
    return Frames(xen.pool, d.nr_pages, d.order, first, d.seed)


class Ownership:
    """Which PFN each machine frame has in Xen's eyes.

    waiting: frames in the remap chain: Xen still knows them by their old PFNs.
    """

    def __init__(self, p2m: PieceMap, frames: Frames, waiting: list[Move]) -> None:
        pieces = [(p.base, p.base + p.end - p.start, p.start) for p in p2m if p.fate is Fate.MFN]
        pieces += [(m.source, m.source + m.count, m.source) for m in waiting]
        pieces.sort()
        self.frames = frames
        self.base, self.end, self.pfn = (np.array(column, dtype=np.int64) for column in zip(*pieces, strict=True))

    def pfns(self, mfns: FrameArray) -> FrameArray:
        """PFN of each frame, -1 for frames that are not the guest's (any more)."""
        owner = self.frames.owners(mfns)
        one = len(self.base) == 1
        which = np.zeros(1, dtype=np.int64) if one else np.searchsorted(self.base, owner, side="right") - 1
        # Where no piece begins before the owner, -1 picks the last piece, which then does not hold it either.
        mine = (owner >= self.base[which]) & (owner < self.end[which])
        return np.where(mine, owner + (self.pfn - self.base)[which], -1)


def put_m2p(xen: Xen, memory: Memory, owned: Ownership) -> None:
    """M2P[P2M[pfn]] = pfn for the guest's frames, INVALID_M2P_ENTRY (all ones) for all others."""
    per = PAGE_SIZE // xen.m2p_entry
    total = xen.max_frame

    def rows(first: int, last: int) -> Rows:
        values = owned.pfns(np.arange(first * per, last * per, dtype=np.int64))
        values[max(0, total - first * per) :] = -1
        narrow = values.view(np.uint64) if xen.m2p_entry == 8 else values.astype("<u4")
        return narrow.view(np.uint8).reshape(last - first, PAGE_SIZE)

    memory.add_block(np.arange(xen.m2p_first, xen.m2p_first + xen.m2p_frames, dtype=np.int64), rows)


def map_m2p(xen: Xen, memory: Memory, kernel: Kernel) -> int:
    """Map the M2P into the guest as Xen does; returns its virtual address."""

    def new_table() -> int:
        return xen.take(memory)

    if kernel.wide:
        base = M2P_VA_64
        l3 = new_table()
        memory.words(kernel.tables.root)[RO_MPT_SLOT] = pte(l3, M2P_TABLE)
        tables = Tables(memory, kernel.tables.shape, kernel.tables.root, new_table, M2P_TABLE)
    else:
        base = MACH2PHYS_VIRT_START_PAE
        tables = kernel.tables
    for i in range(0, xen.m2p_frames, LARGE_FRAMES):
        tables.set(base + (i << PAGE_SHIFT), "L2", pte(xen.m2p_first + i, M2P_PAGE))
    return base


def link_root(kernel: Kernel) -> None:
    """Slot 258 of a 64-bit PV root holds the root's own frame (LINEAR_PT_VIRT_START)."""
    if kernel.wide:
        root = kernel.tables.root
        kernel.memory.words(root)[LINEAR_PT_SLOT] = (root << PAGE_SHIFT & X86_FRAME_MASK) | LINEAR_PT_FLAGS
