"""Views side by side: counts equal those of a comparison PFN by PFN, and listings stay bounded."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gdb_p2m.mapping import Kind, Mapping, MappingBuilder, batches
from gdb_p2m.views import comparison
from gdb_p2m.views.comparison import Comparison, compare_map, compare_owner
from gdb_p2m.views.leaves import Backing

PER_PAGE, PAGES = 4, 6
LIMIT = PER_PAGE * PAGES + 5  # the last PFNs lie past the list
KINDS = (Kind.MFN, Kind.FOREIGN, Kind.IDENTITY, Kind.MISSING, Kind.UNREADABLE, Kind.CORRUPT)


class Slots:
    """The part of a view that says how identity is stored."""

    def __init__(self, backing: list[Backing]) -> None:
        self.backing = np.array(backing, dtype=np.uint8)

    def leaf_slots(self):  # type: ignore[no-untyped-def]
        return self.backing, np.full(len(self.backing), -1, dtype=np.int64)


def mapping(view: str, entries: list[tuple[Kind, int]]) -> Mapping:
    builder = MappingBuilder(view, len(entries))
    for pfn, (kind, frame) in enumerate(entries):
        builder.add(pfn, 1, kind, frame)
    return builder.build()


entry = st.tuples(st.sampled_from(KINDS), st.integers(0, 5))
entries = st.lists(entry, min_size=LIMIT, max_size=LIMIT)
backings = st.lists(st.sampled_from(list(Backing)), min_size=PAGES, max_size=PAGES)


def same(one: tuple[Kind, int], two: tuple[Kind, int], by_page: bool, other: str) -> bool | None:
    """What the documents say of one PFN; None: it cannot be told."""
    if Kind.UNREADABLE in (one[0], two[0]) or one[0] is two[0] is Kind.CORRUPT:
        return None
    if other == "core-table" and one[0] is Kind.CORRUPT and two[0] is Kind.MISSING:
        return None
    if other == "core-table" and one[0] is not Kind.MFN:
        return two[0] is Kind.MISSING or (one[0] is two[0] and (not one[0].has_frame or one[1] == two[1]))
    if one[0] is Kind.IDENTITY and two[0] is Kind.MISSING:
        return by_page
    return one[0] is two[0] and (not one[0].has_frame or one[1] == two[1])


@given(entries, entries, backings, st.sampled_from(["list-list", "core-table"]))
def test_run_by_run_is_the_same_as_pfn_by_pfn(own, theirs, backing, name) -> None:  # type: ignore[no-untyped-def]
    result = Comparison(mapping("linear", own))
    compare_map(result, mapping(name, theirs), Slots(backing), PER_PAGE)  # type: ignore[arg-type]
    expected = []
    for pfn, pair in enumerate(zip(own, theirs, strict=True)):
        page = pfn // PER_PAGE
        by_page = page >= PAGES or backing[page] is Backing.IDENTITY
        expected.append(same(*pair, by_page, name))
    (compared,) = result.views
    assert (compared.agree, compared.disagree, compared.unknown) == tuple(map(expected.count, (True, False, None)))
    listed = {p for d in result.found for p in range(d.start, d.start + d.count)}
    assert listed == {p for p, ok in enumerate(expected) if ok is False}
    assert (result.disagreeing, result.agreeing) == (expected.count(False), expected.count(True))


class Owners:
    """A frame table: the owner of each frame, or None where its record cannot be read."""

    def __init__(self, owner: list[int | None]) -> None:
        self.owner = owner

    def owners(self, mfns):  # type: ignore[no-untyped-def]
        found = [self.owner[m] for m in mfns.tolist()]
        return np.array([0 if o is None else o for o in found], dtype=np.int64), np.array([o is not None for o in found])


@given(entries, st.lists(st.sampled_from([None, 0, 7, 8]), min_size=6, max_size=6))
def test_owners_are_asked_for_own_frames_only(own, owner) -> None:  # type: ignore[no-untyped-def]
    result = Comparison(mapping("linear", own))
    compare_owner(result, Owners(owner), 7, {8: "d8"})  # type: ignore[arg-type]
    frames = [owner[frame] for kind, frame in own if kind is Kind.MFN]
    (compared,) = result.views
    bad = sum(o is not None and o != 7 for o in frames)
    assert (compared.agree, compared.disagree, compared.unknown) == (frames.count(7), bad, frames.count(None))
    assert result.disagreeing == bad == sum(d.count for d in result.found)
    assert {d.says["owner"] for d in result.found} <= {"d8", "nobody"}


def test_what_several_views_contradict_counts_once() -> None:
    own = [(Kind.MFN, n) for n in range(6)]
    result = Comparison(mapping("linear", own))
    compare_owner(result, Owners([7, 8, 8, 7, 7, None]), 7, {})  # type: ignore[arg-type]
    other = [(Kind.MISSING, 0) if n in (2, 3) else e for n, e in enumerate(own)]
    compare_map(result, mapping("list-list", other), Slots([Backing.PRIVATE]), 8)  # type: ignore[arg-type]
    assert (result.disagreeing, result.agreeing, result.runs) == (3, 2, 2)


def test_listings_are_bounded_and_the_rest_is_counted(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(comparison, "MAX_LISTED", 3)
    own = [(Kind.MFN, n) for n in range(10)]
    other = [(Kind.MISSING, 0) if n % 2 else e for n, e in enumerate(own)]
    result = Comparison(mapping("linear", own))
    compare_map(result, mapping("list-list", other), Slots([Backing.PRIVATE]), 16)  # type: ignore[arg-type]
    assert (len(result.found), result.runs, result.disagreeing) == (3, 5, 5)


def test_batches_expand_runs_in_steps() -> None:
    start, count, frame = (np.array(x, dtype=np.int64) for x in ([10, 20, 30], [3, 1, 6], [100, 7, 50]))
    got = [(p, m) for ps, ms in batches(start, count, frame, 4) for p, m in zip(ps.tolist(), ms.tolist(), strict=True)]
    assert got == [(10, 100), (11, 101), (12, 102), (20, 7), *((30 + i, 50 + i) for i in range(6))]
    assert all(len(p) <= 4 for p, _ in batches(start, count, frame, 4))
    assert list(batches(start[:0], count[:0], frame[:0])) == []


def test_what_the_guests_own_view_cannot_tell_agrees_with_nothing() -> None:
    own = mapping("linear", [(Kind.MFN, 1), (Kind.UNREADABLE, 0), (Kind.CORRUPT, 0), (Kind.MISSING, 0)])
    assert (Comparison(own).agreeing, Comparison(own).disagreeing) == (2, 0), "also when no other view was asked"


def test_pfns_past_the_other_views_end_are_not_known() -> None:
    own = mapping("linear", [(Kind.MISSING, 0)] * 8)
    result = Comparison(own)
    compare_map(result, mapping("list-list", [(Kind.MISSING, 0)] * 4), Slots([Backing.PRIVATE] * 2), PER_PAGE)  # type: ignore[arg-type]
    assert (result.agreeing, result.views[0].unknown) == (4, 4)
