"""A bare three-level tree in memory, made by hand: nothing of the model, for damage that no boot would do.

All pages lie one behind the other in machine memory from frame BASE on, and in virtual memory from the start of
the kernel's direct map.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.pagetables import I386_PAE, X86_64_4LEVEL
from gdb_p2m.layout.x86_pv import WIDTH_32, WIDTH_64, EntryWidth
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.spaces.pv_roots import Root
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.symbols.table import SymbolTable
from gdb_p2m.symbols.vmcoreinfo import VmcoreInfo
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, Mfn

BASE = 0x1000
DIRECT_MAP = {64: 0xFFFF_8800_0000_0000, 32: 0xC000_0000}
NAMES = ("p2m_top", "p2m_missing", "p2m_mid_missing", "p2m_identity", "p2m_mid_identity")
TABLE_FLAGS = 0x67


@dataclass
class BareTree:
    """A tree of `width` whose top slots all are p2m_mid_missing at first.

    names: which of NAMES the kernel has. The pages are numpy arrays of the guest's longs, by number from 0.
    """

    width: EntryWidth = WIDTH_64
    names: tuple[str, ...] = NAMES
    pages: list[np.ndarray] = field(default_factory=list)
    at: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.variables = self.page(0)
        for name in self.names:
            self.at[name] = self.page(self.width.invalid)
            self.pages[self.variables][self.names.index(name)] = self.va(self.at[name])
        self.fill("p2m_mid_missing", "p2m_missing")
        self.fill("p2m_mid_identity", "p2m_identity")
        self.fill("p2m_top", "p2m_mid_missing")

    def page(self, value: int = 0) -> int:
        """A new page full of `value`; its number."""
        dtype = np.uint64 if self.width.bits == 64 else np.uint32
        self.pages.append(np.full(self.width.per_page, value, dtype=dtype))
        return len(self.pages) - 1

    def fill(self, name: str, target: str) -> None:
        """Let every slot of one named page point to another."""
        if name in self.at and target in self.at:
            self.pages[self.at[name]][:] = self.va(self.at[target])

    def va(self, page: int) -> int:
        """Kernel virtual address of a page."""
        return DIRECT_MAP[self.width.bits] + (page << PAGE_SHIFT)

    def mfn(self, page: int) -> int:
        """Its machine frame."""
        return BASE + page

    @property
    def top(self) -> np.ndarray:
        """The top page's slots."""
        return self.pages[self.at["p2m_top"]]

    def mid(self, slot: int) -> np.ndarray:
        """The slots of a new middle page in top slot `slot`, all of them p2m_missing."""
        page = self.page(self.va(self.at["p2m_missing"]))
        self.top[slot] = self.va(page)
        return self.pages[page]

    def guest(
        self, *, without: tuple[int, ...] = (), gap: tuple[int, ...] = (), without_table_of: int | None = None
    ) -> LinuxGuest:
        """The guest. without: pages that the dump lacks. gap: pages that are not mapped.

        without_table_of: a page whose last page table the dump lacks.
        """
        pieces = {
            self.mfn(i) << PAGE_SHIFT: page.tobytes() for i, page in enumerate(self.pages) if i not in without
        }
        root = self._map(pieces, gap)
        if without_table_of is not None:
            del pieces[(BASE + len(self.pages) + without_table_of // 512) << PAGE_SHIFT]
        source = FakeSource(pieces)
        shape = X86_64_4LEVEL if self.width.bits == 64 else I386_PAE
        found = Root(Mfn(root), "made by hand", shape)
        text = "".join(
            f"SYMBOL({name})={self.va(self.variables) + i * self.width.bytes:x}\n" for i, name in enumerate(self.names)
        )
        names = SymbolTable([VmcoreInfo.parse(text)])
        return LinuxGuest(source, VirtualSpace(source, shape, found.address), names, found, self.width)

    def _map(self, pieces: dict[int, bytes], gap: tuple[int, ...]) -> int:
        """Page tables of the direct map behind all pages; the root's frame."""
        count = len(self.pages)
        tables = -(-count // 512)
        entries = np.zeros(tables * 512, dtype=np.uint64)
        entries[:count] = ((BASE + np.arange(count)) << PAGE_SHIFT) | TABLE_FLAGS
        entries[list(gap)] = 0
        last = BASE + count
        for i in range(tables):
            pieces[(last + i) << PAGE_SHIFT] = entries[i * 512 : (i + 1) * 512].tobytes()
        level, first = list(range(last, last + tables)), last + tables
        va = DIRECT_MAP[self.width.bits]
        shifts = (21, 30, 39) if self.width.bits == 64 else (21, 30)
        for shift in shifts:
            index = (va >> shift) & (511 if (shift, self.width.bits) != (30, 32) else 3)
            page = np.zeros(512 * -(-(index + len(level)) // 512), dtype=np.uint64)
            page[index : index + len(level)] = [(f << PAGE_SHIFT) | TABLE_FLAGS for f in level]
            pieces[first << PAGE_SHIFT] = page.tobytes()
            level, first = list(range(first, first + len(page) // 512)), first + len(page) // 512
        assert len(level) == 1 and all(a % PAGE_SIZE == 0 for a in pieces)
        return level[0]


def widths() -> tuple[EntryWidth, ...]:
    """Both widths, for parametrized tests."""
    return WIDTH_64, WIDTH_32
