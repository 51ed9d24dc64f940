"""start_info and shared_info of a PV guest, through its kernel's own pointers."""

from __future__ import annotations

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
from gdb_p2m.units import MachineAddress, VirtualAddress


def start_info(guest: LinuxGuest) -> Record:
    """The start_info that `xen_start_info` points to. Raises NotFound, NotUnderstood, Untranslatable."""
    return _through_pointer(guest, "xen_start_info", START_INFO_64, START_INFO_32)


def shared_info(guest: LinuxGuest) -> Record:
    """The shared_info that `HYPERVISOR_shared_info` points to. Raises like `start_info`."""
    return _through_pointer(guest, "HYPERVISOR_shared_info", SHARED_INFO_64, SHARED_INFO_32)


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
