"""Which leaf pages of a P2M are private and which are the shared missing and identity pages.

One table serves both shapes: in the tree `top` says what p2m_top[i] points to and `leaf` what the mid page's
slots point to; in the linear list `top` says what the PMDs of one mid page lead to and `leaf` what the PTEs map.
"""

from __future__ import annotations

import numpy as np

from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.model.frames import Frames
from gdb_p2m.model.memory import Rows
from gdb_p2m.model.pieces import MIXED, Fate, PieceMap
from gdb_p2m.units import PAGE_SIZE, FrameArray, KindArray

MISSING = int(Fate.MISSING)
IDENTITY = int(Fate.IDENTITY)
PRIVATE = MIXED


class Leaves:
    """tops x per_page leaf slots, all shared missing at first."""

    def __init__(self, tops: int, width: EntryWidth) -> None:
        self.width = width
        self.per = width.per_page
        self.top: KindArray = np.full(tops, MISSING, dtype=np.uint8)
        self.flat: KindArray = np.full(tops * self.per, MISSING, dtype=np.uint8)

    @property
    def leaf(self) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """(tops, per_page) view of the leaf slots."""
        return self.flat.reshape(-1, self.per)

    def private_pages(self) -> FrameArray:
        """Leaf numbers (PFN / per_page) of the private leaves, rising."""
        return np.flatnonzero(self.flat == PRIVATE)

    def split_mid(self, top: int) -> None:
        """Give top slot `top` a private mid page; its slots lead where the shared mid's led."""
        if self.top[top] != PRIVATE:
            self.leaf[top] = self.top[top]
            self.top[top] = PRIVATE

    def make_private(self, start: int, end: int, only: int | None = None) -> FrameArray:
        """Private leaves for PFNs start..end-1 (only where the shared page is `only`, if given).

        Returns the leaf numbers that were shared until now.
        """
        if start >= end:
            return np.zeros(0, dtype=np.int64)
        first, last = start // self.per, min(-(-end // self.per), len(self.flat))
        part = self.flat[first:last]
        wanted = part != PRIVATE if only is None else part == only
        pages = np.flatnonzero(wanted) + first
        for top in np.unique(pages // self.per).tolist():
            self.split_mid(top)
        self.flat[pages] = PRIVATE
        return pages


class LeafRows:
    """Contents of private leaves: `pages` are leaf numbers, rising; rows come from the P2M."""

    def __init__(self, pages: FrameArray, p2m: PieceMap, frames: Frames, width: EntryWidth) -> None:
        self.pages = pages
        self.p2m = p2m
        self.frames = frames
        self.width = width
        edges = np.flatnonzero(np.diff(pages) != 1) + 1
        self.starts = np.concatenate(([0], edges)) if len(pages) else edges
        self.ends = np.concatenate((edges, [len(pages)])) if len(pages) else edges

    def __call__(self, first: int, end: int) -> Rows:
        """Rows first..end-1 as (n, 4096) bytes."""
        per = self.width.per_page
        out = np.empty((end - first, PAGE_SIZE), dtype=np.uint8)
        i = int(np.searchsorted(self.ends, first, side="right"))
        while i < len(self.starts) and self.starts[i] < end:
            a, b = max(int(self.starts[i]), first), min(int(self.ends[i]), end)
            pfn = int(self.pages[a]) * per
            words = self.p2m.entries(pfn, pfn + (b - a) * per, self.frames, self.width)
            raw = words if self.width.bits == 64 else words.astype("<u4")
            out[a - first : b - first] = raw.view(np.uint8).reshape(b - a, PAGE_SIZE)
            i += 1
        return out


def words_to_page(values: np.ndarray[tuple[int], np.dtype[np.int64]], width: EntryWidth) -> bytes:
    """A page of unsigned longs of the guest."""
    return values.astype("<i8" if width.bits == 64 else "<u4").tobytes()
