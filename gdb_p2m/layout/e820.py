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
    """One variable that holds the map as xen_memory_setup() left it: RAM cut to what the domain has and may get.

    pointer: whether it always points to the table; else it is the table itself, or (4.10, 4.11) a pointer.
    """

    name: str
    pointer: bool


E820_NAMES = (
    E820Name("e820_table_firmware", True),
    E820Name("e820_table_kexec", True),
    E820Name("e820_saved", False),
)
"""In order of trust. e820_table itself is not among them: the kernel goes on to change it (seen: page 0 becomes
reserved). e820_saved is the name until 4.11."""
XEN_E820 = E820Name("xen_e820_table", False)
"""The map as Xen gave it (4.12 on): init data, so that only dumps of a booting kernel have it."""
