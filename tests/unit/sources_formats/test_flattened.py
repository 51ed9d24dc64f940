"""Flattened streams: what they describe, in whatever order and size the pieces come."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.model.writers_flattened import HEADER_SIZE, header, write_pieces
from gdb_p2m.sources import flattened
from gdb_p2m.sources.content import MappedContent
from gdb_p2m.sources.flattened import FlattenedContent, later_wins

PIECES = st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=80)), min_size=1, max_size=25)


def open_stream(path: Path) -> FlattenedContent:
    return FlattenedContent(MappedContent(open(path, "rb"), str(path)))


def stream(path: Path, pieces: list[tuple[int, bytes]], *, ended: bool = True, cut: int | None = None) -> FlattenedContent:
    with open(path, "wb") as file:
        write_pieces(file, pieces, ended=ended)
        if cut is not None:
            file.truncate(cut)
    return open_stream(path)


def replayed(pieces: list[tuple[int, bytes]]) -> bytes:
    """What a writer that can seek would have made of them."""
    out = bytearray()
    for offset, data in pieces:
        out.extend(bytes(max(0, offset + len(data) - len(out))))
        out[offset : offset + len(data)] = data
    return bytes(out)


@given(pieces=PIECES, data=st.data())
def test_any_pieces_in_any_order_read_as_the_file_they_make(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    content = stream(tmp_path_factory.mktemp("flat") / "f", pieces)
    expected = replayed(pieces)
    assert content.size == len(expected)
    assert bytes(content.read(0, content.size)) == expected
    a = data.draw(st.integers(0, len(expected)))
    n = data.draw(st.integers(0, len(expected) - a))
    assert bytes(content.read(a, n)) == expected[a : a + n]
    assert content.problems == []


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=30))
def test_pieces_that_overlap_are_cut_so_that_later_ones_win(ranges: list[tuple[int, int]]) -> None:
    starts = np.array([a for a, _ in ranges], dtype=np.int64)
    sizes = np.array([n for _, n in ranges], dtype=np.int64)
    sources = np.arange(len(ranges), dtype=np.int64) * 1000
    owner = np.full(100, -1)
    for i, (a, n) in enumerate(ranges):
        owner[a : a + n] = np.arange(n) + i * 1000
    s, e, src = later_wins(starts, sizes, sources)
    got = np.full(100, -1)
    for a, b, at in zip(s.tolist(), e.tolist(), src.tolist(), strict=True):
        assert (got[a:b] == -1).all()
        got[a:b] = np.arange(b - a) + at
    assert np.array_equal(got, owner)
    assert (s[1:] >= e[:-1]).all()


@pytest.mark.parametrize("odd", [None, 3, 70, 499])
def test_many_records_of_one_size_are_found_without_a_loop(tmp_path: Path, odd: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 512
    pieces = [(i * size, bytes([i % 251]) * (size if i != odd else size - 3)) for i in range(500)]
    unpacked = 0
    real = flattened._RECORD

    class Counting:
        size = real.size

        @staticmethod
        def unpack_from(view: memoryview, at: int) -> tuple[int, ...]:
            nonlocal unpacked
            unpacked += 1
            return real.unpack_from(view, at)

    monkeypatch.setattr(flattened, "_RECORD", Counting)
    content = stream(tmp_path / "f", pieces)
    assert bytes(content.read(0, content.size)) == replayed(pieces)
    assert unpacked < 12


@pytest.mark.parametrize("cut", [HEADER_SIZE + 16 + 50, HEADER_SIZE + 16 + 100, HEADER_SIZE + 16 + 100 + 7])
def test_a_stream_that_is_cut_off_is_read_as_far_as_it_goes_and_says_so(tmp_path: Path, cut: int) -> None:
    content = stream(tmp_path / "f", [(0, b"x" * 100), (100, b"y" * 100)], cut=cut)
    assert content.problems
    assert "cut off" in content.problems[0][1]
    assert bytes(content.read(0, content.size)) == b"x" * min(100, cut - HEADER_SIZE - 16)


def test_a_stream_without_its_end_record_is_cut_off(tmp_path: Path) -> None:
    content = stream(tmp_path / "f", [(0, b"x" * 100)], ended=False)
    assert "end record" in content.problems[0][1]
    assert bytes(content.read(0, 100)) == b"x" * 100


@pytest.mark.parametrize(("offset", "size"), [(-2, 10), (0, -5), (0, 0), (1 << 62, 10), (10, (1 << 63) - 1)])
def test_a_record_that_makes_no_sense_ends_the_stream_with_a_problem(tmp_path: Path, offset: int, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(header() + struct.pack(">qq", 0, 3) + b"abc" + struct.pack(">qq", offset, size) + b"?" * 64)
    content = open_stream(path)
    assert bytes(content.read(0, 3)) == b"abc"
    assert len(content.problems) == 1


def test_an_empty_stream_is_an_empty_file(tmp_path: Path) -> None:
    assert stream(tmp_path / "f", []).size == 0


@pytest.mark.parametrize("head", [b"makedumpfile\0\0\0\0", (b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 2)).ljust(4096, b"\0")])
def test_unknown_headers_are_refused(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(head)
    with pytest.raises(NotUnderstood):
        open_stream(path)


def test_more_records_than_we_are_willing_to_keep_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flattened, "MAX_RECORDS", 10)
    with pytest.raises(NotUnderstood, match="more than 10"):
        stream(tmp_path / "f", [(i * 20, b"a" * (1 + i % 3)) for i in range(11)])
