"""The remap chain: the plan of what memory moves where, written into the memory itself (Linux 3.19).

Each chunk's first machine page holds next_area_mfn | target_pfn | size | mfns[509]. The head,
xen_remap_mfn, is init data: after boot it is freed, and what it holds then means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gdb_p2m.errors import Unreadable
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.names import SYSTEM_FREEING_INITMEM
from gdb_p2m.layout.x86_pv import REMAP_HEADER_WORDS
from gdb_p2m.spaces.words import MAX_MFN_BITS, words_of
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray, Mfn, Pfn

MAX_CHUNKS = 1 << 20
"""2 TiB of remapped memory; the check for cycles ends a bad chain long before."""
POISON = 0xCCCC_CCCC_CCCC_CCCC
"""POISON_FREE_INITMEM in every byte: what freed init data holds."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One record. mfn: the page it lies in. mfns: `size` frames (none when the size is impossible)."""

    mfn: Mfn
    next_mfn: int
    target_pfn: Pfn
    size: int
    mfns: FrameArray

    @property
    def address(self) -> int:
        """Machine address of the record."""
        return self.mfn << PAGE_SHIFT


@dataclass(frozen=True, slots=True)
class Chain:
    """All records in the order of the list (last planned first).

    state: "planned" (records to read), "empty" (the head is INVALID: nothing to move, or all moved),
    "done" (init data is freed). end: why reading stopped, "" for a regular end. unread: it stopped
    because the dump lacks a page that the machine had, so the rest is not known.
    """

    head_address: int | None
    head: int
    state: str
    chunks: tuple[Chunk, ...]
    end: str = ""
    unread: bool = False

    @property
    def pages(self) -> int:
        """Pages that move."""
        return sum(len(c.mfns) for c in self.chunks)


def remap_size(guest: LinuxGuest) -> int:
    """REMAP_SIZE: P2M_PER_PAGE - 3 = 509 (1021 on 32-bit)."""
    return guest.width.per_page - REMAP_HEADER_WORDS


def read_chain(guest: LinuxGuest) -> Chain:
    """The chain of a guest. Raises NotFound (the kernel has no such list), NotUnderstood."""
    symbol = guest.names.require("xen_remap_mfn")
    head = guest.variable("xen_remap_mfn")
    address = guest.space.translate(symbol.address) if guest.space.maps(symbol.address) else None
    if guest.has("system_state") and guest.variable("system_state") & 0xFFFF_FFFF >= SYSTEM_FREEING_INITMEM:
        return Chain(address, head, "done", ())
    if head == POISON >> (64 - guest.width.bits):
        return Chain(address, head, "done", ())
    if head == guest.width.invalid:
        return Chain(address, head, "empty", ())
    chunks: list[Chunk] = []
    seen: set[int] = set()
    mfn, end, unread = head, "", False
    while mfn != guest.width.invalid:
        if mfn in seen:
            end = f"the chain comes back to MFN {mfn:#x} after {len(chunks)} records"
        elif len(chunks) >= MAX_CHUNKS:
            end = f"more than {MAX_CHUNKS:,} records"
        if end:
            break
        seen.add(mfn)
        try:
            chunk = read_chunk(guest, mfn)
        except Unreadable as e:
            end = f"record at MFN {mfn:#x}: {e.message}"
            unread = any(x.start <= mfn << PAGE_SHIFT < x.end for x in guest.source.machine_extents())
            break
        chunks.append(chunk)
        mfn = chunk.next_mfn
    return Chain(address, head, "planned", tuple(chunks), end, unread)


def read_chunk(guest: LinuxGuest, mfn: int) -> Chunk:
    """The record at frame `mfn`. Raises Unreadable, also for numbers that are no frame."""
    if mfn >> MAX_MFN_BITS:
        raise Unreadable(mfn << PAGE_SHIFT, f"{mfn:#x} is no machine frame")
    data = np.frombuffer(guest.source.read(mfn << PAGE_SHIFT, PAGE_SIZE), dtype=np.uint8)
    words = words_of(data.reshape(1, PAGE_SIZE), guest.width)[0]
    next_mfn, target, size = (int(w) for w in words[:REMAP_HEADER_WORDS])
    legal = 1 <= size <= remap_size(guest)
    listed = words[REMAP_HEADER_WORDS : REMAP_HEADER_WORDS + (size if legal else 0)]
    mfns = np.where(listed >> np.uint64(MAX_MFN_BITS) == 0, listed, np.uint64(2**64 - 1)).astype(np.int64)
    return Chunk(Mfn(mfn), next_mfn, Pfn(target), size, mfns)
