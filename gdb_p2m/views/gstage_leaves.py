"""Tables of the last level as runs: the bulk of a G-stage, a few numpy passes per page and no loop over GFNs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.xen_riscv import PAGETABLE_ENTRIES
from gdb_p2m.mapping import Kind
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Source, as_u64
from gdb_p2m.units import FrameArray, KindArray, U64Array
from gdb_p2m.views.gstage_tables import BoolArray, TableLevel, TableStatus, frames_of
from gdb_p2m.views.gstage_types import EXTERNAL, UNKNOWN_TYPES, MdStatus, Metadata, Types

BATCH = 4096
"""Tables per step: 16 MiB of entries."""
SLICE = 128
"""Tables per inner step: with its buffer 1 MiB, which stays in the second-level cache."""
TRY_CHEAPER = 64
"""Slices after which a cheaper way of looking is tried again."""
PPN_STEP = np.uint64(1 << pt.RISCV_PPN_SHIFT)
NO_AD = np.uint64(((1 << 64) - 1) ^ (pt.RISCV_A | pt.RISCV_D))
ABOVE_PPN = np.uint64(54)
_SLOTS = PAGETABLE_ENTRIES


@dataclass(eq=False)
class LeafRuns:
    """Runs of valid entries that are no table pointers, of one level, each within one table.

    All entries of a run have the flags of its first one (but for A and D) and consecutive frames.
    row: of the level's tables. slot: 0..511. raw: first entry. kind/frame: of the first (frame also where
    the kind has none). slot_type/md_status: for external types, else 0 and MdStatus.OK.
    """

    row: FrameArray
    slot: FrameArray
    count: FrameArray
    raw: U64Array
    kind: KindArray
    frame: FrameArray
    external: BoolArray
    slot_type: U64Array
    md_status: npt.NDArray[np.uint8]


class LeafReader:
    """Reads the tables of the last level in batches."""

    def __init__(self, types: Types, metadata: Metadata, level: TableLevel) -> None:
        self.types = types
        self.metadata = metadata
        self.level = level
        self._scanner = Scanner()

    def runs(self, source: Source, progress: Progress = no_progress) -> Iterator[LeafRuns]:
        """The runs of all tables. Tables that cannot be read get the status UNREADABLE in the level."""
        level = self.level
        use = np.flatnonzero(level.status == TableStatus.OK)
        with progress(f"reading {level.level.name} tables", len(use)) as step:
            for a in range(0, len(use), BATCH):
                rows = use[a : a + BATCH]
                by_frame = np.argsort(level.mfn[rows], kind="stable")  # neighbours in memory are one read
                in_order = bool(np.all(by_frame[1:] > by_frame[:-1]))
                rows = rows if in_order else rows[by_frame]
                pages, ok = source.read_pages(level.mfn[rows])
                entries = as_u64(pages)
                if not ok.all():
                    level.status[rows[~ok]] = TableStatus.UNREADABLE
                    rows, entries = rows[ok], np.ascontiguousarray(entries[ok])
                if len(rows):
                    found = self._batch(rows, entries.reshape(-1))
                    yield found if in_order else _by_row(found)
                step(a + len(rows))

    def _batch(self, rows: FrameArray, entries: U64Array) -> LeafRuns:
        at, raw = self._scanner.starts(entries)
        kinds = self.types.kinds(raw, self.level.level, True)
        valid = (raw & np.uint64(pt.RISCV_V)) != 0
        external = (kinds == EXTERNAL) & valid
        wanted = np.unique(at[external] // _SLOTS)
        if len(wanted):
            values, status = self.metadata.types_of(self.level.mfn[rows[wanted]])
            changes = np.flatnonzero(values[:, 1:] != values[:, :-1])
            row, slot = np.divmod(changes, _SLOTS - 1)
            at = np.union1d(at, wanted[row] * _SLOTS + slot + 1)
            raw = entries[at]
            kinds = self.types.kinds(raw, self.level.level, True)
            valid = (raw & np.uint64(pt.RISCV_V)) != 0
            external = (kinds == EXTERNAL) & valid
        count = np.diff(at, append=len(entries))
        if not valid.all():
            at, raw, count, kinds, external = at[valid], raw[valid], count[valid], kinds[valid], external[valid]
        slot_type = np.zeros(len(raw), dtype=np.uint64)
        md_status = np.zeros(len(raw), dtype=np.uint8)
        table, slot = at >> 9, at & 511
        if len(wanted):
            mine = np.searchsorted(wanted, table[external])
            slot_type[external] = values[mine, slot[external]]
            md_status[external] = status[mine]
            kinds[external] = external_kinds(self.types, slot_type[external], md_status[external])
        return LeafRuns(rows[table], slot, count, raw, kinds, frames_of(raw), external, slot_type, md_status)


class Scanner:
    """Finds where runs begin in last-level tables. Buffers are kept between calls.

    A run continues when an entry differs from the one before by one frame and perhaps in A and D, or when
    both are invalid. Three ways to look, the cheapest first; the one that served is tried first for the next
    slice, and now and then a cheaper one again.
    """

    def __init__(self) -> None:
        self._step = np.empty(SLICE * _SLOTS, dtype=np.uint64)
        self._plain = np.empty(SLICE * _SLOTS, dtype=np.uint64)
        self._first = np.ones(SLICE * _SLOTS, dtype=bool)
        self._way = 0
        self._since = 0

    def starts(self, entries: U64Array) -> tuple[FrameArray, U64Array]:
        """(index, entry) of the starts in the entries of whole tables; every table starts anew."""
        places: list[FrameArray] = []
        raws: list[U64Array] = []
        size = SLICE * _SLOTS
        for base in range(0, len(entries), size):
            part = entries[base : base + size]
            self._since += 1
            if self._way and self._since >= TRY_CHEAPER:
                self._way, self._since = self._way - 1, 0
            at = self._slice(part)
            places.append(at + base)
            raws.append(part[at])
        return _without_carries(entries, np.concatenate(places), np.concatenate(raws))

    def _slice(self, part: U64Array) -> FrameArray:
        """Starts in one slice, which stays in the second-level cache."""
        first = self._first[: len(part)]
        while True:
            look = (self._as_they_are, self._without_ad, self._without_ad_and_invalid)[self._way]
            look(part, first[1:])
            first[::_SLOTS] = True
            at = np.flatnonzero(first)
            if self._way == 2 or len(at) <= len(part) // 8:
                break
            self._way, self._since = self._way + 1, 0
        if self._way == 2 or len(at) * _SLOTS == len(part):
            return at
        here, before = part[at], part[at - 1]
        goes_on = (here & NO_AD) - (before & NO_AD) == PPN_STEP
        goes_on |= ((here | before) & np.uint64(pt.RISCV_V)) == 0
        starts: FrameArray = at[~goes_on | (at & 511 == 0)]
        return starts

    def _as_they_are(self, part: U64Array, breaks: BoolArray) -> None:
        """Breaks where the difference is not one frame."""
        step = self._step[: len(part) - 1]
        np.subtract(part[1:], part[:-1], out=step)
        np.not_equal(step, PPN_STEP, out=breaks)

    def _without_ad(self, part: U64Array, breaks: BoolArray) -> None:
        """The same with A and D masked: in a guest that ran, they differ from page to page."""
        plain = self._plain[: len(part)]
        np.bitwise_and(part, NO_AD, out=plain)
        self._as_they_are(plain, breaks)

    def _without_ad_and_invalid(self, part: U64Array, breaks: BoolArray) -> None:
        """The same, and no break between two invalid entries: for tables with large holes."""
        plain, step = self._plain[: len(part)], self._step[: len(part)]
        np.bitwise_and(part, NO_AD, out=plain)
        np.bitwise_and(part, np.uint64(pt.RISCV_V), out=step)
        np.multiply(plain, step, out=plain)
        self._as_they_are(plain, breaks)
        step = step[:-1]
        np.bitwise_or(plain[1:], plain[:-1], out=step)
        np.logical_and(breaks, step, out=breaks)


def _by_row(runs: LeafRuns) -> LeafRuns:
    """The same runs in order of GFN."""
    order = np.argsort(runs.row, kind="stable")
    return LeafRuns(*(getattr(runs, f.name)[order] for f in fields(LeafRuns)))


def _without_carries(entries: U64Array, at: FrameArray, raw: U64Array) -> tuple[FrameArray, U64Array]:
    """Hostile: after a PPN of all ones one more carries into the reserved bits; runs are cut there."""
    count = np.diff(at, append=len(entries)).astype(np.uint64)
    last = raw + ((count - np.uint64(1)) << np.uint64(pt.RISCV_PPN_SHIFT))
    if not ((raw ^ last) >> ABOVE_PPN).any():
        return at, raw
    high = entries >> ABOVE_PPN
    at = np.union1d(at, np.flatnonzero(high[1:] != high[:-1]) + 1)
    return at, entries[at]


def external_kinds(types: Types, values: U64Array, status: npt.NDArray[np.uint8]) -> KindArray:
    """Kinds of live external leaves by slot value and by the state of their metadata page."""
    kinds = types.slot_kinds(values)
    kinds[status != MdStatus.OK] = Kind.CORRUPT
    kinds[np.isin(status, UNKNOWN_TYPES)] = Kind.UNREADABLE
    return kinds


def bad_table_kind(status: int) -> Kind:
    """What the GFNs below a table are that cannot be used."""
    return Kind.UNREADABLE if status == TableStatus.UNREADABLE else Kind.CORRUPT
