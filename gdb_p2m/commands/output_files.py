"""Files that verbs write: never over an input, complete or not there at all, compressed by their name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from gdb_p2m.commands.base import Context
from gdb_p2m.errors import P2mError, UsageError


def refuse_to_overwrite(ctx: Context, out: str, force: bool) -> None:
    """Raise UsageError when `out` is an input, or is there and --force was not given."""
    if not os.path.exists(out):
        return
    inputs = (ctx.target.source.info.path, ctx.target.kernel_path, ctx.target.xen_path)
    for given in inputs:
        if given is not None and os.path.exists(given) and os.path.samefile(out, given):
            raise UsageError(f"{out} is an input, it is not overwritten", hint="name another output file")
    if not force:
        raise UsageError(f"{out} is there already", hint="choose another name or use --force")


@contextmanager
def output_file(path: str) -> Iterator[BinaryIO]:
    """OUT as a binary file, compressed by its name; written aside and renamed when complete."""
    if path == "-":
        import sys

        yield sys.stdout.buffer
        return
    aside = f"{path}.part"
    try:
        with open(aside, "wb") as raw:
            if path.endswith(".zst"):
                import zstandard

                with zstandard.ZstdCompressor(level=19).stream_writer(raw, closefd=False) as packed:
                    yield cast(BinaryIO, packed)
            elif path.endswith(".xz"):
                import lzma

                # Records of 32 bytes that differ little from the one before: the frame table, and the M2P's words.
                filters = [{"id": lzma.FILTER_DELTA, "dist": 32}, {"id": lzma.FILTER_LZMA2, "preset": 9}]
                with lzma.LZMAFile(raw, "wb", format=lzma.FORMAT_XZ, filters=filters) as squeezed:
                    yield cast(BinaryIO, squeezed)
            elif path.endswith(".gz"):
                import gzip

                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as zipped:
                    yield cast(BinaryIO, zipped)
            else:
                yield raw
        os.replace(aside, path)
    except OSError as e:
        raise P2mError(f"{path}: cannot be written: {e.strerror}") from None
    finally:
        if os.path.exists(aside):
            os.unlink(aside)
