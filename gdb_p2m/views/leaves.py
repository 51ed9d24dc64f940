"""The last step of every x86 view: which page backs each stretch of P2M_PER_PAGE PFNs, to a Mapping.

A view finds for each leaf slot (a page of the list, a pointer of a mid page, an MFN of a frame list)
what backs it; this module turns that into runs.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.mapping import Kind, MappingBuilder
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Source
from gdb_p2m.units import FrameArray
from gdb_p2m.views.entry_runs import entry_runs, words_of


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


def add_leaves(
    builder: MappingBuilder,
    source: Source,
    width: EntryWidth,
    backing: BackingArray,
    frames: FrameArray,
    first_pfn: int = 0,
    progress: Progress = no_progress,
) -> None:
    """Append the runs of consecutive leaf slots, the first of which covers `first_pfn`.

    backing: Backing per slot; frames: MFN per slot, used where the slot is PRIVATE. Contents are read
    in batches, so memory grows with runs.
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
                builder.add(pfn, (b - a) * width.per_page, _KIND_OF[what])
                continue
            for part, pages, ok in source.iter_pages(frames[a:b]):
                at = pfn + part.start * width.per_page
                _add_batch(builder, width, pages, ok, at)
                done += part.stop - part.start
                step(done)


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
