"""Finds page-table roots of 64-bit PV guests in raw machine memory.

Xen puts the L4's own frame into slot 258 of every PV L4 (LINEAR_PT_VIRT_START, asm/config.h), also
into the L4s of user mode, whose kernel half is empty. A root is good for us when it maps the
kernel's text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gdb_p2m.errors import Unreadable, Untranslatable
from gdb_p2m.layout.pagetables import X86_64_4LEVEL, X86_FRAME_MASK, X86_PRESENT
from gdb_p2m.layout.x86_pv import KERNEL_TEXT_VA, LINEAR_PT_SLOT
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Extent, Source
from gdb_p2m.spaces.radix import walk
from gdb_p2m.units import PAGE_SHIFT, MachineAddress, Mfn

SLOT_BYTES = 8
SCAN_STEP = 64 << 20


@dataclass(frozen=True, slots=True)
class Root:
    """An L4 at frame `mfn`; `evidence` says how it was found."""

    mfn: Mfn
    evidence: str


def is_pv_l4(source: Source, mfn: int) -> bool:
    """Whether the page at `mfn` carries its own frame in the linear page table's slot."""
    try:
        entry = source.read_u64((mfn << PAGE_SHIFT) + LINEAR_PT_SLOT * SLOT_BYTES)
    except Unreadable:
        return False
    return bool(entry & X86_PRESENT) and (entry & X86_FRAME_MASK) >> PAGE_SHIFT == mfn


def maps_kernel(source: Source, mfn: int) -> bool:
    """Whether the L4 at `mfn` maps the kernel's text."""
    try:
        walk(source, X86_64_4LEVEL, MachineAddress(mfn << PAGE_SHIFT), KERNEL_TEXT_VA)
    except Untranslatable:
        return False
    return True


def from_cpus(source: Source) -> Iterator[Root]:
    """Roots that a CPU had loaded, if they map a PV kernel."""
    for cpu in source.info.cpus:
        if cpu.cr3:
            mfn = Mfn(cpu.cr3 >> PAGE_SHIFT)
            if is_pv_l4(source, mfn) and maps_kernel(source, mfn):
                yield Root(mfn, f"CR3 {cpu.cr3:#x} of CPU {cpu.index}")


def from_scan(source: Source, progress: Progress = no_progress) -> Iterator[Root]:
    """Every PV L4 of the machine that maps a kernel, in order of frame, by looking at all pages."""
    extents = source.extents()
    total = sum(e.end - e.start for e in extents)
    done = 0
    with progress("scanning memory for PV page tables", total) as step:
        for extent in extents:
            for start in range(extent.start, extent.end, SCAN_STEP):
                part = Extent(start, min(start + SCAN_STEP, extent.end))
                for mfn in _self_linked(source, part):
                    if maps_kernel(source, mfn):
                        yield Root(mfn, f"scan: L4 at machine frame {mfn:#x} links to itself in slot 258")
                done += part.end - part.start
                step(done)


def _self_linked(source: Source, part: Extent) -> list[Mfn]:
    words = source.strided_u64(part, LINEAR_PT_SLOT * SLOT_BYTES)
    first = -(-part.start >> PAGE_SHIFT)
    own = (np.arange(first, first + len(words), dtype=np.uint64)) << np.uint64(PAGE_SHIFT)
    hit = ((words & np.uint64(X86_FRAME_MASK)) == own) & ((words & np.uint64(X86_PRESENT)) != 0)
    return [Mfn(first + int(i)) for i in np.flatnonzero(hit)]
