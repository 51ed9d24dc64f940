"""Mapping and its builder: joins, cuts, look-ups both ways; frame 0 is a frame like any other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdb_p2m import mapping as mapping_module
from gdb_p2m.errors import NotUnderstood
from gdb_p2m.mapping import KIND_BY_WORD, Kind, Mapping, MappingBuilder, Run
from support.machine import covers_without_gaps

LINUX = [Kind.MFN, Kind.FOREIGN, Kind.IDENTITY, Kind.MISSING, Kind.UNREADABLE, Kind.CORRUPT]


def built(*runs: tuple[int, int, Kind, int], limit: int = 1000) -> Mapping:
    builder = MappingBuilder("test", limit)
    for start, count, kind, frame in runs:
        builder.add(start, count, kind, frame)
    return builder.build()


def test_neighbours_of_one_kind_are_joined() -> None:
    m = built((0, 10, Kind.MISSING, -1), (10, 5, Kind.MISSING, -1), (15, 5, Kind.IDENTITY, -1))
    assert list(m) == [Run(0, 15, Kind.MISSING, None), Run(15, 5, Kind.IDENTITY, None)]


def test_frames_are_joined_only_where_they_continue() -> None:
    m = built((0, 4, Kind.MFN, 100), (4, 4, Kind.MFN, 104), (8, 4, Kind.MFN, 107), (12, 4, Kind.FOREIGN, 111))
    assert [(r.start, r.count, r.frame) for r in m] == [(0, 8, 100), (8, 4, 107), (12, 4, 111)]


def test_a_hole_is_not_joined_over() -> None:
    assert len(built((0, 4, Kind.MISSING, -1), (5, 4, Kind.MISSING, -1))) == 2


def test_parts_may_come_in_any_order() -> None:
    m = built((8, 4, Kind.MFN, 108), (0, 8, Kind.MFN, 100))
    assert list(m) == [Run(0, 12, Kind.MFN, 100)]


def test_nothing_gives_an_empty_mapping() -> None:
    m = built()
    assert len(m) == 0 and m.lookup(0) is None and m.reverse(0) == [] and m.totals() == {}
    assert len(built((5, 0, Kind.MFN, 1))) == 0


def test_orders_keep_runs_apart() -> None:
    builder = MappingBuilder("gstage", 1 << 20, ordered=True)
    builder.add(0, 512, Kind.RAM_RW, 0x80000, order=9)
    builder.add(512, 512, Kind.RAM_RW, 0x80200, order=9)
    builder.add(1024, 1, Kind.RAM_RW, 0x80400, order=0)
    assert [(r.start, r.count, r.order) for r in builder.build()] == [(0, 1024, 9), (1024, 1, 0)]


def test_frame_0_is_found_both_ways() -> None:
    m = built((0, 5, Kind.MFN, 0), (5, 5, Kind.MISSING, -1))
    assert m.lookup(0) == Run(0, 1, Kind.MFN, 0)
    assert m.lookup(4) == Run(4, 1, Kind.MFN, 4)
    assert m.reverse(0) == [Run(0, 1, Kind.MFN, 0)]
    assert m.reverse(5) == []


def test_identity_is_found_by_its_frame_missing_never() -> None:
    m = built((0, 5, Kind.MISSING, -1), (5, 5, Kind.IDENTITY, -1), (10, 5, Kind.FOREIGN, 6))
    assert m.reverse(6) == [Run(6, 1, Kind.IDENTITY, None), Run(10, 1, Kind.FOREIGN, 6)]
    assert m.reverse(1) == []


def test_numbers_that_no_array_holds() -> None:
    m = built((0, 5, Kind.MFN, 7))
    assert m.reverse(1 << 80) == [] and m.lookup(999) is None and m.lookup(-1) is None


def test_lookup_at_edges_and_in_holes() -> None:
    m = built((2, 3, Kind.MFN, 100), (7, 1, Kind.IDENTITY, -1))
    assert [m.lookup(n) is not None for n in range(9)] == [False, False, True, True, True, False, False, True, False]
    assert m.kinds_at(np.arange(9)).tolist() == [10, 10, 0, 0, 0, 10, 10, 2, 10]


@st.composite
def mappings(draw: st.DrawFn) -> Mapping:
    """Gapless mappings of a few runs."""
    builder, at = MappingBuilder("test", 0), 0
    for _ in range(draw(st.integers(1, 12))):
        count = draw(st.integers(1, 40))
        kind = draw(st.sampled_from(LINUX))
        builder.add(at, count, kind, draw(st.integers(0, 60)))
        at += count
    builder.limit = at
    return builder.build()


@settings(max_examples=40)
@given(mappings())
def test_built_runs_are_maximal_and_cover(m: Mapping) -> None:
    covers_without_gaps(m)
    assert sum(m.totals().values()) == m.limit


@settings(max_examples=40)
@given(mappings(), st.data())
def test_a_clip_is_the_same_answers_in_a_window(m: Mapping, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, m.limit))
    end = data.draw(st.integers(start, m.limit + 5))
    part = m.clip(start, end)
    for n in range(m.limit):
        assert part.lookup(n) == (m.lookup(n) if start <= n < end else None)


@settings(max_examples=40)
@given(mappings())
def test_expand_is_lookup_for_all(m: Mapping) -> None:
    kinds, frames = m.expand(0, m.limit)
    for n in range(m.limit):
        run = m.lookup(n)
        assert run is not None and kinds[n] == run.kind
        assert frames[n] == (-1 if run.frame is None else run.frame)
    assert np.array_equal(m.kinds_at(np.arange(m.limit)), kinds)


@settings(max_examples=40)
@given(mappings(), st.integers(0, 120))
def test_reverse_is_a_search_over_all_lookups(m: Mapping, mfn: int) -> None:
    expected = []
    for n in range(m.limit):
        run = m.lookup(n)
        assert run is not None
        if run.frame == mfn or (run.kind is Kind.IDENTITY and n == mfn):
            expected.append(run)
    assert m.reverse(mfn) == expected


@settings(max_examples=40)
@given(mappings(), st.sets(st.sampled_from(LINUX)))
def test_only_keeps_the_chosen_kinds(m: Mapping, kinds: set[Kind]) -> None:
    assert m.only(kinds).totals() == {k: n for k, n in m.totals().items() if k in kinds}


def test_more_runs_than_memory_should_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping_module, "MAX_RUNS", 10)
    builder = MappingBuilder("linear", 100)
    one = np.arange(6, dtype=np.int64)
    builder.add_runs(one, one + 1, np.zeros(6, np.uint8), one)
    with pytest.raises(NotUnderstood, match="linear"):
        builder.add_runs(one, one + 1, np.zeros(6, np.uint8), one)


def test_words_of_kinds_are_those_of_the_interface() -> None:
    assert [k.word for k in LINUX] == ["mfn", "foreign", "identity", "missing", "unreadable", "corrupt"]
    assert {k for k in Kind if k.has_frame} == {
        KIND_BY_WORD[w] for w in ("mfn", "foreign", "ram_rw", "mmio_direct_io", "map_foreign_rw", "map_foreign_ro")
    }
