"""start_info and shared_info of a PV guest, through its kernel's own pointers."""

from __future__ import annotations

import numpy as np

from gdb_p2m.errors import NotUnderstood, Unreadable, Untranslatable
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.x86_pv import (
    SHARED_INFO_32,
    SHARED_INFO_64,
    SIF_FLAGS,
    SIF_PM_MASK,
    START_INFO_32,
    START_INFO_64,
    StructLayout,
)
from gdb_p2m.spaces import pv_roots
from gdb_p2m.structures.record import Record, parse
from gdb_p2m.units import PAGE_SHIFT, MachineAddress, VirtualAddress

START_INFO_MAGIC = b"xen-3.0-"
"""The first eight bytes of every start_info page."""


def start_info(guest: LinuxGuest) -> Record:
    """The start_info that `xen_start_info` points to; at dom0's entry, where the pointer is NULL, by its magic.

    Raises NotFound, NotUnderstood.
    """
    if "xen_start_info" in guest.inferred:
        return _by_frame(guest, "xen_start_info", START_INFO_64, START_INFO_32)
    if guest.variable("xen_start_info") == 0:
        return _start_info_by_magic(guest)
    return _through_pointer(guest, "xen_start_info", START_INFO_64, START_INFO_32)


def shared_info(guest: LinuxGuest) -> Record:
    """The shared_info that `HYPERVISOR_shared_info` points to. Raises like `start_info`."""
    if "HYPERVISOR_shared_info" in guest.inferred:
        return _by_frame(guest, "HYPERVISOR_shared_info", SHARED_INFO_64, SHARED_INFO_32)
    return _through_pointer(guest, "HYPERVISOR_shared_info", SHARED_INFO_64, SHARED_INFO_32)


def _by_frame(guest: LinuxGuest, name: str, wide: StructLayout, narrow: StructLayout) -> Record:
    """A structure whose page is known without its pointer (structures.inferred)."""
    layout = wide if guest.width.bits == 64 else narrow
    address = MachineAddress(guest.page_of(name) << PAGE_SHIFT)
    try:
        data = bytes(guest.source.read(address, layout.size))
    except Unreadable as e:
        raise NotUnderstood(f"struct {layout.name} at machine address {address:#x} cannot be read: {e.reason}") from None
    return parse(layout, data, address)


def _start_info_by_magic(guest: LinuxGuest) -> Record:
    """Before the kernel's first instruction only RSI knows start_info: look for its magic in all pages.

    It is this guest's when its pt_base leads to the page table in use.
    """
    layout = START_INFO_64 if guest.width.bits == 64 else START_INFO_32
    magic = np.uint64(int.from_bytes(START_INFO_MAGIC, "little"))
    for extent in guest.source.extents():
        first = -(-extent.start >> PAGE_SHIFT)
        for i in np.flatnonzero(guest.source.strided_u64(extent, 0) == magic).tolist():
            address = MachineAddress((first + i) << PAGE_SHIFT)
            record = parse(layout, bytes(guest.source.read(address, layout.size)), address)
            if _leads_to_root(guest, record.number("pt_base")):
                return record
    raise NotUnderstood(
        "struct start_info: xen_start_info is 0 and no page with Xen's magic belongs to this guest",
        hint="the kernel sets the pointer right after its entry",
    )


def _leads_to_root(guest: LinuxGuest, pt_base: int) -> bool:
    try:
        return guest.frame_of(pt_base) == guest.root.mfn
    except Untranslatable:
        return False


def _through_pointer(guest: LinuxGuest, name: str, wide: StructLayout, narrow: StructLayout) -> Record:
    layout = wide if guest.width.bits == 64 else narrow
    pointer = guest.variable(name)
    try:
        address = guest.space.translate(pointer)
        data = guest.space.read(pointer, layout.size)
    except (Untranslatable, Unreadable) as e:
        raise NotUnderstood(
            f"struct {layout.name}: {name} = {pointer:#x} cannot be read: {e.message}",
            hint="before the kernel set it up the pointer leads elsewhere; `symbols` shows its source",
        ) from None
    return parse(layout, data, MachineAddress(address), VirtualAddress(pointer))


def flag_names(flags: int) -> str:
    """start_info.flags in words: "SIF_PRIVILEGED | SIF_INITDOMAIN"."""
    names = [name for name, bit in SIF_FLAGS if flags & bit]
    rest = flags & ~sum(bit for _, bit in SIF_FLAGS) & ~SIF_PM_MASK
    if flags & SIF_PM_MASK:
        names.append(f"SIF_PM_MASK={(flags & SIF_PM_MASK) >> 8}")
    if rest:
        names.append(f"{rest:#x}")
    return " | ".join(names) or "none"


def unfold_cr3(folded: int, bits: int) -> int:
    """Frame of a folded CR3: 64-bit is plain, i386 is (mfn << 12) | (mfn >> 20) (xen_cr3_to_pfn)."""
    return folded >> 12 if bits == 64 else pv_roots.unfold_cr3(folded)
