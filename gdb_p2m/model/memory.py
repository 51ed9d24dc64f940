"""Machine memory of a model: only the frames that something was written to, the rest of RAM reads as zero.

Large structures (the list's pages, the M2P) are blocks whose rows are computed when they are asked for, so
that a 512 GiB guest needs neither a gigabyte of RAM nor a Python object per frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray, U64Array

Rows = npt.NDArray[np.uint8]
"""Shape (n, 4096)."""
ROWS_AT_ONCE = 128
"""512 KiB a step, so that computing a row stays in the cache: four times as fast as steps of 16 MiB."""


@dataclass
class Block:
    """`len(frames)` frames whose contents `rows(first, end)` computes, in the order of `frames`."""

    frames: FrameArray
    rows: Callable[[int, int], Rows]
    _order: FrameArray | None = None

    def find(self, frame: int) -> int:
        """Position of `frame`, or -1."""
        n = len(self.frames)
        low = int(self.frames[0])
        if 0 <= frame - low < n and int(self.frames[frame - low]) == frame:
            return frame - low
        if self._order is None:
            self._order = np.argsort(self.frames, kind="stable")
        at = int(np.searchsorted(self.frames, frame, sorter=self._order))
        if at < n and int(self.frames[self._order[at]]) == frame:
            return int(self._order[at])
        return -1


@dataclass
class Memory:
    """Pages by machine frame over blocks; a page that was asked for to be written hides its block's row."""

    pages: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)

    def add_block(self, frames: FrameArray, rows: Callable[[int, int], Rows]) -> None:
        """A large structure; frames must not overlap other blocks."""
        if len(frames):
            self.blocks.append(Block(frames, rows))

    def page(self, frame: int) -> npt.NDArray[np.uint8]:
        """The 4096 bytes of `frame`, to read and write."""
        page = self.pages.get(frame)
        if page is None:
            page = self._from_blocks(frame)
            if page is None:
                page = np.zeros(PAGE_SIZE, dtype=np.uint8)
            self.pages[frame] = page
        return page

    def _from_blocks(self, frame: int) -> npt.NDArray[np.uint8] | None:
        for block in self.blocks:
            at = block.find(frame)
            if at >= 0:
                row: npt.NDArray[np.uint8] = block.rows(at, at + 1)[0].copy()
                return row
        return None

    def words(self, frame: int) -> U64Array:
        """The page as 512 little-endian words, to read and write."""
        return self.page(frame).view("<u8")

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes from machine `address`; frames that hold nothing read as zero."""
        parts = []
        while size > 0:
            offset = address & (PAGE_SIZE - 1)
            n = min(size, PAGE_SIZE - offset)
            page = self.pages.get(address >> PAGE_SHIFT)
            if page is None:
                page = self._from_blocks(address >> PAGE_SHIFT)
            parts.append(bytes(n) if page is None else page[offset : offset + n].tobytes())
            address += n
            size -= n
        return b"".join(parts)

    def read_word(self, address: int, size: int = 8) -> int:
        """A little-endian unsigned word."""
        return int.from_bytes(self.read(address, size), "little")

    def write(self, address: int, data: bytes) -> None:
        """Bytes at machine `address`."""
        done = 0
        while done < len(data):
            at = address + done
            offset = at & (PAGE_SIZE - 1)
            n = min(len(data) - done, PAGE_SIZE - offset)
            self.page(at >> PAGE_SHIFT)[offset : offset + n] = np.frombuffer(data[done : done + n], dtype=np.uint8)
            done += n

    def write_word(self, address: int, value: int, size: int = 8) -> None:
        """A little-endian unsigned word."""
        self.write(address, value.to_bytes(size, "little"))

    def stored(self) -> Iterator[tuple[FrameArray, Rows]]:
        """Everything that is stored, in steps of bounded size: (frames, rows). Later ones hide earlier ones."""
        for block in self.blocks:
            for a in range(0, len(block.frames), ROWS_AT_ONCE):
                b = min(a + ROWS_AT_ONCE, len(block.frames))
                yield block.frames[a:b], block.rows(a, b)
        frames = np.array(sorted(self.pages), dtype=np.int64)
        for a in range(0, len(frames), ROWS_AT_ONCE):
            part = frames[a : a + ROWS_AT_ONCE]
            yield part, np.stack([self.pages[f] for f in part.tolist()])

    def pieces(self) -> dict[int, bytes]:
        """Start address to bytes, neighbours joined: the stored frames only. For small machines."""
        rows: dict[int, bytes] = {}
        for frames, data in self.stored():
            for i, frame in enumerate(frames.tolist()):
                rows[frame] = data[i].tobytes()
        joined: dict[int, list[bytes]] = {}
        start = previous = -2
        for frame in sorted(rows):
            if frame != previous + 1:
                start = frame << PAGE_SHIFT
                joined[start] = []
            joined[start].append(rows[frame])
            previous = frame
        return {start: b"".join(parts) for start, parts in joined.items()}
