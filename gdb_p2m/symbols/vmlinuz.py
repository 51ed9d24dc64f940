"""bzImage (vmlinuz): the compressed ELF kernel inside an x86 boot image.

The boot protocol (Documentation/arch/x86/boot.rst): setup_sects at 0x1f1, "HdrS" at 0x202, its version at
0x206; payload_offset and payload_length at 0x248 and 0x24c since version 2.08 (2.6.26), counted from the
protected-mode code after the setup sectors. The last four bytes of the payload are the unpacked size.
"""

from __future__ import annotations

import bz2
import lzma
import zlib

from gdb_p2m.errors import NotSupported, NotUnderstood
from gdb_p2m.units import MIB, human_size

MAX_UNPACKED = 512 * MIB
"""What we are willing to unpack; kernels take about 65 MiB."""
_LZMA_MEMORY = 256 * MIB
_ZSTD_STEP = 4 << 10
"""Bytes fed at once: a block of 4 bytes can hold 128 KiB, so one step adds at most 128 MiB."""
_AGAIN = "copy the file again and compare its size"
_EXTRACT = "unpack it with the kernel's scripts/extract-vmlinux, or pass vmlinux or System.map"
_MAGICS = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "lzma"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x89LZO", "lzo"),
)


def compression_of(head: bytes) -> str | None:
    """ "gzip", "xz", "zstd", "bzip2", "lzma", "lz4" or "lzo" by the first bytes, else None."""
    return next((name for magic, name in _MAGICS if head.startswith(magic)), None)


def is_bzimage(head: bytes) -> bool:
    """Whether the first 0x210 bytes are those of an x86 boot image."""
    return head[0x202:0x206] == b"HdrS"


def payload(data: bytes, path: str) -> bytes:
    """The compressed kernel in boot image `data`. Raises NotUnderstood or NotSupported."""
    version = int.from_bytes(data[0x206:0x208], "little")
    if len(data) < 0x250:
        raise NotUnderstood(f"{path}: a boot image cut off after {len(data)} bytes, inside its setup header")
    if version < 0x208:
        raise NotSupported(
            f"{path}: boot protocol {version >> 8}.{version & 0xFF:02} does not say where the kernel lies "
            "(2.08 of Linux 2.6.26 does)",
            hint=_EXTRACT,
        )
    start = ((data[0x1F1] or 4) + 1) * 512 + int.from_bytes(data[0x248:0x24C], "little")
    length = int.from_bytes(data[0x24C:0x250], "little")
    if start + length > len(data):
        raise NotUnderstood(
            f"{path}: truncated: the kernel in it ends at byte {start + length}, the file at {len(data)}",
            hint=_AGAIN,
        )
    if length < 8:
        raise NotUnderstood(f"{path}: a boot image whose kernel has {length} bytes")
    return data[start : start + length]


def unpack_kernel(data: bytes, path: str) -> bytes:
    """The ELF kernel in boot image `data`, its size compared with what the image says.

    Raises NotUnderstood (damaged, truncated, too large) or NotSupported (lz4, lzo).
    """
    packed = payload(data, path)
    method = compression_of(packed)
    if method is None:
        raise NotUnderstood(
            f"{path}: the kernel in it starts with {packed[:8].hex(' ')}, no compression that Linux uses"
        )
    expected = int.from_bytes(packed[-4:], "little")
    unpacked = unpack(packed, method, path)
    if len(unpacked) != expected:
        raise NotUnderstood(
            f"{path}: the kernel in it unpacks to {len(unpacked)} bytes, its size field says {expected}"
        )
    return unpacked


def unpack(data: bytes, method: str, path: str) -> bytes:
    """`data` unpacked; bytes after the compressed stream are ignored.

    Raises NotUnderstood when it is damaged, cut off or larger than MAX_UNPACKED; NotSupported for lz4, lzo.
    """
    if method in ("lz4", "lzo"):
        raise NotSupported(f"{path}: {method} compression is not supported", hint=_EXTRACT)
    try:
        out, complete = _unpack_zstd(data) if method == "zstd" else _unpack_std(data, method)
    except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as e:
        raise NotUnderstood(f"{path}: its {method} data is damaged ({e})", hint=_AGAIN) from None
    if len(out) > MAX_UNPACKED:
        raise NotUnderstood(
            f"{path}: its {method} data unpacks to more than {human_size(MAX_UNPACKED)}: not a kernel"
        )
    if not complete:
        raise NotUnderstood(
            f"{path}: its {method} data ends early, after {len(out)} unpacked bytes", hint=_AGAIN
        )
    return out


def _unpack_std(data: bytes, method: str) -> tuple[bytes, bool]:
    """(bytes, whether the stream came to its end); at most one byte more than the limit."""
    limit = MAX_UNPACKED + 1
    if method == "gzip":
        stream = zlib.decompressobj(wbits=31)
        return stream.decompress(data, limit), stream.eof
    if method == "bzip2":
        bzip2 = bz2.BZ2Decompressor()
        return bzip2.decompress(data, limit), bzip2.eof
    form = lzma.FORMAT_XZ if method == "xz" else lzma.FORMAT_ALONE
    xz = lzma.LZMADecompressor(form, memlimit=_LZMA_MEMORY)
    return xz.decompress(data, limit), xz.eof


def _unpack_zstd(data: bytes) -> tuple[bytes, bool]:
    import zstandard

    parts: list[bytes] = []
    size = 0
    try:
        stream = zstandard.ZstdDecompressor(max_window_size=_LZMA_MEMORY).decompressobj()
        for at in range(0, len(data), _ZSTD_STEP):
            parts.append(stream.decompress(data[at : at + _ZSTD_STEP]))
            size += len(parts[-1])
            if size > MAX_UNPACKED or stream.eof:
                break
    except zstandard.ZstdError as e:
        raise ValueError(str(e)) from None
    return b"".join(parts), stream.eof
