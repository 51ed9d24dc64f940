"""One compressed page of a kdump-compressed dump: zlib, LZO, snappy, zstd, never more than a page of output.

zlib is Python's own and zstandard a dependency; LZO and snappy come from wheels that not everybody needs
(the extra `kdump`). makedumpfile and QEMU store a page as it is when compressing does not make it smaller
(makedumpfile.c, QEMU dump/dump.c), so input longer than a page is damage: that also bounds what a hostile
page can make a decompressor do.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from gdb_p2m.errors import NotSupported

Buffer = bytes | memoryview
Unpack = Callable[[Buffer, int], bytes]
"""(compressed page, size of a page) -> the page. Raises BadPage."""

ZLIB, LZO, SNAPPY, ZSTD = 0x1, 0x2, 0x4, 0x20
NAMES = {ZLIB: "zlib", LZO: "LZO", SNAPPY: "snappy", ZSTD: "zstd"}
EXTRA = "pip install 'gdb-p2m[kdump]'"


class BadPage(Exception):
    """A page that does not decompress to a page: says why."""


def unpack_zlib(data: Buffer, size: int) -> bytes:
    """RFC 1950. One byte more than a page is asked for, so that too long ones are noticed."""
    try:
        out = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as e:
        raise BadPage(str(e)) from None
    return _exactly(out, size)


def unpack_zlib_start(data: Buffer, wanted: int) -> bytes:
    """The first `wanted` bytes only: what a scan over all of memory looks at. The rest is not checked."""
    try:
        out = zlib.decompressobj().decompress(data, wanted)
    except zlib.error as e:
        raise BadPage(str(e)) from None
    return _exactly(out, wanted)


def _lzo() -> Unpack:
    try:
        from lzallright import InputNotConsumed, LZOCompressor, LZOError
    except ImportError:
        raise _missing("LZO", "lzallright") from None
    decompress = LZOCompressor.decompress

    def unpack_lzo(data: Buffer, size: int) -> bytes:
        try:
            return _exactly(decompress(data, size), size)
        except (LZOError, InputNotConsumed) as e:
            why = str(e.args[0]) if e.args else type(e).__name__
            raise BadPage(f"LZO: {why.removeprefix('EResult.')}") from None

    return unpack_lzo


def _snappy() -> Unpack:
    try:
        from cramjam import DecompressionError, snappy
    except ImportError:
        raise _missing("snappy", "cramjam") from None

    def unpack_snappy(data: Buffer, size: int) -> bytes:
        try:
            # The length stands before the data, and is what would be allocated.
            if snappy.decompress_raw_len(data) != size:
                raise BadPage(f"the page says that it has {snappy.decompress_raw_len(data)} bytes, not {size}")
            return _exactly(bytes(snappy.decompress_raw(data)), size)
        except DecompressionError as e:
            raise BadPage(str(e)) from None

    return unpack_snappy


def _zstd() -> Unpack:
    import zstandard

    decompressor = zstandard.ZstdDecompressor()

    def unpack_zstd(data: Buffer, size: int) -> bytes:
        try:
            # A frame that names its size is given that much: refuse it first.
            named = zstandard.frame_content_size(data)
            if named > size:
                raise BadPage(f"the page says that it has {named} bytes, not {size}")
            return _exactly(decompressor.decompress(data, max_output_size=size), size)
        except zstandard.ZstdError as e:
            raise BadPage(f"zstd: {e}") from None

    return unpack_zstd


def _exactly(out: bytes, size: int) -> bytes:
    if len(out) != size:
        raise BadPage(f"decompresses to {'more than ' if len(out) > size else ''}{min(len(out), size)} bytes, not {size}")
    return out


def _missing(what: str, package: str) -> NotSupported:
    return NotSupported(
        f"the dump's pages are compressed with {what}: the Python package {package} is needed to read them",
        hint=f"{EXTRA}, or pip install {package}",
    )


def _zlib() -> Unpack:
    return unpack_zlib


_MAKERS: dict[int, Callable[[], Unpack]] = {ZLIB: _zlib, LZO: _lzo, SNAPPY: _snappy, ZSTD: _zstd}


class Decompressors:
    """The decompressor of each flag, loaded when the first page needs it."""

    def __init__(self) -> None:
        self._known: dict[int, Unpack] = {}

    def page(self, data: Buffer, method: int, size: int) -> bytes:
        """The page of `size` bytes. Raises BadPage, NotSupported when a package is missing."""
        unpack = self._known.get(method)
        if unpack is None:
            maker = _MAKERS.get(method)
            if maker is None:
                raise BadPage(f"compressed in more than one way (flags {method:#x})")
            unpack = self._known[method] = maker()
        return unpack(data, size)
