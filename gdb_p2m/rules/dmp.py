"""DMP: the dump itself."""

from __future__ import annotations

import numpy as np

from gdb_p2m.mapping import Kind
from gdb_p2m.rules.base import DomainContext, Findings, Rule, unread_pfns
from gdb_p2m.sources.base import Source


def _consistent(ctx: DomainContext, found: Findings) -> None:
    source = ctx.target.source
    found.look(len(source.machine_extents()))
    for position, message in source.info.problems + [p for p in source.audit() if p not in source.info.problems]:
        found.add(
            {"address": position},
            "segments, notes and bitmaps that fit together",
            "a contradiction",
            message,
            space="file",
        )


def _holds_what_it_maps(ctx: DomainContext, found: Findings) -> None:
    mapping, source = ctx.mapping, ctx.target.source
    own = (mapping.kind == Kind.MFN) | (mapping.kind == Kind.RAM_RW)
    first, count = mapping.frame[own], mapping.count[own]
    found.look(int(count.sum()))
    word = "GFN" if ctx.domain.kind == "riscv" else "PFN"
    # Frames held below x, as a function of x: the difference at both ends of a run is what is held of it.
    lost = count - (source.frames_below(first + count) - source.frames_below(first))
    some = np.flatnonzero(lost)
    if len(some):
        # One note for all of them: an excerpt or a filtered dump lacks nearly everything, by design.
        i = int(some[0])
        mfn, total = _first_lost(source, int(first[i]), int(count[i])), int(lost.sum())
        number = int(mapping.start[own][i]) + mfn - int(first[i])
        found.add(
            {word.lower(): number, "mfn": mfn, "count": total},
            "in the dump",
            "not in the dump",
            f"{total:,} of {int(count.sum()):,} mapped frames are not in the dump, the first is MFN {mfn:#x} "
            f"({word} {number:#x}): their content cannot be looked at",
            count=total,
        )
    unread_pfns(mapping, found)


def _first_lost(source: Source, mfn: int, count: int) -> int:
    """The first of `count` frames from `mfn` that the dump does not hold, by halving: frames_below only grows."""
    below = int(source.frames_below(np.array([mfn], dtype=np.int64))[0])
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        held = int(source.frames_below(np.array([mfn + middle + 1], dtype=np.int64))[0]) - below
        if held == middle + 1:
            low = middle + 1
        else:
            high = middle
    return mfn + low


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
