"""DMP: the dump itself."""

from __future__ import annotations

import numpy as np

from gdb_p2m.mapping import Kind
from gdb_p2m.rules.base import DomainContext, Findings, Rule, unread_pfns
from gdb_p2m.units import PAGE_SHIFT


def _consistent(ctx: DomainContext, found: Findings) -> None:
    source = ctx.target.source
    found.look(len(source.machine_extents()))
    for position, message in source.info.problems:
        found.add(
            {"address": position},
            "segments, notes and bitmaps that fit together",
            "a contradiction",
            message,
            space="file",
        )


def _holds_what_it_maps(ctx: DomainContext, found: Findings) -> None:
    mapping = ctx.mapping
    own = (mapping.kind == Kind.MFN) | (mapping.kind == Kind.RAM_RW)
    starts = np.array([e.start >> PAGE_SHIFT for e in ctx.target.source.machine_extents()], dtype=np.int64)
    ends = np.array([e.end >> PAGE_SHIFT for e in ctx.target.source.machine_extents()], dtype=np.int64)
    first, count = mapping.frame[own], mapping.count[own]
    found.look(int(count.sum()))
    word = "GFN" if ctx.domain.kind == "riscv" else "PFN"
    if not len(starts):
        return
    # Frames held below x, as a function of x: the difference at both ends of a run is what is held of it.
    held = _held_below(first + count, starts, ends) - _held_below(first, starts, ends)
    lost = count - held
    some = np.flatnonzero(lost)
    for i in found.room(some, lost[some]):
        pfn, mfn = int(mapping.start[own][i]), int(first[i])
        found.add(
            {word.lower(): pfn, "mfn": mfn, "count": int(lost[i])},
            "in the dump",
            "not in the dump",
            f"{int(lost[i]):,} of the {int(count[i]):,} frames from MFN {mfn:#x} ({word} {pfn:#x}) are not in the dump",
            count=int(lost[i]),
        )
    unread_pfns(mapping, found)


def _held_below(
    x: np.ndarray[tuple[int], np.dtype[np.int64]],
    starts: np.ndarray[tuple[int], np.dtype[np.int64]],
    ends: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    before = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(ends - starts)))
    i = np.searchsorted(starts, x, "right")
    inside = np.where(i > 0, np.minimum(x, ends[np.maximum(i - 1, 0)]) - starts[np.maximum(i - 1, 0)], 0)
    held: np.ndarray[tuple[int], np.dtype[np.int64]] = np.where(i > 0, before[np.maximum(i - 1, 0)] + inside, 0)
    return held


DMP_RULES = (
    Rule(
        "DMP-001",
        "the dump does not contradict itself",
        "error",
        "all",
        "ELF; docs/formats.md",
        "Segments that overlap with different bytes, notes that end outside their segment, or segments past the end "
        "of the file (a truncated dump) make every other answer doubtful.",
        _consistent,
        ("pv", "riscv"),
    ),
    Rule(
        "DMP-002",
        "frames of the P2M that the dump does not hold",
        "note",
        "all",
        "docs/formats.md",
        "Dump writers can leave pages out. The P2M then names frames whose content cannot be looked at.",
        _holds_what_it_maps,
        ("pv", "riscv"),
    ),
)
