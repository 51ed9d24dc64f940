"""Arrays of P2M entries to runs, without a Python loop over PFNs."""

from __future__ import annotations

import numpy as np

from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.mapping import Kind
from gdb_p2m.spaces.words import MAX_MFN_BITS
from gdb_p2m.units import FrameArray, KindArray, U64Array

Runs = tuple[FrameArray, FrameArray, KindArray, FrameArray]
"""start, count, kind, frame: as in mapping.Mapping."""


def classify_entry(raw: int, pfn: int, width: EntryWidth) -> tuple[Kind, int | None, str]:
    """(kind, frame, reason) of one entry; reason explains CORRUPT. Twin of `entry_runs`, a test proves it."""
    if raw == width.invalid:
        return Kind.MISSING, None, ""
    flags = raw & (width.foreign_bit | width.identity_bit)
    low = raw & (width.identity_bit - 1)
    if flags == width.foreign_bit | width.identity_bit:
        return Kind.CORRUPT, None, f"entry {raw:#x} has both flag bits set but is not INVALID_P2M_ENTRY"
    if flags == width.identity_bit:
        if low != pfn:
            return Kind.CORRUPT, None, f"an identity entry for PFN {low:#x} in the slot of PFN {pfn:#x}"
        return Kind.IDENTITY, None, ""
    if low >> MAX_MFN_BITS:
        return Kind.CORRUPT, None, f"entry {raw:#x} names a frame beyond any machine (over 52 address bits)"
    return (Kind.FOREIGN if flags else Kind.MFN), low, ""


def entry_runs(entries: U64Array, first_pfn: int, width: EntryWidth) -> Runs:
    """Runs of consecutive `entries` (one dimension) whose first is that of PFN `first_pfn`.

    32-bit entries come widened to uint64. Runs are maximal within the array. Cost: a difference, a
    comparison and a search per entry, everything else per run.
    """
    step = entries[1:] - entries[:-1]
    breaks = step != 1
    invalid = np.uint64(width.invalid)
    found = np.flatnonzero(breaks)
    if len(found) > len(entries) // 8:
        # Many breaks: stretches of INVALID (difference 0), or scattered frames. One more pass pays.
        breaks &= (step != 0) | (entries[1:] != invalid)
        found = np.flatnonzero(breaks)
    else:
        found = found[(step[found] != 0) | (entries[found + 1] != invalid)]
    starts = np.concatenate((np.zeros(1, dtype=np.int64), found + 1))
    ends = np.concatenate((starts[1:], np.array([len(entries)], dtype=np.int64)))
    starts, ends = _split_at_changes_of_kind(entries, starts, ends, width)
    kinds, frames = _kinds(entries[starts], starts + first_pfn, width)
    return starts + first_pfn, ends - starts, kinds, frames


def _split_at_changes_of_kind(
    entries: U64Array, starts: FrameArray, ends: FrameArray, width: EntryWidth
) -> tuple[FrameArray, FrameArray]:
    """Rising runs that leave the physical addresses, cross flag bits or reach all ones are cut there.

    Hostile input only; what changes the kind changes a bit above the highest frame number.
    """
    first, last = entries[starts], entries[ends - 1]
    shift = np.uint64(min(width.bits - 2, MAX_MFN_BITS))
    crosses = (first >> shift) != (last >> shift)
    crosses |= (last == np.uint64(width.invalid)) & (first != last)
    if not crosses.any():
        return starts, ends
    cuts = [starts]
    for i in np.flatnonzero(crosses).tolist():
        a, b = int(starts[i]), int(ends[i])
        part = entries[a:b]
        key = (part >> shift) + np.where(part == np.uint64(width.invalid), np.uint64(1), np.uint64(0))
        cuts.append(np.flatnonzero(key[1:] != key[:-1]) + a + 1)
    merged = np.unique(np.concatenate(cuts))
    return merged, np.concatenate((merged[1:], ends[-1:]))


def _kinds(first: U64Array, pfns: FrameArray, width: EntryWidth) -> tuple[KindArray, FrameArray]:
    """Kind and frame (-1 for none) of the first entries of runs."""
    flags = (first >> np.uint64(width.bits - 2)).astype(np.uint8)
    low = (first & np.uint64(width.identity_bit - 1)).astype(np.int64)
    by_flags = np.array([Kind.MFN, Kind.IDENTITY, Kind.FOREIGN, Kind.CORRUPT], dtype=np.uint8)
    kinds = by_flags[flags & 3]
    kinds[first == np.uint64(width.invalid)] = Kind.MISSING
    kinds[(kinds == Kind.IDENTITY) & (low != pfns)] = Kind.CORRUPT
    with_frame = (kinds == Kind.MFN) | (kinds == Kind.FOREIGN)
    kinds[with_frame & (low >> MAX_MFN_BITS != 0)] = Kind.CORRUPT
    frames = np.where((kinds == Kind.MFN) | (kinds == Kind.FOREIGN), low, -1)
    return kinds, frames
