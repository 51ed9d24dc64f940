"""Xen's frame table on RISC-V: struct page_info by machine frame, and back.

page_info VA = frametable_virt_start + mfn * sizeof(struct page_info) (asm/mm.h, mfn_to_page), for frames of
RAM, start_page..max_page-1. A pointer is a page_info only when it lies in the table and on an element.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gdb_p2m.errors import NotUnderstood, Unreadable, Untranslatable
from gdb_p2m.layout.xen_riscv import (
    PGC_ALLOCATED,
    PGC_COUNT_MASK,
    PGC_STATE_FREE,
    PGC_STATE_MASK,
    PGC_XEN_HEAP,
)
from gdb_p2m.spaces.xen_image import ADDRESS_MASK
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray, MachineAddress, Mfn, U64Array, VirtualAddress
from gdb_p2m.xen_riscv import XenRiscv

MAX_PAGE_INFO = 4096
BoolArray = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class PageInfo:
    """One record. u and v: the unions as words; used_entries: None where the era lacks it.

    address: machine; virtual: Xen's pointer value. raw: the whole record.
    """

    mfn: Mfn
    virtual: VirtualAddress
    address: MachineAddress
    raw: bytes
    count_info: int
    u: int
    v: int
    next: int
    prev: int
    used_entries: int | None

    @property
    def allocated(self) -> bool:
        """PGC_allocated: the page belongs to a domain's page list."""
        return bool(self.count_info & PGC_ALLOCATED)

    @property
    def free(self) -> bool:
        """PGC_state_free: on the heap's free lists."""
        return self.count_info & PGC_STATE_MASK == PGC_STATE_FREE

    @property
    def xen_heap(self) -> bool:
        """PGC_xen_heap."""
        return bool(self.count_info & PGC_XEN_HEAP)

    @property
    def references(self) -> int:
        """The reference count in count_info."""
        return self.count_info & PGC_COUNT_MASK


class FrameTable:
    """The frame table of one Xen. Raises NotFound/NotUnderstood when its place or element size is not known."""

    def __init__(self, xen: XenRiscv) -> None:
        self.xen = xen
        self.size = xen.facts.size("page_info")
        if not 16 <= self.size <= MAX_PAGE_INFO:
            raise NotUnderstood(f"struct page_info cannot have {self.size} bytes")
        self.base = xen.variable("frametable_virt_start")
        self.first, self.end = xen.ram_frames
        facts = xen.facts
        self._count = self._within("page_info.count_info", 16)
        self._v = self._within("page_info.v.md.pg", 32)
        self._list = self._within("page_info.list", 0)
        self._u = self._within("page_info.u.inuse.type_info", 24)
        self._used = facts.maybe_offset("page_info.u.md.used_entries")
        self._used_mask = (1 << 8 * facts.member_size("page_info.u.md.used_entries", 8)) - 1
        if self._used is not None and self._used + 8 > self.size:
            raise NotUnderstood(f"OFFSET(page_info.u.md.used_entries)={self._used} exceeds SIZE(page_info)={self.size}")

    def _within(self, path: str, fallback: int) -> int:
        known = self.xen.facts.maybe_offset(path)
        offset = fallback if known is None else known
        if offset + 8 > self.size:
            raise NotUnderstood(f"OFFSET({path})={offset} exceeds SIZE(page_info)={self.size}")
        return offset

    @property
    def list_offset(self) -> int:
        """Offset of page_info.list."""
        return self._list

    @property
    def v_offset(self) -> int:
        """Offset of the union v (md.pg, inuse.domain)."""
        return self._v

    def virtual(self, mfn: int) -> VirtualAddress:
        """Xen's pointer to the page_info of frame `mfn`."""
        return VirtualAddress((self.base + mfn * self.size) & ADDRESS_MASK)

    def holds(self, mfn: int) -> bool:
        """Whether frame `mfn` has a page_info."""
        return self.first <= mfn < self.end

    def mfn(self, pointer: int) -> Mfn:
        """Frame whose page_info is at virtual `pointer`. Raises NotUnderstood with what is wrong with it."""
        problem = self.problem(pointer)
        if problem:
            raise NotUnderstood(problem)
        return Mfn(((pointer - self.base) & ADDRESS_MASK) // self.size)

    def problem(self, pointer: int) -> str:
        """Why `pointer` is not a page_info; "" when it is."""
        offset = (pointer - self.base) & ADDRESS_MASK
        mfn, rest = divmod(offset, self.size)
        if not self.first <= mfn < self.end:
            low, high = self.virtual(self.first), self.virtual(self.end) - 1
            return f"pointer {pointer:#x} lies outside the frame table ({low:#x}..{high:#x})"
        if rest:
            return f"pointer {pointer:#x} lies {rest} bytes into the page_info of frame {mfn:#x}, not on an element"
        return ""

    def mfns(self, pointers: U64Array) -> FrameArray:
        """Frames of many pointers, -1 where a pointer is not a page_info (see `problem`)."""
        offset = pointers - np.uint64(self.base)
        mfn, rest = np.divmod(offset, np.uint64(self.size))
        good = (rest == 0) & (mfn >= np.uint64(self.first)) & (mfn < np.uint64(self.end))
        frames: FrameArray = np.where(good, mfn, np.uint64(0)).astype(np.int64)
        frames[~good] = -1
        return frames

    def read(self, mfn: int) -> PageInfo:
        """The page_info of frame `mfn`. Raises NotUnderstood (no RAM), Untranslatable or Unreadable."""
        if not self.holds(mfn):
            raise NotUnderstood(
                f"frame {mfn:#x} has no page_info: Xen's RAM is frames {self.first:#x}..{self.end - 1:#x}"
            )
        virtual = self.virtual(mfn)
        raw = self.xen.space.read(virtual, self.size)

        def word(at: int) -> int:
            return int.from_bytes(raw[at : at + 8], "little")

        return PageInfo(
            Mfn(mfn),
            virtual,
            self.xen.space.translate(virtual),
            raw,
            word(self._count),
            word(self._u),
            word(self._v),
            word(self._list),
            word(self._list + 8),
            None if self._used is None else word(self._used) & self._used_mask,
        )

    def used_entries(self, mfns: FrameArray) -> tuple[U64Array, BoolArray] | None:
        """page_info.u.md.used_entries of many frames and which could be read; None where the era lacks it."""
        if self._used is None:
            return None
        values, ok = self.words(mfns, self._used)
        return values & np.uint64(self._used_mask), ok

    @property
    def used_offset(self) -> int:
        """Offset of u.md.used_entries (of u where the era lacks it)."""
        return self._u if self._used is None else self._used

    def words(self, mfns: FrameArray, offset: int) -> tuple[U64Array, BoolArray]:
        """The word at `offset` of the page_infos of many frames, and which could be read.

        Cost: a translation and a read per distinct page of the frame table.
        """
        values = np.zeros(len(mfns), dtype=np.uint64)
        ok = np.zeros(len(mfns), dtype=bool)
        inside = np.flatnonzero((mfns >= self.first) & (mfns < self.end))
        if not len(inside):
            return values, ok
        at = mfns[inside].astype(np.uint64) * np.uint64(self.size) + np.uint64((self.base + offset) & ADDRESS_MASK)
        page = at >> np.uint64(PAGE_SHIFT)
        within = (at & np.uint64(PAGE_SIZE - 1)).astype(np.int64)
        whole = within <= PAGE_SIZE - 8
        order = np.argsort(page, kind="stable")
        pages, first = np.unique(page[order], return_index=True)
        frames = self._frames(pages)
        for part, data, good in self.xen.source.iter_pages(np.maximum(frames, 0)):
            good = good & (frames[part] >= 0)
            for i in np.flatnonzero(good).tolist():
                n = part.start + i
                stop = first[n + 1] if n + 1 < len(first) else len(order)
                rows = order[first[n] : stop]
                rows = rows[whole[rows]]
                values[inside[rows]] = _gather(data[i], within[rows])
                ok[inside[rows]] = True
        for i in np.flatnonzero(~whole).tolist():  # a word across two pages (sizes that are no multiple of 8)
            try:
                values[inside[i]] = self.xen.space.read_word(int(at[i]))
                ok[inside[i]] = True
            except (Untranslatable, Unreadable):
                continue
        return values, ok

    def _frames(self, pages: U64Array) -> FrameArray:
        """Machine frame behind each virtual page of the frame table, -1 where it cannot be translated."""
        out = np.full(len(pages), -1, dtype=np.int64)
        for i, page in enumerate(pages.tolist()):
            try:
                out[i] = self.xen.space.translate(page << PAGE_SHIFT) >> PAGE_SHIFT
            except Untranslatable:
                continue
        return out


def _gather(page: np.ndarray[tuple[int], np.dtype[np.uint8]], offsets: FrameArray) -> U64Array:
    """Little-endian words at byte `offsets` of one page."""
    index = offsets[:, None] + np.arange(8)
    words: U64Array = np.ascontiguousarray(page[index]).view("<u8")[:, 0]
    return words
