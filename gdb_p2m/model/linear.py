"""The linear list as xen_vmalloc_p2m_tree() and xen_rebuild_p2m_list() make it (Linux 3.19 on).

The builder's list is looked at mid page by mid page: areas that are wholly missing or identity share a page
table, single pages share a page, everything else is copied. Then extra memory is invalidated, which makes
private pages of what was identity (xen_inv_extra_mem; seen: 353 such pages in a 1 GiB dom0).
"""

from __future__ import annotations

import numpy as np

from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.model.boot import BootPlan
from gdb_p2m.model.description import Description, DescriptionError
from gdb_p2m.model.frames import Frames
from gdb_p2m.model.kernel import PAGE_OFFSET_32, Kernel
from gdb_p2m.model.leaves import IDENTITY, MISSING, PRIVATE, LeafRows, Leaves
from gdb_p2m.model.pieces import Fate, PieceMap
from gdb_p2m.model.shape import P2mShape, Placed, fill_invalid, place
from gdb_p2m.model.tables import DATA_RO, DATA_RW, TABLE, pte, ptes
from gdb_p2m.units import MIB, PAGE_SHIFT, PAGE_SIZE, U64Array

AREA_64 = 0xFFFF_C900_0000_0000
"""First address of the vmalloc area (seen: xen_p2m_addr)."""
AREA_32 = 0xEE00_0000
AREA_END_32 = 0xF500_0000
PMD_SIZE = 2 * MIB
PTRS_PER_PTE = 512


def area_entries(d: Description, max_p2m_pfn: int) -> int:
    """xen_p2m_size: entries of the virtual area, from the limit and its alignment."""
    limit = d.p2m_limit >> PAGE_SHIFT
    size = max(max_p2m_pfn, limit) * d.width.bytes
    align = PMD_SIZE * d.width.pmds_per_mid_page
    return -(-size // align) * align // d.width.bytes


def value_at_rebuild(plan: BootPlan, limit: int) -> PieceMap:
    """The P2M that xen_rebuild_p2m_list() sees: past the builder's list all is identity."""
    p2m = PieceMap(limit)
    p2m.set(0, plan.nr_pages, Fate.MFN, 0)
    p2m.set(plan.list_size, limit, Fate.IDENTITY)
    for start, end in plan.given_back:
        p2m.set(start, min(end, plan.list_size), Fate.MISSING)
    for start, end in (*plan.holes, (plan.e820_end, limit)):
        p2m.set(start, min(end, plan.list_size), Fate.IDENTITY)
    return p2m


def leaves_at_rebuild(p2m: PieceMap, size: int, width: EntryWidth) -> Leaves:
    """The chunk test: whole mid pages, whole list pages, or a private copy."""
    leaves = Leaves(size // width.mid_span, width)
    leaves.flat[:] = p2m.uniform(len(leaves.flat), width.per_page)
    by_mid = leaves.leaf
    same = (by_mid == by_mid[:, :1]).all(axis=1)
    leaves.top[:] = np.where(same, by_mid[:, 0], PRIVATE)
    return leaves


def build_linear(d: Description, plan: BootPlan, kernel: Kernel, frames: Frames, p2m: PieceMap) -> P2mShape:
    """The list with all its pages and tables in memory; `p2m` is what it says at the description's stage."""
    size = area_entries(d, plan.max_p2m_pfn)
    leaves = leaves_at_rebuild(value_at_rebuild(plan, p2m.limit), size, d.width)
    for start, end in plan.extra:
        leaves.make_private(start, end, IDENTITY)
    early = Leaves(len(leaves.top), d.width)
    early.top[:], early.flat[:] = leaves.top, leaves.flat
    shape = P2mShape(leaves, early, np.zeros(0, dtype=np.int64), size=size, max_p2m_pfn=size)
    shape.last_pfn = plan.max_p2m_pfn
    if d.stage == "final":
        late = [leaves.make_private(m.target, m.target + m.count) for m in plan.moves]
        late += [leaves.make_private(f.pfn, f.pfn + f.count) for f in d.foreign]
        late += [leaves.make_private(a, b, IDENTITY) for a, b in d.ballooned]
        shape.late = np.unique(np.concatenate(late)) if late else shape.late
        shape.late_updates = len(shape.late)
    _place_pages(d, kernel, shape)
    pages = leaves.private_pages()
    pfns = kernel.take(len(pages))
    mfns = kernel.mfns(pfns)
    shape.fill_leaf_mfns(pages, mfns)
    kernel.memory.add_block(mfns, LeafRows(pages, p2m, frames, d.width))
    _map_list(d, kernel, shape)
    return shape


def _place_pages(d: Description, kernel: Kernel, shape: P2mShape) -> None:
    """The two shared leaves and the page tables full of them."""
    for name in ("p2m_missing", "p2m_identity"):
        shape.shared[name] = fill_invalid(kernel, place(kernel))
    for name in ("p2m_missing", "p2m_identity"):
        table = place(kernel)
        kernel.readonly.append(np.array([table.pfn], dtype=np.int64))
        kernel.memory.words(table.mfn)[:] = pte(shape.shared[name].mfn, DATA_RO)
        shape.shared[f"{name}_pte"] = table


def area_base(d: Description, size: int) -> int:
    """Virtual address of the area. Raises DescriptionError when 32-bit space cannot hold it."""
    if d.width.bits == 64:
        return AREA_64
    if AREA_32 + size * d.width.bytes > AREA_END_32:
        raise DescriptionError(d.name, 0, "p2m_limit", "the list does not fit into 32-bit vmalloc space")
    assert AREA_32 > PAGE_OFFSET_32
    return AREA_32


def _map_list(d: Description, kernel: Kernel, shape: P2mShape) -> None:
    """Page tables of the area: shared tables for whole mid pages, else an entry a page."""
    shape.area = area_base(d, shape.size)
    leaves, per, pmds = shape.leaves, d.width.per_page, d.width.pmds_per_mid_page
    for top, kind in enumerate(leaves.top.tolist()):
        va = shape.area + top * per * PAGE_SIZE
        if kind == PRIVATE:
            slots = slice(top * per, (top + 1) * per)
            kernel.tables.map_pages(va, _list_ptes(leaves.flat[slots], shape.leaf_mfn[slots]))
            continue
        table = shape.shared["p2m_missing_pte" if kind == MISSING else "p2m_identity_pte"]
        for i in range(pmds):
            kernel.tables.set(va + i * PMD_SIZE, "L2", pte(table.mfn, TABLE))


def _list_ptes(
    kinds: np.ndarray[tuple[int], np.dtype[np.uint8]], mfns: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> U64Array:
    """Writable entries for private pages, read-only ones for the shared pages."""
    out: U64Array = np.where(kinds == PRIVATE, ptes(mfns, DATA_RW), ptes(mfns, DATA_RO))
    return out


def name_linear(kernel: Kernel, shape: P2mShape) -> None:
    """The list's variables."""
    kernel.variable("xen_p2m_addr", shape.area)
    kernel.variable("xen_p2m_size", shape.size)
    kernel.variable("xen_max_p2m_pfn", shape.max_p2m_pfn)
    kernel.variable("xen_p2m_last_pfn", shape.last_pfn)
    for name in ("p2m_missing", "p2m_identity", "p2m_missing_pte", "p2m_identity_pte"):
        placed: Placed | None = shape.shared.get(name)
        kernel.variable(name, 0 if placed is None else placed.va)
