"""PieceMap against a plain array, and frames: a bijection whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdb_p2m.layout.x86_pv import WIDTH_32, WIDTH_64, EntryWidth
from gdb_p2m.model.frames import FrameRange, Frames, Pool, Scatter
from gdb_p2m.model.pieces import MIXED, Fate, PieceMap

LIMIT = 4096
POOL = Pool([FrameRange(0x100, 0x900), FrameRange(0x2000, 0x2900)])


def frames(order: str) -> Frames:
    return Frames(POOL, LIMIT, order, 0, 11)  # type: ignore[arg-type]


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[int, int, Fate, int]]:
    out = []
    for _ in range(draw(st.integers(0, 12))):
        start = draw(st.integers(0, LIMIT - 1))
        count = draw(st.one_of(st.integers(1, 8), st.integers(1, LIMIT)))
        fate = draw(st.sampled_from(list(Fate)))
        base = {Fate.MFN: draw(st.integers(0, LIMIT - 1)), Fate.FOREIGN: 0x5000}.get(fate, -1)
        if fate is Fate.MFN:
            count = min(count, LIMIT - base)
        out.append((start, start + count, fate, base))
    return out


def as_array(todo: list[tuple[int, int, Fate, int]], f: Frames, width: EntryWidth) -> np.ndarray:
    """The same steps on an array with an element per PFN."""
    want = np.full(LIMIT, width.invalid, dtype=np.uint64)
    for start, end, fate, base in todo:
        n = min(end, LIMIT) - start
        pfns = np.arange(start, start + n, dtype=np.uint64)
        want[start : start + n] = {
            Fate.MISSING: lambda n=n: np.full(n, width.invalid, dtype=np.uint64),
            Fate.IDENTITY: lambda pfns=pfns: pfns | np.uint64(width.identity_bit),
            Fate.FOREIGN: lambda n=n, base=base: (
                np.arange(base, base + n, dtype=np.uint64) | np.uint64(width.foreign_bit)
            ),
            Fate.MFN: lambda n=n, base=base: f.mfns(base, base + n).astype(np.uint64),
        }[fate]()
    return want


@settings(max_examples=100)
@given(steps(), st.sampled_from(["contiguous", "reversed", "scattered"]), st.sampled_from([WIDTH_64, WIDTH_32]))
def test_pieces_are_what_an_array_would_be(
    todo: list[tuple[int, int, Fate, int]], order: str, width: EntryWidth
) -> None:
    f = frames(order)
    p2m = PieceMap(LIMIT)
    for step in todo:
        p2m.set(*step)
    want = as_array(todo, f, width)
    assert np.array_equal(p2m.entries(0, LIMIT, f, width), want)
    assert np.array_equal(p2m.entries(17, 1999, f, width), want[17:1999])
    start, count, kind, frame = p2m.runs(LIMIT, f)
    assert int(count.sum()) == LIMIT and np.array_equal(start[1:], (start + count)[:-1])
    same = kind[1:] == kind[:-1]
    framed = frame[1:] >= 0
    assert not (same & ~framed).any() and not (same & framed & (frame[1:] == (frame + count)[:-1])).any()
    check_uniform(p2m, want, width)


def check_uniform(p2m: PieceMap, want: np.ndarray, width: EntryWidth) -> None:
    """uniform() says missing or identity exactly for pages that are wholly that."""
    pages = want.reshape(-1, 512)
    pfns = np.arange(LIMIT, dtype=np.uint64).reshape(-1, 512)
    missing = (pages == np.uint64(width.invalid)).all(axis=1)
    identity = (pages == (pfns | np.uint64(width.identity_bit))).all(axis=1)
    expect = np.where(missing, Fate.MISSING, np.where(identity, Fate.IDENTITY, MIXED))
    assert np.array_equal(p2m.uniform(len(pages), 512), expect)


def test_setting_past_the_limit_is_cut() -> None:
    p2m = PieceMap(100)
    p2m.set(90, 1000, Fate.IDENTITY)
    assert p2m.ranges(Fate.IDENTITY) == [(90, 100)] and p2m.ranges(Fate.MISSING) == [(0, 90)]
    p2m.set(200, 300, Fate.IDENTITY)
    assert p2m.at(99).fate is Fate.IDENTITY


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100, 4095, 4096, 4097, 100_003])
def test_scatter_is_a_bijection(size: int) -> None:
    scatter = Scatter(size, 42)
    index = np.arange(size, dtype=np.int64)
    out = scatter.forward(index)
    assert np.array_equal(np.sort(out), index)
    assert np.array_equal(scatter.backward(out), index)


def test_scatter_leaves_hardly_any_neighbours_together() -> None:
    out = Scatter(1 << 16, 1).forward(np.arange(1 << 16, dtype=np.int64))
    assert np.count_nonzero(np.diff(out) == 1) < 16
    assert len(np.unique(np.diff(out))) > 10_000


def test_the_same_seed_gives_the_same_frames() -> None:
    index = np.arange(1000, dtype=np.int64)
    assert np.array_equal(Scatter(5000, 3).forward(index), Scatter(5000, 3).forward(index))
    assert not np.array_equal(Scatter(5000, 3).forward(index), Scatter(5000, 4).forward(index))


@pytest.mark.parametrize("order", ["contiguous", "reversed", "scattered"])
def test_owners_are_the_inverse_of_frames(order: str) -> None:
    f = Frames(POOL, 4000, order, 96 if order == "contiguous" else 0, 5)  # type: ignore[arg-type]
    mfns = f.mfns(0, 4000)
    assert len(np.unique(mfns)) == 4000
    assert np.array_equal(f.owners(mfns), np.arange(4000))
    every = np.arange(0, 0x3000, dtype=np.int64)
    assert np.count_nonzero(f.owners(every) >= 0) == 4000
    assert set(every[f.owners(every) >= 0].tolist()) == set(mfns.tolist())


def test_stretches_break_where_ram_breaks() -> None:
    f = frames("contiguous")
    at, first = f.stretches(0x700, 0x900)
    assert at.tolist() == [0x700, 0x800] and first.tolist() == [0x800, 0x2000]
