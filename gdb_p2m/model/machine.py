"""Machine: a built model, its memory, and where everything in it lies (for faults and for tests)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gdb_p2m.layout.pagetables import X86_FRAME_MASK, X86_PRESENT, X86_PSE
from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.model.boot import BootPlan
from gdb_p2m.model.description import Description
from gdb_p2m.model.elf import CoreNote, Segment, qemu_cpu_notes, write_core
from gdb_p2m.model.frames import Frames
from gdb_p2m.model.memory import Memory
from gdb_p2m.model.pieces import Fate, PieceMap
from gdb_p2m.model.shape import P2mShape
from gdb_p2m.model.tables import Found, Tables
from gdb_p2m.model.xen import Xen
from gdb_p2m.model.xen_view import XenView
from gdb_p2m.units import PAGE_SHIFT, FrameArray, KindArray

if TYPE_CHECKING:
    from gdb_p2m.model.kernel import Kernel


@dataclass(frozen=True)
class Truth:
    """The model's own answer: maximal runs over 0..limit-1.

    kind: Fate values (0 mfn, 1 foreign, 2 identity, 3 missing); frame: first MFN of mfn and foreign runs, else -1.
    """

    limit: int
    start: FrameArray
    count: FrameArray
    kind: KindArray
    frame: FrameArray

    def words(self) -> list[tuple[int, int, str, int | None]]:
        """(start, count, kind word, frame or None) of every run: for small guests and messages."""
        rows = zip(self.start.tolist(), self.count.tolist(), self.kind.tolist(), self.frame.tolist(), strict=True)
        return [(s, c, Fate(k).word, f if f >= 0 else None) for s, c, k, f in rows]


@dataclass(frozen=True, slots=True)
class Break:
    """What a fault changed: the rule that guards it and the place, in words and numbers."""

    fault: str
    rule: str
    what: str
    pfn: int | None = None
    address: int | None = None


@dataclass
class Machine:
    """One machine with one PV guest. Addresses are machine addresses unless they say otherwise.

    p2m is what the documents say the guest's readers find. segments: RAM as the dump holds it.
    view: Xen's frame table and domains, when the description asks for them. broken: the fault that was built
    in, None for a healthy machine.
    """

    description: Description
    plan: BootPlan
    memory: Memory
    frames: Frames
    xen: Xen
    kernel: Kernel
    p2m: PieceMap
    shape: P2mShape | None
    start_info: int
    shared_info: int
    segments: list[Segment]
    notes: list[CoreNote]
    view: XenView | None = None
    note_slack: int = 0
    broken: Break | None = None

    # -- what it is -----------------------------------------------------------------------------------------

    @property
    def width(self) -> EntryWidth:
        """The guest's entries."""
        return self.description.width

    @property
    def symbols(self) -> dict[str, int]:
        """Kernel names and their virtual addresses."""
        return self.kernel.symbols

    @property
    def tables(self) -> Tables:
        """The kernel's page table."""
        return self.kernel.tables

    @property
    def cr3(self) -> int:
        """Machine address of the root that the CPU has loaded."""
        return self.tables.root << PAGE_SHIFT

    def truth(self, limit: int | None = None) -> Truth:
        """What the P2M says: runs over 0..limit-1 (default: MAX_P2M_PFN of the era, or the list if it is larger).

        A scattered guest has a run per PFN: give a limit for large ones, or use `entries`.
        """
        end = self.p2m.limit if limit is None else min(limit, self.p2m.limit)
        return Truth(end, *self.p2m.runs(end, self.frames))

    def list_list_truth(self, limit: int | None = None) -> Truth:
        """What the frame list list says: identity by shared page, and all that it does not name, reads as missing."""
        assert self.shape is not None
        end = min(self.width.max_p2m_pfn, self.p2m.limit if limit is None else limit)
        seen = self.p2m.copy()
        per = self.width.per_page
        unlisted = np.flatnonzero(np.diff(np.concatenate(([False], ~self.shape.listed, [False]))))
        for a, b in zip(unlisted[::2].tolist(), unlisted[1::2].tolist(), strict=True):
            seen.set(a * per, b * per, Fate.MISSING)
        seen.set(len(self.shape.listed) * per, seen.limit, Fate.MISSING)
        return Truth(end, *seen.runs(end, self.frames))

    def entries(self, start: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """The entries that PFNs start..end-1 would have in a private page: raw words, in a window."""
        return self.p2m.entries(start, end, self.frames, self.width)

    # -- where things are -----------------------------------------------------------------------------------

    def translate(self, va: int) -> int:
        """Machine address of a kernel virtual address. Raises KeyError when it is not mapped."""
        last = self.tables.find(va)[-1]
        if not last.raw & X86_PRESENT or (last.level != "L1" and not last.raw & X86_PSE):
            raise KeyError(hex(va))
        size = 1 << next(lv.shift for lv in self.tables.shape.levels if lv.name == last.level)
        return (last.raw & X86_FRAME_MASK & ~(size - 1)) + (va & (size - 1))

    def pte(self, va: int, level: str = "L1") -> Found:
        """The entry of `level` that translates `va`. Raises KeyError when the walk ends above it."""
        for found in self.tables.find(va):
            if found.level == level:
                return found
        raise KeyError(f"{va:#x} has no {level} entry")

    def variable_address(self, name: str) -> int:
        """Machine address of kernel variable `name`."""
        return self.kernel.machine_of_image(self.symbols[name])

    def variable(self, name: str) -> int:
        """Its value."""
        return self.memory.read_word(self.variable_address(name), self.width.bytes)

    def set_variable(self, name: str, value: int) -> None:
        """Overwrite it."""
        self.memory.write_word(self.variable_address(name), value, self.width.bytes)

    def page(self, name: str) -> int:
        """Machine frame of one of the P2M's named pages ("p2m_missing", "p2m_top_mfn", ...)."""
        assert self.shape is not None
        return self.shape.shared[name].mfn

    def word_in(self, mfn: int, index: int) -> int:
        """Machine address of slot `index` of a page of the guest's longs."""
        return (mfn << PAGE_SHIFT) + index * self.width.bytes

    def entry_address(self, pfn: int) -> int:
        """Machine address of the P2M entry of `pfn` (inside a shared page where one backs it)."""
        assert self.shape is not None
        return self.word_in(int(self.shape.leaf_mfn[pfn // self.width.per_page]), pfn % self.width.per_page)

    def poke_entry(self, pfn: int, raw: int) -> None:
        """Overwrite the P2M entry of `pfn`."""
        self.memory.write_word(self.entry_address(pfn), raw, self.width.bytes)

    def poke_m2p(self, mfn: int, value: int) -> None:
        """Overwrite the M2P entry of `mfn`."""
        self.memory.write_word(self.xen.m2p_address(mfn), value, self.xen.m2p_entry)

    # -- giving it away -------------------------------------------------------------------------------------

    def pieces(self) -> dict[int, bytes]:
        """The stored frames as address to bytes (for sources in memory); all other RAM is zero and absent."""
        return self.memory.pieces()

    def cpu_notes(self) -> list[CoreNote]:
        """The one CPU's notes."""
        return qemu_cpu_notes(self.cr3, self.symbols.get("_text", 0))

    def write_elf(self, path: str | os.PathLike[str]) -> None:
        """A core as QEMU's dump-guest-memory writes it, plus the guest's VMCOREINFO. Sparse. Raises OSError."""
        notes = [*self.cpu_notes(), *self.notes]
        write_core(path, self.memory, self.segments, notes, note_slack=self.note_slack)
