"""Lanes of the page's strips: stretches of numbers with a kind, as arrays, in PFN space and in machine frames.

All comes from runs; no array here has an element per frame except Xen's M2P, which is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from gdb_p2m.commands.base import Context
from gdb_p2m.domain import Domain
from gdb_p2m.errors import P2mError
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.pictures.skeleton import skeleton_of
from gdb_p2m.structures.m2p import INVALID_M2P_ENTRY, SHARED_M2P_ENTRY, M2p
from gdb_p2m.units import GIB, FrameArray, KindArray, human_size
from gdb_p2m.views.base import View
from gdb_p2m.views.gstage import GstageView
from gdb_p2m.views.leaves import Backing
from gdb_p2m.views.registry import Views

MAX_SEARCHED = 4 * GIB
"""Memory that is searched for other guests, a few seconds."""
MAX_OWNERS = 12
"""Domains with a lane of their own by Xen's frame table, those with most frames first."""
MAX_STRETCHES = 60_000
"""Stretches of one lane: 1 MB of page. More are joined where they are closest, and the lane says so."""


class Mark(IntEnum):
    """Kinds of stretches that are no Kind; numbered behind them."""

    MIXED = 11
    M2P_AGREES = 12
    M2P_OTHER = 13
    M2P_INVALID = 14
    M2P_SHARED = 15
    P2M_PAGE = 16
    METADATA = 17
    OWNED = 18


@dataclass
class Lane:
    """One line of a strip. value: what the first number of a stretch leads to, -1 for nothing. note: what was joined."""

    name: str
    start: FrameArray
    count: FrameArray
    kind: KindArray
    value: FrameArray
    note: str = ""

    def json(self) -> dict[str, Any]:
        """For the page's script."""
        return {
            "name": self.name,
            "note": self.note,
            "start": self.start.tolist(),
            "count": self.count.tolist(),
            "kind": self.kind.tolist(),
            "value": self.value.tolist(),
        }


def of_mapping(name: str, mapping: Mapping) -> Lane:
    """The frame numbers of a P2M, by kind; holes stay holes."""
    lane = Lane(name, mapping.start, mapping.count, mapping.kind, mapping.frame)
    return bounded(lane)


def bounded(lane: Lane, limit: int = MAX_STRETCHES) -> Lane:
    """At most `limit` stretches: neighbours of one kind are joined, then those within ever larger blocks."""
    if len(lane.start) <= limit:
        return lane
    joined = _join(lane, lane.kind.astype(np.int64))
    note = "neighbouring runs of one kind are joined here"
    shift = 4
    while len(joined.start) > limit:
        shift += 2
        joined = _blocks(lane, shift)
        note = f"changes within {1 << shift:,} frame numbers are joined here and marked as several kinds"
    joined.note = note
    return joined


def _join(lane: Lane, key: npt.NDArray[np.int64]) -> Lane:
    """Neighbouring stretches with equal keys as one."""
    end = lane.start + lane.count
    new = (key[1:] != key[:-1]) | (end[:-1] != lane.start[1:])
    heads = np.concatenate(([0], np.flatnonzero(new) + 1))
    tails = np.concatenate((heads[1:] - 1, [len(key) - 1]))
    value = _value_of(lane, heads, tails)
    return Lane(lane.name, lane.start[heads], end[tails] - lane.start[heads], lane.kind[heads], value)


def _value_of(lane: Lane, heads: FrameArray, tails: FrameArray) -> FrameArray:
    """Values of joined stretches: of those that are still one. The rest leads to no single stretch of frames."""
    value: FrameArray = np.where(heads == tails, lane.value[heads], -1)
    return value


def _blocks(lane: Lane, shift: int) -> Lane:
    """Stretches that lie in one block of 1 << shift numbers are joined, as MIXED where kinds differ or there are holes."""
    first, last = lane.start >> shift, (lane.start + lane.count - 1) >> shift
    inside = first == last
    key = np.where(inside, first, -1 - np.arange(len(first)))
    new = np.concatenate(([True], key[1:] != key[:-1]))
    heads = np.flatnonzero(new)
    tails = np.concatenate((heads[1:] - 1, [len(key) - 1]))
    end = lane.start + lane.count
    low, high = np.minimum.reduceat(lane.kind, heads), np.maximum.reduceat(lane.kind, heads)
    count = end[tails] - lane.start[heads]
    whole = (low == high) & (np.add.reduceat(lane.count, heads) == count)
    kind = np.where(whole, low, np.uint8(Mark.MIXED)).astype(np.uint8)
    return Lane(lane.name, lane.start[heads], count, kind, _value_of(lane, heads, tails))


# -- machine frames -----------------------------------------------------------------------------------------


def by_frame(name: str, mapping: Mapping) -> Lane:
    """Machine frames that a P2M maps, in order of MFN; value: the first frame number (PFN, GFN) there.

    Frames that are mapped twice (granted, shared) are drawn once.
    """
    has = mapping.frame >= 0
    order = np.argsort(mapping.frame[has], kind="stable")
    start, count = mapping.frame[has][order], mapping.count[has][order]
    end = np.maximum.accumulate(start + count) if len(start) else start
    before = np.concatenate(([0], end[:-1])) if len(end) else end
    cut = np.maximum(before - start, 0)
    keep = cut < count
    kind, value = mapping.kind[has][order], mapping.start[has][order]
    lane = Lane(name, (start + cut)[keep], (count - cut)[keep], kind[keep], (value + cut)[keep])
    return bounded(lane)


def m2p_lane(ctx: Context, mapping: Mapping) -> Lane:
    """Xen's M2P: entries that this domain's P2M agrees with, that name another PFN, that are invalid or shared."""
    lanes = [_m2p_piece(first, words, mapping) for first, words in M2p(ctx.guest).pieces()]
    lanes = [p for p in lanes if len(p.start)]
    if not lanes:
        raise P2mError("no page of the M2P can be read")
    start, count, kind, value = (
        np.concatenate([getattr(p, f) for p in lanes]) for f in ("start", "count", "kind", "value")
    )
    # Pieces end where the table's pages do, which says nothing about frames: stretches go on across them.
    goes_on = (start[1:] == start[:-1] + count[:-1]) & (kind[1:] == kind[:-1])
    goes_on &= np.where(value[:-1] < 0, value[1:] < 0, value[1:] == value[:-1] + count[:-1])
    heads = np.concatenate(([0], np.flatnonzero(~goes_on) + 1))
    return bounded(Lane("M2P says", start[heads], np.add.reduceat(count, heads), kind[heads], value[heads]))


def _m2p_piece(first: int, words: npt.NDArray[np.uint64], mapping: Mapping) -> Lane:
    pfn = np.where(words >> np.uint64(63) == 0, words, np.uint64(1 << 62)).astype(np.int64)
    codes = np.full(len(words), Mark.M2P_OTHER, dtype=np.uint8)
    codes[words >> np.uint64(63) != 0] = Mark.M2P_INVALID
    codes[words == np.uint64(SHARED_M2P_ENTRY)] = Mark.M2P_SHARED
    codes[words == np.uint64(INVALID_M2P_ENTRY)] = Mark.M2P_INVALID
    run = np.searchsorted(mapping.start, pfn, side="right") - 1
    there = (run >= 0) & (mapping.kind[run] == Kind.MFN)
    frame = mapping.frame[run] + pfn - mapping.start[run]
    mfn = first + np.arange(len(words), dtype=np.int64)
    codes[there & (frame == mfn) & (pfn < (mapping.start + mapping.count)[run])] = Mark.M2P_AGREES
    named = (codes == Mark.M2P_AGREES) | (codes == Mark.M2P_OTHER)
    breaks = (codes[1:] != codes[:-1]) | (named[1:] & (pfn[1:] != pfn[:-1] + 1))
    heads = np.concatenate(([0], np.flatnonzero(breaks) + 1)) if len(words) else np.zeros(0, dtype=np.int64)
    count = np.diff(np.concatenate((heads, [len(words)])))
    return Lane("", mfn[heads], count, codes[heads], np.where(named, pfn, -1)[heads])


def own_pages(view: View) -> Lane:
    """Machine frames of the pages that the P2M itself is made of."""
    if isinstance(view, GstageView):
        tables, md = view.tree.all_mfns(), view.metadata.pages.mfn
        return _frames("pages of the P2M", [(tables, Mark.P2M_PAGE), (md[md >= 0], Mark.METADATA)])
    s = skeleton_of(view)
    leaves = s.frame[(s.backing == Backing.PRIVATE) & (s.frame >= 0)]
    top = [] if s.top_mfn is None else [s.top_mfn]
    pages = np.concatenate((leaves, s.mid[s.mid >= 0], np.array([*s.names, *top], dtype=np.int64)))
    return _frames("pages of the P2M", [(pages, Mark.P2M_PAGE)])


def _frames(name: str, sets: list[tuple[FrameArray, Mark]]) -> Lane:
    """Sets of frames as stretches; a frame of several sets belongs to the last."""
    mfn = np.concatenate([s for s, _ in sets])
    mark = np.concatenate([np.full(len(s), int(m), dtype=np.uint8) for s, m in sets])
    order = np.argsort(mfn, kind="stable")
    mfn, mark = mfn[order], mark[order]
    last = np.concatenate((mfn[1:] != mfn[:-1], [True])) if len(mfn) else np.zeros(0, dtype=bool)
    mfn, mark = mfn[last], mark[last]
    one = np.ones(len(mfn), dtype=np.int64)
    lane = Lane(name, mfn, one, mark, one * -1)
    return bounded(_join(lane, mark.astype(np.int64))) if len(mfn) else lane


def machine_lanes(ctx: Context, view: View, problems: list[str]) -> Iterator[Lane]:
    """Who has which machine frame. problems: what could not be shown, and why."""
    mapping = view.mapping()
    for domain in _domains(ctx, problems):
        same = domain is ctx.domain
        name = "a guest" if domain.id is None else f"domain {domain.id}"
        try:
            yield by_frame(name, mapping if same else _mapping_of(domain, ctx))
        except P2mError as e:
            problems.append(f"{name}: {e.message}")
    try:
        yield own_pages(view)
    except P2mError as e:
        problems.append(f"pages of the P2M: {e.message}")
    if ctx.domain.kind != "pv":
        return
    try:
        yield m2p_lane(ctx, mapping)
    except P2mError as e:
        problems.append(f"M2P: {e.message}")
    try:
        yield from owner_lanes(ctx, problems)
    except P2mError as e:
        problems.append(f"owners by Xen's frame table: {e.message}")


def owner_lanes(ctx: Context, problems: list[str]) -> Iterator[Lane]:
    """Whom Xen's own records (struct page_info) give each frame to. Raises P2mError without a frame table."""
    xen = ctx.target.hypervisor
    survey = xen.frames.survey
    owners, which = np.unique(survey.owner, return_inverse=True)
    frames = np.bincount(which, weights=survey.count, minlength=len(owners))
    known = [i for i in np.argsort(-frames, kind="stable").tolist() if owners[i] > 0]
    for i in known[:MAX_OWNERS]:
        mine = which == i
        start, count = survey.start[mine], survey.count[mine]
        kind = np.full(len(start), int(Mark.OWNED), dtype=np.uint8)
        yield bounded(Lane(f"Xen: {xen.domain_name(int(owners[i]))}", start, count, kind, start * 0 - 1))
    if len(known) > MAX_OWNERS:
        problems.append(f"{len(known) - MAX_OWNERS} domains with fewer frames have no lane")


def _domains(ctx: Context, problems: list[str]) -> list[Domain]:
    """Domains with a P2M. Without Xen's frame table finding the others means reading all memory: only when it is small."""
    target = ctx.target
    if target.is_riscv:
        return target.domains
    held = sum(e.end - e.start for e in target.source.extents())
    try:
        _ = target.hypervisor
    except P2mError:
        if held > MAX_SEARCHED:
            problems.append(
                f"other domains: not searched for in {human_size(held)} without Xen's frame table (`domains` does)"
            )
            return [ctx.domain]
    return target.domains


def _mapping_of(domain: Domain, ctx: Context) -> Mapping:
    return Views(domain, ctx.progress).own().mapping()
