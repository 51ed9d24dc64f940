"""A dump that makedumpfile `--split` wrote as several kdump-compressed files: frames 0..a in one, a..b in the next.

The parts share the header and the bitmaps; the sub-header says which frames a file holds. The other parts are
looked for beside the one that was named: whatever their names are, the headers tell.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import P2mError
from gdb_p2m.sources.base import Extent, Mask, Pages, Source
from gdb_p2m.sources.content import MappedContent
from gdb_p2m.sources.kdump import KdumpSource
from gdb_p2m.sources.kdump_header import SIGNATURE, read_header
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray

MAX_LOOKED_AT = 4096
"""Files of the directory whose first bytes are looked at."""


def with_siblings(part: KdumpSource, path: str) -> Source:
    """The whole split dump that `part` belongs to, as far as its files lie in the same directory."""
    parts = [part]
    for name in _candidates(path):
        try:
            file = open(name, "rb")
        except OSError:
            continue
        try:
            if file.read(len(SIGNATURE)) != SIGNATURE:
                file.close()
                continue
            content = MappedContent(file, name)
            header = read_header(content)
            known = [(p.header.start_frame, p.header.end_frame) for p in parts]
            if header.split and header.identity == part.header.identity and _apart(header.start_frame, header.end_frame, known):
                parts.append(KdumpSource(content, name))
            else:
                content.close()
        except P2mError:
            file.close()
    return SplitSource(sorted(parts, key=lambda p: p.header.start_frame), part)


def _apart(start: int, end: int, known: list[tuple[int, int]]) -> bool:
    return all(end <= a or b <= start for a, b in known)


def _candidates(path: str) -> list[str]:
    """The other files beside `path`, by name, as many as we are willing to look at."""
    folder = os.path.dirname(os.path.abspath(path))
    found: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(found) >= MAX_LOOKED_AT:
                break
            if entry.is_file() and entry.name != os.path.basename(path):
                found.append(entry.path)
    return sorted(found)


class SplitSource(Source):
    """Parts in order of their frames. named: the one that was asked for."""

    def __init__(self, parts: list[KdumpSource], named: KdumpSource) -> None:
        super().__init__()
        self.parts = parts
        self.info = named.info
        self.info.loses = [text for text in named.info.loses if "split dump" not in text]
        for p in parts:
            if p is not named:
                self.info.problems += p.info.problems
        self._starts = np.array([p.header.start_frame for p in parts], dtype=np.int64)
        self.info.format += f", {len(parts)} files of a split dump"
        holes = self._holes(named.header.max_frames)
        if holes:
            text = ", ".join(f"{a:#x}..{b - 1:#x}" for a, b in holes)
            self.info.loses.append(f"frames {text}: files of the split dump that are not beside this one")

    def _holes(self, max_frames: int) -> list[tuple[int, int]]:
        """Frames that exist and that no part covers."""
        at, holes = 0, []
        for part in self.parts:
            if at < part.header.start_frame:
                holes.append((at, part.header.start_frame))
            at = part.header.end_frame
        if at < max_frames:
            holes.append((at, max_frames))
        dumped = self.parts[0].dumped
        return [(a, b) for a, b in holes if dumped.rank(b) > dumped.rank(a)]

    def _part(self, frame: int) -> KdumpSource:
        i = int(np.searchsorted(self._starts, frame, "right")) - 1
        return self.parts[max(i, 0)]

    def extents(self) -> tuple[Extent, ...]:
        return self.parts[0].extents()

    def audit(self) -> list[tuple[int, str]]:
        return [problem for part in self.parts for problem in part.audit()]

    def frames_below(self, frames: FrameArray) -> FrameArray:
        held = np.zeros(len(frames), dtype=np.int64)
        for part in self.parts:
            held += part.frames_below(frames)
        return held

    def missing_reason(self, address: int) -> str:
        return self._part(address >> PAGE_SHIFT).missing_reason(address)

    def _read(self, address: int, size: int) -> bytes | memoryview:
        pieces = []
        while size > 0:
            n = min(size, PAGE_SIZE - (address & (PAGE_SIZE - 1)))
            pieces.append(self._part(address >> PAGE_SHIFT).read(address, n))
            address, size = address + n, size - n
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def read_pages(self, mfns: FrameArray) -> tuple[Pages, Mask]:
        """Each part gives its own frames."""
        self.counters.requests += 1
        self.counters.pages += len(mfns)
        out = np.zeros((len(mfns), PAGE_SIZE), dtype=np.uint8)
        ok = np.zeros(len(mfns), dtype=bool)
        owner = np.maximum(np.searchsorted(self._starts, mfns, "right") - 1, 0)
        for i, part in enumerate(self.parts):
            mine = np.flatnonzero(owner == i)
            if len(mine):
                out[mine], ok[mine] = part.read_pages(mfns[mine])
        return out, ok

    def strided_u64(self, extent: Extent, offset: int) -> npt.NDArray[np.uint64]:
        words = self.parts[0].strided_u64(extent, offset)
        for part in self.parts[1:]:
            words |= part.strided_u64(extent, offset)  # Zero where a part does not hold the page.
        return words

    def close(self) -> None:
        for part in self.parts:
            part.close()
