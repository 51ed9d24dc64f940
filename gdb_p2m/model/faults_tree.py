"""Faults of the three-level tree (TRE)."""

from __future__ import annotations

import numpy as np

from gdb_p2m.model.fault import CannotApply, Fault, Where, clear_leaf, empty_leaves, list_slot
from gdb_p2m.model.leaves import PRIVATE
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.shape import P2mShape
from gdb_p2m.units import PAGE_SHIFT


def _shape(m: Machine) -> P2mShape:
    assert m.shape is not None
    return m.shape


def _poke(m: Machine, mfn: int, slot: int, value: int) -> int:
    at = m.word_in(mfn, slot)
    m.memory.write_word(at, value & m.width.invalid, m.width.bytes)
    return at


def _shared_top(m: Machine) -> int:
    """A top slot without a mid page of its own. Raises CannotApply."""
    tops = np.flatnonzero(_shape(m).leaves.top != PRIVATE)
    if not len(tops):
        raise CannotApply("every top slot has a mid page of its own")
    return int(tops[-1])


def _top_misaligned(m: Machine) -> Where:
    top = _shared_top(m)
    at = _poke(m, m.page("p2m_top"), top, _shape(m).shared["p2m_mid_missing"].va + 16)
    return Where(f"p2m_top[{top}] is not page-aligned", top * m.width.mid_span, at)


def _top_unmapped(m: Machine) -> Where:
    top = _shared_top(m)
    at = _poke(m, m.page("p2m_top"), top, m.kernel.direct_va(m.description.nr_pages + 0x100000))
    return Where(f"p2m_top[{top}] leads nowhere", top * m.width.mid_span, at)


def _mid_missing_slot(m: Machine) -> Where:
    shape = _shape(m)
    other = "p2m_identity" if "p2m_identity" in shape.shared else "p2m_top"
    at = _poke(m, m.page("p2m_mid_missing"), 7, shape.shared[other].va)
    return Where(f"p2m_mid_missing[7] is {other}", address=at)


def _mid_identity_slot(m: Machine) -> Where:
    at = _poke(m, m.page("p2m_mid_identity"), 7, _shape(m).shared["p2m_missing"].va)
    return Where("p2m_mid_identity[7] is p2m_missing", address=at)


def _missing_written(m: Machine) -> Where:
    """3.18's alloc_p2m() could write into shared pages."""
    at = _poke(m, m.page("p2m_missing"), 7, m.description.nr_pages)
    return Where("p2m_missing[7] is not INVALID", address=at)


def _identity_written(m: Machine) -> Where:
    at = _poke(m, m.page("p2m_identity"), 7, m.description.nr_pages)
    return Where("p2m_identity[7] is not INVALID", address=at)


def _mid_slot(m: Machine, page: int) -> tuple[int, int]:
    """(frame of the private mid page, slot) that leads to leaf number `page`."""
    top, slot = divmod(page, m.width.per_page)
    return _shape(m).mids[top].mfn, slot


def _leaf_twice(m: Machine) -> Where:
    """Two empty leaves become one: nothing else can tell."""
    first, second = empty_leaves(m, 2)
    shape = _shape(m)
    assert shape.leaf_va is not None
    mid, slot = _mid_slot(m, second)
    at = _poke(m, mid, slot, int(shape.leaf_va[first : first + 1].view(np.uint64)[0]))
    place = list_slot(m, second)
    if place is not None:
        m.memory.write_word(place, int(shape.leaf_mfn[first]), m.width.bytes)
    return Where(f"leaves {first:#x} and {second:#x} are one page", second * m.width.per_page, at)


def _mid_twice(m: Machine) -> Where:
    shape = _shape(m)
    top = _shared_top(m)
    first = min(shape.mids)
    at = _poke(m, m.page("p2m_top"), top, shape.mids[first].va)
    return Where(f"top slots {first} and {top} lead to one private mid page", top * m.width.mid_span, at)


def _shared_leaf_slot(m: Machine) -> int:
    """A leaf number below a private mid page that leads to a shared leaf. Raises CannotApply."""
    leaves = _shape(m).leaves
    hit = np.flatnonzero((leaves.flat != PRIVATE) & np.repeat(leaves.top == PRIVATE, leaves.per))
    if not len(hit):
        raise CannotApply("no private mid page leads to a shared leaf")
    return int(hit[-1])


def _leaf_misaligned(m: Machine) -> Where:
    page = _shared_leaf_slot(m)
    mid, slot = _mid_slot(m, page)
    at = _poke(m, mid, slot, _shape(m).shared["p2m_missing"].va + 16)
    return Where(f"mid slot {slot} of leaf {page:#x} is not page-aligned", page * m.width.per_page, at)


def _leaf_unmapped(m: Machine) -> Where:
    page = _shared_leaf_slot(m)
    mid, slot = _mid_slot(m, page)
    at = _poke(m, mid, slot, m.kernel.direct_va(m.description.nr_pages + 0x100000))
    return Where(f"mid slot {slot} of leaf {page:#x} leads nowhere", page * m.width.per_page, at)


def _uniform_leaf(m: Machine) -> Where:
    page, mfn = clear_leaf(m)
    return Where(f"the private leaf {page:#x} holds only missing", page * m.width.per_page, mfn << PAGE_SHIFT)


TREE_FAULTS = (
    Fault("top-slot-misaligned", "TRE-001", "a top slot is not page-aligned", _top_misaligned, "tree", example="tree-dom0"),
    Fault("top-slot-unmapped", "TRE-001", "a top slot leads nowhere", _top_unmapped, "tree", example="tree-dom0"),
    Fault("mid-missing-slot", "TRE-002", "a slot of p2m_mid_missing is not p2m_missing", _mid_missing_slot, "tree",
          example="tree-dom0"),
    Fault("mid-identity-slot", "TRE-003", "a slot of p2m_mid_identity is not p2m_identity", _mid_identity_slot,
          "mid_identity", example="tree-dom0"),
    Fault("tree-missing-written", "TRE-004", "p2m_missing holds an MFN", _missing_written, "tree", example="tree-dom0"),
    Fault("tree-identity-written", "TRE-004", "p2m_identity holds an MFN (3.18's alloc_p2m)", _identity_written,
          "identity_tree", example="tree-dom0"),
    # Without the name p2m_identity (2.6.37) an empty page in two slots could be a shared page that nothing names.
    Fault("leaf-in-two-slots", "TRE-005", "one private leaf hangs in two mid slots", _leaf_twice, "identity_tree",
          example="tree-dom0"),
    Fault("mid-in-two-slots", "TRE-005", "one private mid page hangs in two top slots", _mid_twice, "tree",
          also=("ENT-001", "ENT-003", "M2P-001", "FLL-004"), example="tree-dom0"),
    Fault("mid-slot-misaligned", "TRE-006", "a mid slot is not page-aligned", _leaf_misaligned, "tree",
          example="tree-dom0"),
    Fault("mid-slot-unmapped", "TRE-006", "a mid slot leads nowhere", _leaf_unmapped, "tree", example="tree-dom0"),
    Fault("leaf-replaceable", "TRE-007", "a private leaf holds only missing", _uniform_leaf, "tree",
          example="tree-dom0"),
)  # fmt: skip
