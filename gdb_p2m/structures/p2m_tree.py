"""The upper levels of the three-level tree (Linux 2.6.37 to 3.18): p2m_top and its middle pages.

p2m_top points to a page of pointers to middle pages, which are pages of pointers to leaves; all are kernel
virtual addresses (layout: Linux arch/x86/xen/p2m.c; documented drawing: 3.16, "compactly store large identity
ranges in the p2m"). Every pointer is taken as a claim: what it leads to, or why it leads nowhere, is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotUnderstood, P2mError, Untranslatable
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.sources.base import Mask
from gdb_p2m.spaces.radix import Status
from gdb_p2m.spaces.words import words_of
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray, MachineAddress, Mfn, U64Array

KERNEL_HALF_64 = 1 << 63
PAGE_OFFSET_MASK_32 = 0xC000_0000
"""32-bit kernels start at 1, 2 or 3 GiB (CONFIG_VMSPLIT with PAE): the top bits of any kernel symbol."""


class Pointer(IntEnum):
    """What one slot of the top or of a middle page is."""

    OK = 0
    NULL = 1
    MISALIGNED = 2
    NOT_KERNEL = 3
    UNMAPPED = 4
    UNREADABLE = 5
    UPPER_LEVEL = 6

    @property
    def reason(self) -> str:
        """Why the slot leads nowhere, for people; "" for OK."""
        return _REASONS[self]


_REASONS = {
    Pointer.OK: "",
    Pointer.NULL: "a NULL pointer",
    Pointer.MISALIGNED: "not the address of a page: its low 12 bits are set",
    Pointer.NOT_KERNEL: "not a kernel address",
    Pointer.UNMAPPED: "the page tables do not map this address",
    Pointer.UNREADABLE: "the page that says so is not in the dump",
    Pointer.UPPER_LEVEL: "it points back to the top or to a middle page of the tree",
}
PointerArray = npt.NDArray[np.uint8]
"""Values of Pointer."""


@dataclass(frozen=True)
class P2mTree:
    """The top page and every distinct middle page, each read once. `per` is P2M_TOP_PER_PAGE.

    top_at: machine address of the top page. top_ok: whether it could be read. top: its pointers.
    top_status: Pointer per slot. row: index into the arrays below, -1 where the slot leads to no page.
    mid: MFNs of the distinct middle pages; mid_ok: which could be read. slots: their pointers, (n, per).
    status, frame: per slot of each middle page, Pointer and the leaf's MFN (-1 unless OK).
    """

    top_at: MachineAddress
    top_ok: bool
    top: U64Array
    top_status: PointerArray
    row: FrameArray
    mid: FrameArray
    mid_ok: Mask
    slots: U64Array
    status: PointerArray
    frame: FrameArray

    def uses(self) -> FrameArray:
        """How many top slots lead to each middle page."""
        return np.bincount(self.row[self.row >= 0], minlength=len(self.mid)).astype(np.int64)


def read_tree(guest: LinuxGuest) -> P2mTree:
    """The tree below `p2m_top`.

    Raises NotFound (no such symbol) or NotUnderstood (not set up, or the variable leads to no page).
    """
    top_at = _top_page(guest)
    per = guest.width.per_page
    pages, ok = guest.source.read_pages(np.array([top_at >> PAGE_SHIFT], dtype=np.int64))
    top = words_of(pages, guest.width)[0]
    if not ok[0]:
        return _unread_tree(top_at, per)
    status, frame = resolve(guest, top)
    status[(status == Pointer.OK) & (frame == top_at >> PAGE_SHIFT)] = Pointer.UPPER_LEVEL
    good = status == Pointer.OK
    mid, which = np.unique(frame[good], return_inverse=True)
    row = np.full(per, -1, dtype=np.int64)
    row[good] = which
    pages, mid_ok = guest.source.read_pages(mid)
    slots = words_of(pages, guest.width).reshape(len(mid), per)
    leaf_status, leaf = resolve(guest, slots.reshape(-1))
    leaf_status, leaf = leaf_status.reshape(slots.shape), leaf.reshape(slots.shape)
    leaf_status[~mid_ok] = Pointer.UNREADABLE
    _refuse_upper_levels(leaf_status, leaf, mid, top_at >> PAGE_SHIFT)
    return P2mTree(top_at, True, top, status, row, mid, mid_ok, slots, leaf_status, leaf)


def _top_page(guest: LinuxGuest) -> MachineAddress:
    """Machine address of the page that p2m_top points to."""
    pointer = guest.variable("p2m_top")
    if pointer == 0:
        raise NotUnderstood(
            "the tree is not set up: p2m_top is NULL",
            hint="xen_build_dynamic_phys_to_machine makes it, early in boot; do the symbols fit this kernel?",
        )
    if pointer % PAGE_SIZE:
        raise NotUnderstood(
            f"p2m_top = {pointer:#x} is not the address of a page",
            hint="before 2.6.37 p2m_top was an array, not a pointer; do the symbols fit this kernel?",
        )
    try:
        return guest.space.translate(pointer)
    except Untranslatable as e:
        raise NotUnderstood(f"p2m_top = {pointer:#x} points nowhere: {e.message}") from None


def _unread_tree(top_at: MachineAddress, per: int) -> P2mTree:
    """Nothing but the place of the top page."""
    none = np.full(per, -1, dtype=np.int64)
    status = np.full(per, Pointer.UNREADABLE, dtype=np.uint8)
    words = np.zeros((0, per), dtype=np.uint64)
    empty = np.zeros(0, dtype=np.int64)
    return P2mTree(
        top_at,
        False,
        np.zeros(per, dtype=np.uint64),
        status,
        none,
        empty,
        np.zeros(0, dtype=bool),
        words,
        words.astype(np.uint8),
        words.astype(np.int64),
    )


def lowest_kernel_address(guest: LinuxGuest) -> int:
    """Below this no pointer of the kernel can lie."""
    if guest.width.bits == 64:
        return KERNEL_HALF_64
    return guest.names.require("p2m_top").address & PAGE_OFFSET_MASK_32


def resolve(guest: LinuxGuest, pointers: U64Array) -> tuple[PointerArray, FrameArray]:
    """(Pointer, MFN or -1) of many kernel virtual addresses, translated in bulk."""
    low = np.uint64(lowest_kernel_address(guest))
    status = np.full(len(pointers), Pointer.OK, dtype=np.uint8)
    status[pointers < low] = Pointer.NOT_KERNEL
    status[(pointers & np.uint64(PAGE_SIZE - 1)) != 0] = Pointer.MISALIGNED
    status[pointers == 0] = Pointer.NULL
    frame = np.full(len(pointers), -1, dtype=np.int64)
    good = np.flatnonzero(status == Pointer.OK)
    # Shared pages are most of what pointers lead to: runs of equal pointers are translated once.
    part = pointers[good]
    heads = np.flatnonzero(np.concatenate((np.ones(min(1, len(part)), dtype=bool), part[1:] != part[:-1])))
    found = guest.space.translate_many(part[heads])
    repeat = np.diff(np.concatenate((heads, [len(part)])))
    outcome = np.full(len(heads), Pointer.UNMAPPED, dtype=np.uint8)
    outcome[found.status == Status.OK] = Pointer.OK
    outcome[found.status == Status.UNREADABLE] = Pointer.UNREADABLE
    status[good] = np.repeat(outcome, repeat)
    frame[good] = np.repeat(found.frame, repeat)
    return status, frame


def _refuse_upper_levels(status: PointerArray, leaf: FrameArray, mid: FrameArray, top: int) -> None:
    """Slots that point back up are no leaves: a page of pointers must not be read as entries.

    A middle page counts as one when any of its slots leads to a page: a top slot that wrongly points to
    a leaf must not take that leaf away from the slot that rightly does.
    """
    real = mid[(status == Pointer.OK).any(axis=1)] if len(mid) else mid
    back = (status == Pointer.OK) & np.isin(leaf, np.append(real, top))
    status[back] = Pointer.UPPER_LEVEL
    leaf[back] = -1


def shared_page(guest: LinuxGuest, name: str) -> tuple[int, Mfn | None] | None:
    """(pointer, frame) of shared page `name`; None when its name or its variable is not known, or leads nowhere.

    The frame is None when the page table that says where the page lies is not in the dump.
    """
    try:
        pointer = guest.variable(name)
    except P2mError:
        return None
    if pointer % PAGE_SIZE or pointer < lowest_kernel_address(guest):
        # NULL before the page exists, or overwritten: slots that hold the same nonsense do not mean the page.
        return None
    try:
        return pointer, guest.frame_of(pointer)
    except Untranslatable as e:
        return (pointer, None) if e.unreadable else None
