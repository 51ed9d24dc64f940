"""The three-level tree as xen_build_dynamic_phys_to_machine(), set_phys_range_identity() and alloc_p2m() make it.

Sources: "x86/xen: compactly store large identity ranges in the p2m" for 3.16 (early_split_p2m, p2m_mid_identity) and,
in what it removes, for 2.6.39; real memory of 3.16.0 and 3.18.20 for where the pages lie.
"""

from __future__ import annotations

import numpy as np

from gdb_p2m.model.boot import BootPlan
from gdb_p2m.model.description import Description
from gdb_p2m.model.eras import EraFacts
from gdb_p2m.model.frames import Frames
from gdb_p2m.model.kernel import Kernel
from gdb_p2m.model.leaves import IDENTITY, MISSING, PRIVATE, LeafRows, Leaves, words_to_page
from gdb_p2m.model.pieces import PieceMap
from gdb_p2m.model.shape import P2mShape, Placed, fill_invalid, place
from gdb_p2m.units import PAGE_SHIFT, FrameArray


def graft_builder_list(leaves: Leaves, nr_pages: int) -> None:
    """Every leaf of the builder's list becomes a private leaf, every mid above one private."""
    leaves.make_private(0, nr_pages)


def set_identity(leaves: Leaves, era: EraFacts, start: int, end: int) -> None:
    """set_phys_range_identity(start, end): splits at the ends, pointer swaps in between."""
    per, span = leaves.per, leaves.per**2
    end = min(end, span * len(leaves.top))
    if start >= end:
        return
    if era.mid_identity:
        for pfn in (start, end):
            _early_split(leaves, pfn)
    else:
        for top in range(start // span, -(-end // span)):
            leaves.split_mid(top)
        for pfn in (start, end):
            _early_split(leaves, pfn)
    for top in range(start // span, -(-end // span)):
        if leaves.top[top] == MISSING:
            # What is still shared here lies wholly in the range: the ends have been split.
            leaves.top[top] = IDENTITY
            leaves.leaf[top] = IDENTITY
        elif leaves.top[top] == PRIVATE:
            first = max(start, top * span) // per
            last = -(-min(end, (top + 1) * span) // per)
            part = leaves.flat[first:last]
            part[part == MISSING] = IDENTITY


def _early_split(leaves: Leaves, pfn: int) -> None:
    """early_split_p2m: new mid and leaf pages where `pfn` lies inside one."""
    top = pfn // leaves.per**2
    if top >= len(leaves.top) or pfn % leaves.per**2 == 0:
        return
    leaves.split_mid(top)
    if pfn % leaves.per and leaves.flat[pfn // leaves.per] == MISSING:
        leaves.flat[pfn // leaves.per] = PRIVATE


def shape_leaves(d: Description, plan: BootPlan) -> tuple[Leaves, Leaves, FrameArray]:
    """(final leaves, leaves when the frame lists were built, leaf numbers made private afterwards)."""
    leaves = Leaves(d.width.per_page, d.width)
    graft_builder_list(leaves, d.nr_pages)
    if d.stage == "final" and d.era.identity:
        for start, end in plan.holes:
            set_identity(leaves, d.era, start, end)
        for m in plan.moves:
            leaves.make_private(m.target, m.target + m.count)
        if d.era.identity_past_e820:
            set_identity(leaves, d.era, plan.e820_end, d.width.max_p2m_pfn)
    early = Leaves(d.width.per_page, d.width)
    early.top[:], early.flat[:] = leaves.top, leaves.flat
    late = [np.zeros(0, dtype=np.int64)]
    if d.stage == "final":
        late += [leaves.make_private(f.pfn, f.pfn + f.count) for f in d.foreign]
    return leaves, early, np.unique(np.concatenate(late))


def build_tree(
    d: Description,
    plan: BootPlan,
    final: PieceMap,
    kernel: Kernel,
    frames: Frames,
    builder_list: FrameArray,
) -> P2mShape:
    """The tree with all its pages in memory. builder_list: PFNs of the domain builder's list."""
    leaves, early, late = shape_leaves(d, plan)
    shape = P2mShape(leaves, early, late)
    shape.max_p2m_pfn = plan.max_p2m_pfn if d.stage == "final" else d.nr_pages
    shape.last_pfn = shape.max_p2m_pfn
    for name in ("p2m_missing", *(("p2m_identity",) if d.era.identity else ())):
        shape.shared[name] = fill_invalid(kernel, place(kernel, image=True))
    mfns = _place_leaves(d, kernel, shape, builder_list)
    kernel.memory.add_block(mfns, LeafRows(leaves.private_pages(), final, frames, d.width))
    _build_mids(d, kernel, shape)
    return shape


def _place_leaves(d: Description, kernel: Kernel, shape: P2mShape, builder_list: FrameArray) -> FrameArray:
    """Where private leaves lie: the builder's list (or its copy in the direct map), the others behind brk.

    Returns their machine frames.
    """
    pages = shape.leaves.private_pages()
    own = -(-d.nr_pages // d.width.per_page)
    in_list = pages < own
    revector = d.era.revectors and kernel.wide and d.stage == "final"
    pfns = np.empty(len(pages), dtype=np.int64)
    # The list's own leaves come first: the builder's list is contiguous, and so is its copy.
    pfns[~in_list] = kernel.take_image(len(pages) - own)
    pfns[in_list] = kernel.take(own) if revector else builder_list[:own]
    image, direct = np.uint64(kernel.kernel_va(0)), np.uint64(kernel.direct_va(0))
    offset = np.where(in_list & revector, direct, image)
    shape.leaf_va = np.full(len(shape.leaves.flat), -1, dtype=np.int64)
    vas = offset + (pfns.astype(np.uint64) << np.uint64(PAGE_SHIFT))
    shape.leaf_va[pages] = vas.view(np.int64)
    mfns = kernel.mfns(pfns)
    shape.fill_leaf_mfns(pages, mfns)
    for kind in (MISSING, IDENTITY):
        if (placed := shape.shared.get(shape.shared_name(kind))) is not None:
            shape.leaf_va[shape.leaves.flat == kind] = np.array([placed.va], dtype=np.uint64).view(np.int64)[0]
    return mfns


def _build_mids(d: Description, kernel: Kernel, shape: P2mShape) -> None:
    """p2m_top, the shared mid pages and the private ones."""
    assert shape.leaf_va is not None
    per = d.width.per_page

    def write(page: Placed, values: FrameArray) -> Placed:
        kernel.memory.page(page.mfn)[:] = np.frombuffer(words_to_page(values, d.width), dtype=np.uint8)
        return page

    def filled(name: str, leaf: str) -> Placed:
        va = np.array([shape.shared[leaf].va], dtype=np.uint64).view(np.int64)
        shape.shared[name] = place(kernel, image=True)
        return write(shape.shared[name], np.repeat(va, per))

    by_kind = {MISSING: filled("p2m_mid_missing", "p2m_missing")}
    if d.era.mid_identity:
        by_kind[IDENTITY] = filled("p2m_mid_identity", "p2m_identity")
    shape.shared["p2m_top"] = place(kernel, image=True)
    by_mid = shape.leaf_va.reshape(-1, per)
    tops = []
    for top, kind in enumerate(shape.leaves.top.tolist()):
        if kind == PRIVATE:
            shape.mids[top] = write(place(kernel, image=True), by_mid[top])
            tops.append(shape.mids[top].va)
        else:
            tops.append(by_kind[kind].va)
    write(shape.shared["p2m_top"], np.array(tops, dtype=np.uint64).view(np.int64))


def name_tree(d: Description, kernel: Kernel, shape: P2mShape) -> None:
    """The tree's variables."""
    for name in ("p2m_top", "p2m_missing", "p2m_mid_missing", "p2m_identity", "p2m_mid_identity"):
        if name in shape.shared:
            kernel.variable(name, shape.shared[name].va)
    kernel.variable("xen_max_p2m_pfn", shape.max_p2m_pfn)
