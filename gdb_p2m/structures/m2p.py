"""Xen's machine-to-physical table, read through the guest's page table in bulk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotFound, P2mError, Unreadable
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.pagetables import X86_PSE
from gdb_p2m.layout.x86_pv import INVALID_M2P_ENTRY, M2P_VA_64, MACH2PHYS_VIRT_START_PAE, SHARED_M2P_ENTRY
from gdb_p2m.sources.base import Mask
from gdb_p2m.spaces.radix import Status
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray, MachineAddress, Mfn, U64Array

MAX_TRUSTED_FRAMES = 1 << 32
"""16 TiB, Xen's own limit: a larger machine_to_phys_nr is not believed."""


@dataclass(frozen=True, slots=True)
class M2pEntry:
    """One entry: `address` (machine) where it was read, `raw`, and what it says."""

    mfn: Mfn
    address: MachineAddress
    raw: int
    meaning: str

    @property
    def pfn(self) -> int | None:
        """The PFN, or None for an invalid, shared or otherwise flagged entry."""
        return None if self.raw >> 63 else self.raw


def meaning(raw: int, bits: int = 64) -> str:
    """An M2P entry in words."""
    ones = (1 << bits) - 1
    if raw == ones:
        return "INVALID_M2P_ENTRY"
    if raw == ones - 1:
        return "SHARED_M2P_ENTRY"
    if raw >> (bits - 1):
        return "not valid (top bit set)"
    return f"PFN {raw:#x}"


class M2p:
    """The table of one guest's view. `limit`: MFNs covered (RAM's end, and machine_to_phys_nr if known).

    Pieces are read once and kept: 2 MiB per GiB of machine memory at the most, and mapped files give
    views without copying.
    """

    def __init__(self, guest: LinuxGuest) -> None:
        self.guest = guest
        self.entry_bytes = guest.width.bytes
        self._pieces: list[tuple[int, U64Array]] = []
        self._unread = 0
        self._starts: FrameArray | None = None

    @property
    def base(self) -> int:
        """Virtual address of the table. Raises what reading machine_to_phys_mapping raises."""
        return self._base[0]

    @property
    def base_source(self) -> str:
        """Where `base` comes from, in a word."""
        return self._base[1]

    @cached_property
    def _base(self) -> tuple[int, str]:
        if self.guest.has("machine_to_phys_mapping"):
            return self.guest.variable("machine_to_phys_mapping"), "machine_to_phys_mapping"
        if self.guest.width.bits == 64:
            return M2P_VA_64, "RO_MPT_VIRT_START"
        return self._compat_base()

    def _compat_base(self) -> tuple[int, str]:
        """Of a 32-bit guest: the first large page above HYPERVISOR_VIRT_START. PV kernels have none.

        Xen moves the table up as far as the machine's size allows (m2p_compat_vstart; seen: 0xffc00000
        with 1 GiB), so that the documented start is only the lowest it can have.
        """
        above = self.guest.space.slots(MACH2PHYS_VIRT_START_PAE, 1 << 32, "L2")
        large = (above.status == Status.OK) & ((above.raw & np.uint64(X86_PSE)) != 0) & ~above.writable
        found = np.flatnonzero(large)
        if not len(found):
            return MACH2PHYS_VIRT_START_PAE, "MACH2PHYS_VIRT_START"
        return above.first + (int(found[0]) << above.level.shift), "the large pages that Xen maps there"

    @cached_property
    def limit(self) -> int:
        """Frames of the machine: Xen tells dom0 its max_page (machine_to_phys_nr); else the end of RAM.

        Guests other than dom0 get the size of the whole area there, which says nothing.
        """
        return self._told or min(self.guest.source.ram_end() >> PAGE_SHIFT, MAX_TRUSTED_FRAMES)

    @cached_property
    def _told(self) -> int:
        """max_page as Xen told dom0, 0 when that is not known."""
        if self.guest.id != 0 or not self.guest.has("machine_to_phys_nr"):
            return 0
        try:
            told = self.guest.variable("machine_to_phys_nr")
        except P2mError:
            return 0
        return told if told <= MAX_TRUSTED_FRAMES else 0

    def entry(self, mfn: int) -> M2pEntry:
        """One entry. Raises NotFound (past the table), Untranslatable (no such entry is mapped) or Unreadable."""
        # What lies behind the table is other memory (on 64-bit the kernel's own), never an entry.
        end = self._told or MAX_TRUSTED_FRAMES
        if mfn >= end:
            raise NotFound(f"MFN {mfn:#x} is past the M2P, which ends at {end - 1:#x}")
        address = self.guest.space.translate(self.base + mfn * self.entry_bytes)
        raw = int.from_bytes(self.guest.source.read(address, self.entry_bytes), "little")
        if self.entry_bytes == 4 and raw >> 31:
            raw |= 0xFFFF_FFFF_0000_0000
        return M2pEntry(Mfn(mfn), address, raw, meaning(raw))

    def lookup(self, mfns: FrameArray) -> tuple[U64Array, Mask]:
        """Entries of many MFNs and which of them could be read (32-bit entries widened, flags kept)."""
        starts = self._load()
        values = np.full(len(mfns), INVALID_M2P_ENTRY, dtype=np.uint64)
        ok = np.zeros(len(mfns), dtype=bool)
        if not len(starts):
            return values, ok
        which = np.searchsorted(starts, mfns, side="right") - 1
        for i in np.unique(which[which >= 0]).tolist():
            first, words = self._pieces[i]
            here = np.flatnonzero((which == i) & (mfns < first + len(words)))
            values[here] = words[mfns[here] - first]
            ok[here] = True
        return values, ok

    def pieces(self) -> list[tuple[int, U64Array]]:
        """(first MFN, entries) of every contiguous readable piece."""
        self._load()
        return self._pieces

    @property
    def unread(self) -> int:
        """Entries below `limit` that the table has but that cannot be read."""
        self._load()
        return self._unread

    def _load(self) -> FrameArray:
        if self._starts is None:
            self._read_all()
            self._starts = np.array([p[0] for p in self._pieces], dtype=np.int64)
        return self._starts

    def _read_all(self) -> None:
        per_page = PAGE_SIZE // self.entry_bytes
        pages = -(-self.limit // per_page)
        if not pages:
            return
        mapped = self.guest.space.slots(self.base, self.base + pages * PAGE_SIZE, "L1")
        self._unread = int(np.count_nonzero(mapped.status == Status.UNREADABLE)) * per_page
        there = np.flatnonzero(mapped.status == Status.OK)
        frame = mapped.frame[there]
        edges = np.flatnonzero((np.diff(there) != 1) | (np.diff(frame) != 1)) + 1
        for a, b in pairwise([0, *edges.tolist(), len(there)] if len(there) else []):
            self._read_piece(int(frame[a]), int(there[a]) * per_page, b - a)

    def _read_piece(self, frame: int, first: int, count: int) -> None:
        """One stretch of M2P pages, in one view when all can be read, else what can be read of it."""
        try:
            data = self.guest.source.read(frame << PAGE_SHIFT, count * PAGE_SIZE)
        except Unreadable:
            self._read_rest(np.arange(frame, frame + count), first)
        else:
            self._add_piece(first, np.frombuffer(data, dtype=np.uint8))

    def _read_rest(self, frames: FrameArray, first: int) -> None:
        per_page = PAGE_SIZE // self.entry_bytes
        for part, pages, ok in self.guest.source.iter_pages(frames):
            at = first + part.start * per_page
            lost = np.flatnonzero(~ok)
            ends = np.minimum(at + (lost + 1) * per_page, self.limit)
            self._unread += int((ends - (at + lost * per_page)).sum())
            edges = np.flatnonzero(np.diff(np.concatenate(([False], ok, [False])).astype(np.int8)))
            for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
                self._add_piece(at + a * per_page, pages[a:b].reshape(-1))

    def _add_piece(self, first: int, data: npt.NDArray[np.uint8]) -> None:
        if self.entry_bytes == 8:
            words = data.view("<u8")
        else:
            words = data.view("<i4").astype(np.int64).view(np.uint64)
        self._pieces.append((first, words[: self.limit - first]))


__all__ = ["INVALID_M2P_ENTRY", "SHARED_M2P_ENTRY", "M2p", "M2pEntry", "meaning"]
