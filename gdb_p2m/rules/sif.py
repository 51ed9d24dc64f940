"""SIF: start info and the domain builder's list."""

from __future__ import annotations

import numpy as np

from gdb_p2m.layout.x86_pv import DIRECT_MAP_BASES_64, INIT_P2M_VA_64, START_KERNEL_MAP
from gdb_p2m.rules.base import CannotCheck, Findings, NotApplicable, Rule, RuleContext
from gdb_p2m.spaces.radix import Status
from gdb_p2m.structures.stage import is_virtual_area
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, mfn_of

SETUP = "Xen public/xen.h, struct start_info; xen: eliminate scalability issues from initial mapping setup (4.0)"


def builder_frames(nr_pages: int, entry_bytes: int) -> int:
    """Frames that the builder's own list needs: its pages, and one page each of the three tables above."""
    pages = -(-nr_pages * entry_bytes // PAGE_SIZE)
    tables, span = 0, 512
    for _level in range(3):
        tables += -(-pages // span)
        span *= 512
    return pages + tables


def _sane(ctx: RuleContext, found: Findings) -> None:
    info = ctx.start_info
    bits = ctx.guest.width.bits
    found.look(5)
    if not info.text("magic").startswith("xen-"):
        found.add(
            {"address": info.address_of("magic")},
            '"xen-..."',
            repr(info.text("magic")),
            "start_info.magic is not Xen's: the pointer, or the page, is not start_info",
        )
    pages, limit = info.number("nr_pages"), ctx.m2p.limit
    if not 0 < pages <= max(limit, 1):
        found.add(
            {"address": info.address_of("nr_pages")},
            f"1..{limit:#x} (frames of the machine)",
            f"{pages:#x}",
            f"start_info.nr_pages {pages:#x} is impossible on a machine of {limit:#x} frames",
        )
    _shared_info_agrees(ctx, found)
    list_at = info.number("mfn_list")
    top = 1 << bits
    if list_at == 0 or list_at % (bits // 8) or list_at + pages * (bits // 8) > top:
        found.add(
            {"address": info.address_of("mfn_list")},
            "an aligned virtual address",
            f"{list_at:#x}",
            f"start_info.mfn_list {list_at:#x} cannot be a list of {pages:#x} entries",
        )
    frames = info.number("nr_p2m_frames")
    need = builder_frames(pages, bits // 8)
    if frames and frames < -(-pages * (bits // 8) // PAGE_SIZE):
        found.add(
            {"address": info.address_of("nr_p2m_frames")},
            f"{need:#x} (list and its page tables)",
            f"{frames:#x}",
            f"start_info.nr_p2m_frames {frames:#x} cannot hold a list of {pages:#x} entries",
        )
    if frames > limit:
        found.add(
            {"address": info.address_of("nr_p2m_frames")},
            f"{need:#x} (list and its page tables)",
            f"{frames:#x}",
            f"start_info.nr_p2m_frames {frames:#x} is more than the machine's {limit:#x} frames",
        )
    if frames and info.number("first_p2m_pfn") == 0:
        found.add(
            {"address": info.address_of("first_p2m_pfn")},
            "the first frame of the list",
            "0",
            f"start_info names {frames:#x} P2M frames but no first one",
        )


def _shared_info_agrees(ctx: RuleContext, found: Findings) -> None:
    """start_info.shared_info (machine address) is the page behind HYPERVISOR_shared_info."""
    dummy = ctx.guest.names.symbol("xen_dummy_shared_info")
    if dummy is not None and ctx.variable("HYPERVISOR_shared_info") == dummy.address:
        return  # early in boot: the kernel has not mapped the real one yet
    told, seen = ctx.start_info.number("shared_info"), ctx.shared_info.address
    if mfn_of(told) != mfn_of(seen) or told % PAGE_SIZE:
        found.add(
            {"address": ctx.start_info.address_of("shared_info")},
            f"{seen:#x}",
            f"{told:#x}",
            f"start_info.shared_info is machine address {told:#x}, HYPERVISOR_shared_info leads to {seen:#x}",
        )


def _moved(ctx: RuleContext, found: Findings) -> None:
    base = ctx.linear.base
    if not is_virtual_area(base, ctx.guest.width.bits):
        raise NotApplicable(f"xen_p2m_addr {base:#x} is still the domain builder's list: not moved yet")
    info = ctx.start_info
    found.look()
    if info.number("mfn_list") != base:
        found.add(
            {"address": info.address_of("mfn_list")},
            f"{base:#x} (xen_p2m_addr)",
            f"{info.number('mfn_list'):#x}",
            f"start_info.mfn_list is {info.number('mfn_list'):#x}, not xen_p2m_addr {base:#x}",
        )
    if ctx.guest.width.bits != 64 or not info.number("nr_p2m_frames"):
        return  # the list was inside the initial mapping: there is no slot of its own to clear
    # A process may use that slot for itself: only the kernel's own table tells.
    slot = INIT_P2M_VA_64 >> 39
    at = (ctx.kernel_root << PAGE_SHIFT) + slot * 8
    raw = ctx.target.source.read_u64(at)
    found.look()
    if raw & 1:
        found.add(
            {"address": at, "slot": slot},
            "0: cleared",
            f"{raw:#x}",
            f"L4[{slot}] at machine address {at:#x} still maps the domain builder's list",
        )


def _initial_read_only(ctx: RuleContext, found: Findings) -> None:
    base = ctx.linear.base
    info = ctx.start_info
    if is_virtual_area(base, ctx.guest.width.bits):
        raise NotApplicable("the list was moved: the domain builder's list is gone")
    if base >= START_KERNEL_MAP or not info.number("nr_p2m_frames"):
        raise NotApplicable("the domain builder's list lies inside the initial mapping")
    first, count = info.number("first_p2m_pfn"), info.number("nr_p2m_frames")
    if first + count > ctx.m2p.limit:
        raise CannotCheck(f"start_info names {count:#x} frames from PFN {first:#x} on, more than the machine has")
    direct = _direct_map(ctx, first)
    slots = ctx.guest.space.slots(direct + (first << PAGE_SHIFT), direct + ((first + count) << PAGE_SHIFT), "L1")
    mapped = slots.status == Status.OK
    found.look(int(np.count_nonzero(mapped)))
    if (slots.status == Status.UNREADABLE).any():
        found.could_not_read("page tables of the direct map are not in the dump")
    for i in found.room(np.flatnonzero(mapped & slots.writable)):
        entry = (int(slots.table[i]) << PAGE_SHIFT) + ((first + i) % 512) * 8
        found.add(
            {"pfn": first + i, "mfn": int(slots.frame[i]), "address": entry},
            "read-only",
            f"{int(slots.raw[i]):#x}, writable",
            f"frame {first + i:#x} of the initial list or its tables is mapped writable in the direct map",
        )


def _direct_map(ctx: RuleContext, pfn: int) -> int:
    """Base of the kernel's direct map; CannotCheck when it does not map `pfn` yet."""
    bases = [ctx.variable("page_offset_base")] if ctx.guest.has("page_offset_base") else list(DIRECT_MAP_BASES_64)
    for base in bases:
        if ctx.guest.space.maps(base + (pfn << PAGE_SHIFT)):
            return base
    why = f"the direct map does not map frame {pfn:#x} yet"
    if not ctx.variable("xen_p2m_addr"):
        raise NotApplicable(f"dom0's entry: {why}")
    raise CannotCheck(why)


SIF_RULES = (
    Rule(
        "SIF-001",
        "start_info is sane and its P2M frames suffice",
        "error",
        "all",
        SETUP,
        "Magic, sizes and pointers make sense together, shared_info is the page that the kernel uses, and "
        "nr_p2m_frames covers the builder's list and the page tables that map it.",
        _sane,
    ),
    Rule(
        "SIF-002",
        "the initial list and its tables are mapped read-only",
        "error",
        "boot, list outside the mapping",
        f"{SETUP}, mask_rw_pte()",
        "Page tables of a PV guest must be read-only to it; the frames of the initial list hold the tables that map "
        "it, so the kernel maps all of them read-only.",
        _initial_read_only,
    ),
    Rule(
        "SIF-003",
        "after the move the old list is gone and mfn_list is xen_p2m_addr",
        "error",
        "linear",
        f"{SETUP}, xen_cleanmfnmap()",
        "When the linear list is up the kernel clears the top-level slot of the builder's list, frees its frames and "
        "lets start_info.mfn_list point to xen_p2m_addr.",
        _moved,
    ),
)
