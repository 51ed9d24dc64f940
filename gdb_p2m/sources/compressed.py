"""`.zst`, `.xz` and `.gz` around any format: unpacked once into an unnamed temporary file, zeros kept sparse.

Machine memory needs random access, which these streams do not give. The unpacked copy lies in
$TMPDIR, never in RAM, and vanishes with the process.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from gdb_p2m.errors import NotUnderstood, P2mError
from gdb_p2m.progress import Progress, Step, no_progress
from gdb_p2m.units import MIB, human_size

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_MAGIC = b"\x1f\x8b"
XZ_MAGIC = b"\xfd7zXZ\x00"
XZ_MEMORY = 128 * MIB
"""What an xz stream may ask for: preset 9 takes 65 MiB."""
CHUNK = 1 * MIB
ZSTD_STEP = 4 << 10
"""Bytes fed at once: a block of 4 bytes can stand for 128 KiB, so a step gives at most 128 MiB."""
SPARE_DISK = 256 * MIB
"""Free space that is left alone on the temporary disk; also what stops a decompression bomb."""


def compression_of(head: bytes) -> str | None:
    """"zstd", "xz" or "gzip" by the first bytes of a file, else None."""
    if head.startswith(ZSTD_MAGIC):
        return "zstd"
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    if head.startswith(XZ_MAGIC):
        return "xz"
    return None


def unpack(path: str, kind: str, progress: Progress = no_progress) -> BinaryIO:
    """The unpacked content of `path` as an open temporary file.

    Raises NotUnderstood for damaged streams, P2mError when the temporary disk would fill up.
    """
    import zstandard

    try:
        out = cast(BinaryIO, tempfile.TemporaryFile(prefix="gdb-p2m-"))
        try:
            with open(path, "rb") as raw, progress(f"unpacking {os.path.basename(path)}", os.path.getsize(path)) as step:
                chunks = {"gzip": _gzip_chunks, "xz": _xz_chunks, "zstd": _zstd_chunks}[kind]
                _copy_sparse(chunks(raw), raw, out, step, path)
        except BaseException:
            out.close()
            raise
    except (zstandard.ZstdError, lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile) as e:
        raise NotUnderstood(
            f"{path}: the {kind} stream is damaged or cut off ({e or type(e).__name__})",
            hint="compare the file's size or checksum with the original",
        ) from None
    except OSError as e:
        raise P2mError(
            f"{path}: cannot be unpacked into {tempfile.gettempdir()}: {e.strerror or e}",
            hint="set TMPDIR to a larger disk, or unpack the file yourself",
        ) from None
    return out


def _gzip_chunks(raw: BinaryIO) -> Iterator[bytes]:
    stream = gzip.GzipFile(fileobj=raw)
    while chunk := stream.read(CHUNK):
        yield chunk


def _xz_chunks(raw: BinaryIO) -> Iterator[bytes]:
    """Unpacked bytes of all streams, a chunk at a time whatever the ratio; EOFError when the last one is cut off."""
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    begun = False
    while data := raw.read(CHUNK):
        while data or (begun and not stream.eof and not stream.needs_input):
            chunk = stream.decompress(data, CHUNK)
            begun, data = True, b""
            if chunk:
                yield chunk
            if stream.eof:
                data = stream.unused_data.lstrip(b"\0")  # padding between streams
                stream, begun = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY), False
    if begun:
        raise EOFError("it ends inside a stream")


def _zstd_chunks(raw: BinaryIO) -> Iterator[bytes]:
    """Unpacked bytes of all frames; EOFError when the last one is not complete (the library's reader is silent)."""
    import zstandard

    frame = zstandard.ZstdDecompressor().decompressobj()
    fed = 0
    while data := raw.read(ZSTD_STEP):
        while data:
            chunk = frame.decompress(data)
            fed += len(data)
            for at in range(0, len(chunk), CHUNK):
                yield chunk[at : at + CHUNK]
            data = frame.unused_data if frame.eof else b""
            if frame.eof:
                fed = 0
                frame = zstandard.ZstdDecompressor().decompressobj()
    if fed:
        raise EOFError("it ends inside a frame")


def _copy_sparse(chunks: Iterator[bytes], raw: BinaryIO, out: BinaryIO, step: Step, path: str) -> None:
    """Copy, leaving holes for zeros; checks the free disk space as it goes."""
    zeros = bytes(CHUNK)
    position = 0
    written_since_check = 0
    for chunk in chunks:
        position += len(chunk)
        if chunk == zeros[: len(chunk)]:
            out.seek(position)
        else:
            if written_since_check <= 0:
                free = shutil.disk_usage(tempfile.gettempdir()).free
                if free < SPARE_DISK:
                    raise P2mError(
                        f"{path}: unpacked {human_size(position)} so far and the temporary disk is nearly full",
                        hint="set TMPDIR to a larger disk, or unpack the file yourself",
                    )
                written_since_check = SPARE_DISK // 2
            out.seek(position - len(chunk))
            out.write(chunk)
            written_since_check -= len(chunk)
        step(raw.tell())
    out.truncate(position)
    out.flush()
