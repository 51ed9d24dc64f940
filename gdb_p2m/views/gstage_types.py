"""What a leaf of the G-stage means: its type, from the PTE or from the metadata of its table's page.

A metadata slot counts only when its PTE has V=1 and RSW=p2m_ext_storage: unmapping and splitting leave old
slots behind. The slot belongs to the table *page* that holds the PTE, so each of the root's four pages has
its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotSupported
from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.pagetables import Level
from gdb_p2m.layout.xen_riscv import PAGETABLE_ENTRIES, MetadataFormat
from gdb_p2m.mapping import Kind
from gdb_p2m.sources.base import Pages, Source
from gdb_p2m.structures.page_info import FrameTable
from gdb_p2m.symbols.xen_facts import XenFacts
from gdb_p2m.units import PAGE_SHIFT, FrameArray, KindArray, U64Array
from gdb_p2m.views.gstage_tables import TableTree

LOW_BITS = (1 << pt.RISCV_PPN_SHIFT) - 1
HIGH_SHIFT = 54
EXTERNAL = 255
"""In arrays of kinds: the type is in the metadata."""
BoolArray = npt.NDArray[np.bool_]
KIND_OF_TYPE = {
    "p2m_invalid": Kind.INVALID,
    "p2m_ram_rw": Kind.RAM_RW,
    "p2m_mmio_direct_io": Kind.MMIO_DIRECT_IO,
    "p2m_map_foreign_rw": Kind.MAP_FOREIGN_RW,
    "p2m_map_foreign_ro": Kind.MAP_FOREIGN_RO,
}
HAS_FRAME = np.array([k.has_frame for k in Kind] + [False] * (256 - len(Kind)), dtype=bool)


class MdStatus(IntEnum):
    """What stands behind v.md.pg of a table's page_info."""

    OK = 0
    NONE = 1
    BAD_POINTER = 2
    IS_TABLE = 3
    SHARED = 4
    NO_PAGE_INFO = 5
    UNREADABLE = 6


UNKNOWN_TYPES = (MdStatus.NO_PAGE_INFO, MdStatus.UNREADABLE)
"""The type is unreadable, not corrupt."""


class Types:
    """Enumerators of p2m_type_t as kinds. Raises NotFound when one is not known."""

    def __init__(self, facts: XenFacts) -> None:
        self.number = {name: facts.number(name) for name in (*KIND_OF_TYPE, "p2m_ext_storage")}
        self.external = self.number["p2m_ext_storage"]
        self.name = {n: name for name, n in self.number.items()}
        self.by_rsw = np.full(4, Kind.CORRUPT, dtype=np.uint8)
        self.by_slot = np.full(256, Kind.CORRUPT, dtype=np.uint8)
        for name, kind in KIND_OF_TYPE.items():
            n = self.number[name]
            if n < min(4, self.external):
                self.by_rsw[n] = kind
            elif self.external < n < 256:
                self.by_slot[n] = kind
        if self.external < 4:
            self.by_rsw[self.external] = EXTERNAL
        low = np.arange(LOW_BITS + 1)
        leaf = (low & (pt.RISCV_R | pt.RISCV_W | pt.RISCV_X)) != 0
        leaf &= (low & (pt.RISCV_R | pt.RISCV_W)) != pt.RISCV_W
        self.by_flags = np.where(leaf, self.by_rsw[low >> pt.RISCV_RSW_SHIFT & 3], np.uint8(Kind.CORRUPT))
        high = np.arange(1 << (64 - HIGH_SHIFT)) << HIGH_SHIFT - 32
        pbmt = pt.RISCV_PBMT_MASK >> 32
        # Xen does not use Svnapot: with N the frame would be encoded differently.
        self.bad_high = (high & (pt.RISCV_RESERVED_MASK | pt.RISCV_N) >> 32 != 0) | (high & pbmt == pbmt)

    def title(self, number: int) -> str:
        """`4 (p2m_map_foreign_rw)`, or that no such type exists."""
        return f"{number} ({self.name.get(number, 'no type')})"

    def kinds(self, raw: U64Array, level: Level, last: bool) -> KindArray:
        """Kind (EXTERNAL: look in the metadata) of valid entries that are no pointers to tables.

        CORRUPT: what the hardware refuses (spaces/entries.py says why), Svnapot, or an unknown type. A twin of
        decode_array by tables of the flag bits, for millions of entries; a test proves that they agree.
        """
        kinds: KindArray = self.by_flags[raw & np.uint64(LOW_BITS)]
        kinds[self.bad_high[raw >> np.uint64(HIGH_SHIFT)]] = Kind.CORRUPT
        if not level.leaf_ok:
            kinds[:] = Kind.CORRUPT
        elif not last:
            low = (raw >> np.uint64(pt.RISCV_PPN_SHIFT)) & np.uint64((1 << (level.shift - PAGE_SHIFT)) - 1)
            kinds[low != 0] = Kind.CORRUPT
        return kinds

    def external_leaves(self, raw: U64Array, level: Level, last: bool) -> BoolArray:
        """Which entries of one table are valid leaves of external type."""
        found: BoolArray = ((raw & np.uint64(pt.RISCV_V)) != 0) & (self.kinds(raw, level, last) == EXTERNAL)
        return found

    def slot_kinds(self, values: U64Array) -> KindArray:
        """Kinds of metadata slots of live external leaves."""
        kinds: KindArray = self.by_slot[np.minimum(values, np.uint64(255)).astype(np.uint8)]
        return kinds


@dataclass(eq=False)
class MetadataPages:
    """v.md.pg of every table, sorted by table frame. pointer: raw; mfn: the metadata page, -1 unless OK/SHARED."""

    table: FrameArray
    pointer: U64Array
    mfn: FrameArray
    status: npt.NDArray[np.uint8]

    def rows(self, tables: FrameArray) -> FrameArray:
        """Row of each table frame (all must be tables of this P2M)."""
        rows: FrameArray = np.searchsorted(self.table, tables)
        return rows


class Metadata:
    """The metadata of one P2M. problem: why there are no page_infos at all, "" when there are."""

    def __init__(
        self, source: Source, tree: TableTree, frames: FrameTable | None, fmt: MetadataFormat, problem: str = ""
    ) -> None:
        if fmt.slot_bytes not in (1, 2, 4, 8):
            raise NotSupported(f"struct md_t of {fmt.slot_bytes} bytes: not a size that metadata slots can have")
        self.source = source
        self.tree = tree
        self.frames = frames
        self.format = fmt
        self.problem = problem

    @cached_property
    def pages(self) -> MetadataPages:
        """The metadata pages of all tables. Cost: the pages of the frame table that describe them."""
        table = self.tree.all_mfns()
        status = np.full(len(table), MdStatus.NO_PAGE_INFO, dtype=np.uint8)
        mfn = np.full(len(table), -1, dtype=np.int64)
        pointer = np.zeros(len(table), dtype=np.uint64)
        if self.frames is None:
            return MetadataPages(table, pointer, mfn, status)
        pointer, ok = self.frames.words(table, self.frames.v_offset)
        mfn = np.where(ok & (pointer != 0), self.frames.mfns(pointer), -1)
        status[ok] = MdStatus.OK
        status[ok & (mfn < 0)] = MdStatus.BAD_POINTER
        status[ok & (pointer == 0)] = MdStatus.NONE
        used = np.flatnonzero(mfn >= 0)
        _, inverse, counts = np.unique(mfn[used], return_inverse=True, return_counts=True)
        status[used[counts[inverse] > 1]] = MdStatus.SHARED
        status[used[np.isin(mfn[used], table)]] = MdStatus.IS_TABLE
        return MetadataPages(table, pointer, mfn, status)

    def slots_of(self, pages: Pages) -> U64Array:
        """(n, 4096) bytes of metadata pages as (n, 512) slot values."""
        size = self.format.slot_bytes
        raw = np.ascontiguousarray(pages[:, : PAGETABLE_ENTRIES * size]).view(f"<u{size}")
        values: U64Array = raw.astype(np.uint64) & np.uint64(self.format.mask)
        return values

    def types_of(self, tables: FrameArray) -> tuple[U64Array, npt.NDArray[np.uint8]]:
        """((n, 512) slot values, status) of tables; values are 0 where status is not OK."""
        pages = self.pages
        rows = pages.rows(tables)
        status = pages.status[rows].copy()
        values = np.zeros((len(tables), PAGETABLE_ENTRIES), dtype=np.uint64)
        use = np.flatnonzero(status == MdStatus.OK)
        if len(use):
            data, ok = self.source.read_pages(pages.mfn[rows[use]])
            values[use] = self.slots_of(data)
            status[use[~ok]] = MdStatus.UNREADABLE
        return values, status

    def slot_address(self, md_mfn: int, slot: int) -> int:
        """Machine address of a slot."""
        return (md_mfn << PAGE_SHIFT) + slot * self.format.slot_bytes

    def read_slot(self, md_mfn: int, slot: int) -> int:
        """The raw slot, unmasked. Raises Unreadable."""
        data = self.source.read(self.slot_address(md_mfn, slot), self.format.slot_bytes)
        return int.from_bytes(data, "little")

    def explain(self, row: int) -> str:
        """Why the metadata of a table cannot be used, for people; "" when it can."""
        pages = self.pages
        status, mfn = MdStatus(int(pages.status[row])), int(pages.mfn[row])
        pointer = int(pages.pointer[row])
        if status is MdStatus.NONE:
            return "v.md.pg is NULL: the table has no metadata page"
        if status is MdStatus.BAD_POINTER:
            assert self.frames is not None
            return f"v.md.pg: {self.frames.problem(pointer)}"
        if status is MdStatus.IS_TABLE:
            return f"v.md.pg names frame {mfn:#x}, which is a table of this P2M"
        if status is MdStatus.SHARED:
            others = pages.table[(pages.mfn == mfn) & (pages.table != pages.table[row])]
            return f"v.md.pg names frame {mfn:#x}, which is also the metadata of table {int(others[0]):#x}"
        if status is MdStatus.NO_PAGE_INFO:
            return self.problem or "the table's page_info is not in the dump"
        return ""
