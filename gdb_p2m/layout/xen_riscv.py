"""Xen on RISC-V: names, structures, types and modes of the G-stage P2M, as data.

Sources: the series "xen/riscv: introduce p2m functionality" v5 (its last patch stores types outside the
PTE), Xen commits df31e3163d (metadata as struct md_t), 1055177445 (used_entries), 551e864360 (modes as a
table of descriptors); xen/arch/riscv/include/asm/{mm,p2m,page,config}.h; the RISC-V Privileged
specification, "hgatp". `seen` marks what real memory of Xen 4.23-unstable showed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.pagetables import SV39X4, SV48X4, SV57X4, PageTableShape

ROOT_PAGES = 4
"""Pages of a G-stage root: 16 KiB, aligned to its size (GSTAGE_ROOT_PAGE_TABLE_SIZE)."""
PAGETABLE_ENTRIES = 512
MAX_LEAF_LEVEL = 2
"""P2M_MAX_SUPPORTED_LEVEL_MAPPING: 4 KiB, 2 MiB and 1 GiB mappings only."""
LEVEL_BITS = 9
LOAD_STEP = 2 << 20
"""Xen's image is loaded on a multiple of 2 MiB (its own page table maps it with aligned tables)."""

# --- hgatp
HGATP_MODE_SHIFT = 60
HGATP_VMID_SHIFT = 44
HGATP_VMID_MASK = 0x3FFF
HGATP_PPN_MASK = (1 << 44) - 1

# --- page_info.count_info (asm/mm.h, PG_mask counts from bit 64 down)
PGC_ALLOCATED = 1 << 63
PGC_XEN_HEAP = 1 << 62
PGC_STATE_MASK = 3 << 55
PGC_STATE_FREE = 3 << 55
PGC_COUNT_MASK = (1 << 55) - 1
INVALID_GFN = (1 << 64) - 1
"""lowest_mapped_gfn of a P2M in which nothing was ever mapped (p2m_init)."""


@dataclass(frozen=True, slots=True)
class GstageMode:
    """hgatp.MODE `number`, the level of its root (`paging_levels`), its shape."""

    number: int
    name: str
    root_level: int
    shape: PageTableShape

    @property
    def gfn_limit(self) -> int:
        """Highest possible GFN + 1."""
        return 1 << (self.shape.va_bits - 12)


MODES = (GstageMode(8, "Sv39x4", 2, SV39X4), GstageMode(9, "Sv48x4", 3, SV48X4), GstageMode(10, "Sv57x4", 4, SV57X4))
MODE_BY_NUMBER = {m.number: m for m in MODES}

# --- p2m_type_t
TYPE_NAMES = (
    "p2m_invalid",
    "p2m_ram_rw",
    "p2m_mmio_direct_io",
    "p2m_ext_storage",
    "p2m_map_foreign_rw",
    "p2m_map_foreign_ro",
)
DECLARED_TYPES = {name: value for value, name in enumerate(TYPE_NAMES)}
"""Enumerators without debug information (asm/p2m.h). p2m_first_external is a second name of 3."""

_RW = pt.RISCV_R | pt.RISCV_W
TYPE_FLAGS = {
    "p2m_ram_rw": _RW | pt.RISCV_X | pt.RISCV_U,
    "p2m_mmio_direct_io": _RW | pt.RISCV_U | pt.RISCV_PBMT_IO,
    "p2m_map_foreign_rw": _RW | pt.RISCV_U,
    "p2m_map_foreign_ro": pt.RISCV_R | pt.RISCV_U,
}
"""R, W, X, U and PBMT that p2m_set_permission() and p2m_pte_from_mfn() give a type (seen)."""
FLAGS_BY_TYPE = pt.RISCV_R | pt.RISCV_W | pt.RISCV_X | pt.RISCV_U | pt.RISCV_PBMT_MASK
"""The bits that TYPE_FLAGS speaks of. A and D depend on the guest and on Svade."""

SlotFormat = Literal["md_t", "pte_t"]
ModeForm = Literal["pointer", "embedded", "globals"]


@dataclass(frozen=True, slots=True)
class MetadataFormat:
    """How a metadata page stores one type. mask: which bits of the slot are the type.

    The rest of an md_t is padding that nobody writes; a pte_t slot is written whole.
    """

    name: SlotFormat
    slot_bytes: int
    mask: int
    evidence_of: str


MD_T = MetadataFormat("md_t", 4, 0xF, "struct md_t { p2m_type_t type : 4; } (df31e3163d, Xen 4.22 on)")
PTE_T = MetadataFormat("pte_t", 8, (1 << 64) - 1, "pte_t slots whose value is the type (series v5)")


@dataclass(frozen=True, slots=True)
class XenName:
    """A symbol of Xen. form: "value" (8 bytes at the symbol), "object" (the thing itself)."""

    name: str
    form: Literal["value", "object"]
    size: int
    meaning: str
    absence: str


SYMBOLS = (
    XenName("_start", "object", 0, "link address of the image", "the image's bounds are not known"),
    XenName("_end", "object", 0, "end of the image", "the image is taken to be 16 MiB (XEN_VIRT_SIZE)"),
    XenName("domain_list", "value", 8, "the first domain", "no domains"),
    XenName("frametable_virt_start", "value", 8, "page_info of frame 0", "no page_info, no external types"),
    XenName("directmap_virt_start", "value", 8, "virtual address of machine address 0", "only walked addresses"),
    XenName("stage1_pgtbl_root", "object", 0, "Xen's own page table", "only the image and the direct map are read"),
    XenName("phys_offset", "value", 8, "machine minus link address", "the place of the image is not confirmed"),
    XenName("start_page", "value", 8, "first frame of RAM", "the dump's extents bound the frame table"),
    XenName("max_page", "value", 8, "last frame of RAM + 1", "the dump's extents bound the frame table"),
    XenName("gstage_modes", "object", 0, "table of modes (551e864360 on)", "another era"),
    XenName("max_gstage_mode", "object", 0, "best mode of the machine (4.22 on)", "another era"),
    XenName("gstage_mode", "value", 1, "hgatp.MODE of all domains (series v5)", "another era"),
    XenName("gstage_root_level", "value", 4, "level of all roots (series v5)", "another era"),
)
SYMBOL_BY_NAME = {s.name: s for s in SYMBOLS}


@dataclass(frozen=True, slots=True)
class XenType:
    """A type fact: kind "SIZE", "OFFSET" or "NUMBER", its path, what its absence costs."""

    kind: Literal["SIZE", "OFFSET", "NUMBER"]
    path: str
    absence: str


TYPES = (
    XenType("SIZE", "page_info", "no conversion between page_info and frames"),
    XenType("SIZE", "md_t", "the metadata holds pte_t slots"),
    XenType("OFFSET", "page_info.list", "GST-007 cannot follow p2m->pages"),
    XenType("OFFSET", "page_info.count_info", "GST-007 cannot look, no owners"),
    XenType("OFFSET", "page_info.u.md.used_entries", "GST-008 does not apply"),
    XenType("OFFSET", "page_info.v.md.pg", "no types behind p2m_ext_storage"),
    XenType("OFFSET", "page_info.v.inuse.domain", "no owners"),
    XenType("OFFSET", "domain.domain_id", "no domain ids"),
    XenType("OFFSET", "domain.next_in_list", "only the first domain"),
    XenType("OFFSET", "domain.tot_pages", "pages of a domain are counted in its P2M"),
    XenType("OFFSET", "domain.arch.p2m", "no P2M"),
    XenType("OFFSET", "p2m_domain.pages", "GST-007 cannot look"),
    XenType("OFFSET", "p2m_domain.root", "no P2M"),
    XenType("OFFSET", "p2m_domain.mode", "the globals gstage_mode and gstage_root_level are read"),
    XenType("OFFSET", "p2m_domain.domain", "the back pointer is not checked"),
    XenType("OFFSET", "p2m_domain.max_mapped_gfn", "GST-009 cannot look"),
    XenType("OFFSET", "p2m_domain.lowest_mapped_gfn", "GST-009 cannot look"),
    XenType("OFFSET", "gstage_mode_desc.mode", "no mode"),
    XenType("OFFSET", "gstage_mode_desc.paging_levels", "no root level"),
    *(XenType("NUMBER", name, "the documented number is used") for name in TYPE_NAMES),
)


@dataclass(frozen=True)
class DeclaredLayout:
    """Sizes and offsets for memory without debug information. source: why we believe them."""

    name: str
    source: str
    sizes: dict[str, int]
    offsets: dict[str, int]
    metadata: MetadataFormat
    mode: ModeForm


_PAGE_INFO = {
    "page_info.list": 0,
    "page_info.count_info": 16,
    "page_info.u.inuse.type_info": 24,
    "page_info.v.md.pg": 32,
    "page_info.v.inuse.domain": 32,
}
_DOMAIN = {"domain.domain_id": 0, "domain.next_in_list": 152, "domain.arch.p2m": 736}
_DESC = {"gstage_mode_desc.mode": 0, "gstage_mode_desc.paging_levels": 4}


def _p2m(mode_bytes: int) -> dict[str, int]:
    """p2m_domain: lock, pages, root, mode (of so many bytes), domain, two bools, two limits."""
    after = 40 + mode_bytes
    return {
        "p2m_domain.pages": 16,
        "p2m_domain.root": 32,
        **({"p2m_domain.mode": 40} if mode_bytes else {}),
        "p2m_domain.domain": after,
        "p2m_domain.max_mapped_gfn": after + 16,
        "p2m_domain.lowest_mapped_gfn": after + 24,
    }


_USED = {"page_info.u.md.used_entries": 24}
XEN_4_22_POINTER = DeclaredLayout(
    "4.22+, mode by pointer",
    "declared layout of Xen 4.23-unstable (551e864360 on; seen in real memory)",
    {"page_info": 48, "p2m_domain": 80, "md_t": 4, "gstage_mode_desc": 16},
    {**_PAGE_INFO, **_USED, **_DOMAIN, **_DESC, **_p2m(8)},
    MD_T,
    "pointer",
)
XEN_4_22_EMBEDDED = DeclaredLayout(
    "4.22, mode embedded",
    "declared layout of Xen 4.22 (1055177445; struct gstage_mode_desc inside p2m_domain)",
    {"page_info": 48, "p2m_domain": 88, "md_t": 4, "gstage_mode_desc": 16},
    {**_PAGE_INFO, **_USED, **_DOMAIN, **_DESC, **_p2m(16)},
    MD_T,
    "embedded",
)
SERIES_V5 = DeclaredLayout(
    "series v5",
    "declared layout of the series' v5 (globals gstage_mode, gstage_root_level; struct domain as in 4.23-unstable)",
    {"page_info": 48, "p2m_domain": 72},
    {**_PAGE_INFO, **_DOMAIN, **_p2m(0)},
    PTE_T,
    "globals",
)


def declared_layout(mode: ModeForm) -> DeclaredLayout:
    """The declared layout of the era that stores the mode this way."""
    return {"pointer": XEN_4_22_POINTER, "embedded": XEN_4_22_EMBEDDED, "globals": SERIES_V5}[mode]


def hgatp_value(mode: int, root_mfn: int, vmid: int = 0) -> int:
    """hgatp as Xen's construct_hgatp() makes it; the VMID belongs to a vCPU."""
    return mode << HGATP_MODE_SHIFT | (vmid & HGATP_VMID_MASK) << HGATP_VMID_SHIFT | root_mfn & HGATP_PPN_MASK


def level_order(level: int) -> int:
    """log2 of the pages that one entry of a table of `level` spans (XEN_PT_LEVEL_ORDER)."""
    return level * LEVEL_BITS
