"""View `list-list`: the frame list list that Xen's toolstack reads, linked by MFNs only.

shared_info.arch.pfn_to_mfn_frame_list_list -> top page of MFNs -> mid pages of MFNs -> leaf pages of
entries. It needs no page table, and it cannot show identity that is stored by page: by design a
shared identity page reads as INVALID here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gdb_p2m.errors import NotFound, P2mError, Unreadable
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.spaces.words import MAX_MFN_BITS, words_of
from gdb_p2m.structures.xen_pages import shared_info
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray, Mfn
from gdb_p2m.views.base import Storage, StorageCount, Trace, View, shared_answer
from gdb_p2m.views.entry_runs import classify_entry
from gdb_p2m.views.leaves import KIND_OF, Backing, BackingArray, add_leaves, dirty_slots, leaf_builder


@dataclass(frozen=True)
class FrameLists:
    """The two upper levels. top: MFN per top slot; leaves: (slots, per page) MFN of each leaf slot.

    top_ok / leaves_ok: False where the page that holds them could not be read; leaf values are -1 then.
    """

    top: FrameArray
    mid_ok: np.ndarray[tuple[int], np.dtype[np.bool_]]
    leaves: FrameArray


class ListListView(View):
    """The frame list list of one guest. Raises NotFound when the guest publishes none."""

    name = "list-list"

    def __init__(self, guest: LinuxGuest, progress: Progress = no_progress) -> None:
        self.guest = guest
        self.width = guest.width
        self.progress = progress
        self.limit = guest.width.max_p2m_pfn
        self.shared_info = shared_info(guest)
        self.top_mfn = self.shared_info.number("pfn_to_mfn_frame_list_list")
        if self.top_mfn == guest.width.invalid:
            raise NotFound(
                "shared_info.arch.pfn_to_mfn_frame_list_list is all ones: this guest has no frame list list",
                hint="its toolstack uses p2m_cr3 and p2m_vaddr (SIF_VIRT_P2M_4TOOLS); use --view linear",
            )
        if self.top_mfn == 0:
            raise NotFound(
                "shared_info.arch.pfn_to_mfn_frame_list_list is 0: the kernel has not published it yet",
                hint="it is set by xen_setup_mfn_list_list late in boot",
            )

    def _page(self, mfn: int) -> FrameArray:
        """A page of MFNs as int64; values that are no frame number become -1. Raises Unreadable."""
        if mfn >> MAX_MFN_BITS:
            raise Unreadable(mfn << PAGE_SHIFT, "no machine frame")
        data = np.frombuffer(self.guest.source.read(mfn << PAGE_SHIFT, PAGE_SIZE), dtype=np.uint8)
        words = words_of(data.reshape(1, PAGE_SIZE), self.width)[0]
        return np.where(words >> np.uint64(MAX_MFN_BITS) == 0, words, np.uint64(2**64 - 1)).astype(np.int64)

    @cached_property
    def lists(self) -> FrameLists:
        """Top and mid pages; distinct mid pages are read once."""
        top = self._page(self.top_mfn)
        per = self.width.per_page
        leaves = np.full((per, per), -1, dtype=np.int64)
        ok = np.ones(per, dtype=bool)
        distinct, which = np.unique(top, return_inverse=True)
        for i, mfn in enumerate(distinct.tolist()):
            slots = which == i
            try:
                leaves[slots] = self._page(mfn) if mfn >= 0 else -1
                ok[slots] = mfn >= 0
            except Unreadable:
                ok[slots] = False
        return FrameLists(top, ok, leaves)

    def shared_frame(self, name: str) -> Mfn | None:
        """Frame of p2m_missing, p2m_identity, p2m_mid_missing_mfn... when it is known."""
        try:
            return self.guest.page_of(name)
        except P2mError:
            return None

    @cached_property
    def backing(self) -> BackingArray:
        """Backing of every leaf slot. The shared pages are settled without reading them per slot."""
        lists = self.lists
        flat = lists.leaves.reshape(-1)
        backing = np.full(len(flat), Backing.PRIVATE, dtype=np.uint8)
        for name in ("p2m_missing", "p2m_identity"):
            frame = self.shared_frame(name)
            if frame is not None:
                backing[flat == frame] = Backing.MISSING
        backing[flat == -1] = Backing.CORRUPT
        unreadable = np.repeat(~lists.mid_ok & (lists.top >= 0), self.width.per_page)
        backing[unreadable] = Backing.UNREADABLE
        return backing

    def leaf_slots(self) -> tuple[BackingArray, FrameArray]:
        return self.backing, self.lists.leaves.reshape(-1)

    @cached_property
    def _mapping(self) -> Mapping:
        builder = leaf_builder(self.name, self.limit, self.guest.source, self.width)
        frames, backing = self.lists.leaves.reshape(-1), self.backing.copy()
        shared = {}
        for name, as_backing in (("p2m_missing", Backing.MISSING), ("p2m_identity", Backing.IDENTITY)):
            frame = self.shared_frame(name)
            if frame is not None:
                shared[as_backing] = int(frame)
                backing[(backing == Backing.MISSING) & (frames == frame)] = as_backing
        dirty = dirty_slots(self.guest.source, self.width, shared)
        kinds = {**KIND_OF, Backing.IDENTITY: Kind.MISSING}
        add_leaves(builder, self.guest.source, self.width, backing, frames, 0, self.progress, dirty, kinds)
        return builder.build()

    def mapping(self) -> Mapping:
        return self._mapping

    def trace(self, number: int) -> Trace:
        t = Trace(self.name, number)
        info = self.shared_info
        at = info.address_of("pfn_to_mfn_frame_list_list")
        t.step("shared_info.pfn_to_mfn_frame_list_list", None, at, self.top_mfn, f"top page at MFN {self.top_mfn:#x}")
        per, size = self.width.per_page, self.width.bytes
        mfn = self.top_mfn
        levels = (("top", number // per**2, "mid page"), ("mid", number // per % per, "leaf page"))
        for name, index, leads in levels:
            address = (mfn << PAGE_SHIFT) + index * size
            value = self._follow(t, name, index, address, leads)
            if value is None:
                return t
            mfn = value
        shared = {int(f): n for n in ("p2m_missing", "p2m_identity") if (f := self.shared_frame(n)) is not None}
        if shared.get(mfn):
            entry = (mfn << PAGE_SHIFT) + number % per * size
            decided = (address, f"mid slot: {shared[mfn]}")
            return shared_answer(t, self.guest.source, self.width, shared[mfn], Kind.MISSING, entry, decided)
        return self._leaf(t, number, mfn)

    def _follow(self, t: Trace, name: str, index: int, address: int, leads: str) -> int | None:
        """One slot of top or mid; None when the trace ended."""
        size = self.width.bytes
        try:
            raw = int.from_bytes(self.guest.source.read(address, size), "little")
        except Unreadable as e:
            t.step(name, index, address, None, e.reason)
            t.decide(Kind.UNREADABLE, None, address, f"{name} slot", e.message)
            return None
        if raw >> MAX_MFN_BITS:
            t.step(name, index, address, raw, "no machine frame")
            t.decide(Kind.CORRUPT, None, address, f"{name} slot", f"{name}[{index}] = {raw:#x} is no MFN")
            return None
        t.step(name, index, address, raw, f"{leads} at MFN {raw:#x}{self._shared_note(raw)}")
        return raw

    def _shared_note(self, mfn: int) -> str:
        names = ("p2m_mid_missing_mfn", "p2m_mid_identity_mfn", "p2m_missing", "p2m_identity")
        return next((f" = {n}" for n in names if self.shared_frame(n) == mfn), "")

    def _leaf(self, t: Trace, number: int, mfn: int) -> Trace:
        index = number % self.width.per_page
        address = (mfn << PAGE_SHIFT) + index * self.width.bytes
        try:
            raw = int.from_bytes(self.guest.source.read(address, self.width.bytes), "little")
        except Unreadable as e:
            t.step("leaf", index, address, None, e.reason)
            return t.decide(Kind.UNREADABLE, None, address, "leaf entry", e.message)
        kind, frame, reason = classify_entry(raw, number, self.width)
        shown = kind.word + (f", MFN {frame:#x}" if frame is not None else "")
        t.step("leaf", index, address, raw, reason or shown)
        return t.decide(kind, frame, address, "leaf entry", reason)

    def storage(self) -> Storage:
        lists, backing = self.lists, self.backing
        per = self.width.per_page
        counts = {b: int(np.count_nonzero(backing == b)) for b in Backing}
        mids = np.unique(lists.top)
        lines = (
            StorageCount("private leaf slots", counts[Backing.PRIVATE], "slots", counts[Backing.PRIVATE] * per),
            StorageCount("shared leaf slots", counts[Backing.MISSING], "slots", counts[Backing.MISSING] * per),
        )
        shared = []
        for name in ("p2m_mid_missing_mfn", "p2m_mid_identity_mfn"):
            frame = self.shared_frame(name)
            if frame is not None:
                shared.append((name, int(frame), int(np.count_nonzero(lists.top == frame))))
        for name in ("p2m_missing", "p2m_identity"):
            frame = self.shared_frame(name)
            if frame is not None:
                shared.append((name, int(frame), int(np.count_nonzero(lists.leaves == frame))))
        used = (1 + len(mids)) * PAGE_SIZE
        return Storage(lines, tuple(shared), used, (per - len(mids)) * PAGE_SIZE)
