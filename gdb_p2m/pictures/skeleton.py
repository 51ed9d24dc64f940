"""The three levels that all x86 views have, in one shape: top slots -> middle pages -> leaf pages.

| view | top slots | middle page | leaf |
|---|---|---|---|
| linear | PMDs of the list's area | page table (PTEs) | page of the list |
| tree | p2m_top | middle page of pointers | leaf |
| list-list | p2m_top_mfn | page of MFNs | the same leaves |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotSupported
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.units import PAGE_SHIFT, FrameArray
from gdb_p2m.views.base import View
from gdb_p2m.views.leaves import Backing
from gdb_p2m.views.linear import LinearView
from gdb_p2m.views.list_list import ListListView
from gdb_p2m.views.tree import TreeView

OUTSIDE = 255
"""Backing of slots of a middle page that are not part of the P2M: before or after the list."""
PTES_PER_PAGE = 512


@dataclass(frozen=True)
class Skeleton:
    """What a drawing needs of an x86 view.

    per_leaf: PFNs of one leaf. per_mid: slots of one middle page. first_top: number of the first top slot.
    skip: slots before the first that belongs to the P2M. mid: MFN of the middle page of each top slot, -1 for
    none. backing, frame: per slot of all middle pages in order of PFN (leaves.Backing or OUTSIDE; MFN or -1).
    names: frame -> name, of shared pages. shared_slots: name -> slots that lead to it. top_title, top_mfn,
    columns: words and frames of the root. heading: what leads into it.
    """

    view: View
    guest: LinuxGuest
    per_leaf: int
    per_mid: int
    first_top: int
    skip: int
    mid: FrameArray
    backing: npt.NDArray[np.uint8]
    frame: FrameArray
    names: dict[int, str]
    shared_slots: dict[str, int]
    top_title: str
    top_mfn: int | None
    columns: tuple[str, str, str]
    mid_word: str
    leaf_word: str
    heading: tuple[str, ...]

    @property
    def mapping(self) -> Mapping:
        """The runs of the view."""
        return self.view.mapping()

    def first_pfn(self, slot: int) -> int:
        """First PFN of leaf slot `slot` (counted over all middle pages)."""
        return (slot - self.skip) * self.per_leaf


def skeleton_of(view: View) -> Skeleton:
    """The three levels of an x86 view. Raises NotSupported for a view without levels, P2mError as the view does."""
    if isinstance(view, LinearView):
        return _linear(view)
    if isinstance(view, TreeView):
        return _tree(view)
    if isinstance(view, ListListView):
        return _list_list(view)
    raise NotSupported(
        f"view {view.name} is a table without levels: there is no structure to draw",
        hint="`map --view core-table` lists it; `draw` shows the guest's own structure",
    )


def _shared(view: View) -> tuple[dict[int, str], dict[str, int]]:
    """Names by frame and slots by name of the shared pages, as `stats` counts them."""
    shared = view.storage().shared
    return {f: n for n, f, _ in shared}, {n: c for n, _, c in shared}


def _linear(view: LinearView) -> Skeleton:
    pages = view.pages
    skip = (view.base >> PAGE_SHIFT) & (PTES_PER_PAGE - 1)
    total = len(pages.pmds.status) * PTES_PER_PAGE
    backing = np.full(total, OUTSIDE, dtype=np.uint8)
    frame = np.full(total, -1, dtype=np.int64)
    backing[skip : skip + len(view.backing)] = view.backing
    frame[skip : skip + len(view.backing)] = pages.frame
    table = np.full(total, -1, dtype=np.int64)
    table[skip : skip + len(view.backing)] = pages.pte_table
    mid = table.reshape(-1, PTES_PER_PAGE).max(axis=1, initial=-1)
    tops = np.unique(pages.pmds.table[pages.pmds.table >= 0])
    names, slots = _shared(view)
    size = f"xen_p2m_addr = {view.base:#x}, xen_p2m_size = {view.size:#x} entries"
    return Skeleton(
        view,
        view.guest,
        view.width.per_page,
        PTES_PER_PAGE,
        (view.base >> pages.pmds.level.shift) & (pages.pmds.level.entries - 1),
        skip,
        mid,
        backing,
        frame,
        names,
        slots,
        "PMD page" if len(tops) < 2 else f"{len(tops)} PMD pages",
        int(tops[0]) if len(tops) else None,
        ("PMD", "PTE", "list page"),
        "page table",
        "list page",
        (size, f"page-table root: {view.guest.root.table} at {view.guest.root.mfn:#x}"),
    )


def _tree(view: TreeView) -> Skeleton:
    tree = view.tree
    backing, frame = view.leaf_slots()
    mid = np.where(tree.row >= 0, tree.mid[np.maximum(tree.row, 0)] if len(tree.mid) else -1, -1)
    names, slots = _shared(view)
    per = view.width.per_page
    heading = f"p2m_top = {view.guest.variable('p2m_top'):#x}"
    return Skeleton(
        view,
        view.guest,
        per,
        per,
        0,
        0,
        mid,
        backing,
        frame,
        names,
        slots,
        "p2m_top",
        tree.top_at >> PAGE_SHIFT,
        ("top", "middle", "leaf"),
        "middle page",
        "leaf",
        (heading, view.era.title),
    )


def _list_list(view: ListListView) -> Skeleton:
    backing, frame = view.leaf_slots()
    names, slots = _shared(view)
    per = view.width.per_page
    backing = backing.copy()
    # Both shared leaves read as INVALID here; which of them a slot names is seen all the same.
    for name, what in (("p2m_missing", Backing.MISSING), ("p2m_identity", Backing.IDENTITY)):
        if (f := view.shared_frame(name)) is not None:
            backing[(frame == f) & (backing == Backing.MISSING)] = what
    mid = np.where(view.lists.mid_ok | (view.lists.top >= 0), view.lists.top, -1)
    heading = f"shared_info.arch.pfn_to_mfn_frame_list_list = {view.top_mfn:#x}"
    return Skeleton(
        view,
        view.guest,
        per,
        per,
        0,
        0,
        mid,
        backing,
        frame,
        names,
        slots,
        "p2m_top_mfn",
        view.top_mfn,
        ("top", "middle", "leaf"),
        "page of MFNs",
        "leaf",
        (heading, "linked by machine frames only: what Xen's toolstack reads"),
    )


def kind_masks(mapping: Mapping, per_leaf: int, slots: int) -> npt.NDArray[np.uint16]:
    """Which kinds the PFNs of each stretch of `per_leaf` have: bit 1 << Kind. Cost: runs, then stretches."""
    masks = np.zeros(slots, dtype=np.uint16)
    first = mapping.start // per_leaf
    last = (mapping.start + mapping.count - 1) // per_leaf
    for kind in Kind:
        here = (mapping.kind == kind) & (first < slots)
        if not here.any():
            continue
        change = np.zeros(slots + 1, dtype=np.int64)
        np.add.at(change, first[here], 1)
        np.add.at(change, np.minimum(last[here], slots - 1) + 1, -1)
        masks[np.cumsum(change[:-1]) > 0] |= np.uint16(1 << kind)
    return masks


def kinds_of_mask(mask: int) -> list[Kind]:
    """The kinds of a mask."""
    return [k for k in Kind if mask >> k & 1]
