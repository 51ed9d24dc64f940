"""What the GST rules look at: one pass over a G-stage, kept as the facts that the rules compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import P2mError
from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.xen_riscv import FLAGS_BY_TYPE, TYPE_FLAGS
from gdb_p2m.mapping import Kind
from gdb_p2m.rules.base import CannotCheck, DomainContext, Findings, or_cannot
from gdb_p2m.structures.p2m_domain import PageList, read_pages
from gdb_p2m.structures.page_info import FrameTable
from gdb_p2m.target import Target
from gdb_p2m.units import FrameArray
from gdb_p2m.views.gstage import GstageView
from gdb_p2m.views.gstage_leaves import LeafRuns
from gdb_p2m.views.gstage_tables import TableLevel, TableStatus
from gdb_p2m.views.gstage_types import MdStatus, Metadata
from gdb_p2m.views.registry import Views
from gdb_p2m.xen_riscv import RiscvDomain

BoolArray = npt.NDArray[np.bool_]
_KIND_TYPES = {
    Kind.RAM_RW: "p2m_ram_rw",
    Kind.MMIO_DIRECT_IO: "p2m_mmio_direct_io",
    Kind.MAP_FOREIGN_RW: "p2m_map_foreign_rw",
    Kind.MAP_FOREIGN_RO: "p2m_map_foreign_ro",
}
EXPECTED_FLAGS = np.zeros(256, dtype=np.uint64)
for _kind, _name in _KIND_TYPES.items():
    EXPECTED_FLAGS[_kind] = TYPE_FLAGS[_name]
KNOWN_TYPE = np.isin(np.arange(256), [int(k) for k in _KIND_TYPES])


PIECES = 256
"""A group of more entries than this, of 512, is taken for a split superpage."""


@dataclass(eq=False)
class BadEntries:
    """Runs of entries that a rule objects to. `looked`: entries that it looked at."""

    level: list[int] = field(default_factory=list)
    table: list[int] = field(default_factory=list)
    slot: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    raw: list[int] = field(default_factory=list)
    gfn: list[int] = field(default_factory=list)
    extra: list[int] = field(default_factory=list)
    looked: int = 0
    lost: int = 0

    def take(self, level: TableLevel, runs: LeafRuns, bad: BoolArray, extra: npt.NDArray[np.uint64]) -> None:
        """The bad ones among runs; beyond a thousand only counted."""
        where = np.flatnonzero(bad)
        room = max(0, 1000 - len(self.raw))
        self.lost += int(runs.count[where[room:]].sum())
        where = where[:room]
        self.level += [level.number] * len(where)
        self.table += level.mfn[runs.row[where]].tolist()
        self.slot += runs.slot[where].tolist()
        self.count += runs.count[where].tolist()
        self.raw += runs.raw[where].tolist()
        self.gfn += (level.base[runs.row[where]] + (runs.slot[where] << level.order)).tolist()
        self.extra += extra[where].tolist()


@dataclass(eq=False)
class SplitGroups:
    """Leaves of external type of one table that look like one superpage in pieces. worst: see GST-012."""

    groups: int = 0
    members: int = 0
    broken: list[tuple[int, int, int, list[int], int]] = field(default_factory=list)
    """(level, table, first slot, slot types, members)"""


@dataclass(eq=False)
class Scan:
    """Facts of one pass over all leaves. live: external leaves by table frame (aligned to metadata.pages.table)."""

    malformed: BadEntries
    superpages: BadEntries
    external: BadEntries
    flags: BadEntries
    live: FrameArray
    splits: SplitGroups
    unreadable: int = 0


class GstContext(DomainContext):
    """One RISC-V domain as the GST rules see it."""

    def __init__(self, target: Target, domain: RiscvDomain, views: Views) -> None:
        super().__init__(target, domain, views)
        self.riscv = domain

    @cached_property
    def view(self) -> GstageView:
        """The G-stage view; CannotCheck when it cannot be made (GST-001 says why)."""
        view = or_cannot(lambda: self.views.get("gstage"))
        assert isinstance(view, GstageView)
        return view

    @cached_property
    def frames(self) -> FrameTable:
        """The frame table; CannotCheck when its place is not known."""
        return or_cannot(lambda: FrameTable(self.riscv.xen))

    @property
    def metadata(self) -> Metadata:
        """The metadata pages; CannotCheck when there is no frame table."""
        if self.view.frames is None:
            raise CannotCheck(self.view.metadata.problem)
        return self.view.metadata

    @cached_property
    def scan(self) -> Scan:
        """One pass over all entries."""
        return scan(self.view)

    @cached_property
    def pages(self) -> PageList:
        """p2m->pages."""
        limit = self.frames.end - self.frames.first
        return or_cannot(lambda: read_pages(self.riscv, self.frames, limit))

    def tables(self) -> list[tuple[TableLevel, int, int]]:
        """(level, row, frame) of every table that could be read, root pages first."""
        self.scan  # noqa: B018  reading the leaves finds tables that are not in the dump
        return [
            (level, row, int(level.mfn[row]))
            for level in self.view.tree.levels
            for row in np.flatnonzero(level.status == TableStatus.OK).tolist()
        ]

    def unread_tables(self, found: Findings) -> None:
        """Say how many tables a rule could not look into."""
        self.scan  # noqa: B018
        lost = sum(int(np.count_nonzero(lv.status == TableStatus.UNREADABLE)) for lv in self.view.tree.levels)
        if lost:
            found.could_not_read(f"{lost:,} table pages are not in the dump")

    def unread_metadata(self, found: Findings) -> None:
        """Say how many page_infos of tables could not be read."""
        pages = self.metadata.pages
        lost = int(np.count_nonzero(pages.status == MdStatus.NO_PAGE_INFO))
        if lost:
            found.could_not_read(f"the page_infos of {lost:,} table pages are not in the dump")


def scan(view: GstageView) -> Scan:
    """Look once at every valid entry of every table."""
    pages = view.metadata.pages
    out = Scan(
        BadEntries(),
        BadEntries(),
        BadEntries(),
        BadEntries(),
        np.zeros(len(pages.table), dtype=np.int64),
        SplitGroups(),
    )
    for level, runs in view.leaf_runs():
        _scan_runs(view, out, level, runs)
    return out


def _scan_runs(view: GstageView, out: Scan, level: TableLevel, runs: LeafRuns) -> None:
    raw = runs.raw
    total = int(runs.count.sum())
    leaf = (raw & np.uint64(pt.RISCV_R | pt.RISCV_W | pt.RISCV_X)) != 0
    nothing = np.zeros(len(raw), dtype=np.uint64)
    out.malformed.looked += total
    reserved = (raw & np.uint64(pt.RISCV_RESERVED_MASK)) != 0
    out.malformed.take(level, runs, ~leaf | reserved, nothing)
    leaf &= ~reserved
    _scan_superpages(out, level, runs, leaf)
    is_external = runs.external
    # A metadata page that is no metadata page is GST-006's business.
    judged = is_external & ((runs.md_status == MdStatus.OK) | (runs.md_status == MdStatus.NONE))
    out.external.looked += int(runs.count[judged].sum())
    bad_type = judged & (runs.kind == Kind.CORRUPT)
    out.external.take(level, runs, bad_type, runs.slot_type)
    out.unreadable += int(runs.count[is_external & (runs.kind == Kind.UNREADABLE)].sum())
    known = KNOWN_TYPE[runs.kind]
    out.flags.looked += int(runs.count[leaf & ~(is_external & ~known)].sum())
    wrong = known & ((raw & np.uint64(FLAGS_BY_TYPE)) != EXPECTED_FLAGS[runs.kind])
    placed = leaf & ~is_external & ~known & ~_misplaced(level, runs)
    out.flags.take(level, runs, wrong | placed, runs.kind.astype(np.uint64))
    if is_external.any():
        rows = view.metadata.pages.rows(level.mfn[runs.row[is_external]])
        np.add.at(out.live, rows, runs.count[is_external])
        _scan_splits(out.splits, level, runs, is_external & (runs.md_status == MdStatus.OK))


def _misplaced(level: TableLevel, runs: LeafRuns) -> BoolArray:
    """Leaves whose level or alignment is wrong: GST-003's business."""
    low = (runs.frame & np.int64((1 << level.order) - 1)) != 0
    return low if level.level.leaf_ok else np.ones(len(low), dtype=bool)


def _scan_superpages(out: Scan, level: TableLevel, runs: LeafRuns, leaf: BoolArray) -> None:
    if level.order:
        out.superpages.looked += int(runs.count[leaf].sum())
        out.superpages.take(level, runs, leaf & _misplaced(level, runs), runs.frame.astype(np.uint64))


def _scan_splits(out: SplitGroups, level: TableLevel, runs: LeafRuns, use: BoolArray) -> None:
    """Group external leaves by table, flags and distance of frame and slot: pieces of one superpage.

    Only groups that fill most of a table: a few neighbours may lie like that by chance.
    """
    flags = (1 << pt.RISCV_PPN_SHIFT) - 1 & ~(pt.RISCV_A | pt.RISCV_D)
    row, slot, count = runs.row[use], runs.slot[use], runs.count[use]
    delta = runs.frame[use] - (slot << level.order)
    key_flags = (runs.raw[use] & np.uint64(flags)).astype(np.int64)
    value = runs.slot_type[use]
    aligned = (delta & np.int64((512 << level.order) - 1)) == 0
    row, slot, count, delta = row[aligned], slot[aligned], count[aligned], delta[aligned]
    key_flags, value = key_flags[aligned], value[aligned]
    if not len(row):
        return
    order = np.lexsort((slot, key_flags, delta, row))
    row, slot, count, delta = row[order], slot[order], count[order], delta[order]
    key_flags, value = key_flags[order], value[order]
    new = np.concatenate(
        ([True], (row[1:] != row[:-1]) | (delta[1:] != delta[:-1]) | (key_flags[1:] != key_flags[:-1]))
    )
    starts = np.flatnonzero(new)
    sizes = np.add.reduceat(count, starts)
    low, high = np.minimum.reduceat(value, starts), np.maximum.reduceat(value, starts)
    several = sizes > PIECES
    out.groups += int(several.sum())
    out.members += int(sizes[several].sum())
    ends = np.append(starts[1:], len(row))
    for i in np.flatnonzero(several & (low != high))[: max(0, 1000 - len(out.broken))].tolist():
        a, b = int(starts[i]), int(ends[i])
        types = sorted(set(value[a:b].tolist()))
        table = int(level.mfn[row[a]])
        out.broken.append((level.number, table, int(slot[a]), types, int(sizes[i])))


def cpu_hgatps(target: Target) -> list[tuple[int, int]]:
    """(CPU, hgatp) of every CPU whose state carries it (live targets)."""
    found = []
    for cpu in target.source.info.cpus:
        value = cpu.registers.get("hgatp")
        if value is not None:
            found.append((cpu.index, value))
    return found


def domain_roots(target: Target) -> dict[int, int]:
    """Root frame -> domain id of every domain on the list that has a root."""
    try:
        return {int(d.root_mfn): d.id for d in target.domain_list.domains if d.root_mfn is not None}
    except P2mError:
        return {}
