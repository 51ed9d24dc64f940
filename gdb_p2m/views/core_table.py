"""View `core-table`: the pages of a domain as `xl dump-core` lists them in `.xen_p2m`.

The toolstack walks the frame list list (or the linear list, through p2m_cr3) and writes down every PFN that has
a frame; the index of a pair is the index of its page in the file (Xen docs/misc/dump-core-format.txt). Entries
that are INVALID, identity or foreign are left out: what is not listed is `missing` in this view, and the guest's
own views tell which of the three it is.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from gdb_p2m.errors import NotFound
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind, Mapping, MappingBuilder
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import CoreTable
from gdb_p2m.views.base import Storage, StorageCount, Trace, View

PAIR_BYTES = 16
NOT_LISTED = "not listed: missing, or identity or foreign, which the format leaves out"


class CoreTableView(View):
    """The table of one core. Raises NotFound for other dumps."""

    name = "core-table"

    def __init__(self, guest: LinuxGuest, progress: Progress = no_progress) -> None:
        table = guest.source.info.core_table
        if table is None:
            raise NotFound(
                "this dump has no .xen_p2m",
                hint="only cores of one domain have it (xl dump-core); the views of the guest itself need none",
            )
        self.guest = guest
        self.table: CoreTable = table
        last = int(table.pfn[-1]) + 1 if len(table.pfn) else 0
        self.limit = max(guest.width.max_p2m_pfn, last)

    @cached_property
    def _mapping(self) -> Mapping:
        builder = MappingBuilder(self.name, self.limit)
        pfn, mfn = self.table.pfn, self.table.mfn
        breaks = np.flatnonzero((np.diff(pfn) != 1) | (np.diff(mfn) != 1)) + 1
        first = np.concatenate((np.zeros(min(len(pfn), 1), dtype=np.int64), breaks))
        count = np.diff(np.concatenate((first, [len(pfn)])))
        start = pfn[first]
        end = start + count
        kinds = np.full(len(first), int(Kind.MFN), dtype=np.uint8)
        builder.add_runs(start, count, kinds, mfn[first])
        gap_start = np.concatenate(([0], end))
        gap = np.concatenate((start, [self.limit])) - gap_start
        some = gap > 0
        missing = np.full(int(some.sum()), int(Kind.MISSING), dtype=np.uint8)
        builder.add_runs(gap_start[some], gap[some], missing, np.full(len(missing), -1, dtype=np.int64))
        return builder.build()

    def mapping(self) -> Mapping:
        return self._mapping

    def trace(self, number: int) -> Trace:
        t = Trace(self.name, number)
        table = self.table
        i = int(np.searchsorted(table.pfn, number, "left"))
        if i == len(table.pfn) or int(table.pfn[i]) != number:
            t.step(".xen_p2m", None, None, None, f"none of its {len(table.pfn):,} pairs has PFN {number:#x}: {NOT_LISTED}")
            return t.decide(Kind.MISSING, None, None, ".xen_p2m", NOT_LISTED)
        mfn = int(table.mfn[i])
        if table.index is None or table.offset is None:
            t.step(".xen_p2m", None, None, mfn, f"{{{number:#x}, {mfn:#x}}}, from the excerpt's note")
            return t.decide(Kind.MFN, mfn, None, ".xen_p2m")
        index = int(table.index[i])
        at = table.offset + index * PAIR_BYTES
        text = f"{{{number:#x}, {mfn:#x}}} at file offset {at:#x}; the page is number {index:,} of .xen_pages"
        t.step(".xen_p2m", index, None, mfn, text)
        return t.decide(Kind.MFN, mfn, None, f".xen_p2m[{index}]")

    def storage(self) -> Storage:
        table = self.table
        listed = len(table.pfn)
        lines = (
            StorageCount("pages of the domain in .xen_p2m", listed, "pairs", listed),
            StorageCount("padding and doubles", table.entries - listed, "pairs", 0),
            StorageCount("PFNs not listed", self.limit - listed, "PFNs", self.limit - listed),
        )
        return Storage(lines, (), table.entries * PAIR_BYTES, 0, (f"PFNs that are not listed: {NOT_LISTED[12:]}",))
