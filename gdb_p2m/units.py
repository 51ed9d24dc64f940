"""Frame numbers and addresses as types, and numbers as people write them.

The types are NewTypes over int: they cost nothing at run time and let mypy refuse a
PFN where an MFN is meant. Arrays use the aliases at the end; their dtype is part of the
contract.
"""

from __future__ import annotations

import re
from typing import NewType

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import UsageError

Pfn = NewType("Pfn", int)
"""Pseudo-physical frame number: what a PV guest thinks of as its memory."""
Mfn = NewType("Mfn", int)
"""Machine frame number: what the hardware addresses."""
Gfn = NewType("Gfn", int)
"""Guest frame number of an auto-translated guest (input of the RISC-V G-stage)."""
MachineAddress = NewType("MachineAddress", int)
"""Byte address in machine (host physical) memory."""
VirtualAddress = NewType("VirtualAddress", int)
"""Byte address in some virtual address space, canonical (sign-extended to 64 bits)."""

U64Array = npt.NDArray[np.uint64]
"""Raw entries or page-table entries, as read."""
FrameArray = npt.NDArray[np.int64]
"""PFNs or MFNs; -1 stands for "no frame" only where a docstring says so."""
KindArray = npt.NDArray[np.uint8]
"""Values of mapping.Kind."""

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_SUFFIXES = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}


def maddr(mfn: int, offset: int = 0) -> MachineAddress:
    """Machine address of byte `offset` of frame `mfn`."""
    return MachineAddress((mfn << PAGE_SHIFT) + offset)


def mfn_of(address: int) -> Mfn:
    """Frame that holds machine address `address`."""
    return Mfn(address >> PAGE_SHIFT)


def parse_number(text: str) -> int:
    """A frame number or address as typed: decimal, 0x hexadecimal, 0o, 0b, with _ allowed.

    Raises UsageError that names the text.
    """
    try:
        value = int(text, 0)
    except ValueError:
        raise UsageError(f"not a number: {text!r}", hint="write decimal (256) or hexadecimal (0x100)") from None
    if value < 0:
        raise UsageError(f"frame numbers and addresses are not negative: {text!r}")
    return value


def parse_range(text: str) -> tuple[int, int]:
    """`A..B` (both included, as the tables print them), `A..` , `..B` or `A+COUNT` -> (start, end exclusive).

    An open end is returned as -1. Raises UsageError.
    """
    if m := re.fullmatch(r"([^.+]+)\+([^.+]+)", text):
        start, count = parse_number(m[1]), parse_number(m[2])
        if not count:
            raise UsageError(f"empty range {text!r}: a count of 0")
        return start, start + count
    if m := re.fullmatch(r"([^.]*)\.\.([^.]*)", text):
        start = parse_number(m[1]) if m[1] else 0
        end = parse_number(m[2]) + 1 if m[2] else -1
        if end != -1 and end <= start:
            raise UsageError(f"empty range {text!r}: its end lies before its start")
        return start, end
    raise UsageError(f"not a range: {text!r}", hint="write A..B (both included) or A+COUNT, e.g. 0x100..0x1ff")


def parse_size(text: str) -> int:
    """Bytes from `4096`, `400M`, `1G`, `401001K`. Raises UsageError."""
    m = re.fullmatch(r"(0x[0-9a-fA-F]+|\d+)([kKmMgGtT]?)(?:i?[bB])?", text.strip())
    if not m:
        raise UsageError(f"not a size: {text!r}", hint="write bytes or use K, M, G, T, e.g. 400M")
    return int(m[1], 0) * _SUFFIXES[m[2].lower()]


def human_size(size: int) -> str:
    """`size` bytes as people write it: 4 KiB, 1 GiB, 400 MiB, 511.5 GiB."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            value = size / unit
            return f"{value:.0f} {name}" if size % unit == 0 else f"{value:.1f} {name}"
    return f"{size} bytes"


def thousands(value: int) -> str:
    """133955584 -> 133,955,584."""
    return f"{value:,}"
