"""Mapping: a P2M as runs, the common coin of all views.

Everything is a numpy array with one element per run, so memory grows with runs, never with PFNs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.units import FrameArray, KindArray


class Kind(IntEnum):
    """What a frame number maps to. `UNREADABLE` and `CORRUPT` are answers, never guesses."""

    MFN = 0
    FOREIGN = 1
    IDENTITY = 2
    MISSING = 3
    UNREADABLE = 4
    CORRUPT = 5
    RAM_RW = 6
    MMIO_DIRECT_IO = 7
    MAP_FOREIGN_RW = 8
    MAP_FOREIGN_RO = 9
    INVALID = 10

    @property
    def word(self) -> str:
        """The name in texts and JSON."""
        return self.name.lower()

    @property
    def has_frame(self) -> bool:
        """Whether a run of this kind carries consecutive machine frames."""
        return self in _WITH_FRAME


_WITH_FRAME = frozenset(
    {Kind.MFN, Kind.FOREIGN, Kind.RAM_RW, Kind.MMIO_DIRECT_IO, Kind.MAP_FOREIGN_RW, Kind.MAP_FOREIGN_RO}
)
KIND_BY_WORD = {k.word: k for k in Kind}
LINUX_KINDS = (Kind.MFN, Kind.FOREIGN, Kind.IDENTITY, Kind.MISSING, Kind.UNREADABLE, Kind.CORRUPT)
RISCV_KINDS = (
    Kind.RAM_RW,
    Kind.MMIO_DIRECT_IO,
    Kind.MAP_FOREIGN_RW,
    Kind.MAP_FOREIGN_RO,
    Kind.INVALID,
    Kind.UNREADABLE,
    Kind.CORRUPT,
)
MAX_RUNS = 1 << 25
"""Frames of 128 GiB without two neighbours; more are only there when few pages are used many times."""
_HAS_FRAME = np.array([k in _WITH_FRAME for k in Kind], dtype=bool)


@dataclass(frozen=True, slots=True)
class Run:
    """One run: `count` frame numbers from `start`; `frame` is the first MFN, None for kinds without.

    order: log2 of the pages that one leaf maps (0, 9, 18), None for Linux views.
    """

    start: int
    count: int
    kind: Kind
    frame: int | None
    order: int | None = None

    @property
    def end(self) -> int:
        """First frame number after the run."""
        return self.start + self.count


@dataclass(frozen=True)
class Mapping:
    """Runs sorted by start, without overlaps, maximal.

    view: which view made it. limit: first frame number that it does not speak of.
    start, count, frame: int64 arrays (frame is -1 for kinds without one); kind: uint8 values of Kind.
    order: uint8 array for page-table views, else None.
    """

    view: str
    limit: int
    start: FrameArray
    count: FrameArray
    kind: KindArray
    frame: FrameArray
    order: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.start)

    def __iter__(self) -> Iterator[Run]:
        return (self.run(i) for i in range(len(self.start)))

    def run(self, index: int) -> Run:
        """The run at position `index`."""
        kind = Kind(int(self.kind[index]))
        frame = int(self.frame[index]) if kind.has_frame else None
        order = None if self.order is None else int(self.order[index])
        return Run(int(self.start[index]), int(self.count[index]), kind, frame, order)

    def lookup(self, number: int) -> Run | None:
        """The single-frame run of PFN/GFN `number`, or None where the mapping has a hole or ends."""
        i = int(np.searchsorted(self.start, number, side="right")) - 1
        if i < 0 or number >= int(self.start[i]) + int(self.count[i]):
            return None
        run = self.run(i)
        frame = None if run.frame is None else run.frame + number - run.start
        return Run(number, 1, run.kind, frame, run.order)

    def kinds_at(self, numbers: FrameArray) -> KindArray:
        """Kind of each of `numbers` (INVALID where the mapping has a hole or ends)."""
        i = np.searchsorted(self.start, numbers, side="right") - 1
        inside = (i >= 0) & (numbers < (self.start + self.count)[i])
        kinds: KindArray = np.where(inside, self.kind[i], np.uint8(Kind.INVALID))
        return kinds

    def reverse(self, mfn: int) -> list[Run]:
        """Every frame number that maps to machine frame `mfn`, as single-frame runs in order."""
        hit = _HAS_FRAME[self.kind] & (self.frame <= mfn) & (mfn < self.frame + self.count)
        hit |= (self.kind == Kind.IDENTITY) & (self.start <= mfn) & (mfn < self.start + self.count)
        found = []
        for i in np.flatnonzero(hit):
            run = self.run(int(i))
            number = mfn if run.frame is None else run.start + mfn - run.frame
            found.append(Run(number, 1, run.kind, None if run.frame is None else mfn, run.order))
        return found

    def clip(self, start: int, end: int) -> Mapping:
        """Only frame numbers start..end-1."""
        keep = (self.start < end) & (self.start + self.count > start)
        s, c, f = self.start[keep], self.count[keep], self.frame[keep]
        k = self.kind[keep]
        cut = np.maximum(start - s, 0)
        new_start = s + cut
        new_count = np.minimum(s + c, end) - new_start
        new_frame = np.where(_HAS_FRAME[k], f + cut, -1)
        order = None if self.order is None else self.order[keep]
        return Mapping(self.view, self.limit, new_start, new_count, k, new_frame, order)

    def only(self, kinds: set[Kind]) -> Mapping:
        """Only the runs of `kinds` (the rest become holes)."""
        keep = np.isin(self.kind, [int(k) for k in kinds])
        order = None if self.order is None else self.order[keep]
        return Mapping(
            self.view, self.limit, self.start[keep], self.count[keep], self.kind[keep], self.frame[keep], order
        )

    def totals(self) -> dict[Kind, int]:
        """Frame numbers per kind, only kinds that occur."""
        sums = np.zeros(len(Kind), dtype=np.int64)
        np.add.at(sums, self.kind, self.count)
        return {k: int(sums[k]) for k in Kind if sums[k]}

    def expand(self, start: int, end: int) -> tuple[KindArray, FrameArray]:
        """Kind and frame of every number start..end-1 (kind INVALID, frame -1 in holes).

        Memory grows with end - start: for tests and windows, never for whole address spaces.
        """
        part = self.clip(start, end)
        kinds = np.full(end - start, int(Kind.INVALID), dtype=np.uint8)
        frames = np.full(end - start, -1, dtype=np.int64)
        where = np.repeat(part.start - start, part.count) + _ramp(part.count)
        kinds[where] = np.repeat(part.kind, part.count)
        base = np.repeat(part.frame, part.count)
        frames[where] = np.where(base >= 0, base + _ramp(part.count), -1)
        return kinds, frames


FRAMES_AT_ONCE = 1 << 20
"""Frames per step of what looks at each: arrays of 8 MiB, whatever the size of the guest."""


def own_frames(mapping: Mapping) -> Iterator[tuple[FrameArray, FrameArray]]:
    """(PFNs, MFNs) of all `mfn` runs, in batches."""
    runs = mapping.kind == Kind.MFN
    return batches(mapping.start[runs], mapping.count[runs], mapping.frame[runs])


def batches(
    start: FrameArray, count: FrameArray, frame: FrameArray, size: int = FRAMES_AT_ONCE
) -> Iterator[tuple[FrameArray, FrameArray]]:
    """(numbers, frames) of runs, expanded in order, `size` at a time."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    for a in range(0, total, size):
        b = min(a + size, total)
        i, j = int(np.searchsorted(ends, a, "right")), int(np.searchsorted(ends, b, "left"))
        part = slice(i, j + 1)
        skip = np.zeros(j + 1 - i, dtype=np.int64)
        skip[0] = a - (int(ends[i]) - int(count[i]))
        take = count[part] - skip
        take[-1] -= int(ends[j]) - b
        ramp = _ramp(take)
        yield np.repeat(start[part] + skip, take) + ramp, np.repeat(frame[part] + skip, take) + ramp


def _ramp(counts: FrameArray) -> FrameArray:
    """0..c-1 for every c of counts, concatenated."""
    total = int(counts.sum())
    starts = np.cumsum(counts) - counts
    ramp: FrameArray = np.arange(total, dtype=np.int64) - np.repeat(starts, counts)
    return ramp


@dataclass
class MappingBuilder:
    """Collects runs in rising order of frame number and joins neighbours into maximal runs.

    Consumers append constant stretches (`add`) or arrays of ready runs (`add_runs`); joining happens
    once, vectorised, in `build`.
    """

    view: str
    limit: int
    ordered: bool = False
    room: int = field(default_factory=lambda: MAX_RUNS)
    _parts: list[tuple[FrameArray, FrameArray, KindArray, FrameArray, npt.NDArray[np.uint8] | None]] = field(
        default_factory=list
    )
    _held: int = 0

    def add(self, start: int, count: int, kind: Kind, frame: int = -1, order: int | None = None) -> None:
        """One run of one kind; nothing for count 0."""
        if count > 0:
            self._parts.append(
                (
                    np.array([start], dtype=np.int64),
                    np.array([count], dtype=np.int64),
                    np.array([int(kind)], dtype=np.uint8),
                    np.array([frame if kind.has_frame else -1], dtype=np.int64),
                    None if order is None else np.array([order], dtype=np.uint8),
                )
            )

    def add_runs(
        self,
        start: FrameArray,
        count: FrameArray,
        kind: KindArray,
        frame: FrameArray,
        order: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Many runs at once, same meaning as the arrays of Mapping."""
        if len(start):
            self.require_room(len(start))
            self._held += len(start)
            self._parts.append((start, count, kind, frame, order))

    def require_room(self, runs: int) -> None:
        """Raise NotUnderstood when `runs` more are too many: memory must stay bounded, whatever a dump claims."""
        if self._held + runs > self.room:
            raise NotUnderstood(
                f"view {self.view} falls into more than {self.room:,} runs: its pages are no P2M",
                hint="`check` says what is wrong with them",
            )

    def build(self) -> Mapping:
        """The finished mapping; parts may have been added in any order."""
        if not self._parts:
            none = np.zeros(0, dtype=np.int64)
            byte = np.zeros(0, dtype=np.uint8)
            return Mapping(self.view, self.limit, none, none, byte, none, byte if self.ordered else None)
        starts, counts, kinds, frames, orders = map(list, zip(*self._parts, strict=True))
        lengths = [len(piece) for piece in starts]
        self._parts.clear()  # each column's pieces go when the column is whole: all at once would be twice the memory
        start, count, kind, frame = _column(starts), _column(counts), _column(kinds), _column(frames)
        order: npt.NDArray[np.uint8] | None = None
        if self.ordered:
            order = _column([np.zeros(n, np.uint8) if o is None else o for o, n in zip(orders, lengths, strict=True)])
        if np.any(start[1:] < start[:-1]):
            by = np.argsort(start, kind="stable")
            start, count, kind, frame = start[by], count[by], kind[by], frame[by]
            order = None if order is None else order[by]
        return _join(Mapping(self.view, self.limit, start, count, kind, frame, order))


def _column(pieces: list[Any]) -> Any:
    """The pieces as one array; the list is emptied."""
    whole = np.concatenate(pieces)
    pieces.clear()
    return whole


def _join(m: Mapping) -> Mapping:
    """Neighbours that continue each other become one run."""
    end = m.start + m.count
    same = (end[:-1] == m.start[1:]) & (m.kind[:-1] == m.kind[1:])
    same &= ~_HAS_FRAME[m.kind[1:]] | (m.frame[:-1] + m.count[:-1] == m.frame[1:])
    if m.order is not None:
        same &= m.order[:-1] == m.order[1:]
    if not same.any():
        return m
    first = np.concatenate(([True], ~same))
    index = np.flatnonzero(first)
    last_end = np.concatenate((end[index[1:] - 1], end[-1:]))
    order = None if m.order is None else m.order[index]
    return Mapping(
        m.view, m.limit, m.start[index], last_end - m.start[index], m.kind[index], m.frame[index], order
    )
