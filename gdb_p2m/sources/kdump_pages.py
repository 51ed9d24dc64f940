"""Pages of a kdump-compressed dump: descriptors, decompression, and a cache that is bounded in bytes."""

from __future__ import annotations

import struct
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from gdb_p2m.sources.content import Content
from gdb_p2m.sources.decompress import ZLIB, BadPage, Decompressors, unpack_zlib_start
from gdb_p2m.units import MIB, PAGE_SIZE, FrameArray

DESCRIPTOR = np.dtype([("offset", "<u8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
"""struct page_desc (makedumpfile's diskdump_mod.h)."""
_DESCRIPTOR = struct.Struct("<QII")
COMPRESSED = 0x1 | 0x2 | 0x4 | 0x20
INCOMPLETE = 0x8
EXCLUDED_VMEMMAP = 0x10
KNOWN_FLAGS = COMPRESSED | INCOMPLETE | EXCLUDED_VMEMMAP
CACHE_BYTES = 64 * MIB
FLAG_BITS = 6
KEY_BITS = 19
"""A descriptor as one number: flags, 13 bits of size (up to a page), 45 bits of offset (32 TiB)."""
DESCRIPTOR_BLOCK = 4096
BLOCKS_KEPT = 256
"""24 MiB of descriptors, where the file is not mapped."""
ZEROS = bytes(PAGE_SIZE)


class PageCache:
    """The pages used last, by key, never more than `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._pages: OrderedDict[int, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pages)

    def get(self, key: int) -> bytes | None:
        """The page, now the most recent one."""
        page = self._pages.get(key)
        if page is not None:
            self._pages.move_to_end(key)
        return page

    def put(self, key: int, page: bytes) -> None:
        """Keep it, and drop the oldest ones beyond the limit."""
        if len(page) > self.limit or key in self._pages:
            return
        self._pages[key] = page
        self.bytes += len(page)
        while self.bytes > self.limit:
            self.bytes -= len(self._pages.popitem(last=False)[1])


class PageStore:
    """The pages of one file by descriptor index. Writers let equal pages (zeros) share their data.

    first: file offset of the first descriptor; count: how many there are.
    """

    def __init__(self, content: Content, first: int, count: int, cache_bytes: int = CACHE_BYTES) -> None:
        self.content = content
        self.first = first
        self.count = count
        self.cache = PageCache(cache_bytes)
        self.decompressors = Decompressors()
        self._blocks: OrderedDict[int, npt.NDArray[np.void]] = OrderedDict()
        self._table = content.array(first, count, DESCRIPTOR) if content.whole is not None else None

    @property
    def data_at(self) -> int:
        """File offset after the last descriptor, where pages begin."""
        return self.first + self.count * DESCRIPTOR.itemsize

    def descriptors(self, index: FrameArray) -> npt.NDArray[np.void]:
        """The descriptors at `index` (rising or not)."""
        if self._table is not None:
            return self._table[index]
        out = np.empty(len(index), dtype=DESCRIPTOR)
        block = index // DESCRIPTOR_BLOCK
        for b in np.unique(block).tolist():
            here = block == b
            out[here] = self._block(b)[index[here] - b * DESCRIPTOR_BLOCK]
        return out

    def _block(self, number: int) -> npt.NDArray[np.void]:
        found = self._blocks.get(number)
        if found is None:
            start = number * DESCRIPTOR_BLOCK
            count = min(DESCRIPTOR_BLOCK, self.count - start)
            found = self.content.array(self.first + start * DESCRIPTOR.itemsize, count, DESCRIPTOR)
            self._blocks[number] = found
            if len(self._blocks) > BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return found

    def page(self, index: int) -> bytes:
        """One page. Raises BadPage, NotSupported."""
        at = self.first + index * DESCRIPTOR.itemsize
        return self.at(*_DESCRIPTOR.unpack(self.content.read(at, _DESCRIPTOR.size)))

    def at(self, offset: int, size: int, flags: int) -> bytes:
        """The page of a descriptor, through the cache. Raises BadPage, NotSupported."""
        if flags & (INCOMPLETE | EXCLUDED_VMEMMAP):
            raise BadPage(unusable(flags))
        key = offset << KEY_BITS | size << FLAG_BITS | flags
        page = self.cache.get(key)
        if page is None:
            page = self._decode(offset, size, flags)
            if page == ZEROS:
                page = ZEROS
            self.cache.put(key, page)
        return page

    def distinct(self, index: FrameArray) -> tuple[npt.NDArray[np.void], FrameArray]:
        """The different descriptors among those at `index`, and which of them each has."""
        table = self.descriptors(index)
        # Sizes and flags that are no such thing are cut to "0 bytes", which no page has.
        wild = (table["size"] > PAGE_SIZE) | (table["flags"] > KNOWN_FLAGS) | (table["offset"] >> (64 - KEY_BITS) != 0)
        low = np.where(wild, 0, table["size"] << np.uint32(FLAG_BITS) | table["flags"]).astype(np.uint64)
        _, first, which = np.unique(table["offset"] << np.uint64(KEY_BITS) | low, return_index=True, return_inverse=True)
        return table[first], which

    def start_of(self, offset: int, size: int, flags: int, wanted: int) -> bytes:
        """At least the first `wanted` bytes of the page, past the cache. Raises BadPage, NotSupported."""
        if flags & KNOWN_FLAGS == ZLIB:
            self._check(offset, size, flags)
            return unpack_zlib_start(self.content.read(offset, size), wanted)
        if flags & (INCOMPLETE | EXCLUDED_VMEMMAP):
            raise BadPage(unusable(flags))
        return self._decode(offset, size, flags)

    def _decode(self, offset: int, size: int, flags: int) -> bytes:
        self._check(offset, size, flags)
        data = self.content.read(offset, size)
        if flags & COMPRESSED:
            return self.decompressors.page(data, flags & COMPRESSED, PAGE_SIZE)
        return bytes(data)

    def _check(self, offset: int, size: int, flags: int) -> None:
        if problem := self.contradiction(offset, size, flags):
            raise BadPage(problem)

    def contradiction(self, offset: int, size: int, flags: int) -> str:
        """What is wrong with a descriptor, "" for nothing."""
        if flags & ~KNOWN_FLAGS:
            return f"its descriptor has unknown flags {flags:#x}"
        if offset + size > self.content.size:
            return f"its data at file offset {offset:#x} lies past the file's end {self.content.size:#x}"
        if size == 0 or size > PAGE_SIZE or (not flags & COMPRESSED and size != PAGE_SIZE):
            return f"its descriptor says {size} bytes, flags {flags:#x}"
        return ""

    def audit(self, start: int, end: int) -> list[tuple[int, str]]:
        """(descriptor index, problem) of descriptors start..end-1 that cannot be right; at most a few of each kind."""
        table = self.descriptors(np.arange(start, min(end, self.count), dtype=np.int64))
        last = table["offset"] + table["size"]
        usable = (table["flags"] & np.uint32(INCOMPLETE | EXCLUDED_VMEMMAP)) == 0
        bad = (last > self.content.size) | (last < table["offset"]) | (table["size"] > PAGE_SIZE)
        bad |= (table["size"] == 0) | ((table["flags"] & ~np.uint32(KNOWN_FLAGS)) != 0)
        bad |= ((table["flags"] & np.uint32(COMPRESSED)) == 0) & (table["size"] != PAGE_SIZE)
        bad |= table["offset"] < self.data_at
        found = []
        for i in np.flatnonzero(bad & usable)[:8].tolist():
            offset, size, flags = int(table["offset"][i]), int(table["size"][i]), int(table["flags"][i])
            inside = f"its data at file offset {offset:#x} lies among the headers and descriptors"
            found.append((start + i, self.contradiction(offset, size, flags) or inside))
        return found


def unusable(flags: int) -> str:
    """Why a page with these flags holds nothing."""
    if flags & INCOMPLETE:
        return "incomplete: the writer had no room for it"
    return "left out by the dump's writer: memory map of the kernel (vmemmap)"
