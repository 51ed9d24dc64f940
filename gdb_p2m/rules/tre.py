"""TRE: the three-level tree (Linux 2.6.37 to 3.18)."""

from __future__ import annotations

import numpy as np

from gdb_p2m.mapping import Kind
from gdb_p2m.rules.base import CannotCheck, Findings, NotApplicable, Rule, RuleContext, unread_pfns
from gdb_p2m.rules.lin import check_shared_leaves
from gdb_p2m.rules.slots import stretches, uniform_slots
from gdb_p2m.spaces.words import words_of
from gdb_p2m.structures.p2m_tree import Pointer
from gdb_p2m.units import PAGE_SHIFT
from gdb_p2m.views.leaves import Backing
from gdb_p2m.views.tree import MID_NAMES, TreeView

P2M_C = "Linux arch/x86/xen/p2m.c (before 3.19)"
COMPACT = "x86/xen: compactly store large identity ranges in the p2m (3.16)"
LOST = (Pointer.NULL, Pointer.MISALIGNED, Pointer.NOT_KERNEL, Pointer.UNMAPPED, Pointer.UPPER_LEVEL)


def _tree(ctx: RuleContext) -> TreeView:
    """The tree view; NotApplicable in other eras."""
    if not ctx.guest.has("p2m_top"):
        raise NotApplicable("the guest has no tree (Linux 2.6.37 to 3.18)")
    view = ctx.view("tree")
    assert isinstance(view, TreeView)
    return view


def _top_slots(ctx: RuleContext, found: Findings) -> None:
    view = _tree(ctx)
    tree = view.tree
    if not tree.top_ok:
        raise CannotCheck(f"the top page at machine address {tree.top_at:#x} is not in the dump")
    known = {pointer for name, (pointer, _) in view.shared_pointers.items() if name in MID_NAMES.values()}
    for i, (raw, status) in enumerate(zip(tree.top.tolist(), tree.top_status.tolist(), strict=True)):
        if status == Pointer.UNREADABLE and raw not in known:
            found.could_not_read("page tables that some top slots need are not in the dump")
            continue
        found.look()
        if status in LOST and raw not in known:
            at = tree.top_at + i * view.width.bytes
            why = Pointer(status).reason
            found.add(
                {"pfn": i * view.width.mid_span, "address": at, "slot": i},
                "p2m_mid_missing, p2m_mid_identity or a middle page",
                f"{raw:#x}: {why}",
                f"p2m_top[{i}] at machine address {at:#x} = {raw:#x}: {why}",
            )


def _shared_mid(ctx: RuleContext, found: Findings, backing: Backing) -> None:
    """Every slot of a shared middle page leads to its leaf."""
    view = _tree(ctx)
    mid, leaf = MID_NAMES[backing], {Backing.MISSING: "p2m_missing", Backing.IDENTITY: "p2m_identity"}[backing]
    frame = ctx.page_of(mid)
    pointer, leaf_frame = view.shared_pointers[leaf]
    pages, ok = ctx.target.source.read_pages(np.array([frame], dtype=np.int64))
    if not ok[0]:
        raise CannotCheck(f"{mid} (frame {frame:#x}) is not in the dump")
    words = words_of(pages, view.width)[0]
    found.look(len(words))
    rows = np.flatnonzero(view.tree.mid == frame)
    for i in np.flatnonzero(words != np.uint64(pointer)).tolist():
        if len(rows) and leaf_frame is not None and int(view.tree.frame[rows[0], i]) == leaf_frame:
            continue  # the same leaf by another virtual address
        at = (frame << PAGE_SHIFT) + i * view.width.bytes
        found.add(
            {"address": at, "slot": i},
            f"{pointer:#x} ({leaf})",
            f"{int(words[i]):#x}",
            f"{mid}[{i}] at machine address {at:#x} is {int(words[i]):#x}, not {leaf}: all PFNs that share it are affected",
        )


def _mid_missing(ctx: RuleContext, found: Findings) -> None:
    _shared_mid(ctx, found, Backing.MISSING)


def _mid_identity(ctx: RuleContext, found: Findings) -> None:
    _tree(ctx)
    if not ctx.guest.has("p2m_mid_identity"):
        raise NotApplicable("this kernel has no p2m_mid_identity (3.16 on)")
    _shared_mid(ctx, found, Backing.IDENTITY)


def _shared_leaves(ctx: RuleContext, found: Findings) -> None:
    _tree(ctx)
    check_shared_leaves(ctx, found)


def _private_once(ctx: RuleContext, found: Findings) -> None:
    view = _tree(ctx)
    tree, leaves = view.tree, view.leaves
    uses = tree.uses()
    private = leaves.shared_mid == Backing.PRIVATE
    found.look(int(private.sum()))
    for row in np.flatnonzero(private & (uses > 1)).tolist():
        slots = np.flatnonzero(tree.row == row).tolist()
        mfn = int(tree.mid[row])
        found.add(
            {"pfn": slots[1] * view.width.mid_span, "mfn": mfn},
            "a middle page of its own",
            f"frame {mfn:#x} in top slots {slots[0]} and {slots[1]}",
            f"the private middle page at frame {mfn:#x} hangs in {len(slots)} top slots, first in {slots[0]} and {slots[1]}",
        )
    backing, frame = view.leaf_slots()
    own = np.flatnonzero(backing == Backing.PRIVATE)
    found.look(len(own))
    order = own[np.argsort(frame[own], kind="stable")]
    again = np.flatnonzero(np.diff(frame[order]) == 0)
    span, mid_slots = view.width.per_page, view.width.per_page
    for i in again.tolist():
        a, b = int(order[i]), int(order[i + 1])
        if tree.row[a // mid_slots] == tree.row[b // mid_slots] and a % mid_slots == b % mid_slots:
            continue  # the same slot of one middle page: reported above
        mfn = int(frame[a])
        found.add(
            {"pfn": b * span, "mfn": mfn},
            "a leaf of its own",
            f"frame {mfn:#x}, also the leaf of PFN {a * span:#x}",
            f"the leaves of PFN {a * span:#x} and PFN {b * span:#x} are the same page, frame {mfn:#x}",
        )


def _mid_slots(ctx: RuleContext, found: Findings) -> None:
    view = _tree(ctx)
    tree = view.tree
    private = np.flatnonzero((view.leaves.shared_mid == Backing.PRIVATE) & tree.mid_ok)
    lost = int(np.count_nonzero(~tree.mid_ok & (view.leaves.shared_mid == Backing.PRIVATE)))
    if lost:
        found.could_not_read(f"{lost} middle pages are not in the dump")
    known = np.array([p for p, _ in view.shared_pointers.values()], dtype=np.uint64)
    for row in private.tolist():
        status = tree.status[row]
        named = np.isin(tree.slots[row], known)
        unread = (status == Pointer.UNREADABLE) & ~named
        if unread.any():
            found.could_not_read("page tables that some middle slots need are not in the dump")
        found.look(int(np.count_nonzero(~unread)))
        for i in np.flatnonzero(np.isin(status, LOST) & ~named).tolist():
            at = (int(tree.mid[row]) << PAGE_SHIFT) + i * view.width.bytes
            first = int(np.flatnonzero(tree.row == row)[0])
            pfn = first * view.width.mid_span + i * view.width.per_page
            raw, why = int(tree.slots[row, i]), Pointer(int(status[i])).reason
            found.add(
                {"pfn": pfn, "address": at, "slot": i},
                "p2m_missing, p2m_identity or a leaf",
                f"{raw:#x}: {why}",
                f"mid slot {i} of top slot {first} at machine address {at:#x} = {raw:#x}: {why}",
            )


def _replaceable(ctx: RuleContext, found: Findings) -> None:
    view = _tree(ctx)
    per = view.width.per_page
    backing, _ = view.leaf_slots()
    private = backing == Backing.PRIVATE
    found.look(int(private.sum()))
    unread_pfns(ctx.mapping, found)
    for kind, name in ((Kind.MISSING, "p2m_missing"), (Kind.IDENTITY, "p2m_identity")):
        if name not in view.shared_pointers:
            continue
        for a, b in stretches(private & uniform_slots(ctx.mapping, kind, len(private), per)):
            found.add(
                {"pfn": a * per, "count": (b - a) * per},
                name,
                "a private leaf",
                f"{b - a:,} private leaves from PFN {a * per:#x} hold only {kind.word}: {name} could take their place "
                "(the kernel does not fold pages back)",
                count=b - a,
                space="virtual",
            )


TRE_RULES = (
    Rule(
        "TRE-001",
        "every top slot leads to a middle page",
        "error",
        "tree",
        f"{P2M_C}, p2m_top_init()",
        "The kernel follows p2m_top[i] without a check: it must be p2m_mid_missing, p2m_mid_identity or the address of a "
        "mapped, page-aligned middle page, never NULL.",
        _top_slots,
    ),
    Rule(
        "TRE-002",
        "every slot of p2m_mid_missing is p2m_missing",
        "error",
        "tree",
        f"{P2M_C}, p2m_mid_init()",
        "The shared middle page stands for 1 GiB of missing PFNs wherever it hangs; one other slot would change all of them.",
        _mid_missing,
    ),
    Rule(
        "TRE-003",
        "every slot of p2m_mid_identity is p2m_identity",
        "error",
        "tree, 3.16 on",
        COMPACT,
        "One pointer to p2m_mid_identity makes 1 GiB identity. 3.18's alloc_p2m does not check for it and can write into it.",
        _mid_identity,
    ),
    Rule(
        "TRE-004",
        "p2m_missing and p2m_identity hold only INVALID",
        "error",
        "tree",
        f"{P2M_C}, p2m_init()",
        "Both shared leaves are full of INVALID_P2M_ENTRY; only the pointer that leads to them tells missing from identity.",
        _shared_leaves,
    ),
    Rule(
        "TRE-005",
        "no private page hangs in two slots",
        "error",
        "tree",
        P2M_C,
        "A private middle page or leaf belongs to one stretch of PFNs; in two slots, a change for one would change the other.",
        _private_once,
    ),
    Rule(
        "TRE-006",
        "every middle slot leads to a leaf",
        "error",
        "tree",
        P2M_C,
        "Slots of private middle pages are p2m_missing, p2m_identity or the address of a mapped, page-aligned leaf.",
        _mid_slots,
    ),
    Rule(
        "TRE-007",
        "a private leaf that a shared page could replace",
        "note",
        "tree",
        P2M_C,
        "Leaves that ballooning or remapping left uniform are not folded back. Memory that could be saved, no fault.",
        _replaceable,
    ),
)
