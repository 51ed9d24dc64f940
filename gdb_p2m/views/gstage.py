"""View `gstage`: the page table that Xen keeps for a RISC-V domain, GFN to MFN (Sv39x4, Sv48x4, Sv57x4).

Types live in two bits of the PTE and, for those that do not fit, in a metadata page that hangs off the
page_info of the table's page. See documented sources in layout/xen_riscv.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from gdb_p2m.errors import NotFound, NotUnderstood, P2mError, Unreadable
from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.xen_riscv import MODES, PAGETABLE_ENTRIES, ROOT_PAGES, GstageMode
from gdb_p2m.mapping import Kind, Mapping, MappingBuilder
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.spaces.entries import Pointee, decode
from gdb_p2m.structures.page_info import FrameTable
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE
from gdb_p2m.views.base import Storage, StorageCount, Trace, View
from gdb_p2m.views.gstage_leaves import LeafReader, LeafRuns, bad_table_kind, external_kinds
from gdb_p2m.views.gstage_tables import TableLevel, TableStatus, TableTree, frames_of, read_tree
from gdb_p2m.views.gstage_types import EXTERNAL, HAS_FRAME, UNKNOWN_TYPES, MdStatus, Metadata, Types
from gdb_p2m.xen_riscv import RiscvDomain

TABLE_PROBLEMS = {
    TableStatus.UNREADABLE: "the table is not in the dump",
    TableStatus.OUTSIDE: "the table lies outside Xen's RAM",
    TableStatus.SHARED: "the page is a table of this P2M already: a loop, or two pointers to one table",
}


def usable_mode(domain: RiscvDomain) -> GstageMode:
    """The mode of a domain's P2M. Raises NotUnderstood when number and level make no mode."""
    if domain.mode is None:
        known = ", ".join(f"{m.number} with level {m.root_level} ({m.name})" for m in MODES)
        raise NotUnderstood(
            f"domain {domain.id}: hgatp mode {domain.mode_number} with root level {domain.root_level} "
            f"({domain.mode_source}) is none of: {known}"
        )
    return domain.mode


def usable_root(domain: RiscvDomain) -> int:
    """The root's first frame. Raises NotFound (no root) or NotUnderstood (wrong pointer, not aligned)."""
    if domain.root_mfn is None:
        error = NotFound if domain.root == 0 else NotUnderstood
        raise error(f"domain {domain.id}: {domain.root_problem}")
    if domain.root_mfn % ROOT_PAGES:
        raise NotUnderstood(
            f"domain {domain.id}: the root at frame {domain.root_mfn:#x} is not aligned to 16 KiB: hgatp cannot hold it"
        )
    return domain.root_mfn


class GstageView(View):
    """The G-stage of one domain. Raises NotFound/NotUnderstood when its root or mode cannot be used."""

    name = "gstage"

    def __init__(self, domain: RiscvDomain, progress: Progress = no_progress) -> None:
        self.domain = domain
        self.source = domain.source
        self.progress = progress
        self.mode = usable_mode(domain)
        self.root_mfn = usable_root(domain)
        self.limit = self.mode.gfn_limit
        self.types = Types(domain.xen.facts)

    @cached_property
    def frames(self) -> FrameTable | None:
        """The frame table, None when its place is not known."""
        try:
            return FrameTable(self.domain.xen)
        except P2mError as e:
            self._frames_problem = e.message
            return None

    _frames_problem = ""

    @cached_property
    def tree(self) -> TableTree:
        """All tables; those of the last level are found but not read."""
        return read_tree(self.source, self.mode, self.root_mfn, self.domain.xen.ram_frames, self.progress)

    @cached_property
    def metadata(self) -> Metadata:
        """The metadata pages."""
        frames = self.frames
        return Metadata(self.source, self.tree, frames, self.domain.xen.facts.metadata, self._frames_problem)

    @cached_property
    def _mapping(self) -> Mapping:
        builder = MappingBuilder(self.name, self.limit, ordered=True)
        for level, runs in self.leaf_runs():
            gfn = level.base[runs.row] + (runs.slot << level.order)
            order = np.full(len(gfn), level.order, dtype=np.uint8)
            order[(runs.kind == Kind.CORRUPT) | (runs.kind == Kind.UNREADABLE)] = 0
            lacks = ~HAS_FRAME[runs.kind]
            frame = np.where(lacks, -1, runs.frame) if lacks.any() else runs.frame
            count = runs.count << level.order if level.order else runs.count
            builder.add_runs(gfn, count, runs.kind, frame, order)
        for level in self.tree.levels:  # after the runs: reading the tables may have failed
            for row in np.flatnonzero(level.status != TableStatus.OK).tolist():
                builder.add(int(level.base[row]), level.span, bad_table_kind(int(level.status[row])), order=0)
        return builder.build()

    def leaf_runs(self) -> Iterator[tuple[TableLevel, LeafRuns]]:
        """All valid entries that are no pointers to tables, level by level from the root, in batches."""
        for index, level in enumerate(self.tree.levels[:-1]):
            yield level, self._upper_runs(index)
        reader = LeafReader(self.types, self.metadata, self.tree.levels[-1])
        for runs in reader.runs(self.source, self.progress):
            yield reader.level, runs

    def mapping(self) -> Mapping:
        return self._mapping

    def _upper_runs(self, index: int) -> LeafRuns:
        """Superpages and malformed entries of one level above the last, each a run of its own."""
        level, entries = self.tree.levels[index], self.tree.upper[index]
        kinds, frames = self.types.kinds(entries.raw, level.level, False), frames_of(entries.raw)
        external = kinds == EXTERNAL
        slot_type = np.zeros(len(kinds), dtype=np.uint64)
        md_status = np.zeros(len(kinds), dtype=np.uint8)
        if external.any():
            rows, inverse = np.unique(entries.row[external], return_inverse=True)
            values, status = self.metadata.types_of(level.mfn[rows])
            slot_type[external] = values[inverse, entries.slot[external]]
            md_status[external] = status[inverse]
            kinds[external] = external_kinds(self.types, slot_type[external], md_status[external])
        count = np.ones(len(kinds), dtype=np.int64)
        return LeafRuns(entries.row, entries.slot, count, entries.raw, kinds, frames, external, slot_type, md_status)

    # -- one GFN ------------------------------------------------------------------------------------------

    def trace(self, number: int) -> Trace:
        t = Trace(self.name, number)
        d = self.domain
        t.step("domain", d.id, self._machine(d.address), None, f"struct domain at {d.address:#x}, p2m at {d.p2m:#x}")
        t.step(
            "root",
            None,
            self.root_mfn << PAGE_SHIFT,
            d.root,
            f"page_info of frame {self.root_mfn:#x}, {self.mode.name}",
        )
        if number >= self.limit:
            t.step("limit", None, None, None, f"{self.mode.name} has GFNs 0..{self.limit - 1:#x}")
            return t.decide(Kind.INVALID, None, None, "past the end of guest physical addresses")
        for level in self.tree.levels:
            row = level.row_of(number)
            assert row is not None, "a pointer to a table made this row"
            done = self._trace_level(t, number, level, row)
            if done:
                return t
        raise AssertionError("the last level always decides")

    def _trace_level(self, t: Trace, gfn: int, level: TableLevel, row: int) -> bool:
        """One level; True when it decided."""
        mfn = int(level.mfn[row])
        slot = gfn >> level.order & (PAGETABLE_ENTRIES - 1)
        address = (mfn << PAGE_SHIFT) + slot * 8
        name = level.level.name
        status = TableStatus(int(level.status[row]))
        if status in (TableStatus.OUTSIDE, TableStatus.SHARED):
            t.step(name, slot, address, None, TABLE_PROBLEMS[status])
            above = self._parent_address(level, row)
            t.decide(
                Kind.CORRUPT, None, above, "pointer to a table", f"{name} table {mfn:#x}: {TABLE_PROBLEMS[status]}"
            )
            return True
        try:
            raw = self.source.read_u64(address)
        except Unreadable as e:
            t.step(name, slot, address, None, e.reason)
            t.decide(Kind.UNREADABLE, None, address, f"{name} entry", f"the {name} table at frame {mfn:#x}: {e.reason}")
            return True
        last = level is self.tree.levels[-1]
        pte = decode("riscv", raw, level.level, last)
        shown = f"{pte.problem or pte.pointee.value}, frame {pte.frame:#x} [{pte.flags}]"
        t.step(f"{name} page {row}" if mfn == self.root_mfn + row else name, slot, address, raw, shown)
        if pte.pointee is Pointee.TABLE:
            return False
        if pte.pointee is Pointee.ABSENT:
            why = "V is clear: nothing is mapped" + (" (an invalid entry keeps its frame number)" if raw else "")
            t.decide(Kind.INVALID, None, address, f"{name} entry", why)
            return True
        self._decide_leaf(t, level, row, slot, raw, address, pte.problem)
        return True

    def _decide_leaf(
        self, t: Trace, level: TableLevel, row: int, slot: int, raw: int, address: int, problem: str
    ) -> None:
        name = f"{level.level.name} entry"
        kinds = self.types.kinds(np.array([raw], dtype=np.uint64), level.level, level is self.tree.levels[-1])
        kind, frame = int(kinds[0]), (raw & pt.RISCV_PPN_MASK) >> pt.RISCV_PPN_SHIFT
        if kind == EXTERNAL:
            self._trace_metadata(t, level, row, slot, frame)
            return
        if kind == Kind.CORRUPT:
            why = problem or ("N (Svnapot) is set, which Xen does not use" if raw & pt.RISCV_N else "")
            rsw = (raw & pt.RISCV_RSW_MASK) >> pt.RISCV_RSW_SHIFT
            t.decide(Kind.CORRUPT, None, address, name, why or f"RSW holds {self.types.title(rsw)}")
            return
        t.order = level.order
        if kind == Kind.INVALID:
            t.decide(Kind.INVALID, None, address, name, "the entry is valid but its type is p2m_invalid")
            return
        inside = t.number & ((1 << level.order) - 1)
        t.decide(Kind(kind), frame + inside, address, name)

    def _trace_metadata(self, t: Trace, level: TableLevel, row: int, slot: int, frame: int) -> None:
        """page_info of the table -> v.md.pg -> metadata page -> slot."""
        md = self.metadata
        mfn = int(level.mfn[row])
        at = int(md.pages.rows(np.array([mfn]))[0])
        status = MdStatus(int(md.pages.status[at]))
        record = self._page_info_address(mfn)
        pointer = None if status is MdStatus.NO_PAGE_INFO else int(md.pages.pointer[at])
        why = md.explain(at)
        md_mfn = int(md.pages.mfn[at])
        t.step("page_info.v.md.pg", None, record, pointer, why or f"metadata of table {mfn:#x} is frame {md_mfn:#x}")
        if status is not MdStatus.OK:
            kind = Kind.UNREADABLE if status in UNKNOWN_TYPES else Kind.CORRUPT
            t.decide(kind, None, record, "page_info.v.md.pg", why)
            return
        address = md.slot_address(md_mfn, slot)
        what = f"metadata slot ({md.format.name})"
        try:
            raw = md.read_slot(md_mfn, slot)
        except Unreadable as e:
            t.step(what, slot, address, None, e.reason)
            t.decide(Kind.UNREADABLE, None, address, what, f"the metadata page at frame {md_mfn:#x}: {e.reason}")
            return
        value = raw & md.format.mask
        t.step(what, slot, address, raw, f"type {self.types.title(value)}")
        kind = Kind(int(self.types.slot_kinds(np.array([value], dtype=np.uint64))[0]))
        if kind is Kind.CORRUPT:
            t.decide(kind, None, address, what, f"type {self.types.title(value)} cannot stand behind p2m_ext_storage")
            return
        t.order = level.order
        inside = t.number & ((1 << level.order) - 1)
        t.decide(kind, frame + inside, address, what)

    def _machine(self, address: int) -> int | None:
        try:
            return self.domain.space.translate(address)
        except P2mError:
            return None

    def _page_info_address(self, mfn: int) -> int | None:
        """Machine address of v.md.pg of a frame's page_info."""
        if self.frames is None or not self.frames.holds(mfn):
            return None
        return self._machine(self.frames.virtual(mfn) + self.frames.v_offset)

    def _parent_address(self, level: TableLevel, row: int) -> int | None:
        """Machine address of the entry that leads to a table."""
        above = self.tree.levels[self.tree.levels.index(level) - 1]
        parent = int(level.parent[row])
        return (int(above.mfn[parent]) << PAGE_SHIFT) + int(level.slot[row]) * 8

    # -- storage ------------------------------------------------------------------------------------------

    def storage(self) -> Storage:
        mapping = self.mapping()
        levels, md = self.tree.levels, self.metadata.pages
        lines = []
        for level in levels:
            tables = int(np.count_nonzero(level.status == TableStatus.OK))
            lines.append(StorageCount(f"{level.level.name} table pages", tables, "pages", tables * level.span))
        saved = 0
        assert mapping.order is not None
        for order, tables_saved in ((0, 0), (9, 1), (18, 1 + PAGETABLE_ENTRIES)):
            gfns = int(mapping.count[(mapping.order == order) & HAS_FRAME[mapping.kind]].sum())
            leaves = gfns >> order
            saved += leaves * tables_saved
            lines.append(StorageCount(f"leaves of order {order}", leaves, "entries", gfns))
        own = int(np.count_nonzero(md.mfn >= 0))
        foreign = sum(n for k, n in mapping.totals().items() if k in (Kind.MAP_FOREIGN_RW, Kind.MAP_FOREIGN_RO))
        lines.append(StorageCount("metadata pages", own, "pages", foreign))
        tables = sum(int(np.count_nonzero(lv.status == TableStatus.OK)) for lv in levels)
        used = (tables + len(np.unique(md.mfn[md.mfn >= 0]))) * PAGE_SIZE
        notes = (
            f"root at frames {self.root_mfn:#x}..{self.root_mfn + 3:#x}, {self.mode.name}, GFNs 0..{self.limit - 1:#x}",
            "what superpages save is counted as saved: the tables that 4 KiB mappings would need",
        )
        return Storage(tuple(lines), (), used, saved * PAGE_SIZE, notes)
