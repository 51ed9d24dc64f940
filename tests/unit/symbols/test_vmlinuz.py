"""bzImages: the payload, its compressions, and what is wrong with damaged ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_symtab import stripped

from gdb_p2m.errors import NotSupported, NotUnderstood, P2mError
from gdb_p2m.symbols import vmlinuz
from gdb_p2m.symbols.symtab import open_kernel_file
from gdb_p2m.symbols.vmlinuz import unpack_kernel


def kernel_xz(data: bytes) -> bytes:
    """As scripts/xz_wrap.sh: CRC32 and the x86 branch filter."""
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 1}]
    return lzma.compress(data, check=lzma.CHECK_CRC32, filters=filters)


METHODS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": kernel_xz,
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE, preset=1),
}


def bzimage(packed: bytes, size: int, *, setup_sects: int = 39, version: int = 0x20F, pad: int = 300) -> bytes:
    """A boot image around an already compressed kernel, as arch/x86/boot/tools/build makes it."""
    setup = bytearray(((setup_sects or 4) + 1) * 512)
    setup[0x1F1] = setup_sects
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    body = packed + struct.pack("<I", size)
    struct.pack_into("<II", setup, 0x248, pad, len(body))
    return bytes(setup) + bytes(pad) + body + bytes(500)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("setup_sects", [0, 30, 39])
def test_every_compression_gives_the_kernel_back(tmp_path: Path, method: str, setup_sects: int) -> None:
    data, symbols = stripped()
    image = bzimage(METHODS[method](data), len(data), setup_sects=setup_sects)
    assert unpack_kernel(image, "x") == data
    path = tmp_path / "vmlinuz"
    path.write_bytes(image)
    source = open_kernel_file(str(path))
    assert source.kind == "kallsyms" and source.detail == str(path)
    assert list(source.names()) == [name for _, name in symbols]


@pytest.mark.parametrize("method", METHODS)
def test_a_cut_image_is_called_truncated(method: str) -> None:
    data, _ = stripped()
    image = bzimage(METHODS[method](data), len(data))
    for cut in (0x210, 0x24F, 0x250, 5000, 21000, len(image) - 501):
        with pytest.raises(NotUnderstood, match=r"truncated|cut off"):
            unpack_kernel(image[:cut], "x")


@pytest.mark.parametrize("method", METHODS)
def test_a_cut_stream_is_noticed(method: str) -> None:
    data, _ = stripped()
    packed = METHODS[method](data)
    for cut in (10, len(packed) // 2, len(packed) - 30):
        with pytest.raises(NotUnderstood):
            unpack_kernel(bzimage(packed[:cut], len(data)), "x")


@pytest.mark.parametrize("method", METHODS)
def test_a_size_that_does_not_agree_is_refused(method: str) -> None:
    data, _ = stripped()
    with pytest.raises(NotUnderstood, match="its size field says"):
        unpack_kernel(bzimage(METHODS[method](data), len(data) + 1), "x")


@pytest.mark.parametrize("method", METHODS)
def test_a_bomb_stops_at_the_limit(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmlinuz, "MAX_UNPACKED", 1 << 20)
    packed = METHODS[method](bytes(64 << 20))
    with pytest.raises(NotUnderstood, match="unpacks to more than 1 MiB"):
        unpack_kernel(bzimage(packed, 64 << 20), "x")


@pytest.mark.parametrize("magic", [b"\x02\x21\x4c\x18", b"\x89LZO"])
def test_lz4_and_lzo_are_named_and_the_way_out_is_told(magic: bytes) -> None:
    with pytest.raises(NotSupported, match=r"lz4|lzo") as caught:
        unpack_kernel(bzimage(magic + bytes(100), 100), "x")
    assert "extract-vmlinux" in str(caught.value)


def test_an_unknown_compression_shows_its_first_bytes() -> None:
    with pytest.raises(NotUnderstood, match="de ad be ef"):
        unpack_kernel(bzimage(b"\xde\xad\xbe\xef" * 20, 100), "x")


def test_boot_protocols_without_a_payload_are_not_supported() -> None:
    with pytest.raises(NotSupported, match=r"2\.07"):
        unpack_kernel(bzimage(b"x" * 100, 100, version=0x207), "x")


def test_an_image_whose_kernel_is_no_elf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(gzip.compress(b"hello" * 100), 500))
    with pytest.raises(NotUnderstood, match="not a kernel file"):
        open_kernel_file(str(path))


@pytest.mark.thorough
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(METHODS)),
    st.lists(st.tuples(st.integers(0, 60000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4),
)
def test_damaged_images_give_symbols_or_a_message(
    tmp_path: Path, method: str, changes: list[tuple[int, bytes]]
) -> None:
    data, symbols = stripped()
    image = bytearray(bzimage(METHODS[method](data), len(data), setup_sects=4))
    for at, new in changes:
        at %= len(image)
        image[at : at + len(new)] = new
    path = tmp_path / "vmlinuz"
    path.write_bytes(image)
    try:
        source = open_kernel_file(str(path))
    except P2mError:
        return
    assert len(list(source.names())) == len(symbols)
