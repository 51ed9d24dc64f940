"""FLL: the frame list list that Xen's toolstack reads, against the guest's own view."""

from __future__ import annotations

import numpy as np

from gdb_p2m.errors import Unreadable, Untranslatable
from gdb_p2m.layout.x86_pv import SIF_VIRT_P2M_4TOOLS
from gdb_p2m.rules.base import CannotCheck, Findings, NotApplicable, Rule, RuleContext
from gdb_p2m.spaces.words import words_of
from gdb_p2m.structures.xen_pages import unfold_cr3
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, U64Array
from gdb_p2m.views.leaves import Backing

P2M_C = "Linux arch/x86/xen/p2m.c"
FIELD = "pfn_to_mfn_frame_list_list"


def _published(ctx: RuleContext, found: Findings) -> None:
    info = ctx.shared_info
    value, at = info.number(FIELD), info.address_of(FIELD)
    virtual = bool(ctx.start_info.number("flags") & SIF_VIRT_P2M_4TOOLS)
    found.look()
    if virtual:
        if value != ctx.guest.width.invalid:
            found.add(
                {"address": at},
                "all ones, as SIF_VIRT_P2M_4TOOLS is set",
                f"{value:#x}",
                f"SIF_VIRT_P2M_4TOOLS is set but shared_info still names a frame list list {value:#x}",
            )
        return
    _not_published_yet(ctx)
    want = ctx.page_of("p2m_top_mfn")
    if value != want:
        found.add(
            {"address": at, "mfn": value},
            f"{want:#x}, the frame of p2m_top_mfn",
            f"{value:#x}",
            f"shared_info.arch.{FIELD} at machine address {at:#x} is {value:#x}, p2m_top_mfn is frame {want:#x}",
        )


def _page_words(ctx: RuleContext, mfn: int) -> U64Array:
    data = np.frombuffer(ctx.target.source.read(mfn << PAGE_SHIFT, PAGE_SIZE), dtype=np.uint8)
    return words_of(data.reshape(1, PAGE_SIZE), ctx.guest.width)[0]


def _not_published_yet(ctx: RuleContext) -> None:
    """The kernel publishes all fields at once, late in boot (xen_setup_mfn_list_list)."""
    if not any(ctx.shared_info.number(name) for name in (FIELD, "max_pfn", "p2m_vaddr")):
        raise NotApplicable("the kernel has not published its frame list list yet")


def _no_list_list(ctx: RuleContext) -> None:
    _not_published_yet(ctx)
    if ctx.shared_info.number(FIELD) == ctx.guest.width.invalid:
        raise NotApplicable("the guest has no frame list list (SIF_VIRT_P2M_4TOOLS)")


def _top_agrees(ctx: RuleContext, found: Findings) -> None:
    _no_list_list(ctx)
    top = ctx.page_of("p2m_top_mfn")
    try:
        mfns = _page_words(ctx, top)
        pointers = _page_words(ctx, ctx.page_of("p2m_top_mfn_p"))
    except Unreadable as e:
        raise CannotCheck(e.message) from None
    frames: dict[int, int | str | None] = {}
    for pointer in np.unique(pointers).tolist():
        try:
            frames[pointer] = int(ctx.guest.frame_of(pointer))
        except Untranslatable as e:
            frames[pointer] = None if e.unreadable else e.message
            if e.unreadable:
                found.could_not_read(f"p2m_top_mfn_p: {e.message}")
    for i, (mfn, pointer) in enumerate(zip(mfns.tolist(), pointers.tolist(), strict=True)):
        frame = frames[pointer]
        if frame is None:
            continue
        found.look()
        if frame != mfn:
            want = f"{frame:#x}" if isinstance(frame, int) else frame
            at = (top << PAGE_SHIFT) + i * ctx.guest.width.bytes
            found.add(
                {"address": at, "slot": i},
                want,
                f"{mfn:#x}",
                f"p2m_top_mfn[{i}] is MFN {mfn:#x}, but p2m_top_mfn_p[{i}] = {pointer:#x} is frame {want}",
            )


def _shared_mids(ctx: RuleContext, found: Findings) -> None:
    _no_list_list(ctx)
    for mid, leaf in (("p2m_mid_missing_mfn", "p2m_missing"), ("p2m_mid_identity_mfn", "p2m_identity")):
        if mid == "p2m_mid_identity_mfn" and not ctx.guest.has(mid):
            continue  # only the 3.16 tree has it
        mfn, want = ctx.page_of(mid), ctx.page_of(leaf)
        try:
            words = _page_words(ctx, mfn)
        except Unreadable as e:
            found.could_not_read(f"{mid}: {e.message}")
            continue
        found.look(len(words))
        for i in np.flatnonzero(words != np.uint64(want)).tolist():
            at = (mfn << PAGE_SHIFT) + i * ctx.guest.width.bytes
            found.add(
                {"address": at, "slot": i},
                f"{want:#x}, the frame of {leaf}",
                f"{int(words[i]):#x}",
                f"{mid}[{i}] at machine address {at:#x} is {int(words[i]):#x}, not the frame of {leaf}",
            )


def _leaves_agree(ctx: RuleContext, found: Findings) -> None:
    _no_list_list(ctx)
    own = ctx.own
    backing, frames = own.leaf_slots()
    lists = ctx.list_list.lists
    flat = lists.leaves.reshape(-1)
    n = min(len(backing), len(flat))
    readable = np.repeat(lists.mid_ok, ctx.guest.width.per_page)[:n]
    if not readable.all():
        found.could_not_read(f"{int(np.count_nonzero(~lists.mid_ok))} mid pages of the frame lists cannot be read")
    backing, frames, flat = backing[:n], frames[:n], flat[:n]
    shared = [int(ctx.page_of(name)) for name in ("p2m_missing", "p2m_identity") if ctx.guest.has(name)]
    private = backing == Backing.PRIVATE
    hole = (backing == Backing.MISSING) | (backing == Backing.IDENTITY)
    good = np.where(private, flat == frames, np.isin(flat, shared))
    looked = (private | hole) & readable
    found.look(int(np.count_nonzero(looked)))
    if lost := int(np.count_nonzero(backing == Backing.UNREADABLE)):
        found.could_not_read(f"{lost:,} leaf slots of the guest's own view cannot be read")
    per = ctx.guest.width.per_page
    for i in found.room(np.flatnonzero(looked & ~good)):
        want = f"{int(frames[i]):#x}" if private[i] else "the frame of p2m_missing or p2m_identity"
        seen = "not a machine frame" if flat[i] < 0 else f"{int(flat[i]):#x}"
        found.add(
            {"pfn": i * per, "slot": i % per, "mfn": max(int(flat[i]), 0)},
            want,
            seen,
            f"the frame lists name leaf {seen} for PFN {i * per:#x}, the guest's own view has {want}",
        )


def _max_pfn(ctx: RuleContext, found: Findings) -> None:
    value = ctx.shared_info.number("max_pfn")
    if value == 0:
        raise NotApplicable("the kernel has not published max_pfn yet")
    if ctx.guest.has("xen_p2m_last_pfn"):
        bound, name = ctx.variable("xen_p2m_last_pfn"), "xen_p2m_last_pfn"
    else:
        bound, name = ctx.variable("xen_max_p2m_pfn"), "xen_max_p2m_pfn"
    found.look()
    # Before mid-2021 the kernel stored the last PFN, not the count, when the list had grown.
    if value not in (bound, bound - 1):
        at = ctx.shared_info.address_of("max_pfn")
        found.add(
            {"address": at, "pfn": value},
            f"{bound:#x} ({name})",
            f"{value:#x}",
            f"shared_info.arch.max_pfn at machine address {at:#x} is {value:#x}, {name} is {bound:#x}",
        )


def _virtual_list(ctx: RuleContext, found: Findings) -> None:
    info = ctx.shared_info
    vaddr, cr3 = info.number("p2m_vaddr"), info.number("p2m_cr3")
    if not vaddr and not cr3:
        raise NotApplicable("p2m_cr3 and p2m_vaddr are 0: this kernel does not publish them (4.3 on)")
    base = ctx.variable("xen_p2m_addr")
    found.look(3)
    if vaddr != base:
        found.add(
            {"address": info.address_of("p2m_vaddr")},
            f"{base:#x} (xen_p2m_addr)",
            f"{vaddr:#x}",
            f"shared_info.arch.p2m_vaddr is {vaddr:#x}, xen_p2m_addr is {base:#x}",
        )
    root = unfold_cr3(cr3, ctx.guest.width.bits)
    if root != ctx.kernel_root:
        found.add(
            {"address": info.address_of("p2m_cr3"), "mfn": root},
            f"frame {ctx.kernel_root:#x}, the kernel's page table",
            f"frame {root:#x}",
            f"shared_info.arch.p2m_cr3 leads to frame {root:#x}, the kernel's page table is {ctx.kernel_root:#x}",
        )
    generation = info.number("p2m_generation")
    if generation & 1:
        found.add(
            {"address": info.address_of("p2m_generation")},
            "an even number",
            f"{generation:#x}",
            f"p2m_generation {generation:#x} is odd: the machine stopped while the list was being changed",
        )


FLL_RULES = (
    Rule(
        "FLL-001",
        "shared_info points to p2m_top_mfn",
        "error",
        "all",
        f"{P2M_C}, xen_setup_mfn_list_list()",
        "The toolstack starts at shared_info.arch.pfn_to_mfn_frame_list_list; it must be the MFN of p2m_top_mfn, or "
        "all ones when start_info has SIF_VIRT_P2M_4TOOLS.",
        _published,
    ),
    Rule(
        "FLL-002",
        "p2m_top_mfn[i] is the MFN of p2m_top_mfn_p[i]",
        "error",
        "all",
        f"{P2M_C}, xen_build_mfn_list_list()",
        "The kernel keeps the top twice: as MFNs for Xen and as pointers for itself. After a migration both are "
        "built anew; when they differ, Xen reads other pages than the kernel writes.",
        _top_agrees,
    ),
    Rule(
        "FLL-003",
        "the shared mid pages name the shared leaves only",
        "error",
        "all",
        f"{P2M_C}, p2m_mid_mfn_init()",
        "Every slot of p2m_mid_missing_mfn is the MFN of p2m_missing (and of p2m_mid_identity_mfn, where it exists, "
        "of p2m_identity).",
        _shared_mids,
    ),
    Rule(
        "FLL-004",
        "the frame lists name the leaves of the guest's own view",
        "error",
        "all",
        f"{P2M_C}, xen_build_mfn_list_list(), alloc_p2m()",
        "For each private leaf the mid slot is that leaf's MFN. Holes may be p2m_missing or p2m_identity: real "
        "kernels of different eras write either.",
        _leaves_agree,
    ),
    Rule(
        "FLL-005",
        "shared_info.max_pfn agrees with the kernel's bound",
        "error",
        "all",
        f"{P2M_C}, xen_setup_mfn_list_list(); xen_p2m_last_pfn since 4.4",
        "max_pfn tells the toolstack how far to read. Before mid-2021 kernels stored the last PFN instead of the "
        "count after growth; one less is accepted.",
        _max_pfn,
    ),
    Rule(
        "FLL-006",
        "p2m_vaddr, p2m_cr3 and p2m_generation are right",
        "error",
        "linear, 4.3 on",
        "Xen public/arch-x86/xen.h; Linux xen_setup_mfn_list_list()",
        "Newer toolstacks read the list through the guest's page table: p2m_vaddr must be xen_p2m_addr, p2m_cr3 the "
        "kernel's page table, and an odd p2m_generation says that the list is being changed.",
        _virtual_list,
    ),
)
