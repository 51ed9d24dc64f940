"""Memory in memory: for tests and for model guests that were just built."""

from __future__ import annotations

from bisect import bisect_right

from gdb_p2m.errors import Unreadable
from gdb_p2m.sources.base import Extent, Source, SourceInfo, merge_extents


class FakeSource(Source):
    """Pieces of machine memory: `pieces` maps a start address to bytes; they must not overlap."""

    def __init__(self, pieces: dict[int, bytes | bytearray], machine: str = "x86-64") -> None:
        super().__init__()
        self.info = SourceInfo("memory", "gdb-p2m", "memory", machine)
        self._pieces = sorted(pieces.items())
        self._starts = [s for s, _ in self._pieces]
        self._extents = merge_extents(Extent(s, s + len(b)) for s, b in self._pieces)

    def extents(self) -> tuple[Extent, ...]:
        return self._extents

    def _read(self, address: int, size: int) -> bytes | memoryview:
        i = bisect_right(self._starts, address) - 1
        if i >= 0 and address + size <= self._starts[i] + len(self._pieces[i][1]):
            at = address - self._starts[i]
            return memoryview(self._pieces[i][1])[at : at + size]
        return self._read_across(address, size)

    def _read_across(self, address: int, size: int) -> bytes:
        """A read that crosses pieces."""
        out = bytearray()
        while len(out) < size:
            at = address + len(out)
            i = bisect_right(self._starts, at) - 1
            start, data = self._pieces[i] if i >= 0 else (0, b"")
            if i < 0 or at >= start + len(data):
                raise Unreadable(at, self.missing_reason(at))
            out += data[at - start : at - start + size - len(out)]
        return bytes(out)
