"""Tables of the last level as runs: the bulk of a G-stage, a few numpy passes per page and no loop over GFNs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.xen_riscv import PAGETABLE_ENTRIES
from gdb_p2m.mapping import Kind
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Source, as_u64
from gdb_p2m.units import FrameArray, KindArray, U64Array
from gdb_p2m.views.gstage_tables import BoolArray, TableLevel, TableStatus
from gdb_p2m.views.gstage_types import EXTERNAL, UNKNOWN_TYPES, MdStatus, Metadata, Types

BATCH = 256
"""Tables per step: 1 MiB of entries, which stays in the second-level cache."""
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
    """Reads the tables of the last level in batches. Buffers are kept between batches."""

    def __init__(self, types: Types, metadata: Metadata, level: TableLevel) -> None:
        self.types = types
        self.metadata = metadata
        self.level = level
        self._step = np.empty((BATCH, _SLOTS - 1), dtype=np.uint64)
        self._first = np.ones((BATCH, _SLOTS), dtype=bool)

    def runs(self, source: Source, progress: Progress = no_progress) -> Iterator[LeafRuns]:
        """The runs of all tables. Tables that cannot be read get the status UNREADABLE in the level."""
        level = self.level
        use = np.flatnonzero(level.status == TableStatus.OK)
        with progress(f"reading {level.level.name} tables", len(use)) as step:
            for a in range(0, len(use), BATCH):
                rows = use[a : a + BATCH]
                pages, ok = source.read_pages(level.mfn[rows])
                entries = as_u64(pages)
                if not ok.all():
                    level.status[rows[~ok]] = TableStatus.UNREADABLE
                    rows, entries = rows[ok], np.ascontiguousarray(entries[ok])
                if len(rows):
                    yield self._batch(rows, entries)
                step(a + len(rows))

    def _batch(self, rows: FrameArray, entries: U64Array) -> LeafRuns:
        first = self._first[: len(rows)]
        self._mark(entries, first)
        at, count, raw = _runs(entries, first)
        external = self._external(raw)
        wanted = np.unique(at[external] // _SLOTS)
        values: U64Array | None = None
        if len(wanted):
            values, status = self.metadata.types_of(self.level.mfn[rows[wanted]])
            first[wanted, 1:] |= values[:, 1:] != values[:, :-1]
            at, count, raw = _runs(entries, first)
        valid = (raw & np.uint64(pt.RISCV_V)) != 0
        at, count, raw = at[valid], count[valid], raw[valid]
        table, slot = at // _SLOTS, at % _SLOTS
        kinds, frames = self.types.kinds(raw, self.level.level, True)
        external = kinds == EXTERNAL
        slot_type = np.zeros(len(raw), dtype=np.uint64)
        md_status = np.zeros(len(raw), dtype=np.uint8)
        if values is not None:
            mine = np.searchsorted(wanted, table[external])
            slot_type[external] = values[mine, slot[external]]
            md_status[external] = status[mine]
            kinds[external] = external_kinds(self.types, slot_type[external], md_status[external])
        return LeafRuns(rows[table], slot, count, raw, kinds, frames, external, slot_type, md_status)

    def _external(self, raw: U64Array) -> BoolArray:
        """Valid entries whose RSW says p2m_ext_storage."""
        rsw = (raw >> np.uint64(pt.RISCV_RSW_SHIFT)) & np.uint64(3)
        found: BoolArray = ((raw & np.uint64(pt.RISCV_V)) != 0) & (rsw == np.uint64(self.types.external))
        return found

    def _mark(self, entries: U64Array, first: BoolArray) -> None:
        """Where a run begins: at every table, and where an entry does not continue the one before.

        It continues when it differs by one frame and perhaps in A and D, or when both are invalid.
        """
        n = len(entries)
        step = self._step[:n]
        np.subtract(entries[:, 1:], entries[:, :-1], out=step)
        first[:, 0] = True
        np.not_equal(step, PPN_STEP, out=first[:, 1:])
        breaks = int(np.count_nonzero(first)) - n
        if breaks > n * _SLOTS // 8:
            valid = entries & np.uint64(pt.RISCV_V)
            plain = (entries & NO_AD) * valid
            np.subtract(plain[:, 1:], plain[:, :-1], out=step)
            np.not_equal(step, PPN_STEP, out=first[:, 1:])
            first[:, 1:] &= (valid[:, 1:] | valid[:, :-1]) != 0
        elif breaks:
            flat = entries.reshape(-1)
            at = np.flatnonzero(first)
            at = at[at % _SLOTS != 0]
            here, before = flat[at], flat[at - 1]
            goes_on = ((here & NO_AD) - (before & NO_AD) == PPN_STEP) | (((here | before) & np.uint64(pt.RISCV_V)) == 0)
            first.reshape(-1)[at[goes_on]] = False


def _runs(entries: U64Array, first: BoolArray) -> tuple[FrameArray, FrameArray, U64Array]:
    """(flat index, count, first entry) of each run. Runs whose frame number overflows are cut there."""
    flat = entries.reshape(-1)
    at = np.flatnonzero(first)
    count = np.diff(at, append=len(flat))
    raw = flat[at]
    crosses = (raw >> ABOVE_PPN) != (flat[at + count - 1] >> ABOVE_PPN)
    if (crosses & ((raw & np.uint64(pt.RISCV_V)) != 0)).any():
        # Hostile: a PPN of all ones, and one more carries into the reserved bits.
        high = entries >> ABOVE_PPN
        first[:, 1:] |= high[:, 1:] != high[:, :-1]
        at = np.flatnonzero(first)
        count = np.diff(at, append=len(flat))
        raw = flat[at]
    return at, count, raw


def external_kinds(types: Types, values: U64Array, status: npt.NDArray[np.uint8]) -> KindArray:
    """Kinds of live external leaves by slot value and by the state of their metadata page."""
    kinds = types.slot_kinds(values)
    kinds[status != MdStatus.OK] = Kind.CORRUPT
    kinds[np.isin(status, UNKNOWN_TYPES)] = Kind.UNREADABLE
    return kinds


def bad_table_kind(status: int) -> Kind:
    """What the GFNs below a table are that cannot be used."""
    return Kind.UNREADABLE if status == TableStatus.UNREADABLE else Kind.CORRUPT
