"""The kernel's tables of the pseudo-physical memory map, as data.

Sources: Linux arch/x86/include/asm/e820/types.h (struct e820_table, struct e820_entry, enum e820_type),
arch/x86/kernel/e820.c (e820__memory_setup() keeps copies of what memory setup returned),
arch/x86/xen/setup.c (xen_memory_setup()); seen: Linux 5.10, 6.1, 6.12 and 7.2 dom0s.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

E820_COUNT_BYTES = 4
"""struct e820_table: __u32 nr_entries, then the entries."""
E820_ENTRY = struct.Struct("<QQI")
"""struct e820_entry, packed: u64 addr, u64 size, enum type."""
E820_MAX_ENTRIES = 128 + 3 * 1024
"""E820_MAX_ENTRIES with the largest MAX_NUMNODES."""
E820_RAM = 1
E820_UNUSABLE = 5
E820_TYPES = {1: "ram", 2: "reserved", 3: "acpi", 4: "nvs", 5: "unusable", 7: "pmem", 12: "pram"}
"""Types by their words here; the algorithm only asks whether a range is RAM."""
ISA_START, ISA_END = 0xA0000, 0x100000
"""xen_memory_setup() reserves this range in the kernel's map, whatever Xen's says."""
SECTION_PAGES = 1 << 15
"""SECTION_SIZE_BITS is 27 on x86-64: memory is added after boot in sections of 128 MiB (drivers/xen/balloon.c,
unpopulated-alloc.c: areas of whole sections, aligned to them)."""


@dataclass(frozen=True, slots=True)
class E820Name:
    """One variable that holds such a table, in order of how well it serves.

    pointer: whether the variable points to the table. init: whether it is init data, gone after boot.
    given: whether it is the map as Xen gave it; else it is what xen_memory_setup() made of it: RAM cut
    to the initial size and the extra memory, the ISA range reserved.
    """

    name: str
    pointer: bool
    init: bool
    given: bool


E820_NAMES = (
    E820Name("xen_e820_table", False, True, True),
    E820Name("e820_table_firmware", True, False, False),
    E820Name("e820_table_kexec", True, False, False),
    E820Name("e820_saved", False, False, False),
)
"""e820_table itself is not among them: the kernel goes on to change it (seen: page 0 becomes reserved).

e820_saved is the name until 4.11; it is the table itself, from 4.10 on a pointer to it.
"""
