"""How other eras would store the same PFN, for those who meet other kernels."""

from __future__ import annotations

from gdb_p2m.mapping import Kind
from gdb_p2m.stories.scene import PAST, Scene
from gdb_p2m.structures.era import LINEAR, TREE, TREE_IDENTITY, TREE_MID_IDENTITY

_TITLES = (
    (TREE, "2.6.37, 2.6.38"),
    (TREE_IDENTITY, "2.6.39 to 3.15"),
    (TREE_MID_IDENTITY, "3.16 to 3.18"),
    (LINEAR, "3.19 on"),
)
_SOURCE = {TREE: "3-levels", TREE_IDENTITY: "identity", TREE_MID_IDENTITY: "mid-identity", LINEAR: "linear"}
_PAST = {
    TREE: "A PFN past MAX_P2M_PFN is missing.",
    TREE_IDENTITY: "A PFN past MAX_P2M_PFN is missing (INVALID), not identity.",
    TREE_MID_IDENTITY: "A PFN past MAX_P2M_PFN is identity.",
    LINEAR: "A PFN past the list is identity, or missing where room for more memory is kept (below xen_max_p2m_pfn).",
}
_IDENTITY = {
    TREE: (
        "There is no identity: the PFN would be missing, and page-table entries of device memory carried a mark "
        "(_PAGE_IOMAP) that kept them from being translated."
    ),
    TREE_IDENTITY: (
        "Identity by the leaf p2m_identity, or by entry; each stretch of {mid} that an identity range touches "
        "needs a middle page of "
        "its own, even one that is identity throughout."
    ),
    TREE_MID_IDENTITY: (
        "Identity by the leaf p2m_identity, or for a whole {mid} by the middle page p2m_mid_identity, or by entry."
    ),
    LINEAR: (
        "Identity by the page that backs the list, p2m_identity, or for whole page tables p2m_identity_pte, or by "
        "entry."
    ),
}
_MISSING = {
    TREE: (
        "Missing by the leaf p2m_missing, for a whole {mid} by the middle page p2m_mid_missing, or by an INVALID entry."
    ),
    TREE_IDENTITY: (
        "Missing by the leaf p2m_missing, which differs from p2m_identity by its address only, for a whole {mid} "
        "by the middle "
        "page p2m_mid_missing, or by an INVALID entry."
    ),
    TREE_MID_IDENTITY: (
        "Missing by the leaf p2m_missing, for a whole {mid} by the middle page p2m_mid_missing (p2m_mid_identity "
        "stands for the "
        "other), or by an INVALID entry."
    ),
    LINEAR: (
        "Missing by the page that backs the list, p2m_missing, for whole page tables p2m_missing_pte, or by an "
        "INVALID entry."
    ),
}
_MFN = {
    TREE: "The same entry, reached as p2m_top[top][mid][index].",
    TREE_IDENTITY: (
        "The same entry, reached as p2m_top[top][mid][index]; the pointer is compared with p2m_identity first."
    ),
    TREE_MID_IDENTITY: "As in 2.6.39 to 3.15: frames are stored the same way.",
    LINEAR: "The same entry, reached as xen_p2m_addr[pfn] through the processor's page tables.",
}
_TABLE = {Kind.IDENTITY: _IDENTITY, Kind.MISSING: _MISSING, Kind.MFN: _MFN, Kind.FOREIGN: _MFN}
_BEFORE = (
    "before 2.6.37",
    "The tree had two levels, and its pages were arrays in the kernel's image instead of pages made when they were "
    "needed.",
)


def other_eras(scene: Scene) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """(mark and text of each era but this one, sources)."""
    table = _PAST if scene.storage == PAST else _TABLE.get(scene.kind)
    if table is None:
        return [], ()
    mid = "4 GiB" if scene.pae else "1 GiB"
    out = [("-", f"{_BEFORE[0]}: {_BEFORE[1]}")]
    here = scene.era.name
    out += [("-", f"{when}: {table[era].format(mid=mid)}") for era, when in _TITLES if era != here]
    if scene.linear:
        out.append(("-", _later(scene)))
    return out, tuple(_SOURCE[era] for era, _ in _TITLES if era != here) + (
        ("virt-4tools",) if scene.linear and not scene.pae else ()
    )


def _later(scene: Scene) -> str:
    if scene.pae:
        return "5.9 on: there are no 32-bit PV kernels any more."
    return (
        "4.3 on, in a domain with SIF_VIRT_P2M_4TOOLS: the list is the same, but the kernel keeps no frame list "
        "list for the "
        "toolstack, which follows p2m_cr3 and p2m_vaddr instead and would see the page that backs the entry."
    )
