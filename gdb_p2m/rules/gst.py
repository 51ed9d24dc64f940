"""GST: the G-stage P2M that Xen keeps for a RISC-V domain. The catalogue's entries; the checks lie beside."""

from __future__ import annotations

from gdb_p2m.rules.base import Rule
from gdb_p2m.rules.gst_entries import (
    external_types,
    flags_agree,
    mapped_within_limits,
    pointers_are_plain,
    split_keeps_type,
    superpages_aligned,
    tables_used_once,
)
from gdb_p2m.rules.gst_pages import (
    metadata_pointers,
    metadata_without_live_slot,
    pages_list,
    root_is_sound,
    root_selects_metadata,
    used_entries,
)

KINDS = ("riscv",)
P2M_C = "Xen xen/arch/riscv/p2m.c"
SPEC = "RISC-V Privileged specification, Hypervisor extension"

GST_RULES = (
    Rule(
        "GST-001",
        "the root is 4 pages, aligned to 16 KiB; mode, level and hgatp agree",
        "error",
        "all",
        f"{SPEC}, hgatp; {P2M_C}, p2m_alloc_root_table(), construct_hgatp()",
        "The x4 modes widen the guest physical address by two bits, so the root has 2048 entries in four contiguous "
        "pages; hgatp has no room for the two low bits of its frame. MODE 8, 9, 10 means a root at level 2, 3, 4. On a "
        "live machine every CPU that runs a guest must have one of Xen's roots, with this mode, in hgatp.",
        root_is_sound,
        KINDS,
    ),
    Rule(
        "GST-002",
        "a pointer to a table has only V set; reserved bits are zero",
        "error",
        "all",
        f"{SPEC}: Addressing and memory protection; {P2M_C}, page_to_p2m_table()",
        "R, W and X clear make an entry a pointer; Xen writes it with V alone. A, D, U, PBMT or N in a pointer, any of "
        "the bits 60:54, and a pointer in the last level make the hardware fault. The software bits (RSW) and G are "
        "ignored by it, but Xen never sets them there.",
        pointers_are_plain,
        KINDS,
    ),
    Rule(
        "GST-003",
        "a superpage is aligned, and no leaf lies above level 2",
        "error",
        "all",
        f"{SPEC}; {P2M_C}, P2M_MAX_SUPPORTED_LEVEL_MAPPING",
        "The low PPN bits of a 2 MiB or 1 GiB leaf must be zero, else the hardware faults. Xen maps with levels 0, 1 and "
        "2 only: the roots of Sv48x4 and Sv57x4 hold tables.",
        superpages_aligned,
        KINDS,
    ),
    Rule(
        "GST-004",
        "a leaf of external type has a metadata page and a legal type in its slot",
        "error",
        "all",
        f"{P2M_C}, p2m_get_type(), p2m_set_type()",
        "RSW has two bits: types that do not fit are p2m_ext_storage there, and stand in the slot of the metadata page "
        "that hangs off the page_info of the table's page. Only p2m_map_foreign_rw and p2m_map_foreign_ro are legal in a "
        "slot that a valid entry refers to. Slots that no valid entry refers to are leftovers and mean nothing.",
        external_types,
        KINDS,
    ),
    Rule(
        "GST-005",
        "R, W, X, U and PBMT agree with the type",
        "error",
        "all",
        f"{P2M_C}, p2m_set_permission(), p2m_pte_from_mfn()",
        "ram_rw is R W X, mmio_direct_io R W with PBMT=IO, map_foreign_rw R W, map_foreign_ro R; U always, because G-stage "
        "translation treats every access as user level. A valid entry of type p2m_invalid, N, W without R and the "
        "reserved PBMT value contradict every type. A and D are the guest's or Svade's and are not compared.",
        flags_agree,
        KINDS,
    ),
    Rule(
        "GST-006",
        "v.md.pg leads to a page of RAM that is no table and the metadata of no other table",
        "error",
        "all",
        "Xen xen/arch/riscv/include/asm/mm.h, struct page_info; df31e3163d",
        "The metadata page is found through a pointer in the page_info of the table's page. It must lie on an element of "
        "the frame table. One page cannot serve two tables, nor be a table itself: writing a type would change an entry.",
        metadata_pointers,
        KINDS,
    ),
    Rule(
        "GST-007",
        "table and metadata pages have no owner and are on p2m->pages, and nothing else is",
        "error",
        "all",
        f"{P2M_C}, p2m_alloc_page(), p2m_free_page(); MEMF_no_owner",
        "v.md.pg and v.inuse.domain are the same word: that works only because these pages have no owner and count_info "
        "0. All of them, and no other page, are linked into p2m->pages, from where they are freed with the domain.",
        pages_list,
        KINDS,
    ),
    Rule(
        "GST-008",
        "used_entries differs from the live slots",
        "note",
        "4.22 on (1055177445)",
        f"{P2M_C}, p2m_set_type(); seen: used 4 with 0 live, used 3 with an all-zero page",
        "used_entries counts slots that are not p2m_invalid, but unmapping clears the PTE alone, a split leaves the slot of "
        "the old superpage behind, and a page that is used again keeps its old count. So the count drifts in healthy "
        "memory; this is worth knowing and never an error.",
        used_entries,
        KINDS,
    ),
    Rule(
        "GST-009",
        "every mapped GFN lies within lowest_mapped_gfn..max_mapped_gfn",
        "error",
        "all",
        f"{P2M_C}, p2m_set_entry(), check_outside_boundary()",
        'p2m_get_entry() answers "not mapped" outside these limits without looking at the table, so a GFN mapped beyond '
        "them is lost to Xen although the hardware translates it.",
        mapped_within_limits,
        KINDS,
    ),
    Rule(
        "GST-010",
        "a metadata page without a live slot",
        "note",
        "all",
        f"{P2M_C}, p2m_set_type(), p2m_free_table(); series v5 frees metadata with its table only",
        "The page serves no entry any more: 4 KiB that Xen could return to the domain's pool. Normal after foreign mappings "
        "were removed.",
        metadata_without_live_slot,
        KINDS,
    ),
    Rule(
        "GST-011",
        "each of the root's four pages keeps its types in its own metadata page",
        "error",
        "all",
        f"{P2M_C}, p2m_get_root_pointer(), calc_offset(); series v5, p2m_set_type(): index / PAGETABLE_ENTRIES",
        "Root index i belongs to page i / 512 and to slot i mod 512 of that page's metadata. Code that takes the metadata of "
        "the first page, or the unreduced index, writes the type where no reader looks: then the right slot is empty and "
        "the type stands at the same slot of another root page, or past the end of the page.",
        root_selects_metadata,
        KINDS,
    ),
    Rule(
        "GST-012",
        "the pieces of a split superpage all have its type",
        "error",
        "all",
        f"{P2M_C}, p2m_split_superpage(); series v5: types after a split",
        "When a superpage of external type is split, p2m_set_type() must run for each of the 512 new entries with the "
        "*new* table's page. More than half a table of entries with the same flags, whose frames continue each other "
        "from an aligned start, are such pieces: a slot with another type than its sisters was forgotten. The old "
        "superpage's own slot stays behind in the table above, and is not looked at.",
        split_keeps_type,
        KINDS,
    ),
    Rule(
        "GST-013",
        "every table page is used once and lies in RAM",
        "error",
        "all",
        f"{P2M_C}, p2m_create_table()",
        "Each table is allocated for one entry. A table that is reached twice, or that is an ancestor of itself, makes two "
        "guest address ranges change together; one outside RAM was never allocated. What lies below the second use is "
        "shown as corrupt.",
        tables_used_once,
        KINDS,
    ),
)
