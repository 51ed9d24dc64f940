"""The bitmaps of a kdump-compressed dump: which frames are there, and the how-manieth each of them is.

A page's descriptor is found by the number of set bits before its own. Counts are kept per block of 512
frames, so a rank costs one block whatever the size of the machine; nothing here loops over frames.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gdb_p2m.sources.base import Extent
from gdb_p2m.units import PAGE_SHIFT, FrameArray

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
BLOCK_BYTES = 64
BLOCK_FRAMES = BLOCK_BYTES * 8
STEP = 1 << 20
"""Bytes of bitmap looked at in one step: bounds the temporaries."""
MAX_EXTENTS = 1 << 16
DENSE = 16
POPCOUNT = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.uint8)
_LOW_BITS = ((1 << np.arange(8)) - 1).astype(np.uint8)
"""Mask of the bits below bit i of a byte (bit 0 is the lowest frame)."""


class Bitmap:
    """Bits of frames 0..frames-1, lowest frame in bit 0 of byte 0."""

    def __init__(self, data: Bytes, frames: int) -> None:
        self.frames = frames
        self.data = data[: (frames + 7) // 8]
        if len(self.data) and frames % 8 and int(self.data[-1]) >> (frames % 8):
            self.data = self.data.copy()
            self.data[-1] &= _LOW_BITS[frames % 8]
        blocks = -(-len(self.data) // BLOCK_BYTES)
        before = np.zeros(blocks + 1, dtype=np.int64)
        for a in range(0, len(self.data), STEP):
            part = POPCOUNT[self.data[a : a + STEP]]
            part = np.pad(part, (0, -len(part) % BLOCK_BYTES)).reshape(-1, BLOCK_BYTES)
            before[a // BLOCK_BYTES + 1 : a // BLOCK_BYTES + 1 + len(part)] = part.sum(axis=1, dtype=np.int64)
        self._before: FrameArray = np.cumsum(before)

    @property
    def total(self) -> int:
        """Number of set bits."""
        return int(self._before[-1])

    def has(self, frame: int) -> bool:
        """Whether the bit of `frame` is set."""
        return 0 <= frame < self.frames and bool(int(self.data[frame >> 3]) >> (frame & 7) & 1)

    def rank(self, frame: int) -> int:
        """Number of set bits below `frame`, 0 <= frame <= frames."""
        block, bits = divmod(frame, BLOCK_FRAMES)
        word = int.from_bytes(self.data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES].tobytes(), "little")
        return int(self._before[block]) + (word & ((1 << bits) - 1)).bit_count()

    def ranks(self, frames: FrameArray) -> FrameArray:
        """`rank` of each of `frames`; those outside 0..frames are moved to the nearest end."""
        if len(frames) > 1 and int(frames[-1]) - int(frames[0]) < DENSE * len(frames) and bool((np.diff(frames) > 0).all()):
            return self._dense_ranks(np.clip(frames, 0, self.frames))
        out = np.empty(len(frames), dtype=np.int64)
        for a in range(0, len(frames), BLOCK_FRAMES):
            out[a : a + BLOCK_FRAMES] = self._ranks(np.clip(frames[a : a + BLOCK_FRAMES], 0, self.frames))
        return out

    def _dense_ranks(self, frames: FrameArray) -> FrameArray:
        """Rising frames that lie close together: their bits are unpacked once."""
        start = int(frames[0]) & ~7
        bits = np.unpackbits(self.data[start >> 3 : (int(frames[-1]) + 8) >> 3], bitorder="little")
        counts = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(bits, dtype=np.int64)))
        ranks: FrameArray = self.rank(start) + counts[np.minimum(frames - start, len(bits))]
        return ranks

    def _ranks(self, frames: FrameArray) -> FrameArray:
        block = frames // BLOCK_FRAMES
        at = block[:, None] * BLOCK_BYTES + np.arange(BLOCK_BYTES)
        own = (frames >> 3)[:, None]
        counted = (at <= own) & (at < len(self.data))
        data = np.where(counted, self.data[np.where(counted, at, 0)], 0).astype(np.uint8) if len(self.data) else at * 0
        partial = at == own
        data = np.where(partial, data & _LOW_BITS[frames & 7][:, None], data)
        ranks: FrameArray = self._before[block] + POPCOUNT[data].sum(axis=1, dtype=np.int64)
        return ranks

    def has_each(self, frames: FrameArray) -> Mask:
        """`has` of each of `frames`."""
        inside = (frames >= 0) & (frames < self.frames)
        safe = np.where(inside, frames, 0)
        if not len(self.data):
            return np.zeros(len(frames), dtype=bool)
        bits: Mask = inside & ((self.data[safe >> 3] >> (safe & 7).astype(np.uint8)) & 1).astype(bool)
        return bits

    def members(self, start: int, end: int) -> FrameArray:
        """The frames of start..end-1 whose bits are set, rising. Memory grows with end - start."""
        start, end = max(start, 0), min(end, self.frames)
        if start >= end:
            return np.zeros(0, dtype=np.int64)
        bits = np.unpackbits(self.data[start >> 3 : (end + 7) >> 3], bitorder="little")
        skip = start & 7
        found: FrameArray = np.flatnonzero(bits[skip : skip + end - start]) + start
        return found

    def extents(self) -> tuple[Extent, ...]:
        """Stretches of set bits as machine memory. Very many are joined over their smallest gaps."""
        edges = self._edges()
        starts, ends = edges[0::2], edges[1::2]
        if len(starts) > MAX_EXTENTS:
            gaps = starts[1:] - ends[:-1]
            kept = np.sort(np.argpartition(gaps, -(MAX_EXTENTS - 1))[-(MAX_EXTENTS - 1) :])
            starts, ends = np.concatenate((starts[:1], starts[kept + 1])), np.concatenate((ends[kept], ends[-1:]))
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        return tuple(Extent(a << PAGE_SHIFT, b << PAGE_SHIFT) for a, b in pairs)

    def _edges(self) -> FrameArray:
        """Frames at which the bits change, from 0 before frame 0 to 0 after the last: an even number."""
        found: list[FrameArray] = []
        last = 0
        for a in range(0, len(self.data), STEP):
            part = self.data[a : a + STEP]
            # Only bytes that are mixed, or that follow one that ends otherwise, hold an edge.
            before = np.concatenate(([last], part[:-1] >> 7)).astype(np.uint8)
            odd = np.flatnonzero((part != 0) & (part != 0xFF) | ((part & 1) != before))
            bits = np.unpackbits(part[odd][:, None], axis=1, bitorder="little")
            changes = np.diff(bits, axis=1, prepend=before[odd][:, None]) != 0
            which, bit = np.nonzero(changes)
            found.append((a + odd[which]) * 8 + bit)
            last = int(part[-1]) >> 7
        edges = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
        if len(edges) % 2:
            edges = np.append(edges, self.frames)
        return edges


def contradicts(ram: Bytes, dumped: Bytes) -> int:
    """Number of frames that the second bitmap says are dumped and the first says do not exist."""
    lost = 0
    for a in range(0, len(dumped), STEP):
        lost += int(POPCOUNT[dumped[a : a + STEP] & ~ram[a : a + STEP]].sum(dtype=np.int64))
    return lost
