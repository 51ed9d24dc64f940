"""Bitmaps: membership, ranks and stretches against a loop over bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdb_p2m.sources import kdump_bitmap
from gdb_p2m.sources.kdump_bitmap import Bitmap, contradicts
from gdb_p2m.units import PAGE_SHIFT

Bits = npt.NDArray[np.uint8]


@st.composite
def bits(draw: st.DrawFn) -> Bits:
    """Stretches of equal bits and noise, of lengths around the edges of bytes and blocks."""
    parts = []
    for _ in range(draw(st.integers(1, 6))):
        length = draw(st.one_of(st.integers(1, 20), st.sampled_from([63, 64, 65, 511, 512, 513, 4097])))
        kind = draw(st.sampled_from(["zeros", "ones", "noise"]))
        if kind == "noise":
            parts.append(np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2, length).astype(np.uint8))
        else:
            parts.append(np.full(length, kind == "ones", dtype=np.uint8))
    return np.concatenate(parts)


def bitmap(values: Bits, slack: int = 0) -> Bitmap:
    """The bitmap, with `slack` bytes of ones behind it, as the rest of a block may have."""
    data = np.packbits(values, bitorder="little")
    if len(values) % 8:
        data[-1] |= 0xFF << len(values) % 8 & 0xFF
    return Bitmap(np.concatenate((data, np.full(slack, 0xFF, dtype=np.uint8))), len(values))


@given(bits(), st.integers(0, 3))
def test_membership_ranks_and_extents_are_those_of_the_bits(values: Bits, slack: int) -> None:
    b = bitmap(values, slack)
    below = np.concatenate(([0], np.cumsum(values)))
    frames = np.arange(len(values) + 1)
    assert b.total == below[-1]
    assert np.array_equal(b.ranks(frames), below)
    assert [b.rank(int(f)) for f in frames[:: 1 + len(frames) // 50]] == below[:: 1 + len(frames) // 50].tolist()
    around = np.arange(-5, len(values) + 5)
    inside = (around >= 0) & (around < len(values))
    assert np.array_equal(b.has_each(around), inside & (values[np.clip(around, 0, len(values) - 1)] == 1))
    assert [b.has(int(f)) for f in around] == b.has_each(around).tolist()
    rebuilt = np.zeros(len(values), dtype=np.uint8)
    for e in b.extents():
        rebuilt[e.start >> PAGE_SHIFT : e.end >> PAGE_SHIFT] += 1
    assert np.array_equal(rebuilt, values)


@given(bits(), st.integers(0, 99))
def test_ranks_of_frames_in_any_order_with_repetitions(values: Bits, seed: int) -> None:
    rng = np.random.default_rng(seed)
    below = np.concatenate(([0], np.cumsum(values)))
    frames = rng.integers(0, len(values) + 1, 1200)
    for wanted in (frames, np.sort(frames), np.unique(frames), frames[:1], frames[:0]):
        assert np.array_equal(bitmap(values).ranks(wanted), below[wanted])


@given(bits(), st.integers(-3, 5000), st.integers(-3, 5000))
def test_members_of_a_window(values: Bits, start: int, end: int) -> None:
    expected = [f for f in range(max(0, start), min(end, len(values))) if values[f]]
    assert bitmap(values).members(start, end).tolist() == expected


def test_extents_across_the_steps_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdump_bitmap, "STEP", 64)
    values = np.ones(3 * 64 * 8, dtype=np.uint8)
    values[511:514] = 0
    values[1024] = 0
    got = [(e.start >> PAGE_SHIFT, e.end >> PAGE_SHIFT) for e in bitmap(values).extents()]
    assert got == [(0, 511), (514, 1024), (1025, 1536)]


def test_a_hostile_bitmap_does_not_make_millions_of_extents() -> None:
    values = np.tile(np.array([1, 0], dtype=np.uint8), 1 << 20)
    values[1000:1500] = 0
    extents = bitmap(values).extents()
    assert len(extents) <= kdump_bitmap.MAX_EXTENTS
    assert extents[0].start == 0
    assert extents[-1].end == (len(values) - 1) << PAGE_SHIFT
    assert any(a.end == 999 << PAGE_SHIFT and b.start == 1500 << PAGE_SHIFT for a, b in zip(extents, extents[1:], strict=False))


def test_a_1_tib_machine_has_its_rank_without_a_loop_over_frames() -> None:
    frames = 1 << 28
    data = np.zeros(frames // 8, dtype=np.uint8)
    data[12345] = 0xF0
    data[-1] = 0x80
    b = Bitmap(data, frames)
    assert b.total == 5
    assert b.rank(frames - 1) == 4
    assert b.ranks(np.array([0, frames, 12345 * 8 + 5])).tolist() == [0, 5, 1]
    assert len(b.extents()) == 2


def test_frames_in_the_second_bitmap_only_are_counted() -> None:
    ram, dumped = np.array([0b1111, 0], dtype=np.uint8), np.array([0b0011, 0b101], dtype=np.uint8)
    assert contradicts(ram, dumped) == 2
    assert contradicts(ram, ram) == 0
