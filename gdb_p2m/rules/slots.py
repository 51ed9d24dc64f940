"""Leaf slots (stretches of P2M_PER_PAGE PFNs) as arrays: what several groups of rules ask of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gdb_p2m.mapping import Kind, Mapping


def stretches(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, end) of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def uniform_slots(mapping: Mapping, kind: Kind, slots: int, per: int) -> npt.NDArray[np.bool_]:
    """Which of the first `slots` slots of `per` PFNs are of one `kind` throughout."""
    these = mapping.kind == kind
    first = -(-mapping.start[these] // per)
    last = np.minimum((mapping.start[these] + mapping.count[these]) // per, slots)
    whole = last > first
    edges = np.zeros(slots + 1, dtype=np.int64)
    np.add.at(edges, first[whole], 1)
    np.add.at(edges, last[whole], -1)
    return np.cumsum(edges[:-1]) > 0
