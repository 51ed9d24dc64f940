"""Picks the source for a file by its content."""

from __future__ import annotations

import os
from typing import BinaryIO

from gdb_p2m.errors import NotUnderstood, P2mError
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Source
from gdb_p2m.sources.compressed import compression_of, unpack
from gdb_p2m.sources.elf import ElfSource

READS = "ELF vmcore (QEMU dump-guest-memory, /proc/vmcore, excerpts), also .zst or .gz"


def open_source(path: str, progress: Progress = no_progress) -> Source:
    """The memory in dump file `path`.

    Raises P2mError when the file cannot be opened, NotUnderstood when its content is no dump.
    """
    file = _open(path)
    head = file.read(64)
    if kind := compression_of(head):
        file.close()
        file = unpack(path, kind, progress)
        file.seek(0)
        head = file.read(64)
    file.seek(0)
    source = _by_content(file, head, path)
    if not source.extents():
        raise NotUnderstood(
            f"{path}: {source.info.format} without any memory (no PT_LOAD with bytes)",
            hint="was the dump written completely?",
        )
    return source


def _open(path: str) -> BinaryIO:
    try:
        if os.path.isdir(path):
            raise P2mError(f"{path}: is a directory, not a dump", hint="name the dump file itself")
        return open(path, "rb")
    except OSError as e:
        raise P2mError(f"{path}: cannot be opened: {e.strerror}") from None


def _by_content(file: BinaryIO, head: bytes, path: str) -> Source:
    # Order matters only for formats whose magic contains another's; there are none so far.
    if head.startswith(b"\x7fELF"):
        return ElfSource(file, path)
    if not head:
        raise NotUnderstood(f"{path}: the file is empty")
    shown = head[:16].hex(" ")
    hint = f"readable formats: {READS}"
    if head.startswith((b"KDUMP   ", b"makedumpfile")):
        hint = "kdump-compressed dumps are not read yet; write an ELF dump (dump-guest-memory without -z)"
    raise NotUnderstood(f"{path}: not a dump that we know (it starts with {shown})", hint=hint)
