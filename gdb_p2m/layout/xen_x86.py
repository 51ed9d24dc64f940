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
DOMID_FIRST_RESERVED = 0x7FF0
"""Domain ids from here on are Xen's own: DOMID_SELF, DOMID_IO, DOMID_XEN, DOMID_COW, DOMID_IDLE (public/xen.h)."""
DOMID_NAMES = {0x7FF0: "DOMID_SELF", DOMID_IO: "DOMID_IO", DOMID_XEN: "DOMID_XEN", 0x7FF3: "DOMID_COW",
               0x7FF4: "DOMID_INVALID", 0x7FFF: "DOMID_IDLE"}  # fmt: skip
DIRECTMAP_END = 0xFFFF_8800_0000_0000
"""End of the direct map of Xen's own slots; what follows is the guest's kernel (asm/config.h)."""
XEN_VIRT_IMAGE = XEN_VIRT + 0x20_0000
"""First mapped 2 MiB of the image (seen: 4.14, 4.17, 4.20)."""
XEN_VIRT_END = XEN_VIRT + 0x4000_0000

PGC_XEN_HEAP = 1 << 62
PGC_STATE_SHIFTS = (58, 55)
"""PGC_state is PG_mask(3, 6) since the cache attributes left count_info (XSA-402, 4.17; backported, seen in Debian's
4.14.6), PG_mask(3, 9) before: the table itself tells, by its free frames."""
PGC_STATE_FREE = 3
PGC_STATES = ("inuse", "offlining", "offlined", "free")
PGC_FLAGS = {
    58: (("PGC_allocated", 63), ("PGC_xen_heap", 62), ("PGC_extra", 61), ("PGC_broken", 60), ("PGC_shadowed_pt", 56)),
    55: (("PGC_allocated", 63), ("PGC_xen_heap", 62), ("PGC_page_table", 61), ("PGC_broken", 57), ("PGC_extra", 54)),
}
"""Single bits of count_info by the place of PGC_state (asm/mm.h of 4.16 and of 4.23)."""
PGC_COUNT_MASK = (1 << 54) - 1
"""Reference count: at least these bits in every version; the flags between are 0 in all memory seen."""
PGT_TYPE_SHIFT = 61
PGT_NAMES = ("none", "l1_page_table", "l2_page_table", "l3_page_table", "l4_page_table", "seg_desc_page", "shared_page",
             "writable_page")  # fmt: skip
PGT_L3, PGT_L4 = 3, 4
PGT_FLAGS = (("PGT_locked", 60), ("PGT_pinned", 59), ("PGT_validated", 58), ("PGT_pae_xen_l2", 57), ("PGT_partial", 56))
PGT_PINNED = 1 << 59
PGT_COUNT_MASK = (1 << 55) - 1
