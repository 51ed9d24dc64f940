"""A P2M as a piecewise function of the PFN, so that 2^27 entries cost as little as the few ranges of a description.

Pieces are evaluated to entries only for the pages that are written, and only in chunks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.model.frames import Frames
from gdb_p2m.units import FrameArray, KindArray, U64Array


class Fate(IntEnum):
    """What a PFN maps to; the names in lower case are the kinds of the maps that decoders print."""

    MFN = 0
    FOREIGN = 1
    IDENTITY = 2
    MISSING = 3

    @property
    def word(self) -> str:
        """The kind in words: "mfn", "foreign", "identity", "missing"."""
        return self.name.lower()


MIXED = 255
"""Page classification: the page's entries are not all the same kind, or they are frames."""


@dataclass(frozen=True, slots=True)
class Piece:
    """PFNs start..end-1 with one fate.

    base: for MFN the PFN (of `start`) in the domain builder's list, whose frame this is: remapping moves
    frames, so this need not be `start`; for FOREIGN the first machine frame; -1 otherwise.
    """

    start: int
    end: int
    fate: Fate
    base: int = -1

    def cut(self, start: int, end: int) -> Piece:
        """The part start..end-1 of this piece."""
        base = self.base + start - self.start if self.base >= 0 else -1
        return Piece(start, end, self.fate, base)

    def continues(self, left: Piece) -> bool:
        """Whether this piece and the one before it are one."""
        if left.end != self.start or left.fate is not self.fate:
            return False
        return self.base < 0 or self.base == left.base + left.end - left.start


class PieceMap:
    """Sorted pieces that cover 0..limit-1 without gaps; it starts as all missing."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pieces: list[Piece] = [Piece(0, limit, Fate.MISSING)]

    def copy(self) -> PieceMap:
        """An independent copy."""
        twin = PieceMap(self.limit)
        twin.pieces = list(self.pieces)
        return twin

    def __iter__(self) -> Iterator[Piece]:
        return iter(self.pieces)

    def within(self, start: int, end: int) -> Iterator[Piece]:
        """The pieces of PFNs start..end-1, cut to them."""
        i = bisect_right(self.pieces, start, key=lambda p: p.start) - 1
        while i < len(self.pieces) and self.pieces[i].start < end:
            piece = self.pieces[i]
            yield piece.cut(max(start, piece.start), min(end, piece.end))
            i += 1

    def set(self, start: int, end: int, fate: Fate, base: int = -1) -> None:
        """Override PFNs start..end-1 (cut at the limit)."""
        end = min(end, self.limit)
        if start >= end:
            return
        new = [*self.within(0, start)] if start else []
        new.append(Piece(start, end, fate, base))
        new += self.within(end, self.limit) if end < self.limit else []
        merged = new[:1]
        for piece in new[1:]:
            if piece.continues(merged[-1]):
                last = merged.pop()
                piece = Piece(last.start, piece.end, last.fate, last.base)
            merged.append(piece)
        self.pieces = merged

    def at(self, pfn: int) -> Piece:
        """The one-PFN piece of `pfn`."""
        return next(self.within(pfn, pfn + 1))

    def ranges(self, fate: Fate) -> list[tuple[int, int]]:
        """(start, end) of every maximal stretch of `fate`, whatever its frames."""
        out: list[tuple[int, int]] = []
        for p in self.pieces:
            if p.fate is fate:
                if out and out[-1][1] == p.start:
                    out[-1] = (out[-1][0], p.end)
                else:
                    out.append((p.start, p.end))
        return out

    def entries(self, start: int, end: int, frames: Frames, width: EntryWidth) -> U64Array:
        """The P2M entries of PFNs start..end-1 (uint64, also for 32-bit guests)."""
        out = np.empty(end - start, dtype=np.uint64)
        for p in self.within(start, end):
            part = out[p.start - start : p.end - start]
            if p.fate is Fate.MISSING:
                part[:] = np.uint64(width.invalid)
            elif p.fate is Fate.MFN:
                part[:] = frames.mfns(p.base, p.base + p.end - p.start).view(np.uint64)
            else:
                first, flag = (p.start, width.identity_bit) if p.fate is Fate.IDENTITY else (p.base, width.foreign_bit)
                part[:] = np.arange(first, first + len(part), dtype=np.uint64) | np.uint64(flag)
        return out

    def uniform(self, pages: int, per_page: int) -> KindArray:
        """For each of the first `pages` pages: MISSING or IDENTITY when the whole page is that, else MIXED."""
        out = np.full(pages, MIXED, dtype=np.uint8)
        for fate in (Fate.MISSING, Fate.IDENTITY):
            for start, end in self.ranges(fate):
                out[-(-start // per_page) : min(end // per_page, pages)] = fate
        return out

    def runs(self, limit: int, frames: Frames) -> tuple[FrameArray, FrameArray, KindArray, FrameArray]:
        """start, count, kind (Fate), frame (-1 for none) of maximal runs over 0..limit-1."""
        starts: list[FrameArray] = []
        kinds: list[KindArray] = []
        first: list[FrameArray] = []
        for p in self.within(0, limit):
            if p.fate is Fate.MFN:
                at, mfn = frames.stretches(p.base, p.base + p.end - p.start)
                starts.append(at - p.base + p.start)
                first.append(mfn)
            else:
                starts.append(np.array([p.start], dtype=np.int64))
                first.append(np.array([p.base], dtype=np.int64))
            kinds.append(np.full(len(starts[-1]), p.fate, dtype=np.uint8))
        return _joined(np.concatenate(starts), np.concatenate(kinds), np.concatenate(first), limit)


def _joined(
    start: FrameArray, kind: KindArray, frame: FrameArray, limit: int
) -> tuple[FrameArray, FrameArray, KindArray, FrameArray]:
    """Neighbours that continue each other become one run."""
    same = kind[1:] == kind[:-1]
    same &= (frame[1:] < 0) | (frame[1:] == frame[:-1] + (start[1:] - start[:-1]))
    keep = np.concatenate(([True], ~same))
    start, kind, frame = start[keep], kind[keep], frame[keep]
    count = np.diff(np.concatenate((start, [limit])))
    return start, count, kind, frame
