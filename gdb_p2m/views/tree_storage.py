"""How the three-level tree is stored, for `stats`: pages of its own, shared pages and what they save."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.structures.p2m_tree import P2mTree
from gdb_p2m.units import PAGE_SIZE, Mfn, human_size
from gdb_p2m.views.base import Storage, StorageCount
from gdb_p2m.views.leaves import Backing

SHARED = (
    (Backing.MISSING, "p2m_mid_missing", "p2m_missing"),
    (Backing.IDENTITY, "p2m_mid_identity", "p2m_identity"),
)


def storage_of(
    width: EntryWidth,
    tree: P2mTree,
    backing: npt.NDArray[np.uint8],
    shared_mid: npt.NDArray[np.uint8],
    all_slots: npt.NDArray[np.uint8],
    frames: Mapping[str, Mfn | None],
) -> Storage:
    """Pages and slots of a tree.

    backing: per slot of each distinct middle page; shared_mid: per middle page, PRIVATE or what all of it
    is; all_slots: backing in order of PFN; frames: of the shared pages, by name, as far as they are known.
    """
    uses = tree.uses()
    private = shared_mid == Backing.PRIVATE
    leaves = np.unique(tree.frame[private][backing[private] == Backing.PRIVATE])
    span = width.mid_span
    own = int(np.count_nonzero(all_slots == Backing.PRIVATE)) * width.per_page
    lines = [
        StorageCount("private middle pages", int(private.sum()), "pages", int(uses[private].sum()) * span),
        StorageCount("private leaves", len(leaves), "pages", own),
    ]
    for what, mid, leaf in SHARED:
        tops = int(uses[shared_mid == what].sum())
        lines.append(StorageCount(f"top slots that lead to {mid}", tops, "slots", tops * span))
        per_mid = np.count_nonzero(backing[private] == what, axis=1)
        pfns = int((per_mid * uses[private]).sum()) * width.per_page
        lines.append(StorageCount(f"private mid slots that lead to {leaf}", int(per_mid.sum()), "slots", pfns))
    for bad in (Backing.UNREADABLE, Backing.CORRUPT):
        if count := int(np.count_nonzero(all_slots == bad)):
            lines.append(StorageCount(f"leaf slots {bad.name.lower()}", count, "slots", count * width.per_page))
    known = {int(f) for f in frames.values() if f is not None}
    pages = 1 + len(known | set(tree.mid.tolist()) | set(leaves.tolist()))
    whole = 1 + width.per_page + width.per_page**2
    saved = max(0, whole - pages) * PAGE_SIZE
    return Storage(tuple(lines), _shared(tree, frames), pages * PAGE_SIZE, saved, _notes(width, lines))


def _shared(tree: P2mTree, frames: Mapping[str, Mfn | None]) -> tuple[tuple[str, int, int], ...]:
    """(name, frame, slots that lead to it): top slots for middle pages, slots of middle pages for leaves."""
    uses = dict(zip(tree.mid.tolist(), tree.uses().tolist(), strict=True))
    found = []
    for _, mid, leaf in SHARED:
        if (frame := frames.get(mid)) is not None:
            found.append((mid, int(frame), uses.get(int(frame), 0)))
        if (frame := frames.get(leaf)) is not None:
            found.append((leaf, int(frame), int(np.count_nonzero(tree.frame == frame))))
    return tuple(found)


def _notes(width: EntryWidth, lines: list[StorageCount]) -> tuple[str, ...]:
    """What the compact identity pages of 3.16 save: before, each span of a middle page needed its own."""
    tops = next(line.count for line in lines if line.what.endswith("p2m_mid_identity"))
    if not tops:
        return ()
    span = human_size(width.mid_span * PAGE_SIZE)
    return (
        f"p2m_mid_identity is one page for {tops} times {span} of identity: {tops - 1} middle pages "
        f"({human_size((tops - 1) * PAGE_SIZE)}) fewer than with one per {span}, as before 3.16",
    )
