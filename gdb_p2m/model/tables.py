"""Builds page tables in model memory, from the shapes in layout/pagetables.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gdb_p2m.layout.pagetables import (
    X86_ACCESSED,
    X86_DIRTY,
    X86_FRAME_MASK,
    X86_NX,
    X86_PRESENT,
    X86_PSE,
    X86_RW,
    X86_USER,
    PageTableShape,
)
from gdb_p2m.model.memory import Memory
from gdb_p2m.units import PAGE_SHIFT, U64Array

GUEST_KERNEL = 1 << 52
"""_PAGE_GUEST_KERNEL: Xen marks the kernel's own entries of 64-bit PV guests (seen in every PTE)."""
TABLE = X86_PRESENT | X86_RW | X86_USER | X86_ACCESSED | X86_DIRTY
"""Entries that point to tables: 0x067 (seen)."""
DATA_RW = X86_NX | GUEST_KERNEL | TABLE
"""PAGE_KERNEL as it stands in memory: 0x8010000000000067 (seen)."""
DATA_RO = DATA_RW & ~X86_RW
"""PAGE_KERNEL_RO: 0x8010000000000065 (seen for the shared pages)."""
TEXT = DATA_RO & ~X86_NX
M2P_TABLE = X86_NX | X86_PRESENT | X86_USER | X86_ACCESSED
"""Xen's own tables over the M2P: 0x8000000000000025 (seen)."""
M2P_PAGE = X86_PRESENT | X86_USER | X86_ACCESSED | X86_PSE
"""2 MiB pages of the M2P, 0x0a5 (seen), read-only for guests."""


def pte(mfn: int, flags: int) -> int:
    """An entry of `flags` that leads to machine frame `mfn`."""
    return (mfn << PAGE_SHIFT) | flags


@dataclass(frozen=True, slots=True)
class Found:
    """One entry on the way to an address: level name, table frame, index and the entry itself."""

    level: str
    table: int
    index: int
    raw: int

    @property
    def address(self) -> int:
        """Machine address of the entry."""
        return (self.table << PAGE_SHIFT) + self.index * 8


class Tables:
    """One page table. new_table: gives the machine frame of a fresh, zeroed table page."""

    def __init__(
        self, memory: Memory, shape: PageTableShape, root: int, new_table: Callable[[], int], flags: int = TABLE
    ) -> None:
        self.memory = memory
        self.shape = shape
        self.root = root
        self.new_table = new_table
        self.flags = flags

    def index(self, va: int, depth: int) -> int:
        """Slot of `va` in its table of depth 0 (root), 1, ..."""
        level = self.shape.levels[depth]
        return (va >> level.shift) & (level.entries - 1)

    def table(self, va: int, depth: int) -> int:
        """Frame of the table of `depth` that translates `va`; missing tables are made."""
        frame = self.root
        for d in range(depth):
            words = self.memory.words(frame)
            i = self.index(va, d)
            if not int(words[i]) & X86_PRESENT:
                words[i] = pte(self.new_table(), self.flags)
            frame = (int(words[i]) & X86_FRAME_MASK) >> PAGE_SHIFT
        return frame

    def depth(self, level: str) -> int:
        """Depth of the level called `level` ("L2")."""
        return next(i for i, lv in enumerate(self.shape.levels) if lv.name == level)

    def set(self, va: int, level: str, raw: int) -> None:
        """Write the entry of `level` that translates `va`."""
        depth = self.depth(level)
        self.memory.words(self.table(va, depth))[self.index(va, depth)] = raw

    def map_pages(self, va: int, entries: U64Array) -> None:
        """Last-level entries of consecutive pages from `va` on; one step per table, not per page."""
        last = len(self.shape.levels) - 1
        done = 0
        while done < len(entries):
            at = va + (done << PAGE_SHIFT)
            i = self.index(at, last)
            n = min(len(entries) - done, 512 - i)
            self.memory.words(self.table(at, last))[i : i + n] = entries[done : done + n]
            done += n

    def find(self, va: int) -> list[Found]:
        """The entries that translate `va`, as far as they are present (the last one may not be)."""
        out: list[Found] = []
        frame = self.root
        for d, level in enumerate(self.shape.levels):
            i = self.index(va, d)
            raw = self.memory.read_word((frame << PAGE_SHIFT) + i * 8)
            out.append(Found(level.name, frame, i, raw))
            last = d == len(self.shape.levels) - 1
            if last or not raw & X86_PRESENT or raw & X86_PSE:
                break
            frame = (raw & X86_FRAME_MASK) >> PAGE_SHIFT
        return out


def ptes(mfns: np.ndarray[tuple[int], np.dtype[np.int64]], flags: int) -> U64Array:
    """Entries for many frames."""
    out: U64Array = (mfns.astype(np.uint64) << np.uint64(PAGE_SHIFT)) | np.uint64(flags)
    return out
