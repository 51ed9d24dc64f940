"""`.zst` and `.gz` around any format: unpacked once into an unnamed temporary file, zeros kept sparse.

Machine memory needs random access, which these streams do not give. The unpacked copy lies in
$TMPDIR, never in RAM, and vanishes with the process.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from typing import BinaryIO, cast

from gdb_p2m.errors import NotUnderstood, P2mError
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.units import MIB, human_size

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_MAGIC = b"\x1f\x8b"
CHUNK = 1 * MIB
SPARE_DISK = 256 * MIB
"""Free space that is left alone on the temporary disk; also what stops a decompression bomb."""


def compression_of(head: bytes) -> str | None:
    """"zstd" or "gzip" by the first bytes of a file, else None."""
    if head.startswith(ZSTD_MAGIC):
        return "zstd"
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    return None


def unpack(path: str, kind: str, progress: Progress = no_progress) -> BinaryIO:
    """The unpacked content of `path` as an open temporary file.

    Raises NotUnderstood for damaged streams, P2mError when the temporary disk would fill up.
    """
    import zstandard

    out = cast(BinaryIO, tempfile.TemporaryFile(prefix="gdb-p2m-"))  # noqa: SIM115 - handed to the caller
    total = os.path.getsize(path)
    try:
        with open(path, "rb") as raw:
            stream = cast(
                BinaryIO,
                gzip.GzipFile(fileobj=raw)
                if kind == "gzip"
                else zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True),
            )
            with progress(f"unpacking {os.path.basename(path)}", total) as step:
                _copy_sparse(stream, raw, out, step, path)
    except (zstandard.ZstdError, zlib.error, EOFError, gzip.BadGzipFile) as e:
        out.close()
        raise NotUnderstood(
            f"{path}: the {kind} stream is damaged or cut off ({e or type(e).__name__})",
            hint="compare the file's size or checksum with the original",
        ) from None
    return out


def _copy_sparse(stream: BinaryIO, raw: BinaryIO, out: BinaryIO, step: object, path: str) -> None:
    """Copy, leaving holes for zeros; checks the free disk space as it goes."""
    zeros = bytes(CHUNK)
    position = 0
    written_since_check = 0
    while chunk := stream.read(CHUNK):
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
        step(raw.tell())  # type: ignore[operator]
    out.truncate(position)
    out.flush()
