"""Xen on x86-64: its own part of every PV guest's address space, as far as the P2M's rules need it.

Sources: Xen xen/arch/x86/include/asm/config.h (memory layout), asm/mm.h (struct page_info, _PGC_*), and
common/kexec.c, arch/x86/machine_kexec.c (the VMCOREINFO_XEN text). `seen`: Xen 4.17 under a Debian 6.1 dom0.
"""

from __future__ import annotations

FRAMETABLE_VIRT = 0xFFFF_82E0_0000_0000
"""FRAMETABLE_VIRT_START: struct page_info by (compressed) frame index; L4 slot 261, which every PV L4 has (seen)."""
DIRECTMAP_VIRT = 0xFFFF_8300_0000_0000
"""DIRECTMAP_VIRT_START: all of machine memory, for struct domain pointers."""
XEN_VIRT = 0xFFFF_82D0_4000_0000
"""XEN_VIRT_START: Xen's image."""

PAGE_INFO_SIZE = 32
"""sizeof(struct page_info) (seen)."""
PAGE_INFO_COUNT = 8
"""count_info, u64."""
PAGE_INFO_TYPE = 16
"""u.inuse.type_info, u64."""
PAGE_INFO_DOMAIN = 24
"""v.inuse._domain, u32: frame index of the owner's struct domain, 0 for none (seen: 0x3aa74 for dom0's frames)."""
PGC_ALLOCATED = 1 << 63
PGT_WRITABLE = 0xE400_0000_0000_0000
"""PGT_writable_page | PGT_validated, as seen with a count of 1."""
DOMAIN_ID = 0
"""domain_id, u16, first member of struct domain."""
DOMID_IO = 0x7FF1
DOMID_XEN = 0x7FF2
