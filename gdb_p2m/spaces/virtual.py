"""A virtual address space over machine memory: one page table, read through the walker."""

from __future__ import annotations

from gdb_p2m.errors import NotUnderstood, Unreadable, Untranslatable
from gdb_p2m.layout.pagetables import I386_PAE, PageTableShape
from gdb_p2m.sources.base import Source
from gdb_p2m.spaces.radix import Slots, Translations, Walk, slots, translate_many, walk
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, MachineAddress, U64Array

MAX_CACHED = 4096


class VirtualSpace:
    """Reads and translations of virtual addresses below page-table `root` (machine address).

    Translations of pages are remembered: the source is a stopped machine, so they cannot change.
    """

    def __init__(self, source: Source, shape: PageTableShape, root: MachineAddress) -> None:
        self.source = source
        self.shape = shape
        self.root = root
        self._pages: dict[int, int] = {}

    def walk(self, address: int) -> Walk:
        """Translate with all steps. Raises Untranslatable."""
        return walk(self.source, self.shape, self.root, address)

    def translate(self, address: int) -> MachineAddress:
        """Machine address of virtual `address`. Raises Untranslatable."""
        page = address >> PAGE_SHIFT
        frame = self._pages.get(page)
        if frame is None:
            frame = self.walk(address).frame
            if len(self._pages) < MAX_CACHED:
                self._pages[page] = frame
        return MachineAddress((frame << PAGE_SHIFT) | (address & (PAGE_SIZE - 1)))

    def maps(self, address: int) -> bool:
        """Whether `address` translates (False also when a table cannot be read)."""
        try:
            self.translate(address)
        except Untranslatable:
            return False
        return True

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes. Raises Untranslatable or Unreadable."""
        parts = []
        while size > 0:
            n = min(size, PAGE_SIZE - (address & (PAGE_SIZE - 1)))
            parts.append(bytes(self.source.read(self.translate(address), n)))
            address += n
            size -= n
        return b"".join(parts)

    @property
    def word(self) -> int:
        """sizeof(unsigned long) of the code that runs in this space: 4 below a PAE root, else 8."""
        return 4 if self.shape is I386_PAE else 8

    def read_word(self, address: int, size: int | None = None) -> int:
        """One little-endian unsigned word of `size` bytes (an unsigned long if not given)."""
        return int.from_bytes(self.read(address, size or self.word), "little")

    def read_named(self, name: str, address: int, size: int | None = None) -> int:
        """The word at symbol `name`; errors name the symbol."""
        try:
            return self.read_word(address, size)
        except (Untranslatable, Unreadable) as e:
            raise NotUnderstood(
                f"symbol {name} at {address:#x} cannot be read: {e.message}",
                hint="do the symbols belong to this memory? `symbols` shows where they come from",
            ) from None

    def slots(self, start: int, end: int, level_name: str) -> Slots:
        """All entries of the level called `level_name` ("L2", ...) for start..end-1."""
        level = next(lv for lv in self.shape.levels if lv.name == level_name)
        return slots(self.source, self.shape, self.root, start, end, level)

    def translate_many(self, addresses: U64Array) -> Translations:
        """Machine frames of many addresses, with the reason where there is none."""
        return translate_many(self.source, self.shape, self.root, addresses)
