"""Unpacking `.zst`, `.xz` and `.gz`: sparse, whole, and honest about streams that end early."""

from __future__ import annotations

import gzip
import lzma
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gdb_p2m.errors import NotUnderstood, P2mError
from gdb_p2m.sources import compressed
from gdb_p2m.sources.compressed import compression_of, unpack
from gdb_p2m.units import MIB

CONTENT = os.urandom(5000) + bytes(3 * MIB) + b"middle" + bytes(2 * MIB + 17) + os.urandom(100) + bytes(70000)


def pack(kind: str, data: bytes) -> bytes:
    if kind == "xz":
        return lzma.compress(data, preset=1)
    return gzip.compress(data, 1) if kind == "gzip" else zstandard.compress(data)


def unpacked(tmp_path: Path, kind: str, packed: bytes) -> bytes:
    path = tmp_path / "packed"
    path.write_bytes(packed)
    with unpack(str(path), kind) as file:
        file.seek(0)
        return file.read()


@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd"])
def test_the_content_comes_back(tmp_path: Path, kind: str) -> None:
    packed = pack(kind, CONTENT)
    assert compression_of(packed[:64]) == kind
    assert unpacked(tmp_path, kind, packed) == CONTENT


@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd"])
def test_several_streams_in_one_file_are_one_content(tmp_path: Path, kind: str) -> None:
    packed = pack(kind, CONTENT[:6000]) + pack(kind, b"") + pack(kind, CONTENT[6000:])
    assert unpacked(tmp_path, kind, packed) == CONTENT


@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd"])
def test_zeros_take_no_disk(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(pack(kind, bytes(64 * MIB) + b"end"))
    with unpack(str(path), kind) as file:
        info = os.fstat(file.fileno())
        assert info.st_size == 64 * MIB + 3
        assert info.st_blocks * 512 < 4 * MIB


@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd"])
@settings(max_examples=30)
@given(share=st.floats(0, 0.999))
def test_a_stream_that_ends_early_is_refused_wherever_it_ends(
    tmp_path_factory: pytest.TempPathFactory, kind: str, share: float
) -> None:
    packed = pack(kind, CONTENT[:20000])
    cut = packed[: max(4, int(len(packed) * share))]
    with pytest.raises(NotUnderstood, match="damaged or cut off"):
        unpacked(tmp_path_factory.getbasetemp(), kind, cut)


def test_a_second_frame_that_ends_early_is_refused_too(tmp_path: Path) -> None:
    packed = zstandard.compress(CONTENT[:5000]) + zstandard.compress(CONTENT[:9000])
    with pytest.raises(NotUnderstood, match="ends inside a frame"):
        unpacked(tmp_path, "zstd", packed[:-3])


def test_garbage_behind_the_last_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotUnderstood, match="zstd"):
        unpacked(tmp_path, "zstd", zstandard.compress(b"dump") + b"garbage")


def test_a_disk_that_fills_up_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "SPARE_DISK", 1 << 62)
    path = tmp_path / "large.zst"
    path.write_bytes(zstandard.compress(CONTENT))
    with pytest.raises(P2mError, match="nearly full") as error:
        unpack(str(path), "zstd")
    assert "TMPDIR" in (error.value.hint or "")


def test_a_write_that_fails_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> object:
        return open("/dev/full", "r+b", buffering=0)

    monkeypatch.setattr(compressed.tempfile, "TemporaryFile", full)
    path = tmp_path / "dump.zst"
    path.write_bytes(zstandard.compress(CONTENT))
    with pytest.raises(P2mError, match="cannot be unpacked"):
        unpack(str(path), "zstd")


def test_plain_files_are_not_taken_for_packed_ones() -> None:
    assert compression_of(b"\x7fELF") is None and compression_of(b"") is None


def test_padding_between_xz_streams_is_skipped(tmp_path: Path) -> None:
    packed = pack("xz", b"one") + bytes(8) + pack("xz", b"two")
    assert unpacked(tmp_path, "xz", packed) == b"onetwo"


def test_an_xz_stream_that_asks_for_too_much_memory_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 512 << 20}]
    packed = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
    with pytest.raises(NotUnderstood, match="xz stream"):
        unpacked(tmp_path, "xz", packed.compress(b"x" * 100) + packed.flush())


def test_an_xz_stream_of_zeros_takes_no_memory(tmp_path: Path) -> None:
    """64 MiB in 10 KB: chunks stay small whatever the ratio."""
    (tmp_path / "zeros").write_bytes(pack("xz", bytes(64 * MIB)))
    with open(tmp_path / "zeros", "rb") as raw:
        assert max(len(c) for c in compressed._xz_chunks(raw)) <= compressed.CHUNK
