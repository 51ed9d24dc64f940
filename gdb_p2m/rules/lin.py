"""LIN: the linear, virtually mapped list (Linux 3.19 on)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gdb_p2m.errors import Unreadable
from gdb_p2m.layout.pagetables import X86_FRAME_MASK, X86_PRESENT
from gdb_p2m.mapping import Kind
from gdb_p2m.rules.base import CannotCheck, Findings, NotApplicable, Rule, RuleContext, unread_pfns
from gdb_p2m.rules.slots import stretches, uniform_slots
from gdb_p2m.spaces.radix import Status, table_page
from gdb_p2m.spaces.words import words_of
from gdb_p2m.structures.stage import is_virtual_area
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE
from gdb_p2m.views.leaves import Backing
from gdb_p2m.views.linear import LinearView

P2M_C = "Linux arch/x86/xen/p2m.c"
SERIES = "xen: switch to linear virtual mapped sparse p2m list (3.19)"
PMD_SIZE = 2 << 20


def _sizes(ctx: RuleContext, found: Findings) -> None:
    # The variables, not the view: what they say may be so wrong that there is no view.
    if not ctx.guest.has("xen_p2m_addr"):
        raise NotApplicable("the guest has no linear list (Linux 3.19 on)")
    base = ctx.variable("xen_p2m_addr")
    if not base:
        raise NotApplicable("dom0's entry: the kernel has not set its variables yet")
    size, width = ctx.variable("xen_p2m_size"), ctx.guest.width
    found.look(2)
    if not size or size % width.per_page or base + size * width.bytes > 1 << width.bits:
        found.add(
            {"value": size},
            f"a multiple of {width.per_page} that fits in above xen_p2m_addr",
            f"{size:#x}",
            f"xen_p2m_size {size:#x} cannot be the entries of a list at {base:#x}, in pages of {width.per_page}",
            space="none",
        )
    if base % PAGE_SIZE:
        found.add(
            {"address": base},
            "a page-aligned list",
            f"{base:#x}",
            f"xen_p2m_addr {base:#x} is not page-aligned",
            space="virtual",
        )
    ordered = [("xen_p2m_size", size)]
    if ctx.guest.has("xen_p2m_last_pfn"):
        ordered.insert(0, ("xen_p2m_last_pfn", ctx.variable("xen_p2m_last_pfn")))
    if ctx.guest.has("xen_max_p2m_pfn"):
        ordered.append(("xen_max_p2m_pfn", ctx.variable("xen_max_p2m_pfn")))
    for (small, a), (large, b) in pairwise(ordered):
        found.look()
        if a > b:
            found.add(
                {"value": a},
                f"{small} <= {large}",
                f"{a:#x} > {b:#x}",
                f"{small} {a:#x} is larger than {large} {b:#x}",
                space="none",
            )


def _all_mapped(ctx: RuleContext, found: Findings) -> None:
    view = ctx.linear
    status, per = view.pages.status, view.width.per_page
    found.look(int(np.count_nonzero(status != Status.UNREADABLE)))
    bad = (status == Status.ABSENT) | (status == Status.MALFORMED)
    for a, b in stretches(bad):
        va = view.base + a * PAGE_SIZE
        found.add(
            {"pfn": a * per, "count": (b - a) * per, "address": va},
            "a private page, p2m_missing or p2m_identity",
            "not mapped",
            f"{b - a:,} pages of the list from {va:#x} (PFN {a * per:#x}) are not mapped: the kernel would fault",
            count=b - a,
            space="virtual",
        )
    _unread_list_pages(view, found)


def _unread_list_pages(view: LinearView, found: Findings) -> None:
    """Say of how many pages of the list it is not known what they are mapped to."""
    lost = int(np.count_nonzero(view.pages.status == Status.UNREADABLE))
    if lost:
        found.could_not_read(f"page tables of {lost:,} pages of the list are not in the dump")


def _shared_hold_invalid(ctx: RuleContext, found: Findings) -> None:
    if ctx.guest.has("p2m_top"):
        raise NotApplicable("a tree: TRE-004 looks at its shared pages")
    _not_made_yet(ctx)
    check_shared_leaves(ctx, found)


def _not_made_yet(ctx: RuleContext) -> None:
    """While the builder's list is in use the shared pages do not exist."""
    if ctx.guest.has("xen_p2m_addr") and not is_virtual_area(ctx.linear.base, ctx.guest.width.bits):
        raise NotApplicable("the builder's list is still in use: the shared pages do not exist yet")


def check_shared_leaves(ctx: RuleContext, found: Findings) -> None:
    """p2m_missing and p2m_identity hold only INVALID_P2M_ENTRY (LIN-003, TRE-004)."""
    width = ctx.guest.width
    for name in ("p2m_missing", "p2m_identity"):
        if name == "p2m_identity" and not ctx.guest.has(name) and ctx.guest.has("p2m_top"):
            continue  # 2.6.37 has no identity page
        mfn = ctx.page_of(name)
        try:
            data = np.frombuffer(ctx.target.source.read(mfn << PAGE_SHIFT, PAGE_SIZE), dtype=np.uint8)
        except Unreadable as e:
            found.could_not_read(f"{name}: {e.message}")
            continue
        words = words_of(data.reshape(1, PAGE_SIZE), width)[0]
        found.look(len(words))
        for i in np.flatnonzero(words != np.uint64(width.invalid)).tolist():
            at = (mfn << PAGE_SHIFT) + i * width.bytes
            found.add(
                {"address": at, "slot": i},
                f"{width.invalid:#x}",
                f"{int(words[i]):#x}",
                f"{name}[{i}] at machine address {at:#x} is {int(words[i]):#x}: "
                "every PFN that shares this page now reads it",
            )


def _shared_tables(ctx: RuleContext, found: Findings) -> None:
    _ = ctx.linear
    _not_made_yet(ctx)
    for table, leaf in (("p2m_missing_pte", "p2m_missing"), ("p2m_identity_pte", "p2m_identity")):
        mfn, want = ctx.page_of(table), ctx.page_of(leaf)
        try:
            entries = table_page(ctx.target.source, mfn)
        except Unreadable as e:
            found.could_not_read(f"{table}: {e.message}")
            continue
        frames = (entries & np.uint64(X86_FRAME_MASK)) >> np.uint64(PAGE_SHIFT)
        good = (frames == np.uint64(want)) & ((entries & np.uint64(X86_PRESENT)) != 0)
        found.look(len(entries))
        for i in np.flatnonzero(~good).tolist():
            at = (mfn << PAGE_SHIFT) + i * 8
            found.add(
                {"address": at, "slot": i},
                f"a PTE of frame {want:#x} ({leaf})",
                f"{int(entries[i]):#x}",
                f"{table}[{i}] at machine address {at:#x} does not map {leaf}",
            )


def _shared_read_only(ctx: RuleContext, found: Findings) -> None:
    view = ctx.linear
    per = view.width.per_page
    shared = (view.backing == Backing.MISSING) | (view.backing == Backing.IDENTITY)
    found.look(int(np.count_nonzero(shared)))
    _unread_list_pages(view, found)
    for a, b in stretches(shared & view.pages.writable):
        name = "p2m_missing" if view.backing[a] == Backing.MISSING else "p2m_identity"
        found.add(
            {"pfn": a * per, "count": (b - a) * per, "address": view.base + a * PAGE_SIZE},
            "read-only",
            "writable",
            f"the list maps {name} writable at {b - a:,} pages from PFN {a * per:#x}: "
            "one stray write would change all PFNs that share it",
            count=b - a,
            space="virtual",
        )


def _private_once(ctx: RuleContext, found: Findings) -> None:
    view = ctx.linear
    private = np.flatnonzero(view.backing == Backing.PRIVATE)
    frames = view.pages.frame[private]
    order = np.argsort(frames, kind="stable")
    found.look(len(private))
    _unread_list_pages(view, found)
    for i in found.room(np.flatnonzero(np.diff(frames[order]) == 0)):
        a, b = int(private[order[i]]), int(private[order[i + 1]])
        mfn, per = int(frames[order[i]]), view.width.per_page
        found.add(
            {"pfn": b * per, "mfn": mfn},
            "a page of its own",
            f"frame {mfn:#x}, also used for PFN {a * per:#x}",
            f"list pages of PFN {a * per:#x} and PFN {b * per:#x} are the same machine frame {mfn:#x}",
        )


def _pae_pairs(ctx: RuleContext, found: Findings) -> None:
    view = ctx.linear
    pmds = view.width.pmds_per_mid_page
    if pmds == 1:
        raise NotApplicable("PMDS_PER_MID_PAGE is 1 on 64-bit: one PMD settles one mid page")
    frames = view.pages.pmds.frame
    shared = [view.optional_frame(n) for n in ("p2m_missing_pte", "p2m_identity_pte")]
    if None in shared:
        raise CannotCheck("p2m_missing_pte or p2m_identity_pte is not known")
    kind = np.zeros(len(frames), dtype=np.uint8)
    for code, frame in enumerate(shared, 1):
        kind[frames == frame] = code
    whole = len(kind) // pmds * pmds
    found.look(whole // pmds)
    groups = kind[:whole].reshape(-1, pmds)
    words = ("private", "p2m_missing_pte", "p2m_identity_pte")
    for i in np.flatnonzero((groups != groups[:, :1]).any(axis=1)).tolist():
        found.add(
            {"pfn": i * view.width.mid_span, "slot": i * pmds},
            "PMDs of one mid page alike",
            " and ".join(words[k] for k in groups[i]),
            f"the PMDs of the mid page of PFN {i * view.width.mid_span:#x} differ",
            space="virtual",
        )


def _alignment(ctx: RuleContext, found: Findings) -> None:
    view = ctx.linear
    if not is_virtual_area(view.base, view.width.bits):
        raise NotApplicable(f"xen_p2m_addr {view.base:#x} is still the domain builder's list")
    unit = PMD_SIZE * view.width.pmds_per_mid_page
    found.look()
    if view.base % unit:
        found.add(
            {"address": view.base},
            f"a multiple of {unit:#x}",
            f"{view.base:#x}",
            f"xen_p2m_addr {view.base:#x} is not aligned to PMD_SIZE * PMDS_PER_MID_PAGE = {unit:#x}",
            space="virtual",
        )


def _replaceable(ctx: RuleContext, found: Findings) -> None:
    view = ctx.linear
    per = view.width.per_page
    private = view.backing == Backing.PRIVATE
    found.look(int(np.count_nonzero(private)))
    unread_pfns(ctx.mapping, found)
    for kind in (Kind.MISSING, Kind.IDENTITY):
        for a, b in stretches(private & uniform_slots(ctx.mapping, kind, len(private), per)):
            found.add(
                {"pfn": a * per, "count": (b - a) * per},
                f"p2m_{kind.word}",
                "a private page",
                f"{b - a:,} private pages from PFN {a * per:#x} hold only {kind.word}: "
                f"p2m_{kind.word} could take their place (normal after ballooning and remapping)",
                count=b - a,
                space="virtual",
            )


LIN_RULES = (
    Rule(
        "LIN-001",
        "the sizes of the list are sane and ordered",
        "error",
        "linear",
        f"{P2M_C}, xen_vmalloc_p2m_tree(); {SERIES}",
        "xen_p2m_size counts the entries of the list, in whole pages; what is in use (xen_p2m_last_pfn) cannot "
        "exceed it, and it cannot exceed the capacity (xen_max_p2m_pfn).",
        _sizes,
    ),
    Rule(
        "LIN-002",
        "every page of the list is mapped",
        "error",
        "linear",
        f"{P2M_C}, xen_rebuild_p2m_list()",
        "The list is read without any check, so it must never fault: holes are covered by the shared pages "
        "p2m_missing and p2m_identity, never left unmapped.",
        _all_mapped,
    ),
    Rule(
        "LIN-003",
        "p2m_missing and p2m_identity hold only INVALID",
        "error",
        "linear",
        f"{P2M_C}, p2m_init()",
        "Both shared pages are full of INVALID_P2M_ENTRY: Xen's toolstack reads them too and knows nothing else. "
        "Only the page that backs a PFN tells missing from identity.",
        _shared_hold_invalid,
    ),
    Rule(
        "LIN-004",
        "the shared page tables map the shared pages only",
        "error",
        "linear",
        f"{P2M_C}, xen_rebuild_p2m_list()",
        "p2m_missing_pte and p2m_identity_pte are page-table pages whose 512 entries all map one shared page; a PMD "
        "that points to them settles 1 GiB of PFNs.",
        _shared_tables,
    ),
    Rule(
        "LIN-005",
        "the shared pages are mapped read-only in the list",
        "error",
        "linear",
        f"{P2M_C}; xen: annotate/read-only follow-up of the 3.19 series",
        "A write through the list to a shared page would change hundreds of thousands of PFNs. The kernel maps them "
        "read-only, takes the fault and allocates a private page first (xen_alloc_p2m_entry).",
        _shared_read_only,
    ),
    Rule(
        "LIN-006",
        "no private page backs two places of the list",
        "error",
        "linear",
        P2M_C,
        "A private page of entries belongs to 512 PFNs; mapped twice, a change for one PFN would change another.",
        _private_once,
    ),
    Rule(
        "LIN-007",
        "the PMDs of one mid page agree (PAE)",
        "error",
        "linear, 32-bit",
        f"{P2M_C}, PMDS_PER_MID_PAGE",
        "On PAE a mid page of the frame lists covers two PMDs; both are shared-missing, both shared-identity or both "
        "private, because the frame list can only be shared as a whole.",
        _pae_pairs,
    ),
    Rule(
        "LIN-008",
        "the list is aligned to PMD_SIZE * PMDS_PER_MID_PAGE",
        "error",
        "linear",
        f"{P2M_C}, xen_vmalloc_p2m_tree()",
        "PMDs can only be shared as a whole, so the virtual area starts at a multiple of what one mid page covers.",
        _alignment,
    ),
    Rule(
        "LIN-009",
        "a private list page that a shared page could replace",
        "note",
        "linear",
        P2M_C,
        "The kernel does not fold pages back when ballooning or remapping leaves them uniform. Memory that could be "
        "saved, no fault.",
        _replaceable,
    ),
)
