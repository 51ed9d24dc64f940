"""View `tree`: the three-level tree p2m_top -> middle page -> leaf (Linux 2.6.37 to 3.18).

The answer for a PFN is in the pointers: a leaf pointer that is p2m_missing or p2m_identity settles 512 PFNs
(1024 on 32-bit), a middle page that all slots of 1 GiB share settles those. Cost follows distinct middle
pages and private leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotFound, Unreadable, Untranslatable
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Mask
from gdb_p2m.structures.era import TREE_TWO_LEVELS, Era, era_of
from gdb_p2m.structures.p2m_tree import P2mTree, Pointer, read_tree, shared_page
from gdb_p2m.units import PAGE_SHIFT, FrameArray, Mfn
from gdb_p2m.views.base import Storage, Trace, View, shared_answer
from gdb_p2m.views.entry_runs import classify_entry
from gdb_p2m.views.leaves import Backing, Dirty, add_leaves, dirty_slots, leaf_builder
from gdb_p2m.views.tree_storage import storage_of

BackingRows = npt.NDArray[np.uint8]
"""Values of leaves.Backing, flat or one row a middle page."""
LEAF_NAMES = {Backing.MISSING: "p2m_missing", Backing.IDENTITY: "p2m_identity"}
MID_NAMES = {Backing.MISSING: "p2m_mid_missing", Backing.IDENTITY: "p2m_mid_identity"}
KINDS = {Backing.MISSING: Kind.MISSING, Backing.IDENTITY: Kind.IDENTITY}


@dataclass(frozen=True)
class Leaves:
    """What the slots of every distinct middle page lead to, one row a page.

    backing: leaves.Backing. shared_mid: per row the Backing that its name stands for, PRIVATE for a page
    of its own. overwritten: slots of a shared middle page that do not lead to its leaf. nameless: slots of
    an all-INVALID leaf that several slots share and no name explains.
    """

    backing: BackingRows
    shared_mid: BackingRows
    overwritten: Mask
    nameless: Mask


class TreeView(View):
    """The guest's own tree. Raises NotUnderstood when p2m_top leads nowhere."""

    name = "tree"

    def __init__(self, guest: LinuxGuest, progress: Progress = no_progress) -> None:
        self.guest = guest
        self.width = guest.width
        self.progress = progress
        self.limit = guest.width.max_p2m_pfn
        self.tree: P2mTree = read_tree(guest)

    @cached_property
    def era(self) -> Era:
        """The era, which says what PFNs past the tree's end are."""
        return era_of(self.guest)

    @cached_property
    def shared_pointers(self) -> dict[str, tuple[int, Mfn | None]]:
        """(pointer, frame) of the shared pages whose variables are known."""
        names = (*LEAF_NAMES.values(), *MID_NAMES.values())
        return {n: found for n in names if (found := shared_page(self.guest, n)) is not None}

    def shared_frame(self, name: str) -> Mfn | None:
        """Machine frame of p2m_missing, p2m_mid_identity, ... when it is known."""
        return self.shared_pointers.get(name, (0, None))[1]

    @cached_property
    def leaves(self) -> Leaves:
        """Backing of the slots of every distinct middle page."""
        tree = self.tree
        backing = np.full(tree.slots.shape, Backing.PRIVATE, dtype=np.uint8)
        backing[tree.status != Pointer.OK] = Backing.CORRUPT
        for what, name in LEAF_NAMES.items():
            # By value as the kernel compares, and by frame: one page may have two virtual addresses.
            pointer, frame = self.shared_pointers.get(name, (None, None))
            if pointer is not None:
                backing[(tree.slots == np.uint64(pointer)) & tree.mid_ok[:, None]] = what
            if frame is not None:
                backing[tree.frame == frame] = what
        backing[(tree.status == Pointer.UNREADABLE) & (backing == Backing.CORRUPT)] = Backing.UNREADABLE
        shared_mid = self._shared_mids(backing)
        overwritten = (shared_mid != Backing.PRIVATE)[:, None] & (backing != shared_mid[:, None])
        backing[overwritten] = Backing.CORRUPT
        nameless = self._nameless(backing)
        backing[nameless] = Backing.CORRUPT
        return Leaves(backing, shared_mid, overwritten, nameless)

    def _shared_mids(self, backing: BackingRows) -> BackingRows:
        """Which rows are p2m_mid_missing or p2m_mid_identity.

        A name is believed when most slots of its page lead to its leaf: the rest was overwritten (3.18's
        alloc_p2m does that). A page that is not in the dump is taken as what its name says.
        """
        shared = np.full(len(backing), Backing.PRIVATE, dtype=np.uint8)
        for what, name in MID_NAMES.items():
            frame = self.shared_frame(name)
            for row in np.flatnonzero(self.tree.mid == frame).tolist() if frame is not None else ():
                if not self.tree.mid_ok[row]:
                    backing[row] = what
                if np.count_nonzero(backing[row] == what) * 2 > self.width.per_page:
                    shared[row] = what
        return shared

    def _nameless(self, backing: BackingRows) -> Mask:
        """Slots of shared all-INVALID leaves while the name p2m_identity is not known.

        Such a page is p2m_identity of a kernel whose name for it was not found, or a private page that
        two slots use: identity or missing, which cannot be told.
        """
        none = np.zeros(backing.shape, dtype=bool)
        if "p2m_identity" in self.shared_pointers:
            return none
        private = backing == Backing.PRIVATE
        uses = np.broadcast_to(self.tree.uses()[:, None], backing.shape)[private]
        frames, which = np.unique(self.tree.frame[private], return_inverse=True)
        twice = frames[np.bincount(which, weights=uses, minlength=len(frames)) > 1]
        blank = []
        for part, pages, ok in self.guest.source.iter_pages(twice):
            blank.append(twice[part][ok & (pages == 0xFF).all(axis=1)])
        return np.isin(self.tree.frame, np.concatenate(blank)) & private if blank else none

    @cached_property
    def _slots(self) -> tuple[BackingRows, FrameArray]:
        """Backing and MFN of all leaf slots in order of PFN."""
        tree, per = self.tree, self.width.per_page
        rows = len(tree.mid)
        ends = np.array([[Backing.CORRUPT], [Backing.UNREADABLE]], dtype=np.uint8)
        backing = np.concatenate((self.leaves.backing, np.repeat(ends, per, axis=1)))
        frame = np.concatenate((tree.frame, np.full((2, per), -1, dtype=np.int64)))
        unreadable = tree.top_status == Pointer.UNREADABLE
        row = np.where(tree.row >= 0, tree.row, np.where(unreadable, rows + 1, rows))
        for what, name in MID_NAMES.items():
            # A shared middle page is known by its pointer even when no page table says where it is.
            pointer, at = self.shared_pointers.get(name, (None, None))
            if pointer is not None and at is None:
                lost = unreadable & (tree.top == np.uint64(pointer))
                row[lost] = len(backing)
                backing = np.concatenate((backing, np.full((1, per), what, dtype=np.uint8)))
                frame = np.concatenate((frame, np.full((1, per), -1, dtype=np.int64)))
        return backing[row].reshape(-1), frame[row].reshape(-1)

    def leaf_slots(self) -> tuple[BackingRows, FrameArray]:
        return self._slots

    @cached_property
    def dirty(self) -> Dirty:
        """Entries of the shared leaves that are not INVALID_P2M_ENTRY."""
        shared = {what: f for what, name in LEAF_NAMES.items() if (f := self.shared_frame(name)) is not None}
        return dirty_slots(self.guest.source, self.width, shared)

    @cached_property
    def _mapping(self) -> Mapping:
        builder = leaf_builder(self.name, self.limit, self.guest.source, self.width)
        backing, frame = self._slots
        add_leaves(builder, self.guest.source, self.width, backing, frame, 0, self.progress, self.dirty)
        return builder.build()

    def mapping(self) -> Mapping:
        return self._mapping

    # -- one frame ------------------------------------------------------------------------------------

    def trace(self, number: int) -> Trace:
        t = Trace(self.name, number)
        symbol = self.guest.names.require("p2m_top")
        pointer = self.guest.variable("p2m_top")
        text = f"the top page: virtual {pointer:#x} is machine {self.tree.top_at:#x}"
        t.step("p2m_top", None, self.guest.space.translate(symbol.address), pointer, text)
        if number >= self.limit:
            return self._past_the_tree(t)
        if (row := self._top_slot(t)) is None:
            return t
        return self._mid_slot(t, row)

    def _past_the_tree(self, t: Trace) -> Trace:
        identity = self.era.identity_past_end
        text = f"PFN {t.number:#x} is past MAX_P2M_PFN = {self.limit:#x}: "
        text += "identity" if identity else "missing, as before 3.16"
        t.step("limit", None, None, None, text)
        return t.decide(Kind.IDENTITY if identity else Kind.MISSING, None, None, "past the end of the tree")

    def _top_slot(self, t: Trace) -> int | None:
        """The row of the middle page; None when the trace ended."""
        tree = self.tree
        index = t.number // self.width.mid_span
        address = tree.top_at + index * self.width.bytes
        if not tree.top_ok:
            t.step("top", index, address, None, self.guest.source.missing_reason(address))
            t.decide(Kind.UNREADABLE, None, address, "top slot", "the top page is not in the dump")
            return None
        raw = int(tree.top[index])
        row = int(tree.row[index])
        if row < 0:
            self._lost(t, "top", index, address, raw, Pointer(int(tree.top_status[index])), MID_NAMES)
            return None
        at = int(tree.mid[row]) << PAGE_SHIFT
        name = self._name_of(raw, int(tree.mid[row]), MID_NAMES)
        shared = f" = {name}, which {int(tree.uses()[row])} top slots share" if name else ""
        t.step("top", index, address, raw, f"middle page: virtual {raw:#x} is machine {at:#x}{shared}")
        return row

    def _mid_slot(self, t: Trace, row: int) -> Trace:
        tree, per = self.tree, self.width.per_page
        index = t.number // per % per
        address = (int(tree.mid[row]) << PAGE_SHIFT) + index * self.width.bytes
        backing = Backing(int(self.leaves.backing[row, index]))
        if not tree.mid_ok[row]:
            reason = self.guest.source.missing_reason(address)
            t.step("mid", index, address, None, reason)
            if backing is Backing.UNREADABLE:
                return t.decide(Kind.UNREADABLE, None, address, "mid slot", f"the middle page: {reason}")
            return self._by_name(t, backing, t.steps[-2].address, f"top slot: {MID_NAMES[backing]}")
        raw = int(tree.slots[row, index])
        frame = int(tree.frame[row, index])
        if self.leaves.overwritten[row, index]:
            name = MID_NAMES[Backing(int(self.leaves.shared_mid[row]))]
            reason = f"{name}[{index}] does not lead to the leaf of that page: the shared page was overwritten"
            t.step("mid", index, address, raw, reason)
            return t.decide(Kind.CORRUPT, None, address, "mid slot", reason)
        if frame < 0:
            return self._lost(t, "mid", index, address, raw, Pointer(int(tree.status[row, index])), LEAF_NAMES)
        name = self._name_of(raw, frame, LEAF_NAMES)
        at = frame << PAGE_SHIFT
        shared = f" = {name}" if name else ""
        t.step("mid", index, address, raw, f"leaf: virtual {raw:#x} is machine {at:#x}{shared}")
        entry = at + t.number % per * self.width.bytes
        if backing in KINDS:
            decided = (address, f"mid slot: {LEAF_NAMES[backing]}")
            return shared_answer(t, self.guest.source, self.width, LEAF_NAMES[backing], KINDS[backing], entry, decided)
        if self.leaves.nameless[row, index]:
            reason = "several slots share this leaf of INVALID entries, and p2m_identity is not known: "
            reason += "identity or missing, which cannot be told"
            t.step("leaf", t.number % per, entry, self.width.invalid, reason)
            return t.decide(Kind.CORRUPT, None, address, "mid slot", reason)
        return self._entry(t, entry)

    def _name_of(self, pointer: int, frame: int, names: dict[Backing, str]) -> str:
        """The name of a shared page, with a remark when it was reached by another virtual address."""
        for name in names.values():
            value, at = self.shared_pointers.get(name, (None, None))
            if pointer == value:
                return name
            if at is not None and at == frame:
                return f"{name} (by another virtual address than {value:#x}, which the kernel compares)"
        return ""

    def _lost(
        self, t: Trace, where: str, index: int, address: int, raw: int, why: Pointer, names: dict[Backing, str]
    ) -> Trace:
        """The end of a trace at a pointer that leads to no page."""
        known = {self.shared_pointers[n][0]: (what, n) for what, n in names.items() if n in self.shared_pointers}
        if raw in known:
            what, name = known[raw]
            t.step(where, index, address, raw, f"{name}, by its pointer; where it lies is not in the dump")
            return self._by_name(t, what, address, f"{where} slot: {name}")
        t.step(where, index, address, raw, why.reason)
        if why in (Pointer.UNMAPPED, Pointer.UNREADABLE):
            try:
                self.guest.space.walk(raw)
            except Untranslatable as e:
                t.page_table(e.steps)  # type: ignore[arg-type]
        kind = Kind.UNREADABLE if why is Pointer.UNREADABLE else Kind.CORRUPT
        return t.decide(kind, None, address, f"{where} slot", f"{where}[{index}] = {raw:#x}: {why.reason}")

    def _by_name(self, t: Trace, what: Backing, address: int | None, decided: str) -> Trace:
        """The end of a trace that a shared page's name decides though not all of the way to it can be read."""
        name = LEAF_NAMES[what]
        if (frame := self.shared_frame(name)) is None:
            return t.decide(KINDS[what], None, address, decided)
        entry = (frame << PAGE_SHIFT) + t.number % self.width.per_page * self.width.bytes
        return shared_answer(t, self.guest.source, self.width, name, KINDS[what], entry, (address, decided))

    def _entry(self, t: Trace, address: int) -> Trace:
        index = t.number % self.width.per_page
        try:
            raw = int.from_bytes(self.guest.source.read(address, self.width.bytes), "little")
        except Unreadable as e:
            t.step("leaf", index, address, None, e.reason)
            return t.decide(Kind.UNREADABLE, None, address, "leaf entry", e.message)
        kind, frame, reason = classify_entry(raw, t.number, self.width)
        shown = kind.word + (f", MFN {frame:#x}" if frame is not None else "")
        t.step("leaf", index, address, raw, reason or shown)
        return t.decide(kind, frame, address, "leaf entry", reason)

    def storage(self) -> Storage:
        frames = {n: self.shared_frame(n) for n in (*MID_NAMES.values(), *LEAF_NAMES.values())}
        return storage_of(self.width, self.tree, self.leaves.backing, self.leaves.shared_mid, self._slots[0], frames)


def tree_view(guest: LinuxGuest, progress: Progress = no_progress) -> TreeView:
    """The view. Raises NotFound when the guest has no tree of three levels, or names that it needs."""
    if not guest.has("p2m_top"):
        raise NotFound(
            "this guest has no P2M tree: symbol p2m_top is not known",
            hint="kernels from 3.19 on have the linear list instead: use --view linear",
        )
    if not guest.has("p2m_missing"):
        raise NotFound(
            "the tree cannot be read: symbol p2m_missing is not known",
            hint="it tells holes from private leaves; give --kernel vmlinux or System.map",
        )
    era = era_of(guest)
    if era.name == TREE_TWO_LEVELS:
        raise NotFound(f"this guest's P2M is a {era.title}", hint="2.6.37 is the first kernel with three levels")
    return TreeView(guest, progress)
