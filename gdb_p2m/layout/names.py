"""The kernel names that decoding needs, and what the absence of each costs.

`form` says what lives at the symbol's address: "pointer" (a variable that holds a kernel virtual
address), "value" (an unsigned long), "word" (an int or enum, 4 bytes), "object" (the thing itself).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["pointer", "value", "word", "object"]


@dataclass(frozen=True, slots=True)
class KernelName:
    """One symbol that we look for. `since`/`until`: kernel versions for people, never used to decide."""

    name: str
    form: Form
    since: str
    meaning: str
    absence: str


LINEAR_NAMES = (
    KernelName("xen_p2m_addr", "pointer", "3.19", "base of the linear list", "no linear view without p2m_vaddr"),
    KernelName("xen_p2m_size", "value", "3.19", "entries in the list", "the list's end is not known"),
    KernelName("xen_p2m_last_pfn", "value", "4.4", "highest PFN + 1 in use", "one check of the bounds less"),
    KernelName("xen_max_p2m_pfn", "value", "2.6.37", "capacity in PFNs", "past the list: identity is assumed unproven"),
    KernelName("p2m_missing_pte", "pointer", "3.19", "shared page table of missing", "LIN-004 cannot look"),
    KernelName("p2m_identity_pte", "pointer", "3.19", "shared page table of identity", "LIN-004 cannot look"),
)
SHARED_NAMES = (
    KernelName("p2m_missing", "pointer", "2.6.37", "shared leaf of missing", "missing is inferred, not proved"),
    KernelName("p2m_identity", "pointer", "2.6.39", "shared leaf of identity", "identity is inferred, not proved"),
    KernelName("p2m_top_mfn", "pointer", "2.6.37", "top of the frame list list", "FLL-001, FLL-002 cannot look"),
    KernelName("p2m_top_mfn_p", "pointer", "2.6.37", "the same as pointers", "FLL-002 cannot look"),
    KernelName("p2m_mid_missing_mfn", "pointer", "2.6.37", "shared mid of the frame lists", "FLL-003 cannot look"),
    KernelName("p2m_mid_identity_mfn", "pointer", "3.16", "shared identity mid (3.16 only)", "nothing after 3.16"),
)
TREE_NAMES = (
    KernelName("p2m_top", "pointer", "2.6.37", "top of the three-level tree", "no tree view"),
    KernelName("p2m_mid_missing", "pointer", "2.6.37", "shared mid of missing", "no tree view"),
    KernelName("p2m_mid_identity", "pointer", "3.16", "shared mid of identity", "an older tree, or no proof"),
)
GUEST_NAMES = (
    KernelName("HYPERVISOR_shared_info", "pointer", "2.6.24", "the shared_info page", "shared-info, FLL rules"),
    KernelName("xen_dummy_shared_info", "object", "2.6.24", "stands in for shared_info early in boot", "one check less"),
    KernelName("xen_start_info", "pointer", "2.6.24", "the start_info page", "start-info, SIF rules"),
    KernelName("machine_to_phys_mapping", "pointer", "2.6.24", "Xen's M2P", "the documented address is used"),
    KernelName("machine_to_phys_nr", "value", "3.1", "entries of the M2P", "RAM's end bounds the M2P instead"),
    KernelName("max_pfn", "value", "2.6", "PFNs that the kernel uses", "FLL-005 cannot look"),
    KernelName("xen_remap_mfn", "value", "3.19", "head of the remap chain (init data)", "no remap chain"),
    KernelName("page_offset_base", "value", "4.8", "base of the direct map", "the documented bases are tried"),
    KernelName("system_state", "word", "2.6", "how far boot has come", "freed init data is not told from live"),
)
ROOT_NAMES = (
    KernelName("init_top_pgt", "object", "4.15", "the kernel's page table", "a process's root is used"),
    KernelName("init_level4_pgt", "object", "2.6", "the same, before 4.15", "a process's root is used"),
    KernelName("swapper_pg_dir", "object", "2.6", "the same, 32-bit and older", "a process's root is used"),
)
PREDICTION_NAMES = (
    KernelName("xen_e820_table", "object", "4.12", "memory map as Xen gave it (init data)", "nothing after boot"),
    KernelName("e820_table_firmware", "pointer", "4.12", "memory map of memory setup", "check --against e820 cannot"),
    KernelName("e820_table_kexec", "pointer", "4.13", "the same, for kexec", "nothing beside e820_table_firmware"),
    KernelName("e820_saved", "object", "2.6", "the same, until 4.11", "nothing from 4.12 on"),
    KernelName("balloon_stats", "object", "2.6.37", "pages that the balloon driver counts", "one explanation less"),
    KernelName("xen_released_pages", "value", "3.2", "pages given back during boot", "one explanation less"),
)
ALL_NAMES = (*LINEAR_NAMES, *SHARED_NAMES, *TREE_NAMES, *GUEST_NAMES, *ROOT_NAMES, *PREDICTION_NAMES)

SYSTEM_FREEING_INITMEM = 2
"""enum system_states (include/linux/kernel.h): from this value on, init data is being freed or is gone."""
