"""start_info pages of PV guests by their magic, for memory that shows no more of a domain.

Each names its domain's shared_info page by machine address and counts the pages that it was built with; no page
says the domain's id. A page of a domain that is gone may still be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gdb_p2m.errors import Unreadable
from gdb_p2m.layout.x86_pv import INIT_P2M_VA_64, START_INFO_32, START_INFO_64, START_INFO_MAGICS
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Source
from gdb_p2m.structures.record import Record, parse
from gdb_p2m.structures.xen_pages import START_INFO_MAGIC
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, MachineAddress

MAX_PAGES = 4096
"""Pages with the magic that are looked at: far more than domains fit into a machine."""


@dataclass(frozen=True, slots=True)
class FoundStartInfo:
    """One page: its frame, the record, and the frame of shared_info that it names."""

    mfn: int
    record: Record
    shared_info: int


def start_info_pages(source: Source, progress: Progress = no_progress) -> Iterator[FoundStartInfo]:
    """Every page that reads as start_info, in order of frame. Looks at the first word of every page."""
    magic = np.uint64(int.from_bytes(START_INFO_MAGIC, "little"))
    extents = source.extents()
    seen = 0
    with progress("looking for start_info pages", len(extents)) as step:
        for done, extent in enumerate(extents):
            first = -(-extent.start >> PAGE_SHIFT)
            for i in np.flatnonzero(source.strided_u64(extent, 0) == magic).tolist():
                seen += 1
                found = _read(source, first + i) if seen <= MAX_PAGES else None
                if found is not None:
                    yield found
            step(done + 1)


def _read(source: Source, mfn: int) -> FoundStartInfo | None:
    address = MachineAddress(mfn << PAGE_SHIFT)
    try:
        data = bytes(source.read(address, PAGE_SIZE))
    except Unreadable:
        return None
    magic = data[:32].split(b"\0", 1)[0].decode("latin-1")
    if magic not in START_INFO_MAGICS:
        return None
    record = parse(START_INFO_32 if "32" in magic else START_INFO_64, data, address)
    shared, pages = record.number("shared_info"), record.number("nr_pages")
    if shared & (PAGE_SIZE - 1) or not 0 < pages < INIT_P2M_VA_64 >> PAGE_SHIFT:
        return None
    # shared_info is Xen's page: a core of one domain ends where the domain's own memory does.
    if shared >= source.end() and source.info.core_table is None:
        return None
    return FoundStartInfo(mfn, record, shared >> PAGE_SHIFT)
