"""Faults of entries (ENT) and of the M2P."""

from __future__ import annotations

from gdb_p2m.layout.xen_x86 import DOMID_IO, PAGE_INFO_DOMAIN, PAGE_INFO_SIZE
from gdb_p2m.model.fault import CannotApply, Fault, Where, mfn_of, plain_pfns, replace_entry
from gdb_p2m.model.leaves import PRIVATE
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.pieces import Fate


def _identity_entry(m: Machine) -> int:
    """A PFN whose identity stands in the entry itself, not in the page. Raises CannotApply."""
    assert m.shape is not None
    per = m.width.per_page
    for start, end in m.p2m.ranges(Fate.IDENTITY):
        for pfn in (start, end - 1):
            page = pfn // per
            if page < len(m.shape.leaves.flat) and m.shape.leaves.flat[page] == PRIVATE:
                return pfn
    raise CannotApply("no identity entry in a private page")


def _identity_of_another(m: Machine) -> Where:
    pfn = _identity_entry(m)
    m.poke_entry(pfn, m.width.identity_bit | (pfn ^ 1))
    return Where(f"the identity entry of PFN {pfn:#x} names {pfn ^ 1:#x}", pfn, m.entry_address(pfn))


def _identity_page_shifted(m: Machine) -> Where:
    """p2m_init_identity() of 3.19 was given the PFN that was asked for, not the first of its page."""
    pfn = _identity_entry(m)
    per = m.width.per_page
    shift = max(1, pfn % per)
    first = pfn - pfn % per
    hit = [p for p in range(first, first + per) if m.p2m.at(p).fate is Fate.IDENTITY]
    for p in hit:
        m.poke_entry(p, m.width.identity_bit | (p + shift))
    return Where(
        f"{len(hit)} identity entries from PFN {hit[0]:#x} name PFNs {shift} higher", hit[0], m.entry_address(hit[0])
    )


def _beyond_machine(m: Machine) -> Where:
    (pfn,) = plain_pfns(m)
    raw = m.xen.max_frame + 0x100
    replace_entry(m, pfn, raw)
    return Where(
        f"PFN {pfn:#x} maps to MFN {raw:#x}, past the machine's {m.xen.max_frame:#x} frames", pfn, m.entry_address(pfn)
    )


def _frame_twice(m: Machine) -> Where:
    first, second = plain_pfns(m, 2)
    mfn = mfn_of(m, first)
    replace_entry(m, second, mfn, m2p=False)
    return Where(f"PFNs {first:#x} and {second:#x} both hold MFN {mfn:#x}", second, m.entry_address(second))


def _zero_slot(m: Machine) -> Where:
    nr, per = m.description.nr_pages, m.width.per_page
    for pfn in range(nr, -(-nr // per) * per):
        if m.p2m.at(pfn).fate is not Fate.MFN:
            m.poke_entry(pfn, 0)
            m.poke_m2p(0, pfn)
            return Where(f"the slot of PFN {pfn:#x}, past nr_pages {nr:#x}, was left 0", pfn, m.entry_address(pfn))
    raise CannotApply(f"nr_pages {nr:#x} leaves no free slot in its last page")


def _mfn_zero(m: Machine) -> Where:
    (pfn,) = plain_pfns(m)
    replace_entry(m, pfn, 0)
    return Where(f"PFN {pfn:#x} maps to MFN 0", pfn, m.entry_address(pfn))


def _both_flags(m: Machine) -> Where:
    (pfn,) = plain_pfns(m)
    raw = m.width.foreign_bit | m.width.identity_bit | pfn
    replace_entry(m, pfn, raw, m2p=False)
    return Where(f"the entry of PFN {pfn:#x} is {raw:#x}", pfn, m.entry_address(pfn))


def _m2p_other_pfn(m: Machine) -> Where:
    (pfn,) = plain_pfns(m)
    mfn = mfn_of(m, pfn)
    m.poke_m2p(mfn, pfn ^ 1)
    return Where(f"M2P[{mfn:#x}] is {pfn ^ 1:#x}, not {pfn:#x}", pfn, m.xen.m2p_address(mfn))


def _m2p_invalid(m: Machine) -> Where:
    (pfn,) = plain_pfns(m)
    mfn = mfn_of(m, pfn)
    m.poke_m2p(mfn, (1 << 8 * m.xen.m2p_entry) - 1)
    return Where(f"M2P[{mfn:#x}] is INVALID_M2P_ENTRY, not {pfn:#x}", pfn, m.xen.m2p_address(mfn))


def _owned_by_another(m: Machine) -> Where:
    if m.view is None:
        raise CannotApply("the description has no frame_table")
    (pfn,) = plain_pfns(m)
    mfn = mfn_of(m, pfn)
    at = m.view.page_info(mfn) + PAGE_INFO_DOMAIN
    m.memory.write_word(at, m.view.domains[DOMID_IO], 4)
    return Where(f"the frame table says that MFN {mfn:#x} of PFN {pfn:#x} is DOMID_IO's", pfn, at)


def _owned_by_nobody(m: Machine) -> Where:
    if m.view is None:
        raise CannotApply("the description has no frame_table")
    (pfn,) = plain_pfns(m)
    mfn = mfn_of(m, pfn)
    at = m.view.page_info(mfn)
    m.memory.write(at, bytes(PAGE_INFO_SIZE))
    return Where(f"the frame table says that MFN {mfn:#x} of PFN {pfn:#x} is free", pfn, at)


def _m2p_stale(m: Machine) -> Where:
    (pfn,) = plain_pfns(m)
    mfn = m.xen.max_frame - 1
    m.poke_m2p(mfn, pfn)
    return Where(f"M2P[{mfn:#x}], a frame of Xen's, names PFN {pfn:#x}", pfn, m.xen.m2p_address(mfn))


ENTRY_FAULTS = (
    Fault("identity-of-another-pfn", "ENT-001", "an identity entry holds another PFN", _identity_of_another, "identity"),
    Fault("identity-page-shifted", "ENT-001", "a page of identity entries is shifted (3.19's unaligned PFN)",
          _identity_page_shifted, "identity"),
    Fault("mfn-beyond-machine", "ENT-002", "an MFN past the machine's last frame", _beyond_machine, also=("DMP-002",)),
    Fault("frame-at-two-pfns", "ENT-003", "two PFNs hold the same MFN", _frame_twice, also=("M2P-001",)),
    Fault("zero-slot-past-nr-pages", "ENT-004", "a slot between nr_pages and the end of its leaf is 0", _zero_slot,
          also=("ENT-005",), example="odd-size-domu"),
    Fault("mfn-zero", "ENT-005", "a PFN maps to MFN 0", _mfn_zero),
    Fault("entry-of-no-kind", "ENT-006", "an entry has both flag bits and is not INVALID", _both_flags),
)  # fmt: skip
M2P_FAULTS = (
    Fault("m2p-names-another-pfn", "M2P-001", "the M2P names another PFN", _m2p_other_pfn),
    Fault("m2p-invalid", "M2P-001", "the M2P entry of an owned frame is INVALID", _m2p_invalid),
    Fault("m2p-stale", "M2P-003", "an M2P entry of a frame that is not the guest's names a PFN", _m2p_stale),
)  # fmt: skip
HYPERVISOR_FAULTS = (
    Fault("owner-another-domain", "M2P-002", "the frame table names another owner", _owned_by_another, width=64,
          example="frame-table-domu"),
    Fault("owner-nobody", "M2P-002", "the frame table says that a frame of the guest is free", _owned_by_nobody, width=64,
          example="frame-table-domu"),
)  # fmt: skip
