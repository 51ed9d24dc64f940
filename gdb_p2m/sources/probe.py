"""Picks the source for a file by its content."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from gdb_p2m.errors import NotUnderstood, P2mError
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Source
from gdb_p2m.sources.compressed import compression_of, unpack
from gdb_p2m.sources.content import Content, MappedContent
from gdb_p2m.sources.elf import ElfSource

READS = (
    "ELF vmcore (QEMU dump-guest-memory, /proc/vmcore, makedumpfile -E, excerpts), kdump-compressed and flattened "
    "(makedumpfile, QEMU -z), Xen domain core (xl dump-core), all also as .zst, .xz or .gz; raw memory with --raw ADDRESS"
)
KDUMP = b"KDUMP   "
FLATTENED = b"makedumpfile\0\0\0\0"


def open_source(path: str, progress: Progress = no_progress, raw: str | None = None) -> Source:
    """The memory in dump file `path`. raw: "ADDRESS" or "ADDRESS:MACHINE" when it is raw memory (sources.raw).

    Raises P2mError when the file cannot be opened, NotUnderstood when its content is no dump.
    """
    content: Content = MappedContent(_unpacked(path, progress), path)
    try:
        return _source(content, path, raw)
    except BaseException:
        content.close()
        raise


def _source(content: Content, path: str, raw: str | None) -> Source:
    if raw is not None:
        from gdb_p2m.sources.raw import RawSource, parse_raw

        return RawSource(content, path, *parse_raw(raw))
    if _head(content).startswith(FLATTENED):
        from gdb_p2m.sources.flattened import FlattenedContent

        assert isinstance(content, MappedContent)
        content = FlattenedContent(content)
    source = _by_content(content, path)
    if not source.extents():
        what = "no PT_LOAD with bytes" if isinstance(source, ElfSource) else "no page is in it"
        raise NotUnderstood(
            f"{path}: {source.info.format} without any memory ({what})",
            hint="was the dump written completely?",
        )
    return source


def _unpacked(path: str, progress: Progress) -> BinaryIO:
    """The file, or what is within its compression."""
    file = _open(path)
    kind = compression_of(file.read(64))
    if kind is not None:
        file.close()
        file = unpack(path, kind, progress)
    file.seek(0)
    return file


def _open(path: str) -> BinaryIO:
    try:
        # A FIFO would be waited for, and neither it nor a device can be mapped.
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
        raise P2mError(f"{path}: is a device or pipe, not a dump", hint="save it to a file first")
    except IsADirectoryError:
        raise P2mError(f"{path}: is a directory, not a dump", hint="name the dump file itself") from None
    except OSError as e:
        raise P2mError(f"{path}: cannot be opened: {e.strerror}") from None


def _head(content: Content) -> bytes:
    return bytes(content.read(0, min(64, content.size)))


def _by_content(content: Content, path: str) -> Source:
    head = _head(content)
    if head.startswith(b"\x7fELF"):
        # A domain core is an ELF core, too: told apart by its sections and the lack of program headers.
        from gdb_p2m.sources.xen_core import XenCoreSource, is_xen_core

        return XenCoreSource(content, path) if is_xen_core(content) else ElfSource(content, path)
    if head.startswith(KDUMP):
        from gdb_p2m.sources.kdump import KdumpSource

        part = KdumpSource(content, path)
        if not part.header.split:
            return part
        from gdb_p2m.sources.split import with_siblings

        return with_siblings(part, path)
    if not head:
        raise NotUnderstood(f"{path}: the file is empty")
    shown = head[:16].hex(" ")
    raise NotUnderstood(f"{path}: not a dump that we know (it starts with {shown})", hint=f"readable formats: {READS}")
