"""Where a guest's list is now: the linear list, or early in boot the domain builder's."""

from __future__ import annotations

from dataclasses import dataclass

from gdb_p2m.errors import NotUnderstood, Untranslatable
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.structures.xen_pages import start_info
from gdb_p2m.units import PAGE_SIZE

MAX_LIST_PFNS = 1 << 33
"""32 TiB: more than Linux PV can ever have (MAX_PHYSMEM_BITS 46 would be 2^34, Xen stops at 16 TiB)."""


@dataclass(frozen=True, slots=True)
class ListPlace:
    """base: virtual address of entry 0. size: entries. max_pfn: below it, past the list, is missing.

    read: what was read to know it, as (name, machine address, value, meaning).
    """

    base: int
    size: int
    max_pfn: int
    read: tuple[tuple[str, int | None, int, str], ...]


def p2m_list(guest: LinuxGuest) -> ListPlace:
    """The list in use. Raises NotFound (no symbol), NotUnderstood (it cannot be one)."""
    base = guest.variable("xen_p2m_addr")
    place = _from_variables(guest, base) if base else _from_start_info(guest)
    if place.size > MAX_LIST_PFNS or place.base + place.size * guest.width.bytes > 1 << guest.width.bits:
        raise NotUnderstood(f"the linear list cannot be that large: base {place.base:#x}, {place.size:#x} entries")
    if place.base % PAGE_SIZE:
        # Its entries would straddle pages: the bulk decoder would be off, and no kernel has such a list.
        raise NotUnderstood(f"the linear list at {place.base:#x} is not page-aligned")
    return place


def _from_variables(guest: LinuxGuest, base: int) -> ListPlace:
    size = guest.variable("xen_p2m_size")
    if size == 0:
        raise NotUnderstood(
            f"the linear list is empty: xen_p2m_addr = {base:#x}, xen_p2m_size = 0",
            hint="do the symbols belong to this memory? `symbols` shows where they come from",
        )
    max_pfn = guest.variable("xen_max_p2m_pfn") if guest.has("xen_max_p2m_pfn") else size
    return ListPlace(base, size, max_pfn, (_variable(guest, "xen_p2m_addr"), _variable(guest, "xen_p2m_size")))


def _variable(guest: LinuxGuest, name: str) -> tuple[str, int | None, int, str]:
    if name in guest.inferred:
        found = guest.inferred[name]
        return name, found.read_at, guest.variable(name), f"inferred, not known by name: {found.evidence}"
    address = guest.names.require(name).address
    try:
        machine: int | None = guest.space.translate(address)
    except Untranslatable:
        machine = None
    return name, machine, guest.variable(name), f"variable at {address:#x}"


def _from_start_info(guest: LinuxGuest) -> ListPlace:
    """dom0's entry: the kernel has set nothing up yet, the builder's list is what there is."""
    info = start_info(guest)
    base, size = info.number("mfn_list"), info.number("nr_pages")
    if not base or not size:
        raise NotUnderstood(
            f"the linear list is not set up (xen_p2m_addr is 0) and start_info.mfn_list is {base:#x}",
            hint="is this the right kernel's symbol table?",
        )
    read = (
        ("start_info.mfn_list", info.address_of("mfn_list"), base, "the domain builder's list"),
        ("start_info.nr_pages", info.address_of("nr_pages"), size, "its entries"),
    )
    return ListPlace(base, size, 1 << 63, read)
