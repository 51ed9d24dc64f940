"""Linux x86 PV: entries, pages and structures of the P2M, as the documents give them.

Sources: Linux arch/x86/xen/p2m.c and arch/x86/include/asm/xen/page.h (the commits are named at
each fact), Xen public headers xen.h and arch-x86/xen.h, and real memory of Linux 3.16, 3.18, 5.10,
6.1, 6.12 and 7.2 dom0s. `seen` marks what real memory showed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

INVALID_P2M_ENTRY_64 = (1 << 64) - 1
INVALID_P2M_ENTRY_32 = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class EntryWidth:
    """The P2M's entry format of one word size (asm/xen/page.h: FOREIGN_FRAME_BIT, IDENTITY_FRAME_BIT).

    bits: 64 (x86-64) or 32 (i386 PAE). per_page: P2M_PER_PAGE = P2M_MID_PER_PAGE = P2M_TOP_PER_PAGE.
    pmds_per_mid_page: PMDS_PER_MID_PAGE = P2M_MID_PER_PAGE / PTRS_PER_PTE (Linux 3.19).
    """

    bits: Literal[32, 64]
    per_page: int
    pmds_per_mid_page: int

    @property
    def bytes(self) -> int:
        """sizeof(unsigned long) of the guest."""
        return self.bits // 8

    @property
    def invalid(self) -> int:
        """INVALID_P2M_ENTRY: all ones. It has both flag bits set: test for it first."""
        return (1 << self.bits) - 1

    @property
    def foreign_bit(self) -> int:
        """FOREIGN_FRAME_BIT: the low bits are an MFN of another domain."""
        return 1 << (self.bits - 1)

    @property
    def identity_bit(self) -> int:
        """IDENTITY_FRAME_BIT: 1:1, the low bits equal the PFN."""
        return 1 << (self.bits - 2)

    @property
    def max_p2m_pfn(self) -> int:
        """MAX_P2M_PFN = top * mid * per page: 2^27 (64-bit: 512 slots), 2^30 (32-bit: 1024 slots)."""
        return self.per_page**3

    @property
    def mid_span(self) -> int:
        """PFNs that one mid page covers: 2^18 (1 GiB) or 2^20 (4 GiB)."""
        return self.per_page**2


WIDTH_64 = EntryWidth(64, 512, 1)
WIDTH_32 = EntryWidth(32, 1024, 2)

# --- virtual layout of 64-bit PV (Xen public/arch-x86/xen-x86_64.h, Xen asm/config.h)
M2P_VA_64 = 0xFFFF_8000_0000_0000
"""RO_MPT_VIRT_START: Xen's machine_to_phys_mapping as PV guests see it, 8 bytes per MFN."""
LINEAR_PT_SLOT = 258
"""LINEAR_PT_VIRT_START = PML4_ADDR(258): in every PV L4 this slot holds the L4's own frame."""
RO_MPT_SLOT = 256
START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
"""__START_KERNEL_map; PV kernels are linked and run from 0xffffffff81000000 (seen: never relocated)."""
KERNEL_TEXT_VA = 0xFFFF_FFFF_8100_0000
KERNEL_TEXT_VA_PAE = 0xC100_0000
"""32-bit kernels: PAGE_OFFSET 0xc0000000 plus CONFIG_PHYSICAL_START's 16 MiB (seen: 4.9); low memory is
mapped from PAGE_OFFSET on, so that this address is mapped wherever the kernel lies in it."""
DIRECT_MAP_BASES_64 = (0xFFFF_8880_0000_0000, 0xFFFF_8800_0000_0000)
"""__PAGE_OFFSET since 4.20 and before: where PFN 0 is mapped when page_offset_base is not known."""
KERNEL_IMAGE_LIMIT = 0x4000_0000
"""KERNEL_IMAGE_SIZE with KASLR support: 1 GiB, the most that can lie above __START_KERNEL_map."""
MACH2PHYS_VIRT_START_PAE = 0xF580_0000
"""Default of the compat M2P for 32-bit PV guests; the real one is in machine_to_phys_mapping."""
INIT_P2M_VA_64 = 0x80_0000_0000
"""XEN_ELFNOTE_INIT_P2M of x86-64 kernels from "xen: eliminate scalability issues from initial mapping setup" on: the initial list's own top-level slot."""

INVALID_M2P_ENTRY = (1 << 64) - 1
SHARED_M2P_ENTRY = (1 << 64) - 2
INVALID_M2P_ENTRY_32 = (1 << 32) - 1
SHARED_M2P_ENTRY_32 = (1 << 32) - 2

# --- start_info.flags (public/xen.h)
SIF_PRIVILEGED = 1 << 0
SIF_INITDOMAIN = 1 << 1
SIF_MULTIBOOT_MOD = 1 << 2
SIF_MOD_START_PFN = 1 << 3
SIF_VIRT_P2M_4TOOLS = 1 << 4
SIF_PM_MASK = 0xFF << 8
SIF_FLAGS = (
    ("SIF_PRIVILEGED", SIF_PRIVILEGED),
    ("SIF_INITDOMAIN", SIF_INITDOMAIN),
    ("SIF_MULTIBOOT_MOD", SIF_MULTIBOOT_MOD),
    ("SIF_MOD_START_PFN", SIF_MOD_START_PFN),
    ("SIF_VIRT_P2M_4TOOLS", SIF_VIRT_P2M_4TOOLS),
)

REMAP_HEADER_WORDS = 3
"""Words before mfns[] in the remap record ("xen: Delay remapping memory of pv-domain"): next_area_mfn, target_pfn, size."""


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a C structure: `kind` is u8/u16/u32/u64/i8/charN; unit and meaning are for people."""

    name: str
    offset: int
    kind: str
    unit: str
    meaning: str


@dataclass(frozen=True, slots=True)
class StructLayout:
    """A C structure of one word size: what the verbs print field by field. `source` cites the header."""

    name: str
    size: int
    fields: tuple[Field, ...]
    source: str

    def field(self, name: str) -> Field:
        """The member called `name`; KeyError when the layout has none."""
        for f in self.fields:
            if f.name == name:
                return f
        raise KeyError(f"{self.name}.{name}")


START_INFO_64 = StructLayout(
    "start_info",
    1168,
    (
        Field("magic", 0, "char32", "text", 'xen-<version>-<platform>, "xen-3.0-x86_64"'),
        Field("nr_pages", 32, "u64", "pages", "pages allocated to the domain at its start"),
        Field("shared_info", 40, "u64", "machine address", "the shared_info page"),
        Field("flags", 48, "u32", "SIF flags", "what kind of domain, and SIF_VIRT_P2M_4TOOLS"),
        Field("store_mfn", 56, "u64", "MFN", "shared page of xenstore (0 in dom0)"),
        Field("store_evtchn", 64, "u32", "event channel", "event channel of xenstore"),
        Field("console_mfn", 72, "u64", "MFN", "domU console page; dom0: low half of console info offset"),
        Field("console_evtchn", 80, "u32", "event channel", "domU console event channel; dom0: info size"),
        Field("pt_base", 88, "u64", "virtual address", "the initial page table's root"),
        Field("nr_pt_frames", 96, "u64", "frames", "frames of the initial page tables"),
        Field("mfn_list", 104, "u64", "virtual address", "the P2M list: the builder's, later xen_p2m_addr"),
        Field("mod_start", 112, "u64", "virtual address or PFN", "the module (initrd)"),
        Field("mod_len", 120, "u64", "bytes", "size of the module"),
        Field("cmd_line", 128, "char1024", "text", "kernel command line"),
        Field("first_p2m_pfn", 1152, "u64", "PFN", "first frame of the initial list outside the mapping"),
        Field("nr_p2m_frames", 1160, "u64", "frames", "frames of that list and of the tables that map it"),
    ),
    "xen/include/public/xen.h, struct start_info; first_p2m_pfn since Xen 3.3 (used by Linux 4.0 on)",
)
START_INFO_32 = StructLayout(
    "start_info",
    1112,
    (
        Field("magic", 0, "char32", "text", 'xen-<version>-<platform>, "xen-3.0-x86_32p"'),
        Field("nr_pages", 32, "u32", "pages", "pages allocated to the domain at its start"),
        Field("shared_info", 36, "u32", "machine address", "the shared_info page"),
        Field("flags", 40, "u32", "SIF flags", "what kind of domain, and SIF_VIRT_P2M_4TOOLS"),
        Field("store_mfn", 44, "u32", "MFN", "shared page of xenstore (0 in dom0)"),
        Field("store_evtchn", 48, "u32", "event channel", "event channel of xenstore"),
        Field("console_mfn", 52, "u32", "MFN", "domU console page; dom0: console info offset"),
        Field("console_evtchn", 56, "u32", "event channel", "domU console event channel; dom0: info size"),
        Field("pt_base", 60, "u32", "virtual address", "the initial page table's root"),
        Field("nr_pt_frames", 64, "u32", "frames", "frames of the initial page tables"),
        Field("mfn_list", 68, "u32", "virtual address", "the P2M list: the builder's, later xen_p2m_addr"),
        Field("mod_start", 72, "u32", "virtual address or PFN", "the module (initrd)"),
        Field("mod_len", 76, "u32", "bytes", "size of the module"),
        Field("cmd_line", 80, "char1024", "text", "kernel command line"),
        Field("first_p2m_pfn", 1104, "u32", "PFN", "first frame of the initial list outside the mapping"),
        Field("nr_p2m_frames", 1108, "u32", "frames", "frames of that list and of the tables that map it"),
    ),
    "xen/include/public/xen.h, struct start_info, 32-bit longs",
)
START_INFO_MAGICS = ("xen-3.0-x86_64", "xen-3.0-x86_32p", "xen-3.0-x86_32", "xen-3.0-x86_64p")

SHARED_INFO_64 = StructLayout(
    "shared_info",
    3136,
    (
        Field("max_pfn", 3088, "u64", "PFNs", "arch.max_pfn: last PFN of the frame list, plus one"),
        Field("pfn_to_mfn_frame_list_list", 3096, "u64", "MFN", "MFN of p2m_top_mfn; all ones: use p2m_vaddr"),
        Field("nmi_reason", 3104, "u64", "bits", "NMI reason of the privileged domain"),
        Field("p2m_cr3", 3112, "u64", "folded CR3", "page table for p2m_vaddr (4.3 on); 0: not given"),
        Field("p2m_vaddr", 3120, "u64", "virtual address", "the linear list (xen_p2m_addr)"),
        Field("p2m_generation", 3128, "u64", "count", "odd while the kernel changes the list's mapping"),
    ),
    "xen/include/public/arch-x86/xen.h, struct arch_shared_info, offsets in struct shared_info",
)
SHARED_INFO_32 = StructLayout(
    "shared_info",
    2344,
    (
        Field("max_pfn", 2316, "u32", "PFNs", "arch.max_pfn: last PFN of the frame list, plus one"),
        Field("pfn_to_mfn_frame_list_list", 2320, "u32", "MFN", "MFN of p2m_top_mfn; all ones: use p2m_vaddr"),
        Field("nmi_reason", 2324, "u32", "bits", "NMI reason of the privileged domain"),
        Field("p2m_cr3", 2328, "u32", "folded CR3", "page table for p2m_vaddr (4.3 on); 0: not given"),
        Field("p2m_vaddr", 2332, "u32", "virtual address", "the linear list (xen_p2m_addr)"),
        Field("p2m_generation", 2336, "u32", "count", "odd while the kernel changes the list's mapping"),
    ),
    "xen/include/public/arch-x86/xen.h, struct arch_shared_info, 32-bit longs",
)
