"""Where the domain builder puts things, and the initial list while it is still the P2M."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gdb_p2m.layout.x86_pv import INIT_P2M_VA_64
from gdb_p2m.model.boot import BootPlan
from gdb_p2m.model.description import KERNEL_PFN, Description
from gdb_p2m.model.kernel import IMAGE_PAGES, Kernel
from gdb_p2m.model.leaves import LeafRows, Leaves
from gdb_p2m.model.pieces import PieceMap
from gdb_p2m.model.shape import P2mShape
from gdb_p2m.model.tables import DATA_RW, Tables, ptes
from gdb_p2m.units import FrameArray

PTRS_PER_TABLE = 512


@dataclass(frozen=True, slots=True)
class Placement:
    """PFNs. p2m_list: the list's pages; first_p2m, p2m_frames: list and tables, when outside the mapping."""

    start_info: int
    pt_base: int
    pt_frames: int
    p2m_list: FrameArray
    first_p2m: int
    p2m_frames: int
    end: int


def place_builder(d: Description) -> Placement:
    """Kernel, [list], start_info, page tables, stack, [list and its tables]: consoles show this order."""
    at = KERNEL_PFN + IMAGE_PAGES
    pages = -(-d.nr_pages // d.width.per_page)
    outside = d.initial_list == "outside"
    inside_at = at
    if not outside:
        at += pages
    start_info = at
    pt_frames = 3 + -(-at // PTRS_PER_TABLE)
    pt_base = start_info + 1
    first = pt_base + pt_frames + 1
    frames = pages + sum(_table_counts(pages)) if outside else 0
    p2m_list = np.arange(pages, dtype=np.int64) + (first if outside else inside_at)
    return Placement(start_info, pt_base, pt_frames, p2m_list, first, frames, first + frames)


def _table_counts(pages: int) -> list[int]:
    """Page-table pages (L1, L2, L3) that map `pages` pages in a top-level slot of their own."""
    counts = []
    for _ in range(3):
        pages = -(-pages // PTRS_PER_TABLE)
        counts.append(pages)
    return counts


def build_initial_list(d: Description, plan: BootPlan, p2m: PieceMap, kernel: Kernel, placed: Placement) -> P2mShape:
    """The builder's list, just taken over by xen_build_dynamic_phys_to_machine() of the linear era.

    Outside the initial mapping ("xen: eliminate scalability issues from initial mapping setup") it has a top-level slot of its own, and the direct map holds its frames
    and the tables that map it read-only.
    """
    pages = np.arange(len(placed.p2m_list), dtype=np.int64)
    mfns = kernel.mfns(placed.p2m_list)
    kernel.memory.add_block(mfns, LeafRows(pages, p2m, kernel.frames, d.width))
    kernel.taken.append(np.arange(placed.pt_base, placed.end, dtype=np.int64))
    kernel.readonly.append(np.arange(placed.pt_base, placed.pt_base + placed.pt_frames, dtype=np.int64))
    if d.initial_list == "outside":
        base = INIT_P2M_VA_64
        _map_outside(kernel, placed, mfns)
    else:
        base = kernel.kernel_va(int(placed.p2m_list[0]))
        kernel.image_end = max(kernel.image_end, placed.end)
    leaves = Leaves(-(-plan.list_size // d.width.mid_span), d.width)
    leaves.make_private(0, plan.list_size)
    shape = P2mShape(leaves, leaves, np.zeros(0, dtype=np.int64), area=base, size=plan.list_size)
    shape.max_p2m_pfn = shape.last_pfn = plan.list_size
    shape.fill_leaf_mfns(pages, mfns)
    return shape


def _map_outside(kernel: Kernel, placed: Placement, mfns: FrameArray) -> None:
    end = placed.first_p2m + placed.p2m_frames
    spare = iter(range(int(placed.p2m_list[-1]) + 1, end))
    kernel.readonly.append(np.arange(placed.first_p2m, end, dtype=np.int64))

    def new_table() -> int:
        return kernel.frames.mfn(next(spare))

    own = Tables(kernel.memory, kernel.tables.shape, kernel.tables.root, new_table)
    own.map_pages(INIT_P2M_VA_64, ptes(mfns, DATA_RW))
