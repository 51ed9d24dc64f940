"""Finds page-table roots of PV guests in raw machine memory, 64-bit and 32-bit (PAE).

Xen puts the L4's own frame into slot 258 of every PV L4 (LINEAR_PT_VIRT_START, asm/config.h), also
into the L4s of user mode, whose kernel half is empty. A root is good for us when it maps the
kernel's text.

A 32-bit guest has no L4. Xen gives each of its CPUs one, with the same self-link, whose slot 0 leads to
the guest's L3 of four entries (setup_compat_l4 and new_guest_cr3, seen: Xen 4.16, Linux 4.9): that L3
is the root. It is also what a 32-bit CR3 names, folded where a guest context holds it: the low
12 bits carry the frame's high part (xen_pfn_to_cr3, public/arch-x86/xen-x86_32.h).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gdb_p2m.errors import Unreadable, Untranslatable
from gdb_p2m.layout.pagetables import (
    I386_PAE,
    X86_64_4LEVEL,
    X86_FRAME_MASK,
    X86_NX,
    X86_PRESENT,
    X86_PSE,
    PageTableShape,
)
from gdb_p2m.layout.x86_pv import KERNEL_TEXT_VA, KERNEL_TEXT_VA_PAE, LINEAR_PT_SLOT
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Extent, Source
from gdb_p2m.spaces.radix import table_page, walk
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, MachineAddress, Mfn

Look = Callable[[Source, Extent], list[Mfn]]

SLOT_BYTES = 8
SCAN_STEP = 64 << 20
COMPAT_L3_SLOT = 0
KERNEL_L3_SLOT = 3
"""Slot of the PAE root that maps 3 GiB..4 GiB: the kernel with the usual PAGE_OFFSET 0xc0000000."""


@dataclass(frozen=True, slots=True)
class Root:
    """A root table at frame `mfn` (the L4, or the L3 of a 32-bit guest); `evidence`: how it was found."""

    mfn: Mfn
    evidence: str
    shape: PageTableShape = X86_64_4LEVEL

    @property
    def address(self) -> MachineAddress:
        """Machine address of the root's first entry."""
        return MachineAddress(self.mfn << PAGE_SHIFT)

    @property
    def table(self) -> str:
        """What the root's table is called: "L4" or "L3"."""
        return self.shape.levels[0].name


def kernel_text(shape: PageTableShape) -> int:
    """Virtual address that every kernel of this shape maps."""
    return KERNEL_TEXT_VA_PAE if shape is I386_PAE else KERNEL_TEXT_VA


def is_pv_l4(source: Source, mfn: int) -> bool:
    """Whether the page at `mfn` carries its own frame in the linear page table's slot."""
    try:
        entry = source.read_u64((mfn << PAGE_SHIFT) + LINEAR_PT_SLOT * SLOT_BYTES)
    except Unreadable:
        return False
    return bool(entry & X86_PRESENT) and (entry & X86_FRAME_MASK) >> PAGE_SHIFT == mfn


def maps_kernel(source: Source, mfn: int, shape: PageTableShape = X86_64_4LEVEL) -> bool:
    """Whether the root at `mfn` maps the kernel's text.

    A table below the root that the source does not hold counts as mapping it: an excerpt leaves out
    what nobody asked for, the text's own page table first of all.
    """
    try:
        walk(source, shape, MachineAddress(mfn << PAGE_SHIFT), kernel_text(shape))
    except Untranslatable as e:
        return e.unreadable and len(e.steps) > 0
    return True


def kernel_mark(source: Source, root: Root) -> int | None:
    """What all page tables of one guest have in common: the frame of the table of the kernel's text.

    64-bit: behind slot 511 of the L4. 32-bit: the last level's (each process has its own L2s). None
    when the root does not lead there.
    """
    try:
        found = walk(source, root.shape, root.address, kernel_text(root.shape)).steps
    except Untranslatable as e:
        found = e.steps  # type: ignore[assignment]
    depth = 1 if root.shape is I386_PAE else 0
    return found[depth].pte.frame if len(found) > depth else None


def is_pae_l3(source: Source, mfn: int) -> bool:
    """Whether the page at `mfn` can be the L3 of a 32-bit guest: four entries at most, the rest zero."""
    try:
        words = table_page(source, mfn)
    except Unreadable:
        return False
    entries = [int(w) for w in words[:4]]
    if words[4:].any() or not entries[KERNEL_L3_SLOT] & X86_PRESENT:
        return False
    return all(e == 0 or (e & X86_PRESENT and not e & (X86_PSE | X86_NX)) for e in entries)


def unfold_cr3(cr3: int) -> int:
    """Frame in the CR3 of a 32-bit guest: (mfn << 12) | (mfn >> 20)."""
    return (cr3 >> PAGE_SHIFT) & 0xF_FFFF | (cr3 & 0xFFF) << 20


def pae_root(source: Source, mfn: int, evidence: str) -> Root | None:
    """The root at `mfn` if it is the L3 of a 32-bit guest that maps its kernel."""
    if is_pae_l3(source, mfn) and maps_kernel(source, mfn, I386_PAE):
        return Root(Mfn(mfn), evidence, I386_PAE)
    return None


def below_l4(source: Source, mfn: int, evidence: str) -> Root | None:
    """The root that PV L4 `mfn` stands for: itself, or the L3 of a 32-bit guest in its slot 0."""
    if maps_kernel(source, mfn):
        return Root(Mfn(mfn), evidence)
    try:
        entry = source.read_u64((mfn << PAGE_SHIFT) + COMPAT_L3_SLOT * SLOT_BYTES)
    except Unreadable:
        return None
    if not entry & X86_PRESENT:
        return None
    l3 = (entry & X86_FRAME_MASK) >> PAGE_SHIFT
    return pae_root(source, l3, f"{evidence}, whose slot 0 leads to the L3 of a 32-bit guest")


def from_cpus(source: Source) -> Iterator[Root]:
    """Roots that a CPU had loaded, if they map a PV kernel."""
    for cpu in source.info.cpus:
        if not cpu.cr3:
            continue
        evidence = f"CR3 {cpu.cr3:#x} of CPU {cpu.index}"
        mfn = cpu.cr3 >> PAGE_SHIFT
        if is_pv_l4(source, mfn):
            root = below_l4(source, mfn, evidence)
        elif cpu.cr3 >> 32:
            root = pae_root(source, mfn, evidence)
        else:
            root = pae_root(source, mfn, evidence) if not cpu.cr3 & 0xFFF else None
            root = root or pae_root(source, unfold_cr3(cpu.cr3), f"{evidence}, folded")
        if root is not None:
            yield root


def from_scan(source: Source, progress: Progress = no_progress) -> Iterator[Root]:
    """Every PV root of the machine that maps a kernel, in order of frame, by looking at all pages.

    Where no L4 links to itself (the L4s of 32-bit guests are Xen's own and may be left out of a dump),
    pages that look like the L3 of a 32-bit guest are taken.
    """
    any_l4 = False
    for mfn in _scan(source, progress, "scanning memory for PV page tables", _self_linked):
        root = below_l4(source, mfn, f"scan: L4 at machine frame {mfn:#x} links to itself in slot 258")
        if root is not None:
            any_l4 = True
            yield root
    if not any_l4:
        for mfn in _scan(source, progress, "scanning memory for 32-bit PV page tables", _like_pae_l3):
            root = pae_root(source, mfn, f"scan: the page at machine frame {mfn:#x} is an L3 of four entries")
            if root is not None:
                yield root


def _scan(source: Source, progress: Progress, what: str, look: Look) -> Iterator[Mfn]:
    """Frames that `look` finds, piece by piece of memory."""
    extents = source.extents()
    done = 0
    with progress(what, sum(e.end - e.start for e in extents)) as step:
        for extent in extents:
            # From a page boundary on, or a page at the edge of two steps would be in neither.
            for start in range(extent.start & -PAGE_SIZE, extent.end, SCAN_STEP):
                part = Extent(max(start, extent.start), min(start + SCAN_STEP, extent.end))
                yield from look(source, part)
                done += part.end - part.start
                step(done)


def _self_linked(source: Source, part: Extent) -> list[Mfn]:
    words = source.strided_u64(part, LINEAR_PT_SLOT * SLOT_BYTES)
    first = -(-part.start >> PAGE_SHIFT)
    own = (np.arange(first, first + len(words), dtype=np.uint64)) << np.uint64(PAGE_SHIFT)
    hit = ((words & np.uint64(X86_FRAME_MASK)) == own) & ((words & np.uint64(X86_PRESENT)) != 0)
    return [Mfn(first + int(i)) for i in np.flatnonzero(hit)]


def _like_pae_l3(source: Source, part: Extent) -> list[Mfn]:
    """Pages whose word 3 is an entry and whose word 4 is zero; the callers look at the rest."""
    words = source.strided_u64(part, KERNEL_L3_SLOT * SLOT_BYTES)
    first = -(-part.start >> PAGE_SHIFT)
    refused = np.uint64(X86_PSE | 0xFFF << 52)
    end = np.uint64(source.end())
    hit = ((words & np.uint64(X86_PRESENT)) != 0) & ((words & refused) == 0)
    hit &= (words & np.uint64(X86_FRAME_MASK)) < end
    if hit.any():
        hit &= source.strided_u64(part, (KERNEL_L3_SLOT + 1) * SLOT_BYTES) == 0
    return [Mfn(first + int(i)) for i in np.flatnonzero(hit)]
