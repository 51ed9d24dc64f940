"""Which functions of the kernel decide a PFN's fate, and which made it so, by era and way of storage."""

from __future__ import annotations

from gdb_p2m.mapping import Kind
from gdb_p2m.stories.scene import ENTRY, LEAF, PAST, TABLE, Scene
from gdb_p2m.structures.era import TREE

Told = tuple[list[str], tuple[str, ...]]
SHOW = "`disasm get_phys_to_machine` shows that code as it lies in this memory, with the values of what it reads."


def who_decides(scene: Scene) -> Told:
    """The reader's side: what pfn_to_mfn() does with this PFN."""
    # What a symbol table names, `disasm` can show.
    shown = [SHOW] if scene.guest.has("get_phys_to_machine") else []
    if scene.linear:
        return [*(_initial_list() if scene.initial else _linear(scene)), *shown], ("linear", "page.h", "p2m.c")
    return [*_tree(scene), *shown], _tree_sources(scene)


def _initial_list() -> list[str]:
    return [
        "The kernel is still on the domain builder's list: xen_p2m_addr points to it, or is not set yet. "
        "__pfn_to_mfn() reads its entries like those of the later list; no shared pages exist, so entries alone decide."
    ]


def _linear(scene: Scene) -> list[str]:
    n = scene.number
    flags = f"bit {scene.guest.width.bits - 2}"
    load = f"__pfn_to_mfn() compares {n:#x} with xen_p2m_size, finds it inside the list and loads xen_p2m_addr[{n:#x}]"
    if scene.storage == PAST:
        if scene.kind is Kind.MISSING:
            return [
                f"{n:#x} is not below xen_p2m_size, so there is no entry to load. It is below xen_max_p2m_pfn, so "
                "__pfn_to_mfn() calls get_phys_to_machine(), which asks xen_chk_extra_mem(): INVALID_P2M_ENTRY "
                "when the PFN "
                "lies in the room kept for memory that may be added, else identity. Which of the two regions a PFN "
                "is in is "
                "only known to the kernel during boot; gdb-p2m says missing for all of them."
            ]
        return [
            f"{n:#x} lies past the list and past xen_max_p2m_pfn: __pfn_to_mfn() returns IDENTITY_FRAME({n:#x}) "
            "without "
            "reading anything. Beyond all memory there can only be devices."
        ]
    if scene.kind is Kind.UNREADABLE:
        return [f"{load}. What it would find is not in this dump."]
    if scene.kind is Kind.CORRUPT:
        return [f"{load}, and believes what it finds: there is no check on this path but the comparison with INVALID."]
    if scene.storage in (LEAF, TABLE):
        found = (
            f"{load}. It finds INVALID_P2M_ENTRY, which does not tell missing from identity, and calls "
            "get_phys_to_machine()."
        )
        look = (
            "get_phys_to_machine() looks up the page-table entry that maps this place of the list (lookup_address) and "
            "compares its frame with that of p2m_identity. "
        )
        if scene.kind is Kind.IDENTITY:
            return [
                found,
                f"{look}They are equal, so it returns IDENTITY_FRAME({n:#x}): the PFN with {flags} set. "
                "pfn_to_mfn() takes the "
                f"flag off, and the caller has machine frame {n:#x}. The question which page backs the entry is "
                "thus the one "
                "that this program asks, too.",
            ]
        return [
            found,
            f"{look}They differ (the page is p2m_missing), so it returns the entry as it is: INVALID, no frame.",
        ]
    if scene.kind is Kind.MISSING:
        return [
            f"{load}: INVALID_P2M_ENTRY. It calls get_phys_to_machine(), which finds that the page is not "
            "p2m_identity and "
            "returns the entry: no frame."
        ]
    if scene.kind is Kind.IDENTITY:
        return [
            f"{load}: the PFN itself with {flags} (IDENTITY_FRAME_BIT) set. No second look is needed; pfn_to_mfn() "
            "takes the "
            "flag off."
        ]
    if scene.kind is Kind.FOREIGN:
        top = scene.guest.width.bits - 1
        return [f"{load}: a frame with bit {top} (FOREIGN_FRAME_BIT) set. pfn_to_mfn() takes the flag off."]
    return [f"{load}. It is not INVALID and has no flag, so it is the answer: one load, and no function is called."]


def _tree(scene: Scene) -> list[str]:
    n, width = scene.number, scene.guest.width
    old = scene.era.name == TREE
    if scene.storage == PAST:
        if scene.kind is Kind.IDENTITY:
            return [f"get_phys_to_machine() finds {n:#x} at or past MAX_P2M_PFN and returns IDENTITY_FRAME({n:#x})."]
        return [f"get_phys_to_machine() finds {n:#x} at or past MAX_P2M_PFN and returns INVALID_P2M_ENTRY."]
    top, mid, index = n // width.mid_span, n // width.per_page % width.per_page, n % width.per_page
    at = f"p2m_top[{top}][{mid}]"
    walk = (
        f"pfn_to_mfn() calls get_phys_to_machine(), which takes the PFN apart into the slots {top}, {mid} and {index}"
    )
    if scene.kind is Kind.UNREADABLE:
        return [f"{walk} and follows the pointers. What it would find is not in this dump."]
    if scene.kind is Kind.CORRUPT:
        return [f"{walk}, follows the pointers without a check and believes the entry that it finds."]
    if old:
        return [
            f"{walk} and returns {at}[{index}] as it is. This kernel knows no identity: it has missing pages and "
            "frames only."
        ]
    if scene.storage in (LEAF, TABLE) and scene.kind is Kind.IDENTITY:
        return [
            f"{walk} and compares the pointer {at} with p2m_identity before it reads any entry. They are equal, so it "
            f"returns IDENTITY_FRAME({n:#x}): the PFN with bit {width.bits - 2} set. pfn_to_mfn() takes the flag off."
        ]
    found = {
        Kind.MISSING: "INVALID_P2M_ENTRY: no frame",
        Kind.IDENTITY: f"the PFN with bit {width.bits - 2} (IDENTITY_FRAME_BIT) set, which pfn_to_mfn() takes off",
        Kind.FOREIGN: f"a frame with bit {width.bits - 1} (FOREIGN_FRAME_BIT) set, which pfn_to_mfn() takes off",
    }.get(scene.kind, "the machine frame")
    return [f"{walk}. The pointer {at} is not p2m_identity, so it returns the entry {at}[{index}]: {found}."]


def _tree_sources(scene: Scene) -> tuple[str, ...]:
    era = {"tree": "3-levels", "tree-identity": "identity"}.get(scene.era.name, "mid-identity")
    return era, "p2m.c"


# -- the writer's side -------------------------------------------------------------------------------------


def who_put_it(scene: Scene) -> Told:
    """Which functions brought the P2M into this state."""
    kind = scene.kind
    if kind in (Kind.CORRUPT, Kind.UNREADABLE) or scene.storage == PAST:
        return [], ()
    if kind is Kind.MFN:
        return _frame(scene)
    if kind is Kind.FOREIGN:
        return [
            "A frame of another domain comes in when the kernel maps a grant: set_foreign_p2m_mapping() writes "
            "FOREIGN_FRAME(mfn) into the P2M (older kernels: m2p_add_override()). A page that is granted out may "
            "carry the "
            "flag for a while, too; then Xen's M2P still names this PFN."
        ], ("grant", "layout: entries")
    if scene.linear:
        return _linear_hole(scene), ("linear", "setup.c")
    return _tree_hole(scene), ("p2m.c", _tree_sources(scene)[0])


def _frame(scene: Scene) -> Told:
    n, pages = scene.number, scene.nr_pages
    sources = ["setup.c"]
    if pages is None:
        return ["The domain builder's list gave it, or the kernel put it there later."], ("setup.c",)
    if n < pages:
        out = (
            f"The list that the domain builder passed to the kernel (start_info.mfn_list) has {pages:,} entries, and "
            f"{n:#x} is among them: the frame was most likely there from the start."
        )
        if scene.linear:
            moved = (
                "xen_rebuild_p2m_list() copied the pages of that list that hold frames into private pages of the "
                "linear list."
            )
            sources.append("linear")
        else:
            moved = (
                "xen_build_dynamic_phys_to_machine() made the pages of that list the leaves of the tree (later "
                "64-bit kernels "
                "then copy them, xen_revector_p2m_tree)."
            )
            sources.append("3-levels")
        return [f"{out} {moved}"], tuple(sources)
    out = f"The domain builder's list had {pages:,} entries (to PFN {pages - 1:#x}), so this frame came later. "
    if scene.linear:
        out += (
            "Where the machine's memory map has holes, the kernel moves the RAM that lies there to free PFNs above: "
            "xen_set_identity_and_remap() writes the plan, xen_remap_memory() carries it out and writes "
            "p2m[target] once the "
            "linear list stands. Memory that the balloon driver gets back is written with set_phys_to_machine()."
        )
        sources += ["layout: remap", "remap", "balloon.c"]
    else:
        out += (
            "Memory setup moves RAM out of the holes of the machine's memory map to PFNs above; memory that the "
            "balloon "
            "driver gets back is written with set_phys_to_machine()."
        )
        sources.append("balloon.c")
    return [out], tuple(sources)


def _linear_hole(scene: Scene) -> list[str]:
    """identity and missing in the linear era."""
    identity = scene.kind is Kind.IDENTITY
    if scene.initial:
        what = "IDENTITY_FRAME(pfn)" if identity else "INVALID"
        return [f"Memory setup writes {what} into the builder's list; the linear list does not exist yet."]
    if scene.storage == ENTRY:
        if identity:
            return [
                "set_phys_range_identity() wrote IDENTITY_FRAME(pfn) for each PFN of the range while the builder's "
                "list was "
                "in use. When xen_rebuild_p2m_list() laid out the linear list, this page also held entries of "
                "another kind, "
                "so it could not be replaced by p2m_identity."
            ]
        return [
            "The entry was set to INVALID: by xen_inv_extra_mem(), which marks the room for memory that may be "
            "added once "
            "the linear list stands; or by the balloon driver, which gave the frame back to Xen; or as the unused "
            "rest of the "
            "last page of the builder's list."
        ]
    how = (
        "When the linear list was laid out, xen_rebuild_p2m_list() asked xen_p2m_elem_type() for each stretch of "
        f"{scene.guest.width.per_page:,} PFNs; PFNs past the builder's list count as identity. "
    )
    if scene.storage == LEAF:
        how += (
            f"This stretch is {scene.kind.word} throughout: instead of a page of its own it got a page-table entry, "
            "read-only, "
        )
        how += f"that maps p2m_{scene.kind.word}."
    else:
        pmds = "both page-middle entries were" if scene.pae else "the page-middle entry was"
        how += (
            f"A whole {'4 GiB' if scene.pae else scene.table_span} is {scene.kind.word}: {pmds} pointed at "
            f"p2m_{scene.kind.word}_pte."
        )
    after = (
        "Should one PFN here get a frame, the write faults on the read-only page, __set_phys_to_machine() reports "
        "it, and "
        "xen_alloc_p2m_entry() makes private copies (of the page table first, where that is shared, then of the "
        "page) before "
        "the entry is written."
    )
    return [how, after]


def _tree_hole(scene: Scene) -> list[str]:
    if scene.kind is Kind.MISSING:
        if scene.storage == ENTRY:
            return [
                "The entry was set to INVALID: by the balloon driver, which gave the frame back to Xen, by memory "
                "setup, or as "
                "the unused rest of the last page of the builder's list. Or it was never set: a leaf that is made "
                "because another "
                "range begins or ends in it starts out with INVALID in all its slots."
            ]
        shared = "p2m_mid_missing" if scene.storage == TABLE else "p2m_missing"
        return [
            f"The tree starts out with {shared} in every slot (xen_build_dynamic_phys_to_machine), and here nothing "
            "was ever "
            "put. A frame would make alloc_p2m() replace the shared pages by private ones first."
        ]
    if scene.storage == ENTRY:
        return [
            "set_phys_range_identity() set IDENTITY_FRAME(pfn) one by one: the range begins or ends inside this "
            "leaf, so the "
            "leaf could not be swapped for p2m_identity."
        ]
    if scene.storage == TABLE:
        return [
            "set_phys_range_identity() split the middle pages at the two ends of the range (early_split_p2m) and "
            "swapped "
            "whole middle pages between them, p2m_mid_missing for p2m_mid_identity, one pointer a GiB."
            if not scene.pae
            else "set_phys_range_identity() split the middle pages at the two ends of the range (early_split_p2m) "
            "and swapped "
            "whole middle pages between them, p2m_mid_missing for p2m_mid_identity, one pointer for 4 GiB."
        ]
    return [
        "set_phys_range_identity() swapped the pointer in the middle page from p2m_missing to p2m_identity, one "
        "pointer for "
        f"{scene.leaf_span}."
    ]
