"""Faults of the linear list (LIN)."""

from __future__ import annotations

import numpy as np

from gdb_p2m.layout.pagetables import X86_RW
from gdb_p2m.model.fault import CannotApply, Fault, Where, clear_leaf, empty_leaves, list_slot
from gdb_p2m.model.leaves import IDENTITY, MISSING, PRIVATE
from gdb_p2m.model.linear import PMD_SIZE
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.shape import P2mShape
from gdb_p2m.model.structs import shared_info_layout, start_info_layout
from gdb_p2m.model.tables import DATA_RO, DATA_RW, TABLE, pte, ptes
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE


def _shape(m: Machine) -> P2mShape:
    assert m.shape is not None
    return m.shape


def _page_va(m: Machine, page: int) -> int:
    """Address of list page number `page`."""
    return _shape(m).area + page * PAGE_SIZE


def _odd_size(m: Machine) -> Where:
    size = _shape(m).size - 1
    m.set_variable("xen_p2m_size", size)
    return Where(f"xen_p2m_size is {size:#x}", address=m.variable_address("xen_p2m_size"))


def _sizes_disordered(m: Machine) -> Where:
    last = _shape(m).size + m.width.per_page
    m.set_variable("xen_p2m_last_pfn", last)
    at = m.shared_info + shared_info_layout(m.width).field("max_pfn").offset
    m.memory.write_word(at, last, m.width.bytes)
    return Where(f"xen_p2m_last_pfn {last:#x} is past xen_p2m_size", address=m.variable_address("xen_p2m_last_pfn"))


def _shared_top(m: Machine) -> int:
    """Last mid page's worth of list that one shared table settles. Raises CannotApply."""
    tops = np.flatnonzero(_shape(m).leaves.top != PRIVATE)
    if not len(tops):
        raise CannotApply("no shared page table maps the list")
    return int(tops[-1])


def _pmd_cleared(m: Machine) -> Where:
    top = _shared_top(m)
    va = _page_va(m, top * m.width.per_page)
    # All PMDs of one mid page, or LIN-007 would see it too.
    for i in reversed(range(m.width.pmds_per_mid_page)):
        found = m.pte(va + i * PMD_SIZE, "L2")
        m.memory.write_word(found.address, 0)
    return Where(f"the PMD of list address {va:#x} is empty", top * m.width.mid_span, found.address)


def _pte_cleared(m: Machine) -> Where:
    leaves = _shape(m).leaves
    pages = np.flatnonzero((leaves.flat != PRIVATE) & np.repeat(leaves.top == PRIVATE, leaves.per))
    page = int(pages[-1]) if len(pages) else empty_leaves(m, 1)[0]
    found = m.pte(_page_va(m, page))
    m.memory.write_word(found.address, 0)
    return Where(f"the PTE of list page {page:#x} is empty", page * m.width.per_page, found.address)


def _shared_leaf_written(name: str) -> Fault:
    def apply(m: Machine) -> Where:
        at = m.word_in(m.page(name), 7)
        m.memory.write_word(at, m.description.nr_pages, m.width.bytes)
        return Where(f"{name}[7] is not INVALID", address=at)

    return Fault(f"{name[4:]}-page-written", "LIN-003", f"{name} holds an MFN", apply, "linear")


def _shared_table_entry(m: Machine) -> Where:
    at = (m.page("p2m_missing_pte") << PAGE_SHIFT) + 5 * 8
    m.memory.write_word(at, pte(m.page("p2m_identity"), DATA_RO))
    return Where("p2m_missing_pte[5] maps p2m_identity", address=at)


def _shared_table_empty(m: Machine) -> Where:
    at = (m.page("p2m_missing_pte") << PAGE_SHIFT) + 9 * 8
    m.memory.write_word(at, 0)
    return Where("p2m_missing_pte[9] is empty", address=at)


def _writable(m: Machine) -> Where:
    kind = int(_shape(m).leaves.top[_shared_top(m)])
    name = "p2m_missing_pte" if kind == MISSING else "p2m_identity_pte"
    at = (m.page(name) << PAGE_SHIFT) + 511 * 8
    m.memory.write_word(at, m.memory.read_word(at) | X86_RW)
    return Where(f"{name}[511] is writable", address=at)


def _mapped_twice(m: Machine) -> Where:
    """Two empty pages become one: nothing else can tell."""
    first, second = empty_leaves(m, 2)
    one = int(_shape(m).leaf_mfn[first])
    found = m.pte(_page_va(m, second))
    m.memory.write_word(found.address, pte(one, DATA_RW))
    slot = list_slot(m, second)
    if slot is not None:
        m.memory.write_word(slot, one, m.width.bytes)
    return Where(
        f"list pages {first:#x} and {second:#x} are one frame {one:#x}", second * m.width.per_page, found.address
    )


def _pmds_differ(m: Machine) -> Where:
    top = _shared_top(m)
    kind = int(_shape(m).leaves.top[top])
    other = "p2m_missing_pte" if kind == IDENTITY else "p2m_identity_pte"
    va = _page_va(m, top * m.width.per_page) + PMD_SIZE
    found = m.pte(va, "L2")
    m.memory.write_word(found.address, pte(m.page(other), TABLE))
    return Where(f"the second PMD of mid page {top} leads to {other}", top * m.width.mid_span, found.address)


def _misaligned(m: Machine) -> Where:
    """The same pages, mapped once more, a page beside where PMDs can be shared."""
    shape = _shape(m)
    kinds = shape.leaves.flat
    entries = np.where(kinds == PRIVATE, ptes(shape.leaf_mfn, DATA_RW), ptes(shape.leaf_mfn, DATA_RO))
    span = -(-len(kinds) * PAGE_SIZE // PMD_SIZE) * PMD_SIZE
    # 32-bit kernels have Xen's hole right behind the list; below it there is unused low memory.
    base = shape.area + (span + PMD_SIZE if m.width.bits == 64 else -span - 2 * PMD_SIZE) + PAGE_SIZE
    m.tables.map_pages(base, entries)
    shape.area = base
    m.set_variable("xen_p2m_addr", base)
    info = shared_info_layout(m.width)
    m.memory.write_word(m.shared_info + info.field("p2m_vaddr").offset, base, m.width.bytes)
    start = start_info_layout(m.width)
    m.memory.write_word(m.start_info + start.field("mfn_list").offset, base, m.width.bytes)
    return Where(f"xen_p2m_addr is {base:#x}", address=m.variable_address("xen_p2m_addr"))


def _uniform_page(m: Machine) -> Where:
    page, mfn = clear_leaf(m)
    return Where(f"the private list page {page:#x} holds only missing", page * m.width.per_page, mfn << PAGE_SHIFT)


LINEAR_FAULTS = (
    Fault("list-size-odd", "LIN-001", "xen_p2m_size is no multiple of P2M_PER_PAGE", _odd_size, "linear"),
    Fault("list-sizes-disordered", "LIN-001", "xen_p2m_last_pfn lies past xen_p2m_size", _sizes_disordered, "linear"),
    Fault("list-pmd-empty", "LIN-002", "a PMD of the list is empty", _pmd_cleared, "linear"),
    Fault("list-pte-empty", "LIN-002", "a PTE of the list is empty", _pte_cleared, "linear"),
    _shared_leaf_written("p2m_missing"),
    _shared_leaf_written("p2m_identity"),
    Fault("shared-table-maps-other-page", "LIN-004", "p2m_missing_pte maps p2m_identity", _shared_table_entry, "linear"),
    Fault("shared-table-entry-empty", "LIN-004", "an entry of p2m_missing_pte is empty", _shared_table_empty, "linear"),
    Fault("shared-page-writable", "LIN-005", "the list maps a shared page writable", _writable, "linear"),
    Fault("list-page-twice", "LIN-006", "one private page backs two places of the list", _mapped_twice, "linear"),
    Fault("mid-page-pmds-differ", "LIN-007", "the PMDs of one mid page differ", _pmds_differ, "linear", 32,
          example="pae-dom0"),
    Fault("list-misaligned", "LIN-008", "the list is not aligned to what PMDs can share", _misaligned, "linear"),
    Fault("list-page-replaceable", "LIN-009", "a private list page holds only missing", _uniform_page, "linear"),
)  # fmt: skip
