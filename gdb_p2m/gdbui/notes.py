"""The CPU notes that QEMU's dump-guest-memory would write, from a live CPU's registers: for excerpts.

Layout: QEMU target/i386/arch_dump.c, QEMUCPUState (version 1); the stub knows no limits, flags and tables of
segments, so those stay 0.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", *(f"r{n}" for n in range(8, 16)), "rip", "eflags")
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")
TABLES = 4
"""ldt, tr, gdt, idt."""
CONTROL = ("cr0", "cr1", "cr2", "cr3", "cr4")
VERSION, SIZE = 1, 432
REGISTERS = (*GENERAL, *SEGMENTS, "fs_base", "gs_base", *(c for c in CONTROL if c != "cr1"))
"""What `qemu_note` can use."""


def qemu_note(registers: Mapping[str, int]) -> bytes:
    """Descriptor of one x86-64 CPU's note "QEMU", type 0. Registers that are not given are 0."""
    parts = [struct.pack("<II", VERSION, SIZE)]
    parts += [struct.pack("<Q", registers.get(name, 0)) for name in GENERAL]
    for name in SEGMENTS:
        selector, base = registers.get(name, 0) & 0xFFFFFFFF, registers.get(f"{name}_base", 0)
        parts.append(struct.pack("<IIIIQ", selector, 0, 0, 0, base))
    parts.append(bytes(24 * TABLES))
    parts += [struct.pack("<Q", registers.get(name, 0)) for name in CONTROL]
    return b"".join(parts)
