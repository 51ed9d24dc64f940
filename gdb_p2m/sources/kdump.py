"""kdump-compressed dumps: makedumpfile's and QEMU's `dump-guest-memory -z/-l/-s`, plain or flattened.

A page is decompressed when it is asked for; frames are machine frames, also in Xen crash dumps. A frame
that exists and is not in the file was *filtered*: it is not zero, it is unknown.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotUnderstood, Unreadable
from gdb_p2m.sources.base import Extent, Mask, Note, Pages, Source, SourceInfo
from gdb_p2m.sources.content import Content
from gdb_p2m.sources.decompress import NAMES, BadPage
from gdb_p2m.sources.flattened import FlattenedContent
from gdb_p2m.sources.kdump_bitmap import Bitmap, contradicts
from gdb_p2m.sources.kdump_header import STATUS_INCOMPLETE, STATUS_NO_VMEMMAP, read_header
from gdb_p2m.sources.kdump_pages import CACHE_BYTES, DESCRIPTOR, PageStore
from gdb_p2m.sources.notes import add_notes, describe_notes
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray, human_size

LEVELS = (
    (1, "zero pages"),
    (2, "page cache"),
    (4, "private page cache"),
    (8, "user pages"),
    (16, "free pages"),
)
"""Bits of the dump level (makedumpfile(8), -d). Zero pages are stored as one shared page, not left out."""
CHECKED_AT_OPEN = 4096
"""Descriptors looked at at either end of the table when the dump is opened; `audit` looks at all."""
MAX_PROBLEMS = 16
SCAN_FRAMES = 1 << 16


class KdumpSource(Source):
    """One kdump-compressed file. cache_bytes: bound of the cache of decompressed pages."""

    def __init__(self, content: Content, path: str, cache_bytes: int = CACHE_BYTES) -> None:
        super().__init__()
        self._content = content
        self._path = path
        self.header = header = read_header(content)
        packed = "flattened " if isinstance(content, FlattenedContent) else ""
        self.info = SourceInfo(f"{packed}kdump-compressed, version {header.version}", "unknown", path, header.machine)
        self.info.problems += [*content.problems, *header.problems]
        self.ram, self.dumped = self._bitmaps()
        self._base = self.dumped.rank(header.start_frame)
        count = self.dumped.rank(header.end_frame) - self._base
        held = max(0, content.size - header.descriptors_at) // DESCRIPTOR.itemsize
        if held < count:
            self.info.problems.append(
                (header.descriptors_at, f"{count:,} frames are in the bitmap, the file ends after {held:,} descriptors")
            )
        self.pages = PageStore(content, header.descriptors_at, min(count, held), cache_bytes)
        self._extents = self.ram.extents()
        self._describe()
        for first in sorted({0, max(0, self.pages.count - CHECKED_AT_OPEN)}):
            self.info.problems += self._audit(first, first + CHECKED_AT_OPEN)
        self.info.problems += self._gap_after_descriptors()

    def _bitmaps(self) -> tuple[Bitmap, Bitmap]:
        """(frames that exist, frames in the file). Raises NotUnderstood when the file ends before."""
        h = self.header
        needed = -(-h.max_frames // 8)
        blocks = -(-needed // PAGE_SIZE) * PAGE_SIZE
        if h.bitmap_bytes < needed:
            raise NotUnderstood(
                f"{self._path}: the bitmap has {h.bitmap_bytes:,} bytes, {h.max_frames:,} frames need {needed:,}"
            )
        if h.descriptors_at > self._content.size:
            raise NotUnderstood(
                f"{self._path}: the file ends at {self._content.size:#x}, within its bitmaps",
                hint="is the file truncated? compare its size with the original",
            )
        two = h.bitmap_bytes >= 2 * blocks
        ram = self._content.bytes_at(h.bitmap_at, needed)
        dumped = self._content.bytes_at(h.bitmap_at + h.bitmap_bytes // 2, needed) if two else ram
        if two and (lost := contradicts(ram, dumped)):
            self.info.problems.append((h.bitmap_at, f"{lost:,} frames are in the file that the first bitmap leaves out"))
            ram = ram | dumped
        second = Bitmap(dumped, h.max_frames)
        return Bitmap(ram, h.max_frames) if two else second, second

    def _describe(self) -> None:
        h, info = self.header, self.info
        add_notes(info, h.notes, "kdump notes")
        describe_notes(info)
        if info.xen_crash is not None:
            info.writer = f"makedumpfile; {info.writer}"
        if info.writer == "unknown":
            info.writer = "makedumpfile or alike (no CPU notes)"
        if h.vmcoreinfo:
            info.notes.append(Note("VMCOREINFO", 0, h.vmcoreinfo))
        method = ", ".join(n for bit, n in NAMES.items() if h.status & bit)
        info.format += f", {method}" if method else ", not compressed"
        left_out = self.ram.total - self.dumped.total
        level = ", ".join(text for bit, text in LEVELS if h.dump_level & bit & ~1)
        if left_out:
            why = f", dump level {h.dump_level}: {level}" if level else f", dump level {h.dump_level}"
            pages = "1 page" if left_out == 1 else f"{left_out:,} pages"
            info.loses.append(f"{pages} ({human_size(left_out << PAGE_SHIFT)}) left out by the writer{why}")
        if h.split:
            info.loses.append(
                f"all frames but {h.start_frame:#x}..{h.end_frame - 1:#x}: this is one file of a split dump"
            )
        if h.status & STATUS_INCOMPLETE:
            info.problems.append((0, "the header says that the dump is incomplete: the writer ran out of space"))
        if h.status & STATUS_NO_VMEMMAP:
            info.loses.append("the kernel's memory map (vmemmap), left out by the writer")

    def _audit(self, start: int, end: int) -> list[tuple[int, str]]:
        at = self.pages.first
        found = self.pages.audit(start, end)
        return [(at + i * DESCRIPTOR.itemsize, f"page descriptor {i}: {text}") for i, text in found]

    def _gap_after_descriptors(self) -> list[tuple[int, str]]:
        """Page data follows the descriptors; room for more descriptors between them is a bitmap that lost bits."""
        first = self.pages.descriptors(np.arange(min(self.pages.count, CHECKED_AT_OPEN), dtype=np.int64))
        if not len(first) or self.header.split:
            return []
        gap = int(first["offset"].min()) - self.pages.data_at
        if gap < DESCRIPTOR.itemsize or gap % DESCRIPTOR.itemsize:
            return []
        text = f"{self.pages.count:,} frames in the bitmap, but room for {gap // DESCRIPTOR.itemsize:,} more descriptors"
        return [(self.pages.data_at, text)]

    def audit(self) -> list[tuple[int, str]]:
        problems: list[tuple[int, str]] = []
        for start in range(0, self.pages.count, 1 << 20):
            problems += self._audit(start, start + (1 << 20))
            if len(problems) >= MAX_PROBLEMS:
                break
        return problems[:MAX_PROBLEMS]

    def extents(self) -> tuple[Extent, ...]:
        return self._extents

    def holds_frames(self, frame: int) -> bool:
        """Whether `frame` is in this file (a split dump has several)."""
        return self.header.start_frame <= frame < self.header.end_frame

    def frames_below(self, frames: FrameArray) -> FrameArray:
        clipped = np.clip(frames, self.header.start_frame, self.header.end_frame)
        return self.dumped.ranks(clipped) - self._base

    def missing_reason(self, address: int) -> str:
        frame = address >> PAGE_SHIFT
        if not self.ram.has(frame):
            return "not in the dump"
        if not self.header.start_frame <= frame < self.header.end_frame:
            return "in another file of this split dump"
        if not self.dumped.has(frame):
            return "filtered out by the dump's writer"
        index = self.dumped.rank(frame) - self._base
        if index >= self.pages.count:
            return "its descriptor lies past the end of the truncated file"
        try:
            self.pages.page(index)
        except BadPage as e:
            return str(e)
        return "not in the dump"

    def _page(self, address: int) -> bytes:
        """The page around `address`."""
        frame = address >> PAGE_SHIFT
        if self.dumped.has(frame) and self.header.start_frame <= frame < self.header.end_frame:
            index = self.dumped.rank(frame) - self._base
            if index < self.pages.count:
                try:
                    return self.pages.page(index)
                except BadPage as e:
                    raise Unreadable(address, str(e)) from None
        raise Unreadable(address, self.missing_reason(address))

    def _read(self, address: int, size: int) -> bytes:
        offset = address & (PAGE_SIZE - 1)
        if offset + size <= PAGE_SIZE:
            return self._page(address)[offset : offset + size]
        parts = []
        end = address + size
        while address < end:
            offset = address & (PAGE_SIZE - 1)
            parts.append(self._page(address)[offset : offset + end - address])
            address += len(parts[-1])
        return b"".join(parts)

    def _located(self, frames: FrameArray) -> tuple[FrameArray, npt.NDArray[np.void], FrameArray]:
        """(positions in `frames` of those in the file, distinct descriptors, which of them each position has)."""
        there = self.dumped.has_each(frames)
        there &= (frames >= self.header.start_frame) & (frames < self.header.end_frame)
        at = np.flatnonzero(there)
        index = self.dumped.ranks(frames[at]) - self._base
        at, index = at[index < self.pages.count], index[index < self.pages.count]
        return at, *self.pages.distinct(index)

    def read_pages(self, mfns: FrameArray) -> tuple[Pages, Mask]:
        """Each distinct page is decompressed once."""
        self.counters.requests += 1
        self.counters.pages += len(mfns)
        at, table, which = self._located(mfns)
        distinct = np.zeros((len(table), PAGE_SIZE), dtype=np.uint8)
        good = np.ones(len(table), dtype=bool)
        for i, (offset, size, flags, _) in enumerate(table.tolist()):
            try:
                distinct[i] = np.frombuffer(self.pages.at(offset, size, flags), dtype=np.uint8)
            except BadPage:
                good[i] = False
        ok = np.zeros(len(mfns), dtype=bool)
        ok[at] = good[which]
        if len(at) == len(mfns) == len(table):
            return distinct[which], ok
        out = np.zeros((len(mfns), PAGE_SIZE), dtype=np.uint8)
        out[at] = distinct[which]
        return out, ok

    def strided_u64(self, extent: Extent, offset: int) -> npt.NDArray[np.uint64]:
        """Every distinct page is decompressed as far as the word, past the cache."""
        first, last = -(-extent.start // PAGE_SIZE), extent.end // PAGE_SIZE
        words = np.zeros(max(0, last - first), dtype=np.uint64)
        self.counters.requests += 1
        self.counters.pages += len(words)
        start, end = max(first, self.header.start_frame), min(last, self.header.end_frame)
        for a in range(start, end, SCAN_FRAMES):
            self._words(words, first, self.dumped.members(a, min(a + SCAN_FRAMES, end)), offset)
        return words

    def _words(self, words: npt.NDArray[np.uint64], first: int, frames: FrameArray, offset: int) -> None:
        at, table, which = self._located(frames)
        found = np.zeros(len(table), dtype=np.uint64)
        for i, (position, size, flags, _) in enumerate(table.tolist()):
            try:
                start = self.pages.start_of(position, size, flags, offset + 8)
            except BadPage:
                continue
            found[i] = int.from_bytes(start[offset : offset + 8], "little")
        words[frames[at] - first] = found[which]

    def close(self) -> None:
        self._content.close()
