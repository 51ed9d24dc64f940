"""The table pages of one G-stage P2M, level by level: found once, each page read once.

A root is four pages and is kept as four tables of 512 entries: each has its own page_info and its own
metadata page. A page that is used as a table a second time (a loop, or two pointers to one table) is not
followed again, so work and memory are bounded by the number of distinct pages; Xen never shares tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.pagetables import Level
from gdb_p2m.layout.xen_riscv import PAGETABLE_ENTRIES, ROOT_PAGES, GstageMode
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Source, as_u64
from gdb_p2m.units import PAGE_SHIFT, FrameArray, U64Array

BoolArray = npt.NDArray[np.bool_]
BATCH_TABLES = 512
POINTER_MASK = (
    (1 << pt.RISCV_PPN_SHIFT) - 1 & ~(pt.RISCV_G | pt.RISCV_RSW_MASK)
    | pt.RISCV_RESERVED_MASK
    | pt.RISCV_PBMT_MASK
    | pt.RISCV_N
)
"""A pointer to a table has V alone of these (spaces/entries.py; a test proves that both agree)."""


class TableStatus(IntEnum):
    """Why a table page can or cannot be used."""

    OK = 0
    UNREADABLE = 1
    OUTSIDE = 2
    SHARED = 3


@dataclass(eq=False)
class TableLevel:
    """The tables of one level in rising order of GFN, one element per page.

    number: Xen's level (0 = 4 KiB). order: log2 of the pages that one entry spans. mfn: the page. base: first GFN.
    parent/slot: row in the level above and slot there (-1 for the root). pointer: the entry there (0).
    """

    level: Level
    number: int
    order: int
    mfn: FrameArray
    base: FrameArray
    parent: FrameArray
    slot: FrameArray
    pointer: U64Array
    status: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.mfn)

    @property
    def span(self) -> int:
        """GFNs that one table page covers."""
        return PAGETABLE_ENTRIES << self.order

    def row_of(self, gfn: int) -> int | None:
        """The row of the table that translates `gfn`, None where there is none."""
        i = int(np.searchsorted(self.base, gfn, side="right")) - 1
        return i if i >= 0 and gfn < int(self.base[i]) + self.span else None


@dataclass(eq=False)
class UpperEntries:
    """Valid entries above the last level that are no pointers to tables: leaves and malformed ones.

    row: of the level's table. slot: 0..511 in the page. raw: the entry.
    """

    row: FrameArray
    slot: FrameArray
    raw: U64Array


@dataclass(eq=False)
class TableTree:
    """All tables. levels: from the root to the last level. upper: by level index, without the last one."""

    mode: GstageMode
    levels: list[TableLevel]
    upper: list[UpperEntries]

    def all_mfns(self) -> FrameArray:
        """Frames of all tables that are used as tables (status OK or UNREADABLE), each once, sorted."""
        used = [lv.mfn[lv.status <= TableStatus.UNREADABLE] for lv in self.levels]
        return np.unique(np.concatenate(used))


def read_tree(
    source: Source, mode: GstageMode, root_mfn: int, ram: tuple[int, int], progress: Progress = no_progress
) -> TableTree:
    """Read every table above the last level below the root at `root_mfn` (aligned).

    ram: (first, end) frames that a table may lie in. Cost: one read per table page above the last level.
    """
    shape = mode.shape
    order = shape.levels[0].shift - PAGE_SHIFT
    pages = np.arange(ROOT_PAGES, dtype=np.int64)
    none = np.full(ROOT_PAGES, -1, dtype=np.int64)
    here = TableLevel(
        shape.levels[0],
        order // 9,
        order,
        root_mfn + pages,
        pages * PAGETABLE_ENTRIES << order,
        none,
        none.copy(),
        np.zeros(ROOT_PAGES, dtype=np.uint64),
        np.zeros(ROOT_PAGES, dtype=np.uint8),
    )
    levels = [here]
    upper: list[UpperEntries] = []
    known = np.sort(here.mfn)
    for level in shape.levels[1:]:
        children, entries = _read_level(source, here, progress)
        upper.append(entries)
        order = level.shift - PAGE_SHIFT
        row, slot, mfn, pointer = children
        status = _status(mfn, known, ram)
        base = here.base[row] + (slot << here.order)
        here = TableLevel(level, order // 9, order, mfn, base, row, slot, pointer, status)
        levels.append(here)
        if level is not shape.levels[-1]:
            known = np.union1d(known, mfn[status == TableStatus.OK])
    return TableTree(mode, levels, upper)


def _status(mfn: FrameArray, known: FrameArray, ram: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Outside RAM, or used before: by a table above, or by an earlier one of the same level."""
    status = np.zeros(len(mfn), dtype=np.uint8)
    ordered = np.sort(mfn)
    if not np.all(ordered[1:] > ordered[:-1]):
        status[:] = TableStatus.SHARED
        status[np.unique(mfn, return_index=True)[1]] = TableStatus.OK
    at = np.searchsorted(ordered, known)
    if np.any(ordered[np.minimum(at, len(ordered) - 1)] == known) if len(ordered) else False:
        status[np.isin(mfn, known)] = TableStatus.SHARED
    if len(ordered) and (ordered[0] < ram[0] or ordered[-1] >= ram[1]):
        status[(mfn < ram[0]) | (mfn >= ram[1])] = TableStatus.OUTSIDE
    return status


def _read_level(
    source: Source, tables: TableLevel, progress: Progress
) -> tuple[tuple[FrameArray, FrameArray, FrameArray, U64Array], UpperEntries]:
    """The children (row, slot, mfn, entry) of a level's tables in order of GFN, and its other valid entries."""
    use = np.flatnonzero(tables.status == TableStatus.OK)
    places: list[FrameArray] = []
    raws: list[U64Array] = []
    with progress(f"reading {tables.level.name} tables", len(use)) as step:
        for a in range(0, len(use), BATCH_TABLES):
            part = use[a : a + BATCH_TABLES]
            pages, ok = source.read_pages(tables.mfn[part])
            tables.status[part[~ok]] = TableStatus.UNREADABLE
            entries = as_u64(pages).reshape(-1)
            at = np.flatnonzero(entries & np.uint64(pt.RISCV_V))
            raws.append(entries[at])
            places.append((part[at >> 9] << 9) | (at & 511))
            step(a + len(part))
    place = np.concatenate(places) if places else np.zeros(0, dtype=np.int64)
    raw = np.concatenate(raws) if raws else np.zeros(0, dtype=np.uint64)
    row, slot = place >> 9, place & 511
    table = (raw & np.uint64(POINTER_MASK)) == np.uint64(pt.RISCV_V)
    if table.all():
        return (row, slot, frames_of(raw), raw), UpperEntries(row[:0], slot[:0], raw[:0])
    children = row[table], slot[table], frames_of(raw[table]), raw[table]
    return children, UpperEntries(row[~table], slot[~table], raw[~table])


def frames_of(raw: U64Array) -> FrameArray:
    """PPN of entries."""
    frames: FrameArray = ((raw & np.uint64(pt.RISCV_PPN_MASK)) >> np.uint64(pt.RISCV_PPN_SHIFT)).astype(np.int64)
    return frames
