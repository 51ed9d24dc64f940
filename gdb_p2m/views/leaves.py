"""The last step of every x86 view: which page backs each stretch of P2M_PER_PAGE PFNs, to a Mapping.

A view finds for each leaf slot (a page of the list, a pointer of a mid page, an MFN of a frame list)
what backs it; this module turns that into runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.mapping import Kind, MappingBuilder
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Source
from gdb_p2m.spaces.words import words_of
from gdb_p2m.units import FrameArray
from gdb_p2m.views.entry_runs import entry_runs


class Backing(IntEnum):
    """What backs one leaf slot."""

    PRIVATE = 0
    MISSING = 1
    IDENTITY = 2
    UNREADABLE = 3
    CORRUPT = 4


_KIND_OF = {
    Backing.MISSING: Kind.MISSING,
    Backing.IDENTITY: Kind.IDENTITY,
    Backing.UNREADABLE: Kind.UNREADABLE,
    Backing.CORRUPT: Kind.CORRUPT,
}
BackingArray = np.ndarray[tuple[int], np.dtype[np.uint8]]
Dirty = Mapping[Backing, npt.NDArray[np.bool_]]
"""Slots of a shared page that do not hold INVALID_P2M_ENTRY, for the pages that have any."""


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
            bad = words_of(pages, width)[0] != np.uint64(width.invalid)
            if bad.any():
                dirty[backing] = bad
    return dirty


def add_leaves(
    builder: MappingBuilder,
    source: Source,
    width: EntryWidth,
    backing: BackingArray,
    frames: FrameArray,
    first_pfn: int = 0,
    progress: Progress = no_progress,
    dirty: Dirty | None = None,
) -> None:
    """Append the runs of consecutive leaf slots, the first of which covers `first_pfn`.

    backing: Backing per slot; frames: MFN per slot, used where the slot is PRIVATE; dirty: what
    `dirty_slots` said. Contents are read in batches, so memory grows with runs.
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
                    _add_dirty(builder, width, _KIND_OF[what], dirty[what], pfn, b - a)
                else:
                    builder.add(pfn, (b - a) * width.per_page, _KIND_OF[what])
                continue
            for part, pages, ok in source.iter_pages(frames[a:b]):
                at = pfn + part.start * width.per_page
                _add_batch(builder, width, pages, ok, at)
                done += part.stop - part.start
                step(done)


def _add_dirty(
    builder: MappingBuilder, width: EntryWidth, kind: Kind, bad: npt.NDArray[np.bool_], pfn: int, slots: int
) -> None:
    """`slots` times the same shared page, of which the `bad` entries are corrupt."""
    edges = np.concatenate(([0], np.flatnonzero(bad[1:] != bad[:-1]) + 1))
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
