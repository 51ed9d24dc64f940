"""Decoders of single page-table entries and of arrays of them, one per entry format."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.pagetables import EntryFormat, Level
from gdb_p2m.units import PAGE_SHIFT, FrameArray, U64Array


class Pointee(Enum):
    """What an entry leads to. MALFORMED: bits that the architecture forbids; it faults."""

    ABSENT = "not present"
    TABLE = "table"
    LEAF = "maps memory"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Pte:
    """One decoded entry: `frame` is the MFN that it names (of the table, or the first of the leaf)."""

    raw: int
    pointee: Pointee
    frame: int
    writable: bool
    flags: str
    problem: str = ""


def decode(fmt: EntryFormat, raw: int, level: Level, last: bool) -> Pte:
    """Entry `raw` of a table of `level`; `last` says that this is the last level."""
    return _decode_x86(raw, level, last) if fmt == "x86" else _decode_riscv(raw, level, last)


def _decode_x86(raw: int, level: Level, last: bool) -> Pte:
    frame = (raw & pt.X86_FRAME_MASK) >> PAGE_SHIFT
    flags = x86_flags(raw)
    if not raw & pt.X86_PRESENT:
        return Pte(raw, Pointee.ABSENT, frame, False, flags)
    writable = bool(raw & pt.X86_RW)
    if last:
        return Pte(raw, Pointee.LEAF, frame, writable, flags)
    if raw & pt.X86_PSE:
        if not level.leaf_ok:
            return Pte(raw, Pointee.MALFORMED, frame, writable, flags, f"PSE set in an {level.name} entry")
        # Bit 12 of a large page is PAT, the rest below the page size is reserved: cut, not trusted.
        frame &= ~((1 << (level.shift - PAGE_SHIFT)) - 1)
        return Pte(raw, Pointee.LEAF, frame, writable, flags)
    return Pte(raw, Pointee.TABLE, frame, writable, flags)


def x86_flags(raw: int) -> str:
    """Flag names of an x86 entry, for people: "P RW US A D NX"."""
    names = (
        ("P", pt.X86_PRESENT),
        ("RW", pt.X86_RW),
        ("US", pt.X86_USER),
        ("A", pt.X86_ACCESSED),
        ("D", pt.X86_DIRTY),
        ("PSE", pt.X86_PSE),
        ("G", pt.X86_GLOBAL),
        ("NX", pt.X86_NX),
    )
    return " ".join(n for n, bit in names if raw & bit) or "-"


def _decode_riscv(raw: int, level: Level, last: bool) -> Pte:
    frame = (raw & pt.RISCV_PPN_MASK) >> pt.RISCV_PPN_SHIFT
    flags = riscv_flags(raw)
    if not raw & pt.RISCV_V:
        return Pte(raw, Pointee.ABSENT, frame, False, flags)
    writable = bool(raw & pt.RISCV_W)
    problem = _riscv_problem(raw, level, last, frame)
    if raw & (pt.RISCV_R | pt.RISCV_W | pt.RISCV_X):
        return Pte(raw, Pointee.MALFORMED if problem else Pointee.LEAF, frame, writable, flags, problem)
    return Pte(raw, Pointee.MALFORMED if problem else Pointee.TABLE, frame, writable, flags, problem)


def _riscv_problem(raw: int, level: Level, last: bool, frame: int) -> str:
    """Why the hardware (or Xen's limits on levels) refuses this valid entry; "" when it does not."""
    leaf = raw & (pt.RISCV_R | pt.RISCV_W | pt.RISCV_X)
    if raw & pt.RISCV_RESERVED_MASK:
        return f"reserved bits 60:54 are set ({(raw & pt.RISCV_RESERVED_MASK) >> 54:#x})"
    if not leaf:
        if last:
            return "a pointer to a table in the last level"
        if raw & (pt.RISCV_D | pt.RISCV_A | pt.RISCV_U | pt.RISCV_PBMT_MASK | pt.RISCV_N):
            return "D, A, U, PBMT or N is set in a pointer to a table"
        return ""
    if raw & pt.RISCV_W and not raw & pt.RISCV_R:
        return "W without R"
    if (raw & pt.RISCV_PBMT_MASK) == pt.RISCV_PBMT_MASK:
        return "PBMT has the reserved value 3"
    if not level.leaf_ok:
        return f"a leaf at {level.name}, where only tables can be"
    low = frame & ((1 << (level.shift - PAGE_SHIFT)) - 1)
    if low:
        return f"a misaligned superpage: the low PPN bits are {low:#x}"
    return ""


def riscv_flags(raw: int) -> str:
    """Flag names of a RISC-V entry, for people: "V R W X U A D RSW=1 PBMT=IO"."""
    names = "VRWXUGAD"
    out = [names[i] for i in range(8) if raw >> i & 1]
    if rsw := (raw & pt.RISCV_RSW_MASK) >> pt.RISCV_RSW_SHIFT:
        out.append(f"RSW={rsw}")
    if pbmt := (raw & pt.RISCV_PBMT_MASK) >> pt.RISCV_PBMT_SHIFT:
        out.append("PBMT=" + ("PMA", "NC", "IO", "reserved")[pbmt])
    if raw & pt.RISCV_N:
        out.append("N")
    return " ".join(out) or "-"


@dataclass(frozen=True, slots=True)
class PteArray:
    """Decoded arrays: `table` and `leaf` are masks (both False: absent or malformed), `frame` int64."""

    raw: U64Array
    present: np.ndarray[tuple[int], np.dtype[np.bool_]]
    table: np.ndarray[tuple[int], np.dtype[np.bool_]]
    leaf: np.ndarray[tuple[int], np.dtype[np.bool_]]
    writable: np.ndarray[tuple[int], np.dtype[np.bool_]]
    frame: FrameArray


def decode_array(fmt: EntryFormat, raw: U64Array, level: Level, last: bool) -> PteArray:
    """The vectorised twin of `decode`; a test proves that both agree."""
    u = np.uint64
    if fmt == "x86":
        present = (raw & u(pt.X86_PRESENT)) != 0
        frame = ((raw & u(pt.X86_FRAME_MASK)) >> u(PAGE_SHIFT)).astype(np.int64)
        large = (raw & u(pt.X86_PSE)) != 0
        leaf = present if last else present & large & level.leaf_ok
        table = np.zeros_like(present) if last else present & ~large
        if not last:
            frame = np.where(leaf, frame & ~np.int64((1 << (level.shift - PAGE_SHIFT)) - 1), frame)
        return PteArray(raw, present, table, leaf, (raw & u(pt.X86_RW)) != 0, frame)
    present = (raw & u(pt.RISCV_V)) != 0
    frame = ((raw & u(pt.RISCV_PPN_MASK)) >> u(pt.RISCV_PPN_SHIFT)).astype(np.int64)
    is_leaf = (raw & u(pt.RISCV_R | pt.RISCV_W | pt.RISCV_X)) != 0
    bad = (raw & u(pt.RISCV_RESERVED_MASK)) != 0
    pbmt = raw & u(pt.RISCV_PBMT_MASK)
    bad_leaf = ((raw & u(pt.RISCV_W | pt.RISCV_R)) == u(pt.RISCV_W)) | (pbmt == u(pt.RISCV_PBMT_MASK))
    bad_leaf |= (frame & np.int64((1 << (level.shift - PAGE_SHIFT)) - 1)) != 0
    bad_table = (raw & u(pt.RISCV_D | pt.RISCV_A | pt.RISCV_U | pt.RISCV_PBMT_MASK | pt.RISCV_N)) != 0
    leaf = present & is_leaf & ~bad & ~bad_leaf & level.leaf_ok
    table = np.zeros_like(present) if last else present & ~is_leaf & ~bad & ~bad_table
    return PteArray(raw, present, table, leaf, (raw & u(pt.RISCV_W)) != 0, frame)
