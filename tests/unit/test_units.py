"""Numbers, ranges and sizes as people type and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdb_p2m.errors import UsageError
from gdb_p2m.units import (
    GIB,
    KIB,
    MIB,
    TIB,
    human_size,
    maddr,
    mfn_of,
    parse_number,
    parse_range,
    parse_size,
    thousands,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("256", 256), ("0x100", 256), ("0X1f", 31), ("0b101", 5), ("0o17", 15), ("1_000", 1000), (" 7 ", 7)],
)
def test_numbers_in_every_notation(text: str, value: int) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "x", "0x", "1.5", "--", "012", "1e3", "0x1g", "_1", "9" * 5000])
def test_what_is_no_number_is_named(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_number(text)
    assert repr(text) in error.value.message and error.value.hint


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="not negative"):
        parse_number("-1")


@given(st.integers(0, 1 << 64), st.integers(0, 1 << 64))
def test_a_range_includes_both_ends_and_a_count_does_not(a: int, b: int) -> None:
    a, b = min(a, b), max(a, b)
    assert parse_range(f"{a:#x}..{b}") == (a, b + 1)
    assert parse_range(f"{a}+{b + 1:#x}") == (a, a + b + 1)


def test_open_ranges() -> None:
    assert parse_range("5..") == (5, -1)
    assert parse_range("..5") == (0, 6)
    assert parse_range("..") == (0, -1)
    assert parse_range("0..0") == (0, 1)


@pytest.mark.parametrize(
    "text", ["5", "5...6", "5..6..7", "5-6", "", "+", "5+", "+5", "1..x", "5..4", "5+0", "0x10..15"]
)
def test_ranges_that_are_none_or_empty(text: str) -> None:
    with pytest.raises(UsageError):
        parse_range(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("400M", 400 * MIB),
        ("400MiB", 400 * MIB),
        ("1g", GIB),
        ("2T", 2 * TIB),
        ("601001K", 601001 * KIB),
        ("0x1000", 4096),
        (" 1 K".replace(" 1 ", "1"), KIB),
        ("8b", 8),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1M", "1X", "1 MB x", "1MM"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (KIB, "1 KiB"),
        (400 * MIB, "400 MiB"),
        (GIB - 1, "1024.0 MiB"),
        (511 * GIB + 512 * MIB, "511.5 GiB"),
        (3 * TIB, "3 TiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert human_size(size) == text


@given(st.integers(0, (1 << 52) - 1), st.integers(0, 4095))
def test_frames_and_addresses_are_each_others_inverse(mfn: int, offset: int) -> None:
    assert mfn_of(maddr(mfn, offset)) == mfn
    assert maddr(mfn, offset) - maddr(mfn) == offset


def test_thousands() -> None:
    assert thousands(133955713) == "133,955,713"
