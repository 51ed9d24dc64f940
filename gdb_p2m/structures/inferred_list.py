"""The end of a linear list and its shared leaves, read off the list's own page tables (see inferred.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotUnderstood, Unreadable
from gdb_p2m.layout.pagetables import X86_64_4LEVEL
from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.sources.base import Source
from gdb_p2m.spaces.entries import decode_array
from gdb_p2m.spaces.radix import Slots, Status, table_page
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.spaces.words import MAX_MFN_BITS, words_of
from gdb_p2m.structures.record import Record
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray, Mfn

NOT_USED = Mfn(-2)
"""Frame of a shared page that no slot of the list leads to; equal to no frame of a list page."""
MAX_LIST_BYTES = 64 << 30
"""A list of 32 TiB: far more than Linux PV can have."""
PTES = 512
TABLE_BYTES = PTES * PAGE_SIZE
"""Virtual space that one page-table page maps: 2 MiB of the list."""
MAX_SHARED = 64
"""Pages that are mapped more than once and looked at; a sound list has two."""
EXTRA_MEM_RATIO = 10
"""Extra memory is at most ten times the initial (Linux arch/x86/xen/setup.c)."""
HOLES = 1 << 20
"""PFNs that holes of a memory map may push memory up by: 4 GiB."""


@dataclass(frozen=True)
class Ends:
    """What a list's page tables show. entries: how many it holds.

    shared: frame -> how many list pages it backs, for frames that back several; last: frame of the last list page.
    """

    entries: int
    evidence: str
    shared: dict[int, int]
    last: int


@dataclass(frozen=True, slots=True)
class SharedLeaves:
    """Frames of p2m_missing (NOT_USED: no page can be told to be it) and p2m_identity, and why."""

    missing: Mfn
    missing_evidence: str
    identity: Mfn
    identity_evidence: str


def list_end(space: VirtualSpace, width: EntryWidth, base: int, max_pfn: int) -> Ends:
    """Where the list at `base` ends. Raises NotUnderstood when that cannot be told.

    max_pfn: shared_info.max_pfn, below which the list certainly reaches.
    """
    if base % TABLE_BYTES:
        raise NotUnderstood(f"the list at {base:#x} is not aligned to what a page table maps")
    end = min(base + MAX_LIST_BYTES, 1 << width.bits)
    slots = space.slots(base, end, "L2")
    mapped = _leading(_is_table(slots))
    if not mapped:
        raise NotUnderstood(f"no page table maps the list at {base:#x}")
    frames = slots.frame[:mapped]
    shared = _repeated(frames)
    least = -(-max_pfn * width.bytes // TABLE_BYTES)
    if len(shared):
        least = max(least, int(shared[-1]) + 1)
    if not 0 < least <= mapped:
        raise NotUnderstood(
            f"max_pfn {max_pfn:#x} needs a list of {least} page tables at {base:#x}, "
            f"but only {mapped} follow each other"
        )
    per_table = TABLE_BYTES // width.bytes
    if least < mapped and least * per_table < width.max_p2m_pfn and _may_be_list(space.source, int(frames[least])):
        raise NotUnderstood(
            f"where the list at {base:#x} ends is not known: after {least * per_table:#x} entries comes a page table "
            "that could be more of it"
        )
    if least == mapped and slots.status[mapped : mapped + 1].tolist() == [Status.UNREADABLE]:
        _need_whole(least * per_table, width, base)
    leaves, last = _leaves(space.source, frames[:least])
    how = "its shared page tables end there" if len(shared) else "what follows is not mapped like a list"
    return Ends(least * per_table, f"{least * per_table:#x}, where the list ends: {how}", leaves, last)


def _need_whole(entries: int, width: EntryWidth, base: int) -> None:
    if entries < width.max_p2m_pfn:
        raise NotUnderstood(
            f"where the list at {base:#x} ends is not known: the page table after it is not in the dump"
        )


def _is_table(slots: Slots) -> npt.NDArray[np.bool_]:
    large = slots.large | ((slots.raw & np.uint64(0x80)) != 0)
    found: npt.NDArray[np.bool_] = (slots.status == Status.OK) & ~large
    return found


def _leading(mask: npt.NDArray[np.bool_]) -> int:
    stops = np.flatnonzero(~mask)
    return int(stops[0]) if len(stops) else len(mask)


def _repeated(frames: FrameArray) -> FrameArray:
    """Positions of values that occur more than once."""
    _, which, counts = np.unique(frames, return_inverse=True, return_counts=True)
    positions: FrameArray = np.flatnonzero(counts[which] > 1)
    return positions


def _may_be_list(source: Source, table: int) -> bool:
    """Whether all of a table's pages are mapped, as a list's are; also when it cannot be read."""
    try:
        entries = table_page(source, table)
    except Unreadable:
        return True
    return bool(((entries & np.uint64(1)) != 0).all())


def _leaves(source: Source, tables: FrameArray) -> tuple[dict[int, int], int]:
    """Frames that back several pages of the list, how many, and the last page's frame. Each table is read once."""
    unique, uses = np.unique(tables, return_counts=True)
    frames, weights, last = [], [], -1
    level = X86_64_4LEVEL.levels[-1]
    for table, times in zip(unique.tolist(), uses.tolist(), strict=True):
        try:
            found = decode_array("x86", table_page(source, table), level, True)
        except Unreadable as e:
            raise NotUnderstood(f"a page table of the list, frame {table:#x}, cannot be read ({e.reason})") from None
        frames.append(found.frame[found.leaf])
        weights.append(np.full(int(np.count_nonzero(found.leaf)), times, dtype=np.int64))
        if table == int(tables[-1]) and found.leaf[-1]:
            last = int(found.frame[-1])
    every, counts = np.concatenate(frames), np.concatenate(weights)
    distinct, which = np.unique(every, return_inverse=True)
    sums = np.bincount(which, weights=counts).astype(np.int64)
    several = sums > 1
    if np.count_nonzero(several) > MAX_SHARED:
        raise NotUnderstood(f"{np.count_nonzero(several):,} frames back several list pages each: that is no sound list")
    return dict(zip(distinct[several].tolist(), sums[several].tolist(), strict=True)), last


def shared_leaves(source: Source, width: EntryWidth, ends: Ends, info: Record, nr_pages: int | None) -> SharedLeaves:
    """Which page is p2m_missing and which p2m_identity. Raises NotUnderstood when it cannot be told."""
    shared = _candidates(source, width, ends.shared)
    named = _missing_by_frame_lists(source, width, info)
    others = [f for f in shared if f != named]
    identity, why = _identity(width, ends, info, nr_pages, named, others)
    rest = [f for f in others if f != identity]
    if named is not None:
        missing = Mfn(named)
        missing_why = (
            f"machine frame {named:#x}, the only frame in the mid page that top slots of the frame list list share"
        )
    elif len(rest) == 1:
        missing = Mfn(rest[0])
        missing_why = f"machine frame {rest[0]:#x}, the other page of INVALID entries that backs many list pages"
    else:
        missing, missing_why = (
            NOT_USED,
            "no page of the list can be told to be it; its PFNs read as missing by their entries",
        )
    return SharedLeaves(missing, missing_why, identity, why)


def _identity(
    width: EntryWidth, ends: Ends, info: Record, nr_pages: int | None, named: int | None, others: list[int]
) -> tuple[Mfn, str]:
    """The page p2m_identity among the shared leaves that are not p2m_missing."""
    last_pfn = ends.entries - width.per_page
    used = info.number("max_pfn")
    if ends.last in others and last_pfn >= used:
        far = nr_pages is not None and last_pfn >= (EXTRA_MEM_RATIO + 2) * nr_pages + HOLES
        if named is not None or far:
            times = ends.shared[ends.last]
            backs = f"backs {times:,} list pages, and the last one, past all memory"
            why = f"machine frame {ends.last:#x}: all INVALID, {backs}"
            return Mfn(ends.last), why
    if named is not None and len(others) == 1 and ends.shared[others[0]] >= PTES:
        why = f"machine frame {others[0]:#x}, the only page of INVALID entries beside p2m_missing that backs many list pages"
        return Mfn(others[0]), why
    if not others:
        # A page that backs a single page of the list may be p2m_identity, or private and full of missing.
        raise NotUnderstood("no page of the list is shared but p2m_missing: nothing tells which is p2m_identity")
    raise NotUnderstood(
        f"{len(others)} pages of INVALID entries back several list pages, and nothing tells which is p2m_identity "
        f"(frames {', '.join(f'{f:#x}' for f in others[:4])})"
    )


def _candidates(source: Source, width: EntryWidth, leaves: dict[int, int]) -> list[int]:
    """Frames that back several list pages; all are mostly INVALID (a stray write does not change what they are).

    A page of entries that backs several list pages may be a shared page that was overwritten: nothing is inferred then.
    """
    often = list(leaves)
    pages, ok = source.read_pages(np.array(often, dtype=np.int64))
    if not ok.all():
        lost = often[int(np.flatnonzero(~ok)[0])]
        raise NotUnderstood(f"a page that backs {leaves[lost]:,} list pages, frame {lost:#x}, is not in the dump")
    invalid = (words_of(pages, width) == np.uint64(width.invalid)).sum(axis=1) if often else []
    for frame, n in zip(often, invalid, strict=True):
        if n <= width.per_page // 2:
            raise NotUnderstood(
                f"frame {frame:#x} backs {leaves[frame]:,} list pages and holds entries: "
                "neither a shared page nor a private one"
            )
    return often


def _missing_by_frame_lists(source: Source, width: EntryWidth, info: Record) -> int | None:
    """p2m_missing: the one MFN in the mid page that several top slots name (p2m_mid_missing_mfn); None: not told."""
    top = info.number("pfn_to_mfn_frame_list_list")
    if top in (0, width.invalid):
        return None
    slots = _mfns(source, width, top)
    if slots is None:
        return None
    mids, counts = np.unique(slots, return_counts=True)
    found = set()
    for mid in mids[counts > 1].tolist():
        words = _mfns(source, width, mid)
        if words is not None and (words == words[0]).all():
            found.add(int(words[0]))
    return found.pop() if len(found) == 1 else None


def _mfns(source: Source, width: EntryWidth, mfn: int) -> FrameArray | None:
    """A page of MFNs, or None when it cannot be read or is none."""
    if mfn >> MAX_MFN_BITS:
        return None
    try:
        data = np.frombuffer(source.read(mfn << PAGE_SHIFT, PAGE_SIZE), dtype=np.uint8)
    except Unreadable:
        return None
    words = words_of(data.reshape(1, PAGE_SIZE), width)[0]
    return None if (words >> np.uint64(MAX_MFN_BITS)).any() else words.astype(np.int64)
