"""M2P: Xen's table against the guest's P2M."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.rules.base import CannotCheck, Findings, Rule, RuleContext, unread_pfns
from gdb_p2m.structures.m2p import meaning
from gdb_p2m.units import FrameArray

BATCH = 1 << 20
"""Frames compared per step: 8 MiB arrays, so memory stays bounded whatever the size of the guest."""


def own_frames(mapping: Mapping) -> Iterator[tuple[FrameArray, FrameArray]]:
    """(pfns, mfns) of all `mfn` runs, expanded in batches."""
    runs = np.flatnonzero(mapping.kind == Kind.MFN)
    start, count, frame = mapping.start[runs], mapping.count[runs], mapping.frame[runs]
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    for a in range(0, total, BATCH):
        b = min(a + BATCH, total)
        i, j = int(np.searchsorted(ends, a, "right")), int(np.searchsorted(ends, b, "left"))
        part = slice(i, j + 1)
        skip = np.zeros(j + 1 - i, dtype=np.int64)
        skip[0] = a - (int(ends[i]) - int(count[i]))
        take = count[part] - skip
        take[-1] -= int(ends[j]) - b
        ramp = np.arange(b - a) - np.repeat(np.cumsum(take) - take, take)
        yield np.repeat(start[part] + skip, take) + ramp, np.repeat(frame[part] + skip, take) + ramp


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


def _other_frames(ctx: RuleContext, found: Findings) -> None:
    if not ctx.m2p.pieces():
        raise CannotCheck("the M2P cannot be read")
    end = max(first + len(words) for first, words in ctx.m2p.pieces())
    in_p2m = np.zeros(end, dtype=bool)
    for _pfns, mfns in own_frames(ctx.mapping):
        in_p2m[mfns[mfns < end]] = True
    for first, words in ctx.m2p.pieces():
        found.look(len(words))
        named = (words >> np.uint64(63) == 0) & ~in_p2m[first : first + len(words)]
        named &= words < np.uint64(ctx.own.limit)
        hits = np.flatnonzero(named)
        # What an unreadable entry holds is not known: it may well be this very frame.
        hits = hits[ctx.mapping.kinds_at(words[hits].astype(np.int64)) != Kind.UNREADABLE]
        if len(hits):
            mfn, pfn = first + int(hits[0]), int(words[hits[0]])
            found.add(
                {"mfn": mfn, "pfn": pfn, "count": len(hits)},
                "an owner's P2M entry, or an invalid M2P entry",
                f"M2P[{mfn:#x}] = {pfn:#x}",
                f"{len(hits):,} frames from MFN {mfn:#x} on name a PFN but are in no entry of this P2M: frames of "
                "other domains, or stale entries (who owns them is not known here)",
                count=len(hits),
            )
    if ctx.m2p.unread:
        found.could_not_read(f"{ctx.m2p.unread:,} entries of the M2P cannot be read")
    unread_pfns(ctx.mapping, found)


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
        "M2P-003",
        "M2P entries that name a PFN whose P2M entry is another frame",
        "note",
        "all",
        "documented-layout: M2P",
        "Frames of other domains name PFNs of theirs; a stale entry can name one of this domain. Worth knowing when "
        "a frame is searched.",
        _other_frames,
    ),
)
