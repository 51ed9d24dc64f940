"""What a machine frame is in use as, by Xen's own structures on RISC-V: page_info, tables, metadata, domains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gdb_p2m.errors import P2mError
from gdb_p2m.mapping import Run
from gdb_p2m.structures.page_info import FrameTable, PageInfo
from gdb_p2m.units import PAGE_SHIFT
from gdb_p2m.views.gstage import GstageView
from gdb_p2m.views.gstage_tables import TableStatus
from gdb_p2m.views.gstage_types import MdStatus
from gdb_p2m.xen_riscv import RiscvDomain, XenRiscv


@dataclass(frozen=True, slots=True)
class TableUse:
    """A frame that is a table page. level: Xen's number; root_page: 0..3 for pages of the root, else None.

    gfn: first GFN that it translates, count: how many. parent/slot: the entry that leads to it (None: root).
    md_mfn: its metadata page; md_state: why there is none that can be used. live: valid external leaves;
    stored: slots that hold a type, None when unreadable.
    """

    domain: int
    level: int
    root_page: int | None
    gfn: int
    count: int
    parent: int | None
    slot: int | None
    md_pointer: int | None
    md_mfn: int | None
    md_state: str
    live: int | None
    stored: int | None

    @property
    def text(self) -> str:
        """`page 1 of the root of d2`, `L0 table of d2`."""
        if self.root_page is not None:
            return f"page {self.root_page} of the root of d{self.domain}"
        return f"L{self.level} table of d{self.domain}"


@dataclass(frozen=True, slots=True)
class MetadataUse:
    """A frame that is the metadata page of table `table`."""

    domain: int
    table: int

    @property
    def text(self) -> str:
        """For people."""
        return f"metadata page of table {self.table:#x} of d{self.domain}"


@dataclass(frozen=True, slots=True)
class MappedBy:
    """A domain's P2M maps the frame."""

    domain: int
    run: Run


class FrameUses:
    """Answers for any number of frames; views are made once. problems: (domain, why its P2M is not seen)."""

    def __init__(self, xen: XenRiscv, views: dict[int, GstageView], domains: list[RiscvDomain]) -> None:
        self.xen = xen
        self.frames = FrameTable(xen)
        self.views = views
        self.domains = domains

    def tables(self, mfn: int) -> Iterator[TableUse]:
        """Every table that this frame is."""
        for domain, view in self.views.items():
            for level in view.tree.levels:
                hit = (level.mfn == mfn) & (level.status <= TableStatus.UNREADABLE)
                for row in np.flatnonzero(hit).tolist():
                    root = level is view.tree.levels[0]
                    above = None if root else view.tree.levels[view.tree.levels.index(level) - 1]
                    parent = None if above is None else int(above.mfn[int(level.parent[row])])
                    yield TableUse(
                        domain,
                        level.number,
                        row if root else None,
                        int(level.base[row]),
                        level.span,
                        parent,
                        None if root else int(level.slot[row]),
                        *_metadata(view, mfn),
                        *_slots(view, level.number, mfn),
                    )

    def metadata(self, mfn: int) -> Iterator[MetadataUse]:
        """Every table whose metadata this frame is."""
        for domain, view in self.views.items():
            pages = view.metadata.pages
            for row in np.flatnonzero(pages.mfn == mfn).tolist():
                yield MetadataUse(domain, int(pages.table[row]))

    def mapped_by(self, mfn: int) -> Iterator[MappedBy]:
        """Every GFN of every domain that maps this frame."""
        for domain, view in self.views.items():
            for run in view.mapping().reverse(mfn):
                yield MappedBy(domain, run)

    def by_page_info(self, info: PageInfo) -> str:
        """What the page_info alone says, for a frame that is neither table nor metadata."""
        if info.free:
            return "free (PGC_state_free)"
        image = self.xen.image
        first, last = image.machine(image.start) >> PAGE_SHIFT, (image.machine(image.end) - 1) >> PAGE_SHIFT
        if first <= info.mfn <= last:
            return "Xen's image"
        owner = next((d for d in self.domains if d.address == info.v), None)
        if info.xen_heap:
            return "Xen heap" + (f", shared with d{owner.id}" if owner else "")
        if info.allocated and owner is not None:
            return f"memory of d{owner.id}"
        if info.allocated:
            return f"allocated, owner {info.v:#x} is not on domain_list" if info.v else "allocated, without an owner"
        if info.count_info == 0:
            return "no owner and no reference: Xen's own, or unused in a pool of pages for tables"
        return "in use, without PGC_allocated"


def _metadata(view: GstageView, mfn: int) -> tuple[int | None, int | None, str]:
    """(v.md.pg, metadata frame, why it cannot be used) of a table."""
    md = view.metadata
    row = int(md.pages.rows(np.array([mfn]))[0])
    status = MdStatus(int(md.pages.status[row]))
    pointer = None if status is MdStatus.NO_PAGE_INFO else int(md.pages.pointer[row])
    page = int(md.pages.mfn[row])
    return pointer, page if page >= 0 else None, md.explain(row)


def _slots(view: GstageView, number: int, mfn: int) -> tuple[int | None, int | None]:
    """(live external leaves, slots that hold a type) of one table."""
    values, status = view.metadata.types_of(np.array([mfn]))
    stored = int(np.count_nonzero(values[0])) if status[0] == MdStatus.OK else None
    try:
        raw = np.frombuffer(view.source.read(mfn << PAGE_SHIFT, 4096), dtype="<u8")
    except P2mError:
        return None, stored
    level = next(lv for lv in view.tree.levels if lv.number == number)
    return int(np.count_nonzero(view.types.external_leaves(raw, level.level, number == 0))), stored
