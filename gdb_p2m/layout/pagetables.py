"""Page-table shapes and entry bits, as data for the one radix walker (spaces/radix.py).

Sources: Intel SDM vol. 3 chapter 4 (x86-64 4/5 levels, i386 PAE); the RISC-V Privileged
specification, chapters "Supervisor-level ISA" (Sv39/48/57) and "Hypervisor extension" (Sv39x4,
Sv48x4, Sv57x4: the root is four pages, the guest physical address two bits wider).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EntryFormat = Literal["x86", "riscv"]


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a radix page table: `bits` of index taken from the address at `shift`.

    name: what the architecture calls the table (PGD/L4, ...). leaf_ok: whether an entry of this
    level may map memory directly (always true for the last level). has_rw: whether x86 entries of
    this level carry R/W; the four entries of a PAE root do not (SDM vol. 3, 4.4.1: bits 2:1 reserved).
    """

    name: str
    shift: int
    bits: int
    leaf_ok: bool
    has_rw: bool = True

    @property
    def entries(self) -> int:
        """Number of entries of a table of this level."""
        return 1 << self.bits


@dataclass(frozen=True, slots=True)
class PageTableShape:
    """A page table as data. `levels` go from the root to the last level.

    entry_format: which decoder of spaces/entries.py understands its entries.
    signed: True when addresses are sign-extended from the top bit of the root index.
    """

    name: str
    levels: tuple[Level, ...]
    entry_format: EntryFormat
    signed: bool

    @property
    def va_bits(self) -> int:
        """Width of the addresses that this shape translates, in bits."""
        return self.levels[0].shift + self.levels[0].bits


X86_64_4LEVEL = PageTableShape(
    "x86-64, 4 levels",
    (Level("L4", 39, 9, False), Level("L3", 30, 9, True), Level("L2", 21, 9, True), Level("L1", 12, 9, True)),
    "x86",
    True,
)
X86_64_5LEVEL = PageTableShape(
    "x86-64, 5 levels", (Level("L5", 48, 9, False), *X86_64_4LEVEL.levels), "x86", True
)
I386_PAE = PageTableShape(
    "i386 PAE",
    (Level("L3", 30, 2, False, has_rw=False), Level("L2", 21, 9, True), Level("L1", 12, 9, True)),
    "x86",
    False,
)
SV39 = PageTableShape(
    "Sv39", (Level("L2", 30, 9, True), Level("L1", 21, 9, True), Level("L0", 12, 9, True)), "riscv", True
)
SV48 = PageTableShape("Sv48", (Level("L3", 39, 9, True), *SV39.levels), "riscv", True)
SV57 = PageTableShape("Sv57", (Level("L4", 48, 9, True), *SV48.levels), "riscv", True)

# G-stage: Xen maps with 4 KiB, 2 MiB and 1 GiB only (P2M_SUPPORTED_LEVEL_MAPPING = 2, "introduce metadata table to store P2M type"),
# so the roots of Sv48x4 and Sv57x4 hold tables only.
SV39X4 = PageTableShape(
    "Sv39x4", (Level("L2", 30, 11, True), Level("L1", 21, 9, True), Level("L0", 12, 9, True)), "riscv", False
)
SV48X4 = PageTableShape("Sv48x4", (Level("L3", 39, 11, False), *SV39.levels), "riscv", False)
SV57X4 = PageTableShape(
    "Sv57x4", (Level("L4", 48, 11, False), Level("L3", 39, 9, False), *SV39.levels), "riscv", False
)

# --- x86 entry bits
X86_PRESENT = 1 << 0
X86_RW = 1 << 1
X86_USER = 1 << 2
X86_ACCESSED = 1 << 5
X86_DIRTY = 1 << 6
X86_PSE = 1 << 7
X86_GLOBAL = 1 << 8
X86_NX = 1 << 63
X86_FRAME_MASK = 0x000F_FFFF_FFFF_F000
"""Bits 51:12: the frame number of an x86 entry; above it are flags (NX, protection keys)."""

# --- RISC-V entry bits
RISCV_V = 1 << 0
RISCV_R = 1 << 1
RISCV_W = 1 << 2
RISCV_X = 1 << 3
RISCV_U = 1 << 4
RISCV_G = 1 << 5
RISCV_A = 1 << 6
RISCV_D = 1 << 7
RISCV_RSW_SHIFT = 8
RISCV_RSW_MASK = 0x300
RISCV_PPN_SHIFT = 10
RISCV_PPN_MASK = 0x003F_FFFF_FFFF_FC00
"""Bits 53:10."""
RISCV_RESERVED_MASK = 0x1FC0_0000_0000_0000
"""Bits 60:54."""
RISCV_PBMT_SHIFT = 61
RISCV_PBMT_MASK = 3 << 61
RISCV_PBMT_IO = 2 << 61
RISCV_N = 1 << 63
