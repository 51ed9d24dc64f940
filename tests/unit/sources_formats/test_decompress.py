"""Pages and what pretends to be pages: exactly one page comes out, or an error that says why."""

from __future__ import annotations

import random
import sys
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gdb_p2m.errors import NotSupported
from gdb_p2m.model.writers_kdump import FLAGS, compressor
from gdb_p2m.sources.decompress import BadPage, Decompressors, unpack_zlib_start
from gdb_p2m.units import PAGE_SIZE
from support.dump_files import METHODS

PACKED = [m for m in METHODS if m != "none"]
PAGES = st.one_of(
    st.integers(0, 1 << 32).map(lambda seed: random.Random(seed).randbytes(PAGE_SIZE)),
    st.binary(min_size=1, max_size=64).map(lambda b: (b * PAGE_SIZE)[:PAGE_SIZE]),
)


def unpack(data: bytes, method: str, size: int = PAGE_SIZE) -> bytes:
    return Decompressors().page(memoryview(data), FLAGS[method], size)


@pytest.mark.parametrize("method", PACKED)
@given(page=PAGES)
def test_a_page_comes_back(method: str, page: bytes) -> None:
    assert unpack(compressor(method)(page), method) == page  # type: ignore[arg-type]


@pytest.mark.parametrize("method", PACKED)
@pytest.mark.parametrize("size", [0, 1, PAGE_SIZE - 1, PAGE_SIZE + 1, 1 << 20])
def test_what_is_no_page_is_refused(method: str, size: int) -> None:
    with pytest.raises(BadPage):
        unpack(compressor(method)(bytes(size)), method)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", PACKED)
@given(data=st.binary(max_size=200))
def test_noise_is_refused_or_is_a_page(method: str, data: bytes) -> None:
    try:
        assert len(unpack(data, method)) == PAGE_SIZE
    except BadPage as e:
        assert str(e)


@pytest.mark.parametrize("method", PACKED)
@given(at=st.integers(0, 1 << 16), bit=st.integers(0, 7))
def test_a_flipped_bit_never_gives_more_or_less_than_a_page(method: str, at: int, bit: int) -> None:
    data = bytearray(compressor(method)(bytes(range(256)) * 16))  # type: ignore[arg-type]
    data[at % len(data)] ^= 1 << bit
    try:
        assert len(unpack(bytes(data), method)) == PAGE_SIZE
    except BadPage as e:
        assert str(e)


def test_a_zlib_bomb_stops_at_a_page() -> None:
    bomb = zlib.compress(bytes(64 << 20), 9)
    with pytest.raises(BadPage, match="more than 4096"):
        unpack(bomb, "zlib")


def test_a_zstd_frame_that_claims_a_terabyte_is_refused_before_it_is_unpacked() -> None:
    honest = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(PAGE_SIZE))
    assert unpack(honest, "zstd") == bytes(PAGE_SIZE)
    # Magic, descriptor "single segment, 8 bytes of content size", the size.
    liar = b"\x28\xb5\x2f\xfd" + bytes([0b1110_0000]) + (1 << 40).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(BadPage, match="1099511627776"):
        unpack(liar, "zstd")


def test_a_zstd_frame_without_a_size_stops_at_a_page() -> None:
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20))
    with pytest.raises(BadPage):
        unpack(packed, "zstd")


def test_a_snappy_page_that_claims_four_gigabytes_is_refused() -> None:
    with pytest.raises(BadPage, match="4294967295"):
        unpack(b"\xff\xff\xff\xff\x0f" + b"a" * 20, "snappy")


def test_two_methods_at_once_are_refused() -> None:
    with pytest.raises(BadPage, match="more than one"):
        Decompressors().page(b"x", 0x1 | 0x2, PAGE_SIZE)


@pytest.mark.parametrize(("method", "package"), [("lzo", "lzallright"), ("snappy", "cramjam")])
def test_a_missing_package_is_named(method: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = compressor(method)(bytes(PAGE_SIZE))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotSupported, match=package) as error:
        unpack(page, method)
    assert "pip install" in (error.value.hint or "")


def test_the_start_of_a_page_is_enough_for_a_scan() -> None:
    page = bytes(range(256)) * 16
    packed = zlib.compress(page)
    assert unpack_zlib_start(packed, 100) == page[:100]
    with pytest.raises(BadPage):
        unpack_zlib_start(packed[:20], PAGE_SIZE)
