"""Which machine frames a model machine has, and which of them the domain builder gave to the guest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gdb_p2m.units import FrameArray, U64Array

CHUNK = 1 << 20
"""Frames looked at in one step: keeps the arrays of a 512 GiB guest out of each other's way."""
LOW_FRAMES = 256
"""The first MiB is the BIOS' and Xen's trampoline's: no guest gets it, so MFN 0 never occurs."""
Order = Literal["contiguous", "reversed", "scattered"]


@dataclass(frozen=True, slots=True)
class FrameRange:
    """Machine frames start..end-1."""

    start: int
    end: int


class Scatter:
    """A seeded bijection of 0..size-1, computed for any chunk, with its inverse.

    Rounds of multiplication by an odd number and a self-inverse xor-shift on the next power of two;
    values past the end walk on until they fall inside. No table, so 2^27 frames need no memory.
    """

    ROUNDS = 3

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.bits = max(2, (size - 1).bit_length())
        self.mask = np.uint64((1 << self.bits) - 1)
        self.shift = np.uint64((self.bits + 1) // 2)
        rng = np.random.Generator(np.random.PCG64(seed))
        draws = rng.integers(0, 1 << self.bits, 2 * self.ROUNDS)
        self.factors = [(int(d) | 1) for d in draws[: self.ROUNDS]]
        self.addends = [int(d) for d in draws[self.ROUNDS :]]

    def forward(self, index: FrameArray) -> FrameArray:
        """Where each of `index` goes."""
        return self._walk(index, self._mix)

    def backward(self, value: FrameArray) -> FrameArray:
        """Which index each of `value` came from."""
        return self._walk(value, self._unmix)

    def _walk(self, values: FrameArray, step: Callable[[U64Array], U64Array]) -> FrameArray:
        x = step(values.astype(np.uint64))
        limit = np.uint64(self.size)
        outside = np.flatnonzero(x >= limit)
        while len(outside):
            x[outside] = step(x[outside])
            outside = outside[x[outside] >= limit]
        out: FrameArray = x.astype(np.int64)
        return out

    def _mix(self, x: U64Array) -> U64Array:
        for factor, addend in zip(self.factors, self.addends, strict=True):
            x = x * np.uint64(factor)
            x += np.uint64(addend)
            x &= self.mask
            x ^= x >> self.shift
        return x

    def _unmix(self, x: U64Array) -> U64Array:
        modulus = 1 << self.bits
        for factor, addend in zip(reversed(self.factors), reversed(self.addends), strict=True):
            x = x ^ (x >> self.shift)
            inverse = np.uint64(pow(factor, -1, modulus))
            x += np.uint64(modulus - addend)
            x *= inverse
            x &= self.mask
        return x


class Pool:
    """Frames of several ranges as one sequence 0..size-1."""

    def __init__(self, ranges: list[FrameRange]) -> None:
        self.ranges = [r for r in ranges if r.end > r.start]
        lengths = np.array([r.end - r.start for r in self.ranges], dtype=np.int64)
        self._firsts = np.array([r.start for r in self.ranges], dtype=np.int64)
        self._ends = np.cumsum(lengths)
        self._begins = self._ends - lengths
        self.size = int(lengths.sum())

    def frames(self, index: FrameArray) -> FrameArray:
        """Frames at positions `index`."""
        if len(self.ranges) == 1:
            only: FrameArray = index + self._firsts[0]
            return only
        which = np.searchsorted(self._ends, index, side="right")
        return self._firsts[which] + (index - self._begins[which])

    def index(self, frames: FrameArray) -> FrameArray:
        """Positions of `frames`, -1 for frames outside the pool."""
        if len(self.ranges) == 1:
            only = frames - self._firsts[0]
            return np.where((only >= 0) & (only < self.size), only, -1)
        which = np.searchsorted(self._firsts, frames, side="right") - 1
        at = self._begins[which] + (frames - self._firsts[which])
        inside = (which >= 0) & (at < self._ends[which])
        return np.where(inside, at, -1)


class Frames:
    """The guest's frames: builder PFN (position in the builder's list) to MFN and back.

    first: position in the pool of PFN 0 (contiguous), ignored by the other orders.
    """

    def __init__(self, pool: Pool, count: int, order: Order, first: int = 0, seed: int = 0) -> None:
        self.pool = pool
        self.count = count
        self.order = order
        self.first = first
        self._scatter = Scatter(pool.size, seed) if order == "scattered" else None

    def mfns(self, start: int, end: int) -> FrameArray:
        """Machine frames of builder PFNs start..end-1."""
        return self.of(np.arange(start, end, dtype=np.int64))

    def mfn(self, pfn: int) -> int:
        """Machine frame of one builder PFN."""
        return int(self.mfns(pfn, pfn + 1)[0])

    def of(self, pfns: FrameArray) -> FrameArray:
        """Machine frames of builder PFNs in any order."""
        if self.order == "contiguous":
            return self.pool.frames(pfns + self.first)
        if self._scatter is None:
            return self.pool.frames(self.pool.size - 1 - pfns)
        return self.pool.frames(self._scatter.forward(pfns))

    def owners(self, frames: FrameArray) -> FrameArray:
        """Builder PFN of each machine frame, -1 for frames that the guest never got."""
        index = self.pool.index(frames)
        if self.order == "contiguous":
            pfns = np.where(index >= 0, index - self.first, -1)
        elif self._scatter is None:
            pfns = np.where(index >= 0, self.pool.size - 1 - index, -1)
        else:
            inside = index >= 0
            if inside.all():
                pfns = self._scatter.backward(index)
            else:
                pfns = np.full(len(frames), -1, dtype=np.int64)
                pfns[inside] = self._scatter.backward(index[inside])
        return np.where((pfns >= 0) & (pfns < self.count), pfns, -1)

    def stretches(self, start: int, end: int) -> tuple[FrameArray, FrameArray]:
        """(builder PFNs where a stretch of consecutive frames begins, its first MFN) for start..end-1."""
        at: list[FrameArray] = []
        first: list[FrameArray] = []
        before = -2
        for a in range(start, end, CHUNK):
            mfns = self.mfns(a, min(a + CHUNK, end))
            breaks = np.flatnonzero(np.diff(mfns, prepend=before) != 1)
            at.append(breaks + a)
            first.append(mfns[breaks])
            before = int(mfns[-1])
        return np.concatenate(at), np.concatenate(first)
