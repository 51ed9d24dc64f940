"""ENT: the entries themselves, in every Linux view."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gdb_p2m.mapping import Kind
from gdb_p2m.rules.base import CannotCheck, Findings, NotApplicable, Rule, RuleContext, unread_pfns

P2M_C = "Linux arch/x86/xen/p2m.c"
MAX_LOOKED = 2000
"""Corrupt runs that are traced one by one; a memory with more has lost its P2M anyway."""


def _corrupt_entries(ctx: RuleContext) -> Iterator[tuple[int, int, int, int, str]]:
    """(pfn, count, address, raw, reason) of corrupt runs that an entry of a private page decided.

    Overwritten shared pages are LIN-003's and TRE-004's, holes in the structure LIN-002's and TRE's.
    """
    mapping = ctx.mapping
    for i in np.flatnonzero(mapping.kind == Kind.CORRUPT)[:MAX_LOOKED].tolist():
        start = int(mapping.start[i])
        trace = ctx.own.trace(start)
        raw = trace.steps[-1].raw if trace.steps else None
        if raw is not None and trace.read_what in ("P2M entry", "leaf entry") and "overwritten" not in trace.reason:
            yield start, int(mapping.count[i]), trace.read_at or 0, raw, trace.reason


def _identity_holds_own_pfn(ctx: RuleContext, found: Findings) -> None:
    mapping = ctx.mapping
    width = ctx.guest.width
    found.look(int(mapping.count[mapping.kind == Kind.IDENTITY].sum()))
    for pfn, count, address, raw, _reason in _corrupt_entries(ctx):
        if raw & (width.identity_bit | width.foreign_bit) == width.identity_bit:
            found.look(count)
            found.add(
                {"pfn": pfn, "count": count, "address": address},
                f"IDENTITY_FRAME({pfn:#x})",
                f"{raw:#x}",
                f"PFN {pfn:#x} is marked identity but its entry names frame {raw & (width.identity_bit - 1):#x}",
                count=count,
            )
    unread_pfns(mapping, found)


def _documented_kinds(ctx: RuleContext, found: Findings) -> None:
    mapping = ctx.mapping
    width = ctx.guest.width
    read = (Kind.MFN, Kind.FOREIGN, Kind.IDENTITY, Kind.MISSING)
    found.look(int(mapping.count[np.isin(mapping.kind, [int(k) for k in read])].sum()))
    for pfn, count, address, raw, reason in _corrupt_entries(ctx):
        if raw & (width.identity_bit | width.foreign_bit) != width.identity_bit:
            found.look(count)
            found.add(
                {"pfn": pfn, "count": count, "address": address},
                "an MFN, a foreign or identity frame, or INVALID_P2M_ENTRY",
                f"{raw:#x}",
                f"PFN {pfn:#x}: {reason}",
                count=count,
            )
    unread_pfns(mapping, found)


def _below_highest_frame(ctx: RuleContext, found: Findings) -> None:
    mapping = ctx.mapping
    own = mapping.kind == Kind.MFN
    top = ctx.m2p.limit
    if not top:
        raise CannotCheck("the end of the machine's memory is not known")
    found.look(int(mapping.count[own].sum()))
    for i in np.flatnonzero(own & (mapping.frame + mapping.count > top)).tolist():
        first_bad = max(int(mapping.frame[i]), top)
        pfn = int(mapping.start[i]) + first_bad - int(mapping.frame[i])
        count = int(mapping.start[i] + mapping.count[i]) - pfn
        found.add(
            {"pfn": pfn, "count": count, "mfn": first_bad},
            f"an MFN below {top:#x}",
            f"{first_bad:#x}",
            f"PFN {pfn:#x} maps to MFN {first_bad:#x}, past the machine's last frame {top - 1:#x}",
            count=count,
        )
    unread_pfns(mapping, found)


def _no_frame_twice(ctx: RuleContext, found: Findings) -> None:
    mapping = ctx.mapping
    own = np.flatnonzero(mapping.kind == Kind.MFN)
    order = own[np.argsort(mapping.frame[own], kind="stable")]
    frame, count = mapping.frame[order], mapping.count[order]
    end = frame + count
    found.look(int(count.sum()))
    reach = np.maximum.accumulate(end)
    again = np.flatnonzero(frame[1:] < reach[:-1])
    for i in found.room(again, np.minimum(reach[again], end[again + 1]) - frame[again + 1]):
        j = int(np.flatnonzero(end[: i + 1] > frame[i + 1])[-1])
        a, b = int(order[j]), int(order[i + 1])
        mfn = int(frame[i + 1])
        both = int(min(end[j], end[i + 1])) - mfn
        first = int(mapping.start[a]) + mfn - int(mapping.frame[a])
        second = int(mapping.start[b])
        found.add(
            {"pfn": second, "mfn": mfn, "count": both},
            "every machine frame at one PFN only",
            f"MFN {mfn:#x} at PFN {first:#x} and PFN {second:#x}",
            f"PFNs {first:#x} and {second:#x} hold the same MFN {mfn:#x} ({both:,} frames)",
            count=both,
        )
    unread_pfns(mapping, found)


def _slots_past_nr_pages(ctx: RuleContext, found: Findings) -> None:
    per = ctx.guest.width.per_page
    nr_pages = ctx.start_info.number("nr_pages")
    if nr_pages % per == 0:
        raise NotApplicable(f"nr_pages {nr_pages:#x} is a multiple of {per}: no slots are left over in its leaf")
    # Remapped and extra memory may have filled the rest of the leaf since; zero is never right there.
    end = nr_pages - nr_pages % per + per
    for pfn in range(nr_pages, end):
        trace = ctx.own.trace(pfn)
        if trace.kind is Kind.UNREADABLE:
            found.could_not_read(f"PFN {pfn:#x}: {trace.reason}")
            return
        found.look()
        if trace.kind is Kind.MFN and trace.frame == 0:
            found.add(
                {"pfn": pfn, "address": trace.read_at or 0},
                "INVALID_P2M_ENTRY, or what was put there later",
                "0",
                f"slot of PFN {pfn:#x}, past nr_pages {nr_pages:#x}, is zero: read as MFN 0",
            )


def _frame_zero(ctx: RuleContext, found: Findings) -> None:
    mapping = ctx.mapping
    own = mapping.kind == Kind.MFN
    found.look(int(mapping.count[own].sum()))
    for i in np.flatnonzero(own & (mapping.frame == 0)).tolist():
        pfn = int(mapping.start[i])
        found.add(
            {"pfn": pfn, "mfn": 0},
            "a frame of RAM that a guest can own",
            "MFN 0",
            f"PFN {pfn:#x} maps to machine frame 0, which Xen never gives to a PV guest",
        )
    unread_pfns(mapping, found)


ENT_RULES = (
    Rule(
        "ENT-001",
        "an identity entry holds its own PFN",
        "error",
        "all with identity (2.6.39 on)",
        f"{P2M_C}, IDENTITY_FRAME(); documented-layout: entries",
        "IDENTITY_FRAME_BIT marks a frame that is mapped 1:1, so the rest of the entry must be the PFN itself. "
        "Linux 3.19 passed an unaligned PFN to p2m_init_identity(), which shifts a whole page of entries.",
        _identity_holds_own_pfn,
    ),
    Rule(
        "ENT-002",
        "an MFN lies below the machine's highest frame",
        "error",
        "all",
        "Xen max_page; the end of RAM in the dump",
        "An MFN past the end of the machine's memory cannot be memory of the guest: the entry, or the page that "
        "holds it, is not what it should be.",
        _below_highest_frame,
    ),
    Rule(
        "ENT-003",
        "two PFNs do not hold the same MFN",
        "error",
        "all",
        f"{P2M_C}; M2P has room for one PFN per MFN",
        "Each frame of a domain appears at one PFN. Foreign entries are left out: the same grant can be mapped twice.",
        _no_frame_twice,
    ),
    Rule(
        "ENT-004",
        "the slots between nr_pages and the end of its leaf are not zero",
        "error",
        "all",
        f"{P2M_C}, xen_build_dynamic_phys_to_machine(); review of the 3.19 series",
        "The domain builder fills nr_pages entries. When that is no multiple of P2M_PER_PAGE the kernel must set the "
        "rest of the last page to INVALID_P2M_ENTRY; left alone it would be 0, which reads as MFN 0.",
        _slots_past_nr_pages,
    ),
    Rule(
        "ENT-005",
        "MFN 0 is not RAM of a PV guest",
        "warning",
        "all",
        "Xen keeps the first frames of the machine for itself",
        "An entry 0 is nearly always a slot that was never written.",
        _frame_zero,
    ),
    Rule(
        "ENT-006",
        "every entry is of a documented kind",
        "error",
        "all",
        "Linux arch/x86/include/asm/xen/page.h; documented-layout: entries",
        "Both flag bits are set only in INVALID_P2M_ENTRY, and no frame number has more than 40 bits. Anything else is "
        "a page that holds something other than P2M entries.",
        _documented_kinds,
    ),
)
