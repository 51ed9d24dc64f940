"""Xen's own virtual addresses on RISC-V: where its image lies in machine memory, and its page table.

A dump of QEMU has neither satp nor hgatp, so the image is found by what it holds: the note with its build
id, on the 2 MiB steps on which Xen is loaded. Inside the image address and machine address differ by
phys_offset (asm/mm.h, virt_to_maddr); everything else is walked in stage1_pgtbl_root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gdb_p2m.errors import Unreadable, Untranslatable
from gdb_p2m.layout.pagetables import SV39, SV48, PageTableShape
from gdb_p2m.layout.xen_riscv import LOAD_STEP
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Source
from gdb_p2m.spaces.radix import canonical, walk
from gdb_p2m.spaces.virtual import MAX_CACHED, VirtualSpace
from gdb_p2m.units import MIB, PAGE_SHIFT, PAGE_SIZE, MachineAddress, VirtualAddress

ADDRESS_MASK = (1 << 64) - 1
BUILD_ID_HEADERS = tuple(b"\4\0\0\0" + bytes([n, 0, 0, 0]) + b"\3\0\0\0GNU\0" for n in (20, 16, 8, 32))
"""Start of a GNU build-id note, by length of the id (SHA-1 first: what linkers make)."""
MAX_FOREIGN_IDS = 8


@dataclass(frozen=True, slots=True)
class Image:
    """Xen's image: link addresses start..end-1, machine address = address + phys_offset (mod 2^64).

    evidence: how the place was found.
    """

    start: VirtualAddress
    end: VirtualAddress
    phys_offset: int
    evidence: str

    def holds(self, address: int) -> bool:
        """Whether a virtual address lies in the image."""
        return self.start <= address < self.end

    def machine(self, address: int) -> MachineAddress:
        """Machine address of a virtual address of the image."""
        return MachineAddress((address + self.phys_offset) & ADDRESS_MASK)


@dataclass(frozen=True, slots=True)
class DirectMap:
    """The direct map: virtual = machine + `base`, for machine addresses first..end-1."""

    base: int
    first: int
    end: int

    def machine(self, address: int) -> MachineAddress | None:
        """Machine address, or None where the direct map has nothing."""
        at = (address - self.base) & ADDRESS_MASK
        return MachineAddress(at) if self.first <= at < self.end else None

    def virtual(self, address: int) -> VirtualAddress:
        """Virtual address of a machine address."""
        return VirtualAddress((address + self.base) & ADDRESS_MASK)


def images_with_note(
    source: Source, note: bytes, offset: int, progress: Progress = no_progress
) -> Iterator[MachineAddress]:
    """Every load address (a multiple of 2 MiB) whose image holds the bytes `note` at `offset`."""
    extents = source.extents()
    with progress("looking for Xen's build id", len(extents)) as step:
        for done, extent in enumerate(extents):
            first = -(-(extent.start - offset) // LOAD_STEP) * LOAD_STEP
            for load in range(max(first, 0), extent.end - offset - len(note) + 1, LOAD_STEP):
                try:
                    found = bytes(source.read(load + offset, len(note)))
                except Unreadable:
                    continue
                if found == note:
                    yield MachineAddress(load)
            step(done + 1)


def build_ids_in_memory(source: Source, progress: Progress = no_progress) -> list[tuple[int, str]]:
    """(machine address, build id) of the first notes that memory holds anywhere, for messages.

    Reads all of memory: only for telling why the given file does not fit.
    """
    found: list[tuple[int, str]] = []
    step_bytes = 16 * MIB
    extents = source.extents()
    with progress("looking for other build ids", len(extents)) as step:
        for done, extent in enumerate(extents):
            for at in range(extent.start, extent.end, step_bytes):
                size = min(step_bytes + PAGE_SIZE, extent.end - at)
                try:
                    data = bytes(source.read(at, size))
                except Unreadable:
                    continue
                found += [(at + i, text) for i, text in _ids(data) if i < step_bytes]
                if len(found) >= MAX_FOREIGN_IDS:
                    return found[:MAX_FOREIGN_IDS]
            step(done + 1)
    return found


def _ids(data: bytes) -> Iterator[tuple[int, str]]:
    for header in BUILD_ID_HEADERS[:2]:
        at = data.find(header)
        while at >= 0:
            text = data[at + len(header) : at + len(header) + header[4]]
            if at % 4 == 0 and len(text) == header[4] and any(text):
                yield at, text.hex()
            at = data.find(header, at + 4)


class XenSpace(VirtualSpace):
    """Xen's virtual addresses: the image by phys_offset, the rest through stage1_pgtbl_root.

    When a page table on the way is not in the dump, addresses of the direct map are still known by
    arithmetic; an address that the page table does not map stays untranslatable. notes: contradictions.
    """

    def __init__(self, source: Source, image: Image, shape: PageTableShape, root: MachineAddress | None) -> None:
        super().__init__(source, shape, root if root is not None else MachineAddress(0))
        self.image = image
        self.has_table = root is not None
        self.direct: DirectMap | None = None
        self.notes: list[str] = []

    def translate(self, address: int) -> MachineAddress:
        """Machine address of virtual `address`. Raises Untranslatable."""
        if self.image.holds(address):
            return self.image.machine(address)
        page = address >> PAGE_SHIFT
        frame = self._pages.get(page)
        if frame is None:
            frame = self._frame(address)
            if len(self._pages) < MAX_CACHED:
                self._pages[page] = frame
        return MachineAddress(frame << PAGE_SHIFT | (address & (PAGE_SIZE - 1)))

    def _frame(self, address: int) -> int:
        direct = None if self.direct is None else self.direct.machine(address)
        if not self.has_table:
            if direct is None:
                raise Untranslatable(
                    f"address {address:#x} lies neither in Xen's image nor in its direct map, and Xen's page table "
                    "(stage1_pgtbl_root) is not known",
                    unreadable=True,
                )
            return direct >> PAGE_SHIFT
        try:
            frame = self.walk(address).frame
        except Untranslatable as e:
            if direct is None or not e.unreadable:
                raise
            return direct >> PAGE_SHIFT
        if direct is not None and direct >> PAGE_SHIFT != frame:
            note = f"Xen's page table maps {address:#x} of its direct map to frame {frame:#x}, not {direct >> 12:#x}"
            if note not in self.notes and len(self.notes) < 8:
                self.notes.append(note)
        return frame


def own_table_shape(
    source: Source, image: Image, root: MachineAddress, direct_base: int | None
) -> tuple[PageTableShape, str]:
    """Sv39 or Sv48 of Xen's own page table: the one that maps known addresses where they are.

    Known are the image's start, and the page table itself through the direct map. Without either in the
    dump the link address decides: it is canonical only for one of them (asm/config.h, XEN_VIRT_START).
    """
    known: list[tuple[str, int, int]] = [("_start", image.start, image.machine(image.start))]
    if direct_base is not None:
        known.append(("the direct map of stage1_pgtbl_root", (root + direct_base) & ADDRESS_MASK, root))
    refused: list[str] = []
    for shape in (SV39, SV48):
        for name, virtual, machine in known:
            if not canonical(shape, virtual):
                continue
            try:
                found = walk(source, shape, root, virtual).address
            except Untranslatable as e:
                refused.append(f"{shape.name}: {e.message}")
                continue
            if found == machine:
                return shape, f"{shape.name}: it maps {name} ({virtual:#x}) to {machine:#x}"
            refused.append(f"{shape.name} maps {name} to {found:#x}, not {machine:#x}")
    shape = SV39 if canonical(SV39, image.start) else SV48
    why = refused[0] if refused else "no known address can be walked"
    return shape, f"{shape.name} by the link address {image.start:#x} ({why})"
