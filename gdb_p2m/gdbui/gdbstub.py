"""GdbStubSource: the machine memory of a stopped QEMU, over its gdbstub.

Everything read is kept until the source is closed; the session closes it as soon as the machine runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import P2mError, Unreadable
from gdb_p2m.gdbui.mtree import ram_extents
from gdb_p2m.gdbui.pagecache import PageCache, joined
from gdb_p2m.gdbui.pmemsave import MOST, Pmemsave
from gdb_p2m.gdbui.stub import CountingStub, PhysicalReader, Stub
from gdb_p2m.sources.base import CpuState, Extent, Mask, Pages, Source, SourceInfo
from gdb_p2m.units import MIB, PAGE_SHIFT, PAGE_SIZE, FrameArray

CACHE_BYTES = 256 * MIB
KEEP_BYTES = 16 * MIB
"""A single read larger than this is a scan: it is not worth keeping."""
BULK_PAGES = 8
"""From so many pages on pmemsave is quicker than packets (0.3 ms a call against 0.17 ms a page)."""
BRIDGE_PAGES = 64
"""Pages nobody asked for that are read along rather than asked around: 256 KiB cost 0.1 ms."""


class GdbStubSource(Source):
    """Live memory. `stub`: the connection; `where`: what to call it; `bulk`: whether pmemsave may be used.

    Raises NotUnderstood when QEMU does not tell which addresses are RAM.
    """

    def __init__(self, stub: Stub, where: str, machine: str, cpus: Iterable[CpuState] = (), bulk: bool = True) -> None:
        super().__init__()
        self.info = SourceInfo(
            "live memory", "QEMU's gdbstub in physical memory mode", where, machine, cpus=list(cpus), live=True
        )
        self._stub = CountingStub(stub, self.counters)
        self._reader = PhysicalReader(self._stub)
        self.pmemsave = Pmemsave(self._stub, self._reader, bulk)
        self._extents = ram_extents(self._stub.monitor("info mtree -f"))
        self._cache = PageCache(CACHE_BYTES)
        self._expired = False

    def extents(self) -> tuple[Extent, ...]:
        return self._extents

    def missing_reason(self, address: int) -> str:
        return "not RAM"

    def close(self) -> None:
        self.expire()

    def expire(self) -> None:
        """The machine has run, or is gone: forget what was read, refuse to read on."""
        self._expired = True
        self._cache.clear()

    def read(self, address: int, size: int) -> bytes | memoryview:
        """As in Source; `requests` counts round trips to QEMU, so that what is in the cache is free."""
        if size <= 0:
            return b""
        self._require_ram(address, size)
        self.counters.pages += ((address + size - 1) >> PAGE_SHIFT) - (address >> PAGE_SHIFT) + 1
        return self._read(address, size)

    def _read(self, address: int, size: int) -> bytes | memoryview:
        if size > KEEP_BYTES:
            return self._stream(address, size)
        wanted = range(address >> PAGE_SHIFT, ((address + size - 1) >> PAGE_SHIFT) + 1)
        found = joined(self._cache, address, size)
        if found is None:
            self._fetch([mfn for mfn in wanted if mfn not in self._cache])
            found = joined(self._cache, address, size)
        if found is None:  # making room for some pages has pushed out others of the same read
            self._fetch(list(wanted))
            found = joined(self._cache, address, size)
        assert found is not None, "the cache is larger than what is read into it"
        return found

    def _require_ram(self, address: int, size: int) -> None:
        """Raise Unreadable with the first address that is not RAM: the stub would read zeros there."""
        self._require_still()
        at, end = address, address + size
        for extent in self._extents:
            if extent.start <= at < extent.end:
                at = extent.end
        if at < end:
            raise Unreadable(at, self.missing_reason(at))

    def _require_still(self) -> None:
        """Raise P2mError when the machine has run since the source was made."""
        if self._expired:
            raise P2mError(f"{self.info.path}: the machine has run since it was looked at", hint="attach() again")

    def read_pages(self, mfns: FrameArray) -> tuple[Pages, Mask]:
        self._require_still()
        wanted = np.unique(mfns)
        if len(wanted) <= KEEP_BYTES >> PAGE_SHIFT:
            held = (mfn for mfn in wanted.tolist() if mfn not in self._cache)
            self._fetch([mfn for mfn in held if self.holds(mfn << PAGE_SHIFT, PAGE_SIZE)])
        return super().read_pages(mfns)

    def _fetch(self, mfns: list[int]) -> None:
        """Bring frames (rising, RAM, not in the cache) into the cache with few round trips."""
        single: list[int] = []
        for group in self._groups(mfns):
            if len(group) < BULK_PAGES or not self.pmemsave.usable or not self._fetch_bulk(group):
                single += group
        spans = [self._within_ram(mfn) for mfn in single]
        for mfn, (address, _), data in zip(single, spans, self._reader.read(spans), strict=True):
            # A page that is RAM in part only keeps zeros elsewhere; _require_ram never lets them out.
            before = address - (mfn << PAGE_SHIFT)
            self._cache.add(
                mfn, data if len(data) == PAGE_SIZE else bytes(before) + data.ljust(PAGE_SIZE - before, b"\0")
            )

    def _fetch_bulk(self, group: list[int]) -> bool:
        start, end = group[0] << PAGE_SHIFT, (group[-1] + 1) << PAGE_SHIFT
        for at in range(start, end, MOST):
            data = self.pmemsave.save(at, min(MOST, end - at))
            if data is None:
                return False
            self._cache.add(at >> PAGE_SHIFT, data)
        return True

    def _groups(self, mfns: list[int]) -> Iterator[list[int]]:
        """Frames that one pmemsave can bring: near each other, in one extent of RAM."""
        group: list[int] = []
        for mfn in mfns:
            if group and (
                mfn - group[-1] > BRIDGE_PAGES
                or mfn - group[0] >= KEEP_BYTES >> PAGE_SHIFT
                or not self.holds(group[0] << PAGE_SHIFT, (mfn + 1 - group[0]) << PAGE_SHIFT)
            ):
                yield group
                group = []
            group.append(mfn)
        if group:
            yield group

    def _within_ram(self, mfn: int) -> tuple[int, int]:
        """(address, size) of the part of a page that is RAM: what lies beside it may be a device's register."""
        start, end = mfn << PAGE_SHIFT, (mfn + 1) << PAGE_SHIFT
        for extent in self._extents:
            if extent.start < end and start < extent.end:
                return max(start, extent.start), min(end, extent.end) - max(start, extent.start)
        raise Unreadable(start, self.missing_reason(start))

    def _stream(self, address: int, size: int) -> bytes | memoryview:
        """A long stretch, past the cache."""
        parts: list[bytes | memoryview] = []
        for at in range(address, address + size, MOST):
            count = min(MOST, address + size - at)
            data = self.pmemsave.save(at, count)
            parts.append(self._reader.read([(at, count)])[0] if data is None else data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def strided_u64(self, extent: Extent, offset: int) -> npt.NDArray[np.uint64]:
        """Scans: whole stretches where pmemsave works, else only the words themselves."""
        start, end = -(-extent.start // PAGE_SIZE) * PAGE_SIZE, extent.end // PAGE_SIZE * PAGE_SIZE
        if end <= start:
            return np.zeros(0, dtype=np.uint64)
        self._require_ram(start, end - start)
        self.counters.pages += (end - start) >> PAGE_SHIFT
        return np.concatenate([self._strided(at, min(MOST, end - at), offset) for at in range(start, end, MOST)])

    def _strided(self, start: int, size: int, offset: int) -> npt.NDArray[np.uint64]:
        data = self.pmemsave.save(start, size)
        if data is None:
            words = self._reader.read([(at + offset, 8) for at in range(start, start + size, PAGE_SIZE)])
            return np.frombuffer(b"".join(words), dtype="<u8").astype(np.uint64)
        whole = np.frombuffer(data, dtype=np.uint8).reshape(size >> PAGE_SHIFT, PAGE_SIZE)
        return np.ascontiguousarray(whole[:, offset : offset + 8]).view(np.uint64)[:, 0]
