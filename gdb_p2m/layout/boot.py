"""The moments of a PV kernel's boot that matter to its P2M: functions to stop at, in the order of boot.

Source: Linux arch/x86/xen/mmu_pv.c, xen_pagetable_init() (4.0 on): xen_pagetable_p2m_setup builds the
virtual area and frees the builder's list, then xen_build_mfn_list_list, xen_remap_memory and
xen_setup_mfn_list_list run. Seen in this order on Debian's 5.10, 6.1, 6.12 and 7.2.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moment:
    """name: what the user types. function: the kernel is about to run its first instruction. exists: what is there."""

    name: str
    function: str
    title: str
    exists: str


MOMENTS = (
    Moment(
        "entry",
        "startup_xen",
        "dom0's entry, before its first instruction",
        "the domain builder's list, start_info (RSI points to it) and the builder's page tables; no kernel variable is set",
    ),
    Moment(
        "list",
        "xen_vmalloc_p2m_tree",
        "before the virtual area is built",
        "the builder's list, edited by the kernel: holes are identity; the remap chain is planned",
    ),
    Moment(
        "area",
        "xen_build_mfn_list_list",
        "after the P2M area is built",
        "the linear list with its shared pages; the builder's list is gone; the remap chain waits",
    ),
    Moment(
        "remap",
        "xen_remap_memory",
        "before memory is remapped",
        "the linear list, the frame list list (not published yet), and the whole remap chain: `p2m remap --save FILE`",
    ),
    Moment(
        "after",
        "xen_setup_mfn_list_list",
        "after memory was remapped",
        "the finished P2M; shared_info gets the frame list list next: `p2m remap --verify FILE`",
    ),
)
