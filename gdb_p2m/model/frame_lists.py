"""The frame list list (p2m_top_mfn and its mid pages) as xen_build_mfn_list_list() makes it.

The eras differ. On 3.16 and before mid_mfn pages are made with private mid pages, and identity never reaches
them; on 3.18 and the linear list they are built from the finished P2M, so identity leaves show as the MFN of
p2m_identity (3.16 and 3.18 seen; linear seen: every slot is the frame that backs the list there).
"""

from __future__ import annotations

import numpy as np

from gdb_p2m.model.description import Description
from gdb_p2m.model.kernel import Kernel
from gdb_p2m.model.leaves import MISSING, PRIVATE, words_to_page
from gdb_p2m.model.shape import P2mShape, Placed, place
from gdb_p2m.units import FrameArray


def build_frame_lists(d: Description, kernel: Kernel, shape: P2mShape, *, image: bool) -> None:
    """p2m_top_mfn, p2m_top_mfn_p, p2m_mid_missing_mfn and the private mid_mfn pages."""
    names = ["p2m_mid_missing_mfn", "p2m_top_mfn_p", "p2m_top_mfn"]
    if d.era.mid_identity_mfn:
        names.insert(1, "p2m_mid_identity_mfn")
    for name in names:
        shape.shared[name] = place(kernel, image=image)
    per = d.width.per_page
    for kind in ("missing", "identity"):
        if (mid := shape.shared.get(f"p2m_mid_{kind}_mfn")) is not None:
            _write(d, kernel, mid, np.full(per, shape.shared[f"p2m_{kind}"].mfn, dtype=np.int64))
    shape.listed = np.zeros(len(shape.leaves.flat), dtype=bool)
    for top, slots in _mid_pages(d, shape).items():
        part = slice(top * per, (top + 1) * per)
        shape.listed[part] = (shape.leaves.flat[part] == PRIVATE) & (slots == shape.leaf_mfn[part])
        shape.lists[top] = place(kernel, image=image)
        _write(d, kernel, shape.lists[top], slots)
    missing = shape.shared["p2m_mid_missing_mfn"]
    mids = [shape.lists.get(i, missing) for i in range(per)]
    _write(d, kernel, shape.shared["p2m_top_mfn"], np.array([m.mfn for m in mids], dtype=np.int64))
    pointers = np.array([m.va for m in mids], dtype=np.uint64).view(np.int64)
    _write(d, kernel, shape.shared["p2m_top_mfn_p"], pointers)


def _write(d: Description, kernel: Kernel, page: Placed, values: FrameArray) -> None:
    kernel.memory.page(page.mfn)[:] = np.frombuffer(words_to_page(values, d.width), dtype=np.uint8)


def _mid_pages(d: Description, shape: P2mShape) -> dict[int, FrameArray]:
    """Slots of every private mid_mfn page by top slot."""
    missing = shape.shared["p2m_missing"].mfn
    tops = min(len(shape.leaves.top), d.width.per_page)
    by_mid = shape.leaf_mfn.reshape(-1, d.width.per_page)
    out: dict[int, FrameArray] = {}
    if not d.era.late_list_list:
        for top in np.flatnonzero(shape.leaves.top[:tops] == PRIVATE).tolist():
            private = shape.leaves.leaf[top] == PRIVATE
            out[top] = np.where(private, by_mid[top], missing)
        return out
    early = shape.early
    identity = shape.shared["p2m_identity"].mfn
    for top in range(min(tops, -(-shape.max_p2m_pfn // d.width.mid_span))):
        shared = early.top[top] == MISSING or (d.era.linear and early.top[top] != PRIVATE)
        if not shared:
            kinds = early.leaf[top]
            slots = np.where(kinds == PRIVATE, by_mid[top], np.where(kinds == MISSING, missing, identity))
            reached = shape.max_p2m_pfn - top * d.width.mid_span
            slots[-(-reached // d.width.per_page) :] = missing
            out[top] = slots
    for page in shape.late.tolist():
        top, slot = divmod(page, d.width.per_page)
        if top < tops:
            out.setdefault(top, np.full(d.width.per_page, missing, dtype=np.int64))[slot] = shape.leaf_mfn[page]
    return out
