"""The model's G-stage: does to a P2M what xen/arch/riscv/p2m.c does, entry by entry.

Leftovers are kept as Xen leaves them: unmapping clears the PTE alone, a split keeps the old slot, a page that
is used again keeps its count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.xen_riscv import (
    DECLARED_TYPES,
    MAX_LEAF_LEVEL,
    PAGETABLE_ENTRIES,
    ROOT_PAGES,
    TYPE_FLAGS,
    GstageMode,
    MetadataFormat,
)
from gdb_p2m.model.memory import Memory
from gdb_p2m.units import PAGE_SHIFT

EXTERNAL = DECLARED_TYPES["p2m_ext_storage"]
BULK_TABLES = 64
"""Leaf tables from which on a mapping of 4 KiB pages is kept as a formula."""


class Pages(Protocol):
    """Where page_infos and free frames come from."""

    def take(self, count: int = 1, align: int = 1) -> int:
        """First of `count` frames that are used for nothing yet."""

    def set_metadata(self, table: int, md: int) -> None:
        """v.md.pg of a table's page_info; md 0: NULL."""

    def add_used(self, table: int, change: int) -> None:
        """u.md.used_entries of a table's page_info, where the layout counts."""

    def used(self, table: int) -> int | None:
        """u.md.used_entries, None where the layout does not count."""


@dataclass(eq=False)
class Table:
    """A table page (the root is four). level: Xen's number; gfn: first GFN; children by slot; md: frame, 0 none."""

    mfn: int
    level: int
    gfn: int
    children: dict[int, Table] = field(default_factory=dict)
    md: int = 0

    @property
    def order(self) -> int:
        """log2 of the pages that one entry spans."""
        return 9 * self.level


@dataclass(frozen=True, slots=True)
class Leaf:
    """What the model knows to be mapped: `1 << order` frames from gfn."""

    gfn: int
    order: int
    mfn: int
    type: str


@dataclass(eq=False)
class P2m:
    """One P2M under construction. leaves: the truth, by first GFN. pages: frames on p2m->pages, newest first.

    bulk: what _map_bulk() has mapped, as runs of the truth; entries inside cannot be changed afterwards.
    """

    memory: Memory
    frames: Pages
    mode: GstageMode
    metadata: MetadataFormat
    svade: bool
    roots: list[Table] = field(default_factory=list)
    leaves: dict[int, Leaf] = field(default_factory=dict)
    pages: list[int] = field(default_factory=list)
    bulk: list[tuple[int, int, str, int, int]] = field(default_factory=list)
    lowest: int = (1 << 64) - 1
    highest: int = 0

    def __post_init__(self) -> None:
        root = self.frames.take(ROOT_PAGES, ROOT_PAGES)
        level = self.mode.root_level
        for i in range(ROOT_PAGES):
            self.memory.page(root + i)
            self.roots.append(Table(root + i, level, i * PAGETABLE_ENTRIES << 9 * level))
            self.pages.insert(0, root + i)

    @property
    def root_mfn(self) -> int:
        """First frame of the root."""
        return self.roots[0].mfn

    # -- what a description asks for ----------------------------------------------------------------------

    def map(self, gfn: int, count: int, mfn: int, kind: str, largest: int = MAX_LEAF_LEVEL) -> None:
        """p2m_set_range(): in the largest mappings that alignment, count and `largest` allow."""
        if largest == 0 and gfn % PAGETABLE_ENTRIES == 0 and DECLARED_TYPES[kind] < EXTERNAL:
            tables = count // PAGETABLE_ENTRIES
            if tables >= BULK_TABLES and self._fresh(gfn, tables):
                self._map_bulk(gfn, tables, mfn, kind)
                done = tables * PAGETABLE_ENTRIES
                gfn, mfn, count = gfn + done, mfn + done, count - done
        while count:
            level = min(largest, self.mode.root_level, MAX_LEAF_LEVEL)
            while level and ((gfn | mfn) & ((1 << 9 * level) - 1) or count < 1 << 9 * level):
                level -= 1
            self.set_entry(gfn, level, mfn, kind)
            size = 1 << 9 * level
            gfn, mfn, count = gfn + size, mfn + size, count - size

    def _fresh(self, gfn: int, tables: int) -> bool:
        """Whether nothing is there yet."""
        end = gfn + tables * PAGETABLE_ENTRIES
        return not self.bulk and (self.highest < gfn or self.lowest >= end)

    def _map_bulk(self, gfn: int, tables: int, mfn: int, kind: str) -> None:
        """Whole leaf tables, whose entries are computed when they are read: a guest of 1 TiB has 2^28."""
        first = self.frames.take(tables)
        flags = np.uint64(self._leaf(0, kind, DECLARED_TYPES[kind]))
        step = np.arange(PAGETABLE_ENTRIES, dtype=np.uint64)

        def rows(a: int, b: int) -> npt.NDArray[np.uint8]:
            at = np.arange(a, b, dtype=np.uint64)[:, None] * np.uint64(PAGETABLE_ENTRIES) + step + np.uint64(mfn)
            return (at << np.uint64(pt.RISCV_PPN_SHIFT) | flags).view(np.uint8)

        self.memory.add_block(np.arange(first, first + tables, dtype=np.int64), rows)
        for i in range(tables):
            at = gfn + i * PAGETABLE_ENTRIES
            parent, slot = self._walk(at, 1, create=True)
            parent.children[slot] = Table(first + i, 0, at)
            self.put(parent, slot, first + i << pt.RISCV_PPN_SHIFT | pt.RISCV_V)
        self.pages[:0] = range(first + tables - 1, first - 1, -1)
        count = tables * PAGETABLE_ENTRIES
        self.bulk.append((gfn, count, kind.removeprefix("p2m_"), mfn, 0))
        self._reach(gfn, count)

    def unmap(self, gfn: int, count: int) -> None:
        """Clear entries. The largest step is what one entry covers."""
        end = gfn + count
        while gfn < end:
            level = min(self.mode.root_level, MAX_LEAF_LEVEL)
            while level and (gfn & ((1 << 9 * level) - 1) or end - gfn < 1 << 9 * level):
                level -= 1
            self._clear(gfn, level)
            gfn += 1 << 9 * level

    def empty_table(self, gfn: int) -> None:
        """A leaf table for `gfn` without an entry (a failed mapping leaves one)."""
        self._walk(gfn, 0, create=True)

    # -- entries ------------------------------------------------------------------------------------------

    def entry(self, table: Table, slot: int) -> int:
        """The raw entry."""
        return int(self.memory.words(table.mfn)[slot])

    def put(self, table: Table, slot: int, raw: int) -> None:
        """Write a raw entry."""
        self.memory.words(table.mfn)[slot] = raw

    def find(self, gfn: int, level: int) -> tuple[Table, int] | None:
        """(table, slot) of the entry of `level` that translates `gfn`, None where a larger leaf or a hole is."""
        table = self.roots[gfn >> 9 * self.mode.root_level >> 9]
        while table.level > level:
            child = table.children.get(self._slot(table, gfn))
            if child is None:
                return None
            table = child
        return table, self._slot(table, gfn)

    def set_entry(self, gfn: int, level: int, mfn: int, kind: str) -> None:
        """p2m_set_entry() for one mapping. Raises ValueError inside what was mapped in bulk."""
        self._refuse_bulk(gfn, 1 << 9 * level)
        table, slot = self._walk(gfn, level, create=True)
        self._forget(gfn, level)
        self._free(table.children.pop(slot, None))
        self.put(table, slot, self._leaf(mfn, kind, self._set_type(table, slot, kind)))
        self.leaves[gfn] = Leaf(gfn, 9 * level, mfn, kind)
        self._reach(gfn, 1 << 9 * level)

    def _leaf(self, mfn: int, kind: str, rsw: int) -> int:
        """The raw entry of a leaf."""
        flags = pt.RISCV_V | TYPE_FLAGS[kind] | (pt.RISCV_A | pt.RISCV_D if self.svade else 0)
        return mfn << pt.RISCV_PPN_SHIFT | flags | rsw << pt.RISCV_RSW_SHIFT

    def _reach(self, gfn: int, count: int) -> None:
        """lowest_mapped_gfn and max_mapped_gfn after a mapping."""
        self.lowest = min(self.lowest, gfn)
        self.highest = max(self.highest, gfn + count - 1)

    def _refuse_bulk(self, gfn: int, size: int) -> None:
        if any(at < gfn + size and gfn < at + count for at, count, *_ in self.bulk):
            raise ValueError(f"GFN {gfn:#x} lies in a large mapping of 4 KiB pages, which cannot be changed")

    def _clear(self, gfn: int, level: int) -> None:
        self._refuse_bulk(gfn, 1 << 9 * level)
        table, slot = self._walk(gfn, level, create=False)
        if table.level != level:
            return
        self._forget(gfn, level)
        self._free(table.children.pop(slot, None))
        self.put(table, slot, 0)

    def _free(self, table: Table | None) -> None:
        """p2m_free_subtree(): a table that was replaced, with its metadata and what is below it."""
        if table is None:
            return
        for child in table.children.values():
            self._free(child)
        if table.md:
            self._free_metadata(table)
        self.pages.remove(table.mfn)

    def _slot(self, table: Table, gfn: int) -> int:
        return gfn >> table.order & (PAGETABLE_ENTRIES - 1)

    def _walk(self, gfn: int, level: int, create: bool) -> tuple[Table, int]:
        """(table, slot) of `level`, splitting superpages and creating tables on the way."""
        table = self.roots[gfn >> 9 * self.mode.root_level >> 9]
        while table.level > level:
            slot = self._slot(table, gfn)
            if slot not in table.children:
                if self.entry(table, slot) & pt.RISCV_V:
                    self._split(table, slot)
                elif create:
                    self._new_table(table, slot)
                else:
                    return table, slot
            table = table.children[slot]
        return table, self._slot(table, gfn)

    def _new_page(self) -> int:
        mfn = self.frames.take()
        self.memory.page(mfn)
        self.pages.insert(0, mfn)
        return mfn

    def _new_table(self, parent: Table, slot: int) -> Table:
        table = Table(self._new_page(), parent.level - 1, parent.gfn + (slot << parent.order))
        parent.children[slot] = table
        self.put(parent, slot, table.mfn << pt.RISCV_PPN_SHIFT | pt.RISCV_V)
        return table

    def _split(self, parent: Table, slot: int) -> None:
        """p2m_split_superpage(): 512 entries of the same flags; external types go to the new table's metadata."""
        raw = self.entry(parent, slot)
        gfn = parent.gfn + (slot << parent.order)
        old = self.leaves.pop(gfn)
        table = Table(self._new_page(), parent.level - 1, gfn)
        for i in range(PAGETABLE_ENTRIES):
            mfn = old.mfn + (i << table.order)
            if raw >> pt.RISCV_RSW_SHIFT & 3 == EXTERNAL:
                self._set_type(table, i, old.type)
            flags = raw & ~pt.RISCV_PPN_MASK
            self.put(table, i, mfn << pt.RISCV_PPN_SHIFT | flags)
            at = gfn + (i << table.order)
            self.leaves[at] = Leaf(at, table.order, mfn, old.type)
        parent.children[slot] = table
        self.put(parent, slot, table.mfn << pt.RISCV_PPN_SHIFT | pt.RISCV_V)

    def _forget(self, gfn: int, level: int) -> None:
        """Drop from the truth what an entry of `level` is about to replace."""
        size = 1 << 9 * level
        if size == 1 or (gfn in self.leaves and self.leaves[gfn].order == 9 * level):
            self.leaves.pop(gfn, None)
            return
        for at in [g for g in self.leaves if gfn <= g < gfn + size]:
            del self.leaves[at]

    # -- metadata -----------------------------------------------------------------------------------------

    def _set_type(self, table: Table, slot: int, kind: str) -> int:
        """p2m_set_type(): returns the RSW bits."""
        value = DECLARED_TYPES[kind]
        if value < EXTERNAL:
            if table.md:
                if self.slot(table, slot):
                    self.frames.add_used(table.mfn, -1)
                self.set_slot(table, slot, 0)
                if self.frames.used(table.mfn) == 0:
                    self._free_metadata(table)
            return value
        if not table.md:
            table.md = self._new_page()
            self.frames.set_metadata(table.mfn, table.md)
        if not self.slot(table, slot):
            self.frames.add_used(table.mfn, 1)
        self.set_slot(table, slot, value)
        return EXTERNAL

    def _free_metadata(self, table: Table) -> None:
        self.pages.remove(table.md)
        self.frames.set_metadata(table.mfn, 0)
        table.md = 0

    def slot_address(self, table: Table, slot: int) -> int:
        """Machine address of a metadata slot."""
        return (table.md << PAGE_SHIFT) + slot * self.metadata.slot_bytes

    def slot(self, table: Table, slot: int) -> int:
        """The value of a metadata slot."""
        return self.memory.read_word(self.slot_address(table, slot), self.metadata.slot_bytes)

    def set_slot(self, table: Table, slot: int, value: int) -> None:
        """Write a metadata slot."""
        self.memory.write_word(self.slot_address(table, slot), value, self.metadata.slot_bytes)

    # -- looking ------------------------------------------------------------------------------------------

    def tables(self) -> list[Table]:
        """All tables, roots first."""
        found = list(self.roots)
        for table in found:
            found.extend(table.children.values())
        return found

    def live_slots(self, table: Table) -> list[int]:
        """Slots whose entry is valid and of external type."""
        words = self.memory.words(table.mfn)
        mask = pt.RISCV_V | pt.RISCV_RSW_MASK
        wanted = pt.RISCV_V | EXTERNAL << pt.RISCV_RSW_SHIFT
        return [i for i in range(PAGETABLE_ENTRIES) if int(words[i]) & mask == wanted]


def truth_runs(p2m: P2m) -> list[tuple[int, int, str, int, int]]:
    """(first GFN, count, kind, first MFN, order) of maximal runs: same type and order, consecutive frames."""
    runs: list[tuple[int, int, str, int, int]] = []
    single = [(x.gfn, 1 << x.order, x.type.removeprefix("p2m_"), x.mfn, x.order) for x in p2m.leaves.values()]
    for gfn, size, kind, first, order in sorted(single + p2m.bulk):
        if runs:
            start, count, old, mfn, old_order = runs[-1]
            if (start + count, old, mfn + count, old_order) == (gfn, kind, first, order):
                runs[-1] = (start, count + size, old, mfn, order)
                continue
        runs.append((gfn, size, kind, first, order))
    return runs
