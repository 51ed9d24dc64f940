"""The model kernel: where its image, variables and pages lie, and how they are mapped.

PFN 0x1000 is the image's first page (link address __START_KERNEL_map + 16 MiB, or PAGE_OFFSET + 16 MiB on
32-bit). Pages that a real kernel takes from brk, memblock or the page allocator come from one cursor that
runs upwards from the end of what the domain builder placed.
"""

from __future__ import annotations

import numpy as np

from gdb_p2m.layout.pagetables import I386_PAE, X86_64_4LEVEL
from gdb_p2m.layout.x86_pv import START_KERNEL_MAP
from gdb_p2m.model.description import KERNEL_PFN, Description, DescriptionError
from gdb_p2m.model.frames import Frames
from gdb_p2m.model.memory import Memory
from gdb_p2m.model.pieces import Fate, PieceMap
from gdb_p2m.model.tables import DATA_RO, DATA_RW, TEXT, Tables, pte, ptes
from gdb_p2m.units import PAGE_SHIFT, FrameArray

PAGE_OFFSET_32 = 0xC000_0000
LOWMEM_PFNS_32 = 0x2E000
"""736 MiB: where 32-bit kernels end their direct map with a default vmalloc area."""
IMAGE_PAGES = 16
TEXT_PAGE, RODATA_PAGE, DATA_PAGE, ROOT_PAGE, REMAP_BUF_PAGE, DUMMY_SHARED_PAGE, VMCOREINFO_PAGE = range(7)
VARIABLE_STEP = 16
FIXMAP_SHARED_INFO_64 = 0xFFFF_FFFF_FF57_C000
"""Where a 6.1 kernel maps shared_info (seen)."""
FIXMAP_SHARED_INFO_32 = 0xF57F_E000


class Kernel:
    """Allocations, mappings and variables of one guest kernel.

    p2m is the P2M as it is now: what the kernel's pages are mapped by. free: PFN ranges that may be taken.
    """

    def __init__(self, d: Description, memory: Memory, frames: Frames, p2m: PieceMap) -> None:
        self.d = d
        self.memory = memory
        self.frames = frames
        self.p2m = p2m
        self.wide = d.width.bits == 64
        self.free: list[tuple[int, int]] = []
        self.taken: list[FrameArray] = [np.arange(KERNEL_PFN, KERNEL_PFN + IMAGE_PAGES, dtype=np.int64)]
        self.readonly: list[FrameArray] = []
        self.image_end = KERNEL_PFN + IMAGE_PAGES
        self.symbols: dict[str, int] = {}
        root = frames.mfn(KERNEL_PFN + ROOT_PAGE)
        self.readonly.append(np.array([KERNEL_PFN + ROOT_PAGE], dtype=np.int64))
        for mfn in frames.mfns(KERNEL_PFN, KERNEL_PFN + IMAGE_PAGES).tolist():
            memory.page(mfn)
        self.tables = Tables(memory, X86_64_4LEVEL if self.wide else I386_PAE, root, self.new_table)
        self._next_variable = self.kernel_va(KERNEL_PFN + DATA_PAGE)

    # -- addresses ------------------------------------------------------------------------------------------

    def kernel_va(self, pfn: int) -> int:
        """Address of `pfn` in the kernel image's mapping."""
        return (START_KERNEL_MAP if self.wide else PAGE_OFFSET_32) + (pfn << PAGE_SHIFT)

    def direct_va(self, pfn: int) -> int:
        """Address of `pfn` in the direct map."""
        return (self.d.era.page_offset if self.wide else PAGE_OFFSET_32) + (pfn << PAGE_SHIFT)

    def mfns(self, pfns: FrameArray) -> FrameArray:
        """Machine frames of pages that this kernel took: they never move."""
        return self.frames.of(pfns)

    # -- allocation -----------------------------------------------------------------------------------------

    def take(self, count: int) -> FrameArray:
        """`count` free PFNs in rising order. Raises DescriptionError when the guest is too small."""
        parts: list[FrameArray] = []
        left = count
        while left and self.free:
            start, end = self.free.pop(0)
            stop = min(end, start + left)
            parts.append(np.arange(start, stop, dtype=np.int64))
            left -= stop - start
            if stop < end:
                self.free.insert(0, (stop, end))
        if left:
            raise DescriptionError(
                self.d.name, 0, "nr_pages", f"too small: {left} pages are lacking for the kernel's structures"
            )
        pfns = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        self.taken.append(pfns)
        return pfns

    def take_image(self, count: int) -> FrameArray:
        """Like `take`, for pages that are used through the image's mapping (brk)."""
        pfns = self.take(count)
        if count:
            self.image_end = max(self.image_end, int(pfns[-1]) + 1)
        return pfns

    def take_page(self) -> tuple[int, int]:
        """(PFN, MFN) of a fresh, zeroed page."""
        pfn = int(self.take(1)[0])
        mfn = self.frames.mfn(pfn)
        self.memory.page(mfn)
        return pfn, mfn

    def new_table(self) -> int:
        """Machine frame of a fresh page-table page; Xen allows only read-only mappings of it."""
        pfn, mfn = self.take_page()
        self.readonly.append(np.array([pfn], dtype=np.int64))
        return mfn

    # -- variables ------------------------------------------------------------------------------------------

    def object(self, name: str, va: int) -> None:
        """A symbol for something that lies at `va`."""
        self.symbols[name] = va

    def variable(self, name: str, value: int) -> None:
        """A new variable of the size of a long in the data page."""
        va = self._next_variable
        self._next_variable += VARIABLE_STEP
        self.symbols[name] = va
        self.memory.write_word(self.machine_of_image(va), value, self.d.width.bytes)

    def machine_of_image(self, va: int) -> int:
        """Machine address of a link address inside the image."""
        pfn = (va - self.kernel_va(0)) >> PAGE_SHIFT
        return (self.frames.mfn(pfn) << PAGE_SHIFT) | (va & 0xFFF)

    # -- mappings -------------------------------------------------------------------------------------------

    def map_image(self) -> None:
        """Map the image and its brk at their link addresses (64-bit; on 32-bit the direct map does it)."""
        if not self.wide:
            return
        pfns = np.arange(KERNEL_PFN, self.image_end, dtype=np.int64)
        entries = self._entries(pfns)
        entries[TEXT_PAGE] = pte(self.frames.mfn(KERNEL_PFN + TEXT_PAGE), TEXT)
        self.tables.map_pages(self.kernel_va(KERNEL_PFN), entries)

    def _entries(self, pfns: FrameArray) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """Page-table entries of consecutive PFNs: read-only for page tables, none where there is no frame."""
        raw = self.p2m.entries(int(pfns[0]), int(pfns[-1]) + 1, self.frames, self.d.width)
        present = raw < np.uint64(self.d.width.identity_bit)
        entries = np.where(present, ptes(raw.astype(np.int64), DATA_RW), np.uint64(0))
        readonly = np.concatenate(self.readonly)
        hit = pfns[np.isin(pfns, readonly)] - pfns[0]
        entries[hit] = ptes(raw[hit].astype(np.int64), DATA_RO)
        return entries

    def map_direct(self) -> None:
        """Direct-map every 2 MiB that holds a page of the kernel's structures, tables of the map included."""
        done: set[int] = set()
        last = len(self.tables.shape.levels) - 1
        while True:
            regions = set(np.unique(np.concatenate(self.taken) >> 9).tolist()) - done
            if not regions:
                break
            for region in sorted(regions):
                self.tables.table(self.direct_va(region << 9), last)
            done |= regions
        for region in sorted(done):
            pfns = np.arange(region << 9, (region + 1) << 9, dtype=np.int64)
            pfns = pfns[pfns < self.p2m.limit]
            self.tables.map_pages(self.direct_va(region << 9), self._entries(pfns))

    def check_room(self) -> None:
        """32-bit kernels keep all of this in low memory. Raises DescriptionError."""
        if not self.wide and any(len(t) and int(t[-1]) >= LOWMEM_PFNS_32 for t in self.taken):
            raise DescriptionError(self.d.name, 0, "nr_pages", "the kernel's structures do not fit into low memory")


def usable_ranges(d: Description, start: int, p2m: PieceMap) -> list[tuple[int, int]]:
    """PFNs from `start` on that have their builder's frame at every stage: not displaced, given back or foreign."""
    kept = PieceMap(p2m.limit)
    for a, b in p2m.ranges(Fate.MFN):
        kept.set(max(a, start), max(b, start), Fate.MFN, 0)
    for a, b in (*d.released, *d.ballooned, *((f.pfn, f.pfn + f.count) for f in d.foreign)):
        kept.set(a, b, Fate.MISSING)
    return [(a, min(b, d.nr_pages)) for a, b in kept.ranges(Fate.MFN) if a < d.nr_pages]
