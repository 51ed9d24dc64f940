"""Raw memory: nothing but bytes, from a machine address that only the user knows (`--raw ADDRESS`)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotUnderstood, Unreadable, UsageError
from gdb_p2m.sources.base import Extent, Source, SourceInfo
from gdb_p2m.sources.content import Content
from gdb_p2m.units import PAGE_SIZE, parse_number

MACHINES = ("x86-64", "i386", "riscv64")


def parse_raw(text: str) -> tuple[int, str]:
    """`0`, `0x80000000:riscv64` -> (machine address of the first byte, machine). Raises UsageError."""
    address, _, machine = text.partition(":")
    base = parse_number(address)
    if base % PAGE_SIZE or base >= 1 << 56:
        raise UsageError(f"--raw {address}: not the machine address of a page")
    if machine and machine not in MACHINES:
        raise UsageError(f"--raw: no machine is called {machine!r}", hint=f"machines: {', '.join(MACHINES)}")
    return base, machine or "x86-64"


class RawSource(Source):
    """A file of machine memory from `base` on (QEMU's pmemsave, a memory-backend-file, dd of /dev/mem)."""

    def __init__(self, content: Content, path: str, base: int, machine: str) -> None:
        super().__init__()
        if not content.size:
            raise NotUnderstood(f"{path}: the file is empty")
        self._content = content
        self._base = base
        self.info = SourceInfo("raw memory", f"not known; --raw says that it begins at {base:#x}", path, machine)
        self.info.problems += content.problems
        if content.size % PAGE_SIZE:
            self.info.problems.append((base + content.size, f"the file has {content.size:#x} bytes, no whole number of pages"))
        self.info.loses.append("CPU states, notes and gaps: a file of raw memory has nothing but bytes")
        self._extents = (Extent(base, base + content.size),)

    def extents(self) -> tuple[Extent, ...]:
        return self._extents

    def _read(self, address: int, size: int) -> bytes | memoryview:
        if address < self._base or address + size > self._base + self._content.size:
            bad = address if not self.holds(address) else self._base + self._content.size
            raise Unreadable(bad, self.missing_reason(bad))
        return self._content.read(address - self._base, size)

    def strided_u64(self, extent: Extent, offset: int) -> npt.NDArray[np.uint64]:
        whole = self._content.whole
        first, last = -(-extent.start // PAGE_SIZE), extent.end // PAGE_SIZE
        at = first * PAGE_SIZE - self._base
        if whole is None or at < 0 or last * PAGE_SIZE - self._base > self._content.size or last <= first:
            return super().strided_u64(extent, offset)
        self.counters.pages += last - first
        self.counters.requests += 1
        pages = whole[at : at + (last - first) * PAGE_SIZE].reshape(-1, PAGE_SIZE)
        with self._content.in_order(at, len(pages) * PAGE_SIZE):
            return np.ascontiguousarray(pages[:, offset : offset + 8]).view(np.uint64)[:, 0]

    def close(self) -> None:
        self._content.close()
