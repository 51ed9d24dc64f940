"""Faults of the frame list list (FLL)."""

from __future__ import annotations

import numpy as np

from gdb_p2m.model.fault import CannotApply, Fault, Where
from gdb_p2m.model.frame_lists import build_frame_lists
from gdb_p2m.model.leaves import PRIVATE
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.structs import fold_cr3, shared_info_layout

FIELD = "pfn_to_mfn_frame_list_list"


def _field(m: Machine, name: str) -> int:
    """Machine address of a field of shared_info."""
    return m.shared_info + shared_info_layout(m.width).field(name).offset


def _poke(m: Machine, name: str, value: int) -> int:
    at = _field(m, name)
    m.memory.write_word(at, value, m.width.bytes)
    return at


def _top(m: Machine) -> int:
    """Frame of p2m_top_mfn. Raises CannotApply when the guest has none."""
    assert m.shape is not None
    if "p2m_top_mfn" not in m.shape.shared:
        raise CannotApply("the guest has no frame list list")
    return m.page("p2m_top_mfn")


def _copied_top(m: Machine) -> Where:
    """A copy of the top page, so that whoever follows shared_info still finds the right lists."""
    top = _top(m)
    if not m.kernel.free:
        raise CannotApply("no free page for a copy")
    mfn = m.frames.mfn(m.kernel.free[-1][1] - 1)
    m.memory.page(mfn)[:] = m.memory.page(top)
    at = _poke(m, FIELD, mfn)
    return Where(f"shared_info names frame {mfn:#x}, p2m_top_mfn is {top:#x}", address=at)


def _despite_4tools(m: Machine) -> Where:
    """The lists are all there and right: only the promise not to have any is broken."""
    if not m.description.virt_p2m_4tools:
        raise CannotApply("the guest has a frame list list")
    assert m.shape is not None
    build_frame_lists(m.description, m.kernel, m.shape, image=False)
    m.kernel.map_direct()
    for name in ("p2m_top_mfn", "p2m_top_mfn_p", "p2m_mid_missing_mfn"):
        m.set_variable(name, m.shape.shared[name].va)
    mfn = m.page("p2m_top_mfn")
    return Where(f"shared_info names frame {mfn:#x} in spite of SIF_VIRT_P2M_4TOOLS", address=_poke(m, FIELD, mfn))


def _top_pointer(m: Machine) -> Where:
    _top(m)
    assert m.shape is not None
    unused = [i for i in range(m.width.per_page) if i not in m.shape.lists]
    if not unused:
        raise CannotApply("every top slot has a mid page of its own")
    at = m.word_in(m.page("p2m_top_mfn_p"), unused[-1])
    m.memory.write_word(at, m.shape.shared["p2m_top_mfn"].va, m.width.bytes)
    return Where(f"p2m_top_mfn_p[{unused[-1]}] leads to p2m_top_mfn", address=at)


def _shared_mid(m: Machine) -> Where:
    _top(m)
    assert m.shape is not None
    # The other shared leaf says the same to Xen; 2.6.37 has none, so there FLL-004 sees it too.
    other = "p2m_identity" if "p2m_identity" in m.shape.shared else "p2m_top_mfn"
    at = m.word_in(m.page("p2m_mid_missing_mfn"), 3)
    m.memory.write_word(at, m.page(other), m.width.bytes)
    return Where(f"p2m_mid_missing_mfn[3] is the frame of {other}", address=at)


def _leaf_slot(m: Machine) -> Where:
    _top(m)
    shape = m.shape
    assert shape is not None
    page = int(np.flatnonzero(shape.leaves.flat == PRIVATE)[1])
    top, slot = divmod(page, m.width.per_page)
    at = m.word_in(shape.lists[top].mfn, slot)
    m.memory.write_word(at, m.page("p2m_missing"), m.width.bytes)
    return Where(f"the frame lists lead to p2m_missing for leaf {page:#x}", page * m.width.per_page, at)


def _max_pfn(m: Machine) -> Where:
    assert m.shape is not None
    value = m.shape.last_pfn // 2
    return Where(f"shared_info.max_pfn is {value:#x}", address=_poke(m, "max_pfn", value))


def _vaddr(m: Machine) -> Where:
    assert m.shape is not None
    value = m.shape.area + 0x20_0000
    return Where(f"p2m_vaddr is {value:#x}", address=_poke(m, "p2m_vaddr", value))


def _cr3(m: Machine) -> Where:
    mfn = m.tables.root ^ 1
    return Where(f"p2m_cr3 names frame {mfn:#x}", address=_poke(m, "p2m_cr3", fold_cr3(mfn, m.width)))


def _generation(m: Machine) -> Where:
    value = m.memory.read_word(_field(m, "p2m_generation"), m.width.bytes) | 1
    return Where(f"p2m_generation is {value}", address=_poke(m, "p2m_generation", value))


LIST_FAULTS = (
    Fault("list-list-elsewhere", "FLL-001", "shared_info points to a copy of p2m_top_mfn", _copied_top),
    Fault("list-list-despite-4tools", "FLL-001", "shared_info names a list although SIF_VIRT_P2M_4TOOLS is set",
          _despite_4tools, "linear", example="virt-p2m-4tools"),
    Fault("top-pointer-differs", "FLL-002", "p2m_top_mfn_p[i] leads to another page than p2m_top_mfn[i]", _top_pointer),
    Fault("shared-mid-slot", "FLL-003", "a slot of p2m_mid_missing_mfn is not p2m_missing", _shared_mid,
          also=("FLL-004",)),
    Fault("leaf-slot-differs", "FLL-004", "the frame lists name another leaf than the guest's view", _leaf_slot),
    Fault("max-pfn-halved", "FLL-005", "shared_info.max_pfn is half the kernel's bound", _max_pfn),
    Fault("p2m-vaddr-elsewhere", "FLL-006", "p2m_vaddr is not xen_p2m_addr", _vaddr, "linear"),
    Fault("p2m-cr3-elsewhere", "FLL-006", "p2m_cr3 is not the kernel's page table", _cr3, "linear"),
    Fault("p2m-generation-odd", "FLL-006", "p2m_generation is odd", _generation, "linear"),
)  # fmt: skip
