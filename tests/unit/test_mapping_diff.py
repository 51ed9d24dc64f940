"""The difference of two mappings: the same as comparing every PFN, but on runs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gdb_p2m.mapping import Kind, Mapping, MappingBuilder
from gdb_p2m.mapping_diff import Change, FrameTotals, diff, frame_totals

LIMIT = 40
LINUX = [Kind.MFN, Kind.FOREIGN, Kind.IDENTITY, Kind.MISSING, Kind.UNREADABLE, Kind.CORRUPT]
UNKNOWN = (Kind.UNREADABLE, Kind.CORRUPT)


def built(*runs: tuple[int, int, Kind, int], limit: int = 1000, order: int | None = None) -> Mapping:
    builder = MappingBuilder("test", limit, ordered=order is not None)
    for start, count, kind, frame in runs:
        builder.add(start, count, kind, frame, order)
    return builder.build()


@st.composite
def mappings(draw: st.DrawFn) -> Mapping:
    builder = MappingBuilder("test", LIMIT)
    at = 0
    while at < LIMIT:
        count = draw(st.integers(1, LIMIT - at))
        builder.add(at, count, draw(st.sampled_from(LINUX)), draw(st.integers(0, 60)))
        at += count
    return builder.build()


def one(kinds: tuple[Kind, Kind], frames: tuple[int, int]) -> Change:
    """What happened to one PFN, in the plainest words."""
    a, b = kinds
    if a in UNKNOWN or b in UNKNOWN:
        return Change.UNKNOWN
    if a == b:
        if frames == (-1, -1):
            return Change.SAME
        return Change.KEPT if frames[0] == frames[1] else Change.MOVED
    if b is Kind.MISSING and a in (Kind.MFN, Kind.FOREIGN):
        return Change.GONE
    if a is Kind.MISSING and b in (Kind.MFN, Kind.FOREIGN):
        return Change.NEW
    return Change.KIND


@given(mappings(), mappings())
def test_every_pfn_has_the_change_that_comparing_it_alone_gives(a: Mapping, b: Mapping) -> None:
    (kinds_a, frames_a), (kinds_b, frames_b) = a.expand(0, LIMIT), b.expand(0, LIMIT)
    got = np.full(LIMIT, -1)
    for r in diff(a, b):
        got[r.start : r.end] = r.change
        for i, n in enumerate(range(r.start, r.end)):
            assert r.kinds == (Kind(int(kinds_a[n])), Kind(int(kinds_b[n])))
            for frame, all_frames in zip(r.frames, (frames_a, frames_b), strict=True):
                assert (-1 if frame is None else frame + i) == all_frames[n]
    expected = [
        one((Kind(int(kinds_a[n])), Kind(int(kinds_b[n]))), (int(frames_a[n]), int(frames_b[n]))) for n in range(LIMIT)
    ]
    assert got.tolist() == expected


@given(mappings(), mappings())
def test_runs_are_maximal_and_cover_everything_once(a: Mapping, b: Mapping) -> None:
    d = diff(a, b)
    assert int(d.start[0]) == 0 and int(d.count.sum()) == LIMIT
    assert (d.start[:-1] + d.count[:-1] == d.start[1:]).all()
    for x, y in zip(list(d), list(d)[1:], strict=False):
        goes_on = [f is None or f + x.count == g for f, g in zip(x.frames, y.frames, strict=True)]
        assert (x.change, x.kinds) != (y.change, y.kinds) or not all(goes_on)


@given(mappings(), mappings())
def test_the_reverse_swaps_gone_and_new_and_nothing_else(a: Mapping, b: Mapping) -> None:
    there, back = diff(a, b).totals(), diff(b, a).totals()
    swapped = {Change.GONE: Change.NEW, Change.NEW: Change.GONE}
    assert there == {c: back[swapped.get(c, c)] for c in Change}


@given(mappings(), mappings())
def test_frames_are_counted_as_sets(a: Mapping, b: Mapping) -> None:
    mine, theirs = ({int(f) for f in m.expand(0, LIMIT)[1] if f >= 0} for m in (a, b))
    assert frame_totals(a, b) == FrameTotals(len(mine & theirs), len(mine - theirs), len(theirs - mine))


@settings(max_examples=50)
@given(mappings(), mappings(), st.integers(0, LIMIT - 1), st.integers(1, LIMIT))
def test_a_range_is_cut_out_of_the_whole(a: Mapping, b: Mapping, start: int, count: int) -> None:
    end = min(start + count, LIMIT)
    part = diff(a, b, start, end)
    assert int(part.count.sum()) == end - start
    whole = {n: r.change for r in diff(a, b) for n in range(r.start, r.end)}
    assert all(whole[n] is r.change for r in part for n in range(r.start, r.end))


def test_a_mapping_does_not_differ_from_itself() -> None:
    m = built((0, 5, Kind.MFN, 7), (5, 5, Kind.MISSING, -1), (10, 990, Kind.IDENTITY, -1))
    assert [(r.change.word, r.count) for r in diff(m, m)] == [("kept", 5), ("same", 5), ("same", 990)]


def test_what_is_unreadable_on_both_sides_is_not_called_kept() -> None:
    m = built((0, 5, Kind.UNREADABLE, -1), limit=5)
    assert [r.change for r in diff(m, m)] == [Change.UNKNOWN]


def test_past_a_limit_only_frames_are_news() -> None:
    short = built((0, 10, Kind.MFN, 0), limit=10)
    long = built((0, 10, Kind.MFN, 0), (10, 5, Kind.MFN, 50), (15, 5, Kind.MISSING, -1), limit=20)
    assert [(r.start, r.change) for r in diff(short, long)] == [(0, Change.KEPT), (10, Change.NEW), (15, Change.SAME)]
    assert [(r.start, r.change) for r in diff(long, short)] == [(0, Change.KEPT), (10, Change.GONE), (15, Change.SAME)]


def test_a_superpage_that_was_split_keeps_its_frames() -> None:
    large = built((0, 512, Kind.RAM_RW, 0x80000), limit=1024, order=9)
    small = built((0, 512, Kind.RAM_RW, 0x80000), limit=1024, order=0)
    d = diff(large, small)
    assert [(r.start, r.count, r.change, r.orders) for r in d] == [
        (0, 512, Change.ORDER, (9, 0)),
        (512, 512, Change.SAME, (None, None)),
    ]
    assert frame_totals(large, small) == FrameTotals(512, 0, 0)


def test_nothing_at_all_can_be_compared() -> None:
    empty = built(limit=0)
    assert len(diff(empty, empty)) == 0 and diff(empty, empty).folded() == []
    assert frame_totals(empty, empty) == FrameTotals(0, 0, 0)


def test_cost_follows_runs_not_pfns() -> None:
    huge = built((0, 1 << 50, Kind.MISSING, -1), limit=1 << 50)
    full = built((0, 1 << 49, Kind.MFN, 3), (1 << 49, 1 << 49, Kind.IDENTITY, -1), limit=1 << 50)
    assert [(r.count, r.change) for r in diff(huge, full)] == [(1 << 49, Change.NEW), (1 << 49, Change.KIND)]
