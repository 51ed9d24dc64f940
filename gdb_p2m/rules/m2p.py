"""M2P: Xen's table against the guest's P2M."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gdb_p2m.errors import P2mError
from gdb_p2m.layout.xen_x86 import DOMID_FIRST_RESERVED
from gdb_p2m.mapping import Kind, own_frames
from gdb_p2m.rules.base import CannotCheck, Findings, NotApplicable, Rule, RuleContext, unread_pfns
from gdb_p2m.structures.hypervisor import Hypervisor
from gdb_p2m.structures.m2p import meaning
from gdb_p2m.structures.x86_frame_table import NO_OWNER, NOT_KNOWN, NoFrameTable
from gdb_p2m.units import FrameArray


def _agrees(ctx: RuleContext, found: Findings) -> None:
    lost = 0
    for pfns, mfns in own_frames(ctx.mapping):
        inside = mfns < ctx.m2p.limit
        values, ok = ctx.m2p.lookup(mfns)
        lost += int(np.count_nonzero(~ok & inside))
        found.look(int(np.count_nonzero(ok)))
        bad = ok & (values != pfns.astype(np.uint64))
        for i in found.room(np.flatnonzero(bad)):
            pfn, mfn, raw = int(pfns[i]), int(mfns[i]), int(values[i])
            found.add(
                {"pfn": pfn, "mfn": mfn},
                f"M2P[{mfn:#x}] = {pfn:#x}",
                meaning(raw),
                f"PFN {pfn:#x} maps to MFN {mfn:#x}, but M2P says {meaning(raw)}",
            )
    if lost:
        found.could_not_read(f"the M2P entries of {lost:,} frames cannot be read")
    unread_pfns(ctx.mapping, found)


def _owned_by_the_domain(ctx: RuleContext, found: Findings) -> None:
    if ctx.target.source.info.core_table is not None:
        raise NotApplicable("a core of one domain does not hold Xen's frame table")
    try:
        xen = ctx.target.hypervisor_through(ctx.guest)
    except NoFrameTable as e:
        raise NotApplicable(e.message) from None
    owner = _struct_domain(ctx, xen, found)
    lost = 0
    for pfns, mfns in own_frames(ctx.mapping):
        inside = mfns < xen.frames.end
        owners, ok = xen.frames.owners(mfns)
        lost += int(np.count_nonzero(~ok & inside))
        found.look(int(np.count_nonzero(ok)))
        bad = ok & (owners != owner)
        for i in found.room(np.flatnonzero(bad)):
            pfn, mfn, other = int(pfns[i]), int(mfns[i]), _owner_words(xen, int(owners[i]))
            found.add(
                {"pfn": pfn, "mfn": mfn},
                f"MFN {mfn:#x} belongs to this domain (struct domain at frame {owner:#x})",
                f"it belongs to {other}",
                f"PFN {pfn:#x} maps to MFN {mfn:#x}, which the frame table says belongs to {other}",
            )
    if lost:
        found.could_not_read(f"the frame table's records of {lost:,} frames cannot be read")
    unread_pfns(ctx.mapping, found)


def _struct_domain(ctx: RuleContext, xen: Hypervisor, found: Findings) -> int:
    """Frame of this domain's struct domain: the owner of its page table. CannotCheck when nobody owns that."""
    owners, ok = xen.frames.owners(np.array([ctx.guest.root.mfn], dtype=np.int64))
    owner = int(owners[0])
    if not ok[0] or owner <= 0:
        why = "has no owner" if ok[0] else "has no record that can be read"
        raise CannotCheck(f"the frame table does not tell who this domain is: its root {ctx.guest.root.mfn:#x} {why}")
    try:
        number = xen.domain_id(owner)
    except P2mError as e:
        found.could_not_read(f"the owner's struct domain at frame {owner:#x} cannot be read, so nor its id: {e.message}")
        return owner
    found.look()
    if ctx.guest.id is not None and number != ctx.guest.id:
        found.add(
            {"mfn": ctx.guest.root.mfn},
            f"the page table of domain {ctx.guest.id} belongs to it",
            f"it belongs to domain {number}",
            f"the root at machine frame {ctx.guest.root.mfn:#x} belongs to domain {number}, not to domain {ctx.guest.id}",
        )
    return owner


def _owner_words(xen: Hypervisor, owner: int) -> str:
    if owner <= 0:
        return "nobody: it is free, or Xen's own" if owner == 0 else "no domain: the machine has no such frame"
    try:
        return xen.domain_name(owner)
    except P2mError:
        return f"an owner whose struct domain, at frame {owner:#x}, cannot be read"


def _other_frames(ctx: RuleContext, found: Findings) -> None:
    if not ctx.m2p.pieces():
        raise CannotCheck("the M2P cannot be read")
    end = max(first + len(words) for first, words in ctx.m2p.pieces())
    in_p2m = np.zeros(end, dtype=bool)
    for _pfns, mfns in own_frames(ctx.mapping):
        in_p2m[mfns[mfns < end]] = True
    whose = _Whose(ctx)
    for first, words in ctx.m2p.pieces():
        found.look(len(words))
        named = (words >> np.uint64(63) == 0) & ~in_p2m[first : first + len(words)]
        named &= words < np.uint64(ctx.own.limit)
        hits = np.flatnonzero(named)
        # What an unreadable entry holds is not known: it may well be this very frame.
        hits = hits[ctx.mapping.kinds_at(words[hits].astype(np.int64)) != Kind.UNREADABLE]
        for text, group in whose.groups(first + hits):
            mfn = int(group[0])
            pfn = int(words[mfn - first])
            found.add(
                {"mfn": mfn, "pfn": pfn, "count": len(group)},
                "an owner's P2M entry, or an invalid M2P entry",
                f"M2P[{mfn:#x}] = {pfn:#x}",
                f"{len(group):,} frames from MFN {mfn:#x} on name a PFN but are in no entry of this P2M: {text}",
                count=len(group),
            )
    if ctx.m2p.unread:
        found.could_not_read(f"{ctx.m2p.unread:,} entries of the M2P cannot be read")
    unread_pfns(ctx.mapping, found)


class _Whose:
    """Who owns frames that name a PFN, as far as Xen's frame table is there. Frames of other guests are as they should be."""

    def __init__(self, ctx: RuleContext) -> None:
        self.xen: Hypervisor | None = None
        self.own = NOT_KNOWN
        if ctx.frugal or ctx.target.source.info.core_table is not None:
            return
        try:
            xen = ctx.target.hypervisor_through(ctx.guest)
            self.own = xen.frames.read(ctx.guest.root.mfn).owner
        except P2mError:
            return
        self.xen = xen if self.own > 0 else None

    def groups(self, mfns: FrameArray) -> Iterator[tuple[str, FrameArray]]:
        """(words, frames) of those that are worth knowing, by owner."""
        unknown = "frames of other domains, or stale entries (who owns them is not known here)"
        if self.xen is None or not len(mfns):
            yield from [(unknown, mfns)] if len(mfns) else []
            return
        owners, ok = self.xen.frames.owners(mfns)
        owners[~ok] = NOT_KNOWN
        for owner in np.unique(owners).tolist():
            if owner == self.own:
                yield "the frame table says that they are this domain's", mfns[owners == owner]
            elif owner == NO_OWNER:
                yield "they belong to nobody (free, or Xen's own): stale entries", mfns[owners == owner]
            elif owner == NOT_KNOWN or not self._guest(owner):
                yield unknown, mfns[owners == owner]

    def _guest(self, owner: int) -> bool:
        """Whether the owner is another guest."""
        assert self.xen is not None
        try:
            return self.xen.domain_id(owner) < DOMID_FIRST_RESERVED
        except P2mError:
            return False


M2P_RULES = (
    Rule(
        "M2P-001",
        "M2P[P2M[pfn]] = pfn",
        "error",
        "all",
        "Xen update_machphys_mapping; documented-layout: M2P",
        "For every frame that the domain owns, Xen's table leads back to the PFN. Foreign and identity entries need "
        "not agree and are left out.",
        _agrees,
    ),
    Rule(
        "M2P-002",
        "the frame table says that the domain owns its frames",
        "error",
        "all",
        "Xen struct page_info, v.inuse._domain (asm/mm.h); documented-layout: M2P",
        "For every frame that the P2M says is the domain's own, Xen's record of that frame names this domain: the one that "
        "owns the page table in use. A frame of another domain or a free one would be overwritten, or would overwrite it. "
        "Foreign entries are other domains' frames by design and are left out. Needs Xen's frame table in the dump.",
        _owned_by_the_domain,
    ),
    Rule(
        "M2P-003",
        "M2P entries that name a PFN whose P2M entry is another frame",
        "note",
        "all",
        "documented-layout: M2P",
        "Frames of other domains name PFNs of theirs; a stale entry can name one of this domain. Worth knowing when "
        "a frame is searched. Where Xen's frame table can be read, frames of other guests are left out.",
        _other_frames,
    ),
)
