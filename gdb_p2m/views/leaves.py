"""The last step of every x86 view: which page backs each stretch of P2M_PER_PAGE PFNs, to a Mapping.

A view finds for each leaf slot (a page of the list, a pointer of a mid page, an MFN of a frame list)
what backs it; this module turns that into runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.mapping import MAX_RUNS, Kind, MappingBuilder
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Source
from gdb_p2m.spaces.words import words_of
from gdb_p2m.units import PAGE_SHIFT, FrameArray, U64Array
from gdb_p2m.views.entry_runs import entry_runs

REPEATED = 8
"""Slots in a row that one page backs before it is worth looking at that page once for all."""


class Backing(IntEnum):
    """What backs one leaf slot."""

    PRIVATE = 0
    MISSING = 1
    IDENTITY = 2
    UNREADABLE = 3
    CORRUPT = 4


KIND_OF = {
    Backing.MISSING: Kind.MISSING,
    Backing.IDENTITY: Kind.IDENTITY,
    Backing.UNREADABLE: Kind.UNREADABLE,
    Backing.CORRUPT: Kind.CORRUPT,
}
BackingArray = np.ndarray[tuple[int], np.dtype[np.uint8]]
Dirty = Mapping[Backing, npt.NDArray[np.bool_]]
"""Slots of a shared page that do not hold INVALID_P2M_ENTRY, for the pages that have any."""
BATCH_PAGES = 256
"""1 MiB of entries at a time: the arrays of entry_runs stay in a core's own cache (measured: half the time)."""
MAX_POPULATED = 1 << 27
"""Frames of 512 GiB (MAX_P2M_PFN) without two neighbours: 3.4 GB of runs."""
MAX_DIRTY_RUNS = 1 << 23
"""200 MiB of runs: 15 stray writes into a page that 512 GiB share."""


def leaf_builder(view: str, limit: int, source: Source, width: EntryWidth) -> MappingBuilder:
    """For a guest's runs: as many as the dump's pages hold entries, so that a small dump cannot ask for much memory."""
    pages = sum(e.end - e.start for e in source.extents()) >> PAGE_SHIFT
    return MappingBuilder(view, limit, room=max(MAX_RUNS, min(pages * width.per_page, MAX_POPULATED)))


def dirty_slots(source: Source, width: EntryWidth, shared: Mapping[Backing, int]) -> Dirty:
    """Which slots of the shared leaves (backing -> MFN) were overwritten.

    The kernel reads an entry before it looks at the page, so such a slot is neither missing nor
    identity for any PFN that shares the page: a stray write (Linux 3.18 had one) makes them corrupt.
    A page that cannot be read is taken as clean: which page backs a PFN is known all the same.
    """
    dirty = {}
    for backing, mfn in shared.items():
        pages, ok = source.read_pages(np.array([mfn], dtype=np.int64))
        if ok[0]:
            bad = overwritten(words_of(pages, width)[0], width)
            if bad.any():
                dirty[backing] = bad
    return dirty


def overwritten(words: U64Array, width: EntryWidth) -> npt.NDArray[np.bool_]:
    """Which entries of a shared leaf are not to be believed: those that are not INVALID_P2M_ENTRY.

    All of them where so many were overwritten that a map of all who share the page would have more than
    MAX_DIRTY_RUNS runs: no stray write, and a small dump could ask for any amount of memory.
    """
    bad = words != np.uint64(width.invalid)
    stretches = int(np.count_nonzero(bad[1:] != bad[:-1])) + 1
    if stretches * width.per_page**2 > MAX_DIRTY_RUNS:
        bad[:] = True
    return bad


def add_leaves(
    builder: MappingBuilder,
    source: Source,
    width: EntryWidth,
    backing: BackingArray,
    frames: FrameArray,
    first_pfn: int = 0,
    progress: Progress = no_progress,
    dirty: Dirty | None = None,
    kinds: Mapping[Backing, Kind] = KIND_OF,
) -> None:
    """Append the runs of consecutive leaf slots, the first of which covers `first_pfn`.

    backing: Backing per slot; frames: MFN per slot, used where the slot is PRIVATE; dirty: what
    `dirty_slots` said; kinds: what the PFNs of a shared page are in this view. Contents are read in
    batches, so memory grows with runs.
    """
    if not len(backing):
        return
    edges = np.flatnonzero(backing[1:] != backing[:-1]) + 1
    starts = np.concatenate(([0], edges))
    ends = np.concatenate((edges, [len(backing)]))
    private_total = int(np.count_nonzero(backing == Backing.PRIVATE))
    done = 0
    with progress("reading P2M pages", private_total) as step:
        for a, b in zip(starts.tolist(), ends.tolist(), strict=True):
            what = Backing(int(backing[a]))
            pfn = first_pfn + a * width.per_page
            if what is not Backing.PRIVATE:
                if dirty and what in dirty:
                    _add_dirty(builder, width, kinds[what], dirty[what], pfn, b - a)
                else:
                    builder.add(pfn, (b - a) * width.per_page, kinds[what])
                continue
            for c, d, repeated in _pieces(frames[a:b]):
                at = pfn + c * width.per_page
                if repeated:
                    _add_repeated(builder, source, width, int(frames[a + c]), at, d - c)
                else:
                    _add_private(builder, source, width, frames[a + c : a + d], at)
                done += d - c
                step(done)


def _pieces(frames: FrameArray) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether all are the same frame) of stretches of at most BATCH_PAGES, or of one frame."""
    edges = np.concatenate(([0], np.flatnonzero(frames[1:] != frames[:-1]) + 1, [len(frames)]))
    long = np.flatnonzero(np.diff(edges) >= REPEATED)
    at = 0
    for i in [*long.tolist(), None]:
        stop = len(frames) if i is None else int(edges[i])
        for a in range(at, stop, BATCH_PAGES):
            yield a, min(a + BATCH_PAGES, stop), False
        if i is not None:
            at = int(edges[i + 1])
            yield stop, at, True


def _add_private(
    builder: MappingBuilder, source: Source, width: EntryWidth, frames: FrameArray, first_pfn: int
) -> None:
    pages, ok = source.read_pages(frames)
    _add_batch(builder, width, pages, ok, first_pfn)


def _add_repeated(
    builder: MappingBuilder, source: Source, width: EntryWidth, mfn: int, pfn: int, slots: int
) -> None:
    """`slots` times the same page, read once: a shared page that is not known by name, mostly."""
    pages, ok = source.read_pages(np.array([mfn], dtype=np.int64))
    words = words_of(pages, width)[0]
    if not ok[0] or (words == np.uint64(width.invalid)).all():
        builder.add(pfn, slots * width.per_page, Kind.MISSING if ok[0] else Kind.UNREADABLE)
        return
    flags = width.identity_bit | width.foreign_bit
    if ((words & np.uint64(flags)) == np.uint64(width.identity_bit)).any():
        # Only identity entries depend on their place: at most one slot of all has the right one.
        for first in range(0, slots, BATCH_PAGES):
            entries = np.tile(words, min(BATCH_PAGES, slots - first))
            builder.add_runs(*entry_runs(entries, pfn + first * width.per_page, width))
        return
    start, count, kind, frame = entry_runs(words, 0, width)
    builder.require_room(slots * len(start))
    starts = (pfn + np.arange(slots)[:, None] * width.per_page + start).reshape(-1)
    builder.add_runs(starts, np.tile(count, slots), np.tile(kind, slots), np.tile(frame, slots))


def _add_dirty(
    builder: MappingBuilder, width: EntryWidth, kind: Kind, bad: npt.NDArray[np.bool_], pfn: int, slots: int
) -> None:
    """`slots` times the same shared page, of which the `bad` entries are corrupt."""
    edges = np.concatenate(([0], np.flatnonzero(bad[1:] != bad[:-1]) + 1))
    builder.require_room(slots * len(edges))
    counts = np.diff(np.concatenate((edges, [width.per_page])))
    kinds = np.where(bad[edges], np.uint8(Kind.CORRUPT), np.uint8(kind)).astype(np.uint8)
    starts = (pfn + np.arange(slots)[:, None] * width.per_page + edges).reshape(-1)
    none = np.full(len(starts), -1, dtype=np.int64)
    builder.add_runs(starts, np.tile(counts, slots), np.tile(kinds, slots), none)


def _add_batch(
    builder: MappingBuilder,
    width: EntryWidth,
    pages: np.ndarray[tuple[int, int], np.dtype[np.uint8]],
    ok: np.ndarray[tuple[int], np.dtype[np.bool_]],
    first_pfn: int,
) -> None:
    words = words_of(pages, width)
    if ok.all():
        builder.add_runs(*entry_runs(words.reshape(-1), first_pfn, width))
        return
    edges = np.flatnonzero(ok[1:] != ok[:-1]) + 1
    starts = [0, *edges.tolist()]
    for a, b in zip(starts, [*starts[1:], len(ok)], strict=True):
        pfn = first_pfn + a * width.per_page
        if ok[a]:
            builder.add_runs(*entry_runs(words[a:b].reshape(-1), pfn, width))
        else:
            builder.add(pfn, (b - a) * width.per_page, Kind.UNREADABLE)
