"""What changed between two Mappings, computed on runs.

The boundaries of both mappings together cut the PFN space into pieces on which nothing changes in either;
each piece is classified once, and neighbours that continue each other are joined. Cost and memory follow the
number of runs, never the number of PFNs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.units import FrameArray, KindArray

ChangeArray = npt.NDArray[np.uint8]


class Change(IntEnum):
    """What happened to a PFN (GFN) between two moments.

    KEPT: same kind, same machine frame. MOVED: same kind, another frame. GONE: had a frame, now nothing. NEW: the
    reverse. KIND: any other change of kind (frame to identity, mfn to foreign, missing to identity). ORDER: same frame,
    through a page-table leaf of another size. SAME: no frame before, none after, same kind. UNKNOWN: one of the two
    answers is unreadable or corrupt, so nothing can be said.
    """

    KEPT = 0
    MOVED = 1
    GONE = 2
    NEW = 3
    KIND = 4
    ORDER = 5
    SAME = 6
    UNKNOWN = 7

    @property
    def word(self) -> str:
        """The name in texts and JSON."""
        return self.name.lower()


DIFFERENT = (Change.MOVED, Change.GONE, Change.NEW, Change.KIND, Change.ORDER)
"""Changes that make two mappings differ."""
_UNKNOWN = frozenset({Kind.UNREADABLE, Kind.CORRUPT})
_NOTHING = frozenset({Kind.MISSING, Kind.INVALID})


def _change(a: Kind, b: Kind) -> Change:
    if a in _UNKNOWN or b in _UNKNOWN:
        return Change.UNKNOWN
    if a is b:
        return Change.KEPT if a.has_frame else Change.SAME
    if Kind.INVALID in (a, b) and not (a.has_frame or b.has_frame):
        # INVALID beside a Linux kind is a PFN past the limit of one mapping, which that mapping does not speak of.
        return Change.SAME
    if a.has_frame and b in _NOTHING:
        return Change.GONE
    return Change.NEW if b.has_frame and a in _NOTHING else Change.KIND


_TABLE = np.array([[_change(a, b) for b in Kind] for a in Kind], dtype=np.uint8)
_HAS_FRAME = np.array([k.has_frame for k in Kind], dtype=bool)


@dataclass(frozen=True, slots=True)
class ChangeRun:
    """`count` PFNs from `start`; kinds and first frames (None: no frame) and leaf orders before and after."""

    start: int
    count: int
    change: Change
    kinds: tuple[Kind, Kind]
    frames: tuple[int | None, int | None]
    orders: tuple[int | None, int | None]

    @property
    def end(self) -> int:
        """First PFN after the run."""
        return self.start + self.count


@dataclass(frozen=True)
class Side:
    """One moment's answers on the pieces: kind, frame (-1: none) and, for page tables, leaf order (-1: no leaf)."""

    kind: KindArray
    frame: FrameArray
    order: FrameArray | None


@dataclass(frozen=True)
class MappingDiff:
    """Maximal runs of equal change, sorted, without gaps over all that either mapping speaks of."""

    start: FrameArray
    count: FrameArray
    change: ChangeArray
    before: Side
    after: Side

    def __len__(self) -> int:
        return len(self.start)

    def __iter__(self) -> Iterator[ChangeRun]:
        return (self.run(i) for i in range(len(self.start)))

    def run(self, i: int) -> ChangeRun:
        """The run at position `i`."""
        sides = (self.before, self.after)
        return ChangeRun(
            int(self.start[i]),
            int(self.count[i]),
            Change(int(self.change[i])),
            (Kind(int(self.before.kind[i])), Kind(int(self.after.kind[i]))),
            _pair(int(s.frame[i]) if s.frame[i] >= 0 else None for s in sides),
            _pair(int(s.order[i]) if s.order is not None and s.order[i] >= 0 else None for s in sides),
        )

    def totals(self) -> dict[Change, tuple[int, int]]:
        """(PFNs, runs) per change, every change in order."""
        pfns = np.zeros(len(Change), dtype=np.int64)
        np.add.at(pfns, self.change, self.count)
        runs = np.bincount(self.change, minlength=len(Change))
        return {c: (int(pfns[c]), int(runs[c])) for c in Change}

    def only(self, changes: set[Change]) -> MappingDiff:
        """Only the runs of `changes`."""
        return self._take(np.isin(self.change, [int(c) for c in changes]))

    def folded(self) -> list[tuple[int, int, Change, int]]:
        """(start, count, change, number of runs) of neighbouring runs of one change, whatever their frames."""
        if not len(self):
            return []
        end = self.start + self.count
        edge = (self.change[1:] != self.change[:-1]) | (end[:-1] != self.start[1:])
        first = np.concatenate(([0], np.flatnonzero(edge) + 1))
        last = np.concatenate((first[1:], [len(self)])) - 1
        counts = end[last] - self.start[first]
        runs = last - first + 1
        rows = zip(self.start[first].tolist(), counts.tolist(), self.change[first].tolist(), runs.tolist(), strict=True)
        return [(s, c, Change(k), n) for s, c, k, n in rows]

    def _take(self, keep: npt.NDArray[np.bool_]) -> MappingDiff:
        sides = [
            Side(s.kind[keep], s.frame[keep], None if s.order is None else s.order[keep])
            for s in (self.before, self.after)
        ]
        return MappingDiff(self.start[keep], self.count[keep], self.change[keep], *sides)


def _pair(values: Iterator[int | None]) -> tuple[int | None, int | None]:
    first, second = values
    return first, second


def diff(a: Mapping, b: Mapping, start: int = 0, end: int | None = None) -> MappingDiff:
    """What changed from `a` to `b`, over PFNs start..end-1, by default all below the larger limit.

    A PFN in a hole of a mapping, or past its limit, is INVALID there: a frame on the other side is gone or new.
    """
    last = max(a.limit, b.limit) if end is None else end
    edges = [a.start, a.start + a.count, b.start, b.start + b.count, np.array([start, last], dtype=np.int64)]
    cuts = np.unique(np.clip(np.concatenate(edges), start, last))
    first, count = cuts[:-1], np.diff(cuts)
    before, after = _side(a, first), _side(b, first)
    change = _TABLE[before.kind, after.kind]
    kept = change == Change.KEPT
    change[kept & (before.frame != after.frame)] = Change.MOVED
    if before.order is not None and after.order is not None:
        change[(change == Change.KEPT) & (before.order != after.order)] = Change.ORDER
    return _join(MappingDiff(first, count, change, before, after))


def _side(m: Mapping, start: FrameArray) -> Side:
    """The mapping's answers for the pieces that begin at `start`."""
    if not len(m):
        none = np.full(len(start), -1, dtype=np.int64)
        kinds = np.full(len(start), Kind.INVALID, dtype=np.uint8)
        return Side(kinds, none, None if m.order is None else none.copy())
    i = np.maximum(np.searchsorted(m.start, start, side="right") - 1, 0)
    inside = (m.start[i] <= start) & (start < m.start[i] + m.count[i])
    kind: KindArray = np.where(inside, m.kind[i], np.uint8(Kind.INVALID))
    frame = np.where(_HAS_FRAME[kind], m.frame[i] + (start - m.start[i]), -1)
    order = None if m.order is None else np.where(inside, m.order[i].astype(np.int64), -1)
    return Side(kind, frame, order)


def _join(d: MappingDiff) -> MappingDiff:
    """Neighbouring pieces that continue each other on both sides become one run."""
    same = d.change[:-1] == d.change[1:]
    for side in (d.before, d.after):
        same &= side.kind[:-1] == side.kind[1:]
        same &= (side.frame[1:] < 0) | (side.frame[:-1] + d.count[:-1] == side.frame[1:])
        if side.order is not None:
            same &= side.order[:-1] == side.order[1:]
    first = np.concatenate((np.ones(min(len(d), 1), dtype=bool), ~same))
    whole = d._take(first)
    end = d.start[-1:] + d.count[-1:]
    count = np.diff(np.concatenate((whole.start, end)))
    return MappingDiff(whole.start, count, whole.change, whole.before, whole.after)


@dataclass(frozen=True, slots=True)
class FrameTotals:
    """Machine frames of kinds that carry one: in both mappings (at whatever PFN), only before, only after."""

    common: int
    left: int
    arrived: int


def frame_totals(a: Mapping, b: Mapping) -> FrameTotals:
    """How many machine frames two mappings have in common. A frame that several PFNs map counts once."""
    mine, theirs = _stretches(a), _stretches(b)
    cuts = np.unique(np.concatenate((*mine, *theirs)))
    length = np.diff(cuts)
    in_a, in_b = _covered(cuts[:-1], *mine), _covered(cuts[:-1], *theirs)
    return FrameTotals(int(length[in_a & in_b].sum()), int(length[in_a & ~in_b].sum()), int(length[in_b & ~in_a].sum()))


def _stretches(m: Mapping) -> tuple[FrameArray, FrameArray]:
    """Frames that a mapping uses, as sorted stretches (starts, ends) without overlaps."""
    has = _HAS_FRAME[m.kind]
    start, end = m.frame[has], m.frame[has] + m.count[has]
    by = np.argsort(start, kind="stable")
    start, reach = start[by], np.maximum.accumulate(end[by])
    if not len(start):
        return start, reach
    new = np.concatenate(([True], start[1:] > reach[:-1]))
    first = np.flatnonzero(new)
    return start[first], reach[np.concatenate((first[1:] - 1, [len(start) - 1]))]


def _covered(points: FrameArray, starts: FrameArray, ends: FrameArray) -> npt.NDArray[np.bool_]:
    if not len(starts):
        return np.zeros(len(points), dtype=bool)
    i = np.searchsorted(starts, points, side="right") - 1
    inside: npt.NDArray[np.bool_] = (i >= 0) & (points < ends[np.maximum(i, 0)])
    return inside
