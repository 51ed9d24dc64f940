"""Runs of entries against the decoder of single entries: they must say the same of every PFN."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gdb_p2m.layout.x86_pv import WIDTH_32, WIDTH_64, EntryWidth
from gdb_p2m.mapping import Kind, MappingBuilder
from gdb_p2m.spaces.words import MAX_MFN_BITS
from gdb_p2m.views.entry_runs import classify_entry, entry_runs

WIDTHS = st.sampled_from([WIDTH_64, WIDTH_32])


def edges(width: EntryWidth) -> list[int]:
    """Values next to everything that a decoder can trip over."""
    points = [0, 1 << MAX_MFN_BITS, width.identity_bit, width.foreign_bit, width.foreign_bit | width.identity_bit]
    points += [width.identity_bit | 1 << MAX_MFN_BITS, width.foreign_bit | 1 << MAX_MFN_BITS, width.invalid]
    near = {p + d for p in points for d in (-3, -2, -1, 0, 1, 2)}
    return sorted(v & width.invalid for v in near)


@st.composite
def stretches(draw: st.DrawFn) -> tuple[EntryWidth, int, list[int]]:
    """A width, the first PFN and entries made of stretches as real and as hostile memory has them."""
    width = draw(WIDTHS)
    first = draw(st.sampled_from([0, 1, 511, 512, 0x9F, 0x7FFFE00, (1 << 30) - 64]))
    entries: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        count = draw(st.integers(1, 20))
        pfn = first + len(entries)
        start = draw(
            st.one_of(
                st.sampled_from(edges(width)),
                st.integers(0, width.invalid),
                st.just(width.identity_bit | pfn),
                st.just(width.identity_bit | (pfn + 1)),
                st.just(width.foreign_bit | pfn),
                st.just(pfn),
            )
        )
        step = draw(st.sampled_from([1, 1, 1, 0, 2, -1]))
        entries += [(start + i * step) & width.invalid for i in range(count)]
    return width, first, entries


def expand(runs: tuple[np.ndarray, ...]) -> list[tuple[Kind, int | None]]:
    """Every PFN's answer out of runs, in order."""
    out: list[tuple[Kind, int | None]] = []
    for _start, count, kind, frame in zip(*(part.tolist() for part in runs), strict=True):
        with_frame = Kind(kind).has_frame
        out += [(Kind(kind), frame + i if with_frame else None) for i in range(count)]
    return out


@given(stretches())
@settings(max_examples=400, deadline=None)
@example((WIDTH_64, 0, [(1 << 40) - 2, (1 << 40) - 1, 1 << 40, (1 << 40) + 1]))
@example((WIDTH_64, 0, [WIDTH_64.foreign_bit | (1 << 40) - 1, WIDTH_64.foreign_bit | 1 << 40]))
@example((WIDTH_64, 5, [WIDTH_64.invalid - 1, WIDTH_64.invalid, WIDTH_64.invalid, 0, 1, 2]))
@example((WIDTH_32, 5, [WIDTH_32.invalid - 1, WIDTH_32.invalid, WIDTH_32.invalid, 0, 1, 2]))
@example((WIDTH_32, 0, [WIDTH_32.identity_bit - 1, WIDTH_32.identity_bit, WIDTH_32.identity_bit + 1]))
@example((WIDTH_64, 0, [WIDTH_64.identity_bit - 1, WIDTH_64.identity_bit, WIDTH_64.identity_bit + 1]))
def test_runs_say_what_the_single_entries_say(case: tuple[EntryWidth, int, list[int]]) -> None:
    width, first, entries = case
    runs = entry_runs(np.array(entries, dtype=np.uint64), first, width)
    single = [classify_entry(raw, first + i, width)[:2] for i, raw in enumerate(entries)]
    assert expand(runs) == single


@given(stretches())
@settings(max_examples=100, deadline=None)
def test_runs_cover_every_pfn_once_and_in_order(case: tuple[EntryWidth, int, list[int]]) -> None:
    width, first, entries = case
    start, count, _kind, frame = entry_runs(np.array(entries, dtype=np.uint64), first, width)
    assert start[0] == first and (count > 0).all()
    assert (start[1:] == start[:-1] + count[:-1]).all()
    assert start[-1] + count[-1] == first + len(entries)
    assert (frame < 1 << MAX_MFN_BITS).all() and (frame >= -1).all()


@given(stretches())
@settings(max_examples=100, deadline=None)
def test_a_mapping_of_runs_is_maximal(case: tuple[EntryWidth, int, list[int]]) -> None:
    width, first, entries = case
    builder = MappingBuilder("test", first + len(entries))
    builder.add_runs(*entry_runs(np.array(entries, dtype=np.uint64), first, width))
    runs = list(builder.build())
    for a, b in zip(runs, runs[1:], strict=False):
        assert (a.kind, None if a.frame is None else a.frame + a.count) != (b.kind, b.frame)


@given(WIDTHS, st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 33))
def test_one_entry_is_never_a_frame_and_corrupt_at_once(width: EntryWidth, raw: int, pfn: int) -> None:
    kind, frame, reason = classify_entry(raw & width.invalid, pfn, width)
    assert (frame is not None) == (kind in (Kind.MFN, Kind.FOREIGN))
    assert bool(reason) == (kind is Kind.CORRUPT)
    assert frame is None or frame >> MAX_MFN_BITS == 0
