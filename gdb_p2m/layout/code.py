"""Functions of the kernel and of Xen that read or write the P2M: what `disasm` offers and what each is for.

Sources: Linux arch/x86/xen/p2m.c (2.6.37 on), Xen xen/arch/riscv/p2m.c (4.22 on).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CodeName:
    """A function. since: where it is found, for people."""

    name: str
    since: str
    meaning: str


LINUX_CODE = (
    CodeName("get_phys_to_machine", "2.6.37 on", "PFN to entry, with the test for p2m_identity"),
    CodeName("__set_phys_to_machine", "2.6.37 on", "writes an entry where a private page has it"),
    CodeName("set_phys_to_machine", "2.6.37 on", "the same; makes private pages when they are needed"),
    CodeName("xen_alloc_p2m_entry", "seen in 5.10 to 7.2", "replaces shared pages by private ones for one PFN"),
    CodeName("alloc_p2m", "earlier kernels", "the same, before it was called xen_alloc_p2m_entry"),
    CodeName("xen_build_mfn_list_list", "2.6.37 on", "builds the frame list list for Xen's toolstack"),
    CodeName("xen_setup_mfn_list_list", "2.6.37 on", "publishes it in shared_info"),
    CodeName("set_foreign_p2m_mapping", "seen in 5.10 to 7.2", "writes foreign entries for mapped grants"),
)
XEN_RISCV_CODE = (
    CodeName("p2m_get_entry", "4.22 on", "walks the G-stage for one GFN"),
    CodeName("p2m_get_type", "4.22 on", "type of an entry: RSW, or the metadata slot"),
    CodeName("p2m_set_type", "4.22 on", "stores a type in RSW or in metadata"),
    CodeName("p2m_set_entry", "4.22 on", "maps a range of GFNs"),
    CodeName("p2m_pte_from_mfn", "4.22 on", "makes an entry from frame and type"),
    CodeName("p2m_free_subtree", "4.22 on", "frees the tables below an entry"),
    CodeName("p2m_split_superpage", "4.22 on", "replaces a superpage by a table of smaller entries"),
)
STACK_CHECK = "__stack_chk_fail"
"""Never returns: what follows the call is another function."""
