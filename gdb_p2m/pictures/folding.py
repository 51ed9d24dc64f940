"""Which stretches of a page get a row of their own, and which are folded into one row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring slots first..last (counted over all pages of a level) that are alike. code: how."""

    first: int
    last: int
    code: int

    @property
    def slots(self) -> int:
        """How many."""
        return self.last - self.first + 1


def stretches(codes: npt.NDArray[np.int64], first: int = 0) -> list[Stretch]:
    """Maximal stretches of equal codes; `first` is the number of the first slot."""
    if not len(codes):
        return []
    edges = np.concatenate(([0], np.flatnonzero(codes[1:] != codes[:-1]) + 1, [len(codes)])).tolist()
    return [Stretch(first + a, first + b - 1, int(codes[a])) for a, b in zip(edges, edges[1:], strict=False)]


def fold(count: int, keep: Collection[int]) -> list[range]:
    """0..count-1 as ranges: those of `keep` alone, the others joined with their neighbours."""
    out: list[range] = []
    for i in range(count):
        if i in keep or not out or out[-1].start in keep:
            out.append(range(i, i + 1))
        else:
            out[-1] = range(out[-1].start, i + 1)
    return out


def best(scores: Sequence[tuple[int, ...]], limit: int) -> set[int]:
    """Positions of the `limit` highest scores; of equal ones the first."""
    order = sorted(range(len(scores)), key=lambda i: (*(-s for s in scores[i]), i))
    return set(order[:limit])
