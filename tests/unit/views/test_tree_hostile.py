"""Trees that lie: pointers to nowhere, to themselves, out of memory; pages that the dump lacks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdb_p2m.errors import P2mError
from gdb_p2m.layout.x86_pv import WIDTH_32, WIDTH_64, EntryWidth
from gdb_p2m.mapping import Kind
from gdb_p2m.structures.p2m_tree import Pointer, read_tree
from gdb_p2m.views.leaves import Backing
from gdb_p2m.views.tree import TreeView, tree_view
from support.models import holed, source_of
from support.trees import NAMES, BareTree

both_widths = pytest.mark.parametrize("width", [WIDTH_64, WIDTH_32], ids=lambda w: f"{w.bits}")
SLOT = 5
"""Top slot that the tests damage; the others stay p2m_mid_missing."""


def agreed(view: TreeView, pfn: int) -> tuple[Kind, str]:
    """Kind of a PFN, on which map and trace must agree, and the trace's reason."""
    t = view.trace(pfn)
    run = view.mapping().lookup(pfn)
    assert run is not None and (run.kind, run.frame) == (t.kind, t.frame), t.reason
    return t.kind, t.reason


def only_slot_differs(view: TreeView, slot: int, kind: Kind) -> None:
    """The whole span of one top slot has `kind`, all else is missing."""
    span = view.width.mid_span
    runs = [(r.start, r.end, r.kind) for r in view.mapping()]
    whole = (view.limit, Kind.MISSING)
    assert runs == [
        (0, slot * span, Kind.MISSING),
        (slot * span, (slot + 1) * span, kind),
        ((slot + 1) * span, *whole),
    ]


BAD_POINTERS = {
    "null": (0, "NULL pointer"),
    "misaligned": (0xFFFF_8800_0000_0010, "low 12 bits"),
    "user-address": (0x40_0000, "not a kernel address"),
    "not-canonical": (0xDEAD_8800_0000_0000, "do not map"),
    "unmapped": (0xFFFF_8880_0000_0000, "do not map"),
    "all-ones": (0xFFFF_FFFF_FFFF_FFFF, "low 12 bits"),
}
BAD_POINTERS_32 = {
    "null": (0, "NULL pointer"),
    "misaligned": (0xC000_0010, "low 12 bits"),
    "user-address": (0x40_0000, "not a kernel address"),
    "unmapped": (0xF000_0000, "do not map"),
    "all-ones": (0xFFFF_FFFF, "low 12 bits"),
}
BAD = [(WIDTH_64, n, *v) for n, v in BAD_POINTERS.items()] + [(WIDTH_32, n, *v) for n, v in BAD_POINTERS_32.items()]


@pytest.mark.parametrize(("width", "name", "pointer", "words"), BAD, ids=[f"{b[0].bits}-{b[1]}" for b in BAD])
def test_a_top_slot_that_leads_to_no_page_makes_its_span_corrupt(
    width: EntryWidth, name: str, pointer: int, words: str
) -> None:
    tree = BareTree(width)
    tree.top[SLOT] = pointer
    view = tree_view(tree.guest())
    only_slot_differs(view, SLOT, Kind.CORRUPT)
    kind, reason = agreed(view, SLOT * width.mid_span + 7)
    assert kind is Kind.CORRUPT and words in reason and f"{pointer:#x}" in reason


@pytest.mark.parametrize(("width", "name", "pointer", "words"), BAD, ids=[f"{b[0].bits}-{b[1]}" for b in BAD])
def test_a_mid_slot_that_leads_to_no_page_makes_its_leaf_corrupt(
    width: EntryWidth, name: str, pointer: int, words: str
) -> None:
    tree = BareTree(width)
    tree.mid(SLOT)[3] = pointer
    view = tree_view(tree.guest())
    first = SLOT * width.mid_span + 3 * width.per_page
    run = view.mapping().lookup(first)
    assert run is not None and run.kind is Kind.CORRUPT
    assert view.mapping().totals()[Kind.CORRUPT] == width.per_page
    kind, reason = agreed(view, first + 1)
    assert kind is Kind.CORRUPT and words in reason


@both_widths
def test_a_failed_translation_shows_the_page_tables_up_to_the_failing_entry(width: EntryWidth) -> None:
    tree = BareTree(width)
    page = tree.page(tree.va(0))
    tree.top[SLOT] = tree.va(page)
    t = tree_view(tree.guest(gap=(page,))).trace(SLOT * width.mid_span)
    assert [s.where for s in t.steps][-2:] == ["L2", "L1"] and "not present" in t.steps[-1].meaning
    assert t.kind is Kind.CORRUPT


@both_widths
def test_pointers_back_to_the_upper_levels_are_corrupt_and_end(width: EntryWidth) -> None:
    """Mids that are the top, or lead to themselves, to each other, to the top: pages of pointers are no entries."""
    tree = BareTree(width)
    tree.top[1] = tree.va(tree.at["p2m_top"])
    first, second = tree.mid(2), tree.mid(3)
    first[0], first[1], first[2] = tree.top[2], tree.va(tree.at["p2m_top"]), tree.top[3]
    second[0], second[1] = tree.top[2], tree.va(tree.at["p2m_mid_identity"])
    view = tree_view(tree.guest())
    assert agreed(view, width.mid_span)[0] is Kind.CORRUPT
    at_top = view.trace(width.mid_span).steps[-1]
    assert at_top.where == "top" and "points back to the top" in at_top.meaning
    for slot, leaves in ((2, (0, 1, 2)), (3, (0,))):
        for leaf in leaves:
            kind, reason = agreed(view, slot * width.mid_span + leaf * width.per_page)
            assert kind is Kind.CORRUPT and "middle page" in reason
    assert agreed(view, 2 * width.mid_span + 3 * width.per_page)[0] is Kind.MISSING
    # p2m_mid_identity is no middle page of this tree (no top slot leads there), but a page of pointers all
    # the same: read as entries they have both flag bits set.
    assert agreed(view, 3 * width.mid_span + width.per_page)[0] is Kind.CORRUPT


@both_widths
def test_a_top_slot_that_leads_to_a_leaf_does_not_spoil_that_leaf(width: EntryWidth) -> None:
    tree = BareTree(width)
    leaf = tree.page()
    tree.pages[leaf][:] = np.arange(100, 100 + width.per_page)
    tree.mid(2)[0] = tree.va(leaf)
    tree.top[3] = tree.va(leaf)
    view = tree_view(tree.guest())
    assert view.trace(2 * width.mid_span).frame == 100
    assert agreed(view, 2 * width.mid_span)[0] is Kind.MFN
    assert agreed(view, 3 * width.mid_span)[0] is Kind.CORRUPT
    assert Kind.FOREIGN not in view.mapping().totals()


@both_widths
def test_pages_that_the_dump_lacks_are_unreadable_not_missing(width: EntryWidth) -> None:
    tree = BareTree(width)
    leaf = tree.page(width.invalid)
    mid_slot = 4
    tree.mid(SLOT)[mid_slot] = tree.va(leaf)
    mid_page = len(tree.pages) - 1
    without_leaf = tree_view(tree.guest(without=(leaf,)))
    pfn = SLOT * width.mid_span + mid_slot * width.per_page
    assert agreed(without_leaf, pfn)[0] is Kind.UNREADABLE
    assert without_leaf.mapping().totals()[Kind.UNREADABLE] == width.per_page
    without_mid = tree_view(tree.guest(without=(mid_page,)))
    only_slot_differs(without_mid, SLOT, Kind.UNREADABLE)
    assert agreed(without_mid, pfn)[0] is Kind.UNREADABLE


@both_widths
def test_without_the_top_page_all_is_unreadable(width: EntryWidth) -> None:
    tree = BareTree(width)
    view = tree_view(tree.guest(without=(tree.at["p2m_top"],)))
    assert [(r.start, r.end, r.kind) for r in view.mapping()] == [(0, view.limit, Kind.UNREADABLE)]
    t = view.trace(12345)
    assert t.kind is Kind.UNREADABLE and "top page" in t.reason and t.read_at is not None
    assert view.storage().lines


@both_widths
def test_without_a_page_table_on_the_way_a_slot_is_unreadable_not_corrupt(width: EntryWidth) -> None:
    """A page in another 2 MiB, whose page table is not there: where it lies is unknown, not wrong."""
    tree = BareTree(width)
    while len(tree.pages) < 700:
        tree.page()
    leaf = tree.page(7)
    tree.mid(SLOT)[0] = tree.va(leaf)
    view = tree_view(tree.guest(without_table_of=leaf))
    kind, _reason = agreed(view, SLOT * width.mid_span)
    assert kind is Kind.UNREADABLE


@both_widths
def test_shared_pages_are_known_by_their_pointers_when_they_are_not_in_the_dump(width: EntryWidth) -> None:
    """Their content is not needed: which page a pointer means says it all."""
    tree = BareTree(width)
    tree.top[SLOT] = tree.va(tree.at["p2m_mid_identity"])
    tree.mid(SLOT + 1)[0] = tree.va(tree.at["p2m_identity"])
    gone = tuple(tree.at[n] for n in NAMES if n != "p2m_top")
    view = tree_view(tree.guest(without=gone))
    span = width.mid_span
    expected = {
        0: Kind.MISSING,
        SLOT * span: Kind.IDENTITY,
        (SLOT + 1) * span: Kind.IDENTITY,
        (SLOT + 1) * span + width.per_page: Kind.MISSING,
    }
    for pfn, kind in expected.items():
        assert agreed(view, pfn)[0] is kind
    assert set(view.mapping().totals()) == {Kind.MISSING, Kind.IDENTITY}


@both_widths
def test_slots_of_a_shared_mid_that_were_overwritten_are_corrupt_for_all_who_share_it(width: EntryWidth) -> None:
    """Linux 3.18's alloc_p2m() does not know p2m_mid_identity and writes a leaf into it."""
    tree = BareTree(width)
    leaf = tree.page()
    tree.pages[leaf][:] = np.arange(1000, 1000 + width.per_page)
    tree.pages[tree.at["p2m_mid_identity"]][9] = tree.va(leaf)
    for slot in (SLOT, SLOT + 1, SLOT + 2):
        tree.top[slot] = tree.va(tree.at["p2m_mid_identity"])
    view = tree_view(tree.guest())
    for slot in (SLOT, SLOT + 1, SLOT + 2):
        kind, reason = agreed(view, slot * width.mid_span + 9 * width.per_page)
        assert kind is Kind.CORRUPT and "p2m_mid_identity[9]" in reason
        assert agreed(view, slot * width.mid_span)[0] is Kind.IDENTITY
    assert view.mapping().totals()[Kind.CORRUPT] == 3 * width.per_page
    assert Kind.MFN not in view.mapping().totals()


@both_widths
def test_entries_of_a_shared_leaf_that_were_overwritten_are_corrupt(width: EntryWidth) -> None:
    tree = BareTree(width)
    tree.pages[tree.at["p2m_missing"]][17] = 0x1234
    view = tree_view(tree.guest())
    kind, reason = agreed(view, 3 * width.mid_span + 17)
    assert kind is Kind.CORRUPT and "p2m_missing[17]" in reason
    assert agreed(view, 3 * width.mid_span + 18)[0] is Kind.MISSING
    assert view.mapping().totals()[Kind.CORRUPT] == view.limit // width.per_page


@both_widths
def test_a_wrong_name_for_a_shared_mid_is_not_believed(width: EntryWidth) -> None:
    """p2m_mid_identity that is a page of p2m_missing: the kernel would follow its slots, and so do we."""
    tree = BareTree(width)
    tree.fill("p2m_mid_identity", "p2m_missing")
    tree.top[SLOT] = tree.va(tree.at["p2m_mid_identity"])
    view = tree_view(tree.guest())
    assert agreed(view, SLOT * width.mid_span)[0] is Kind.MISSING
    assert set(view.mapping().totals()) == {Kind.MISSING}


@both_widths
@pytest.mark.parametrize("value", [0, 0x10, 0x40_0000], ids=["null", "misaligned", "user"])
def test_a_shared_page_whose_variable_is_nonsense_names_no_slot(width: EntryWidth, value: int) -> None:
    """NULL slots are not p2m_identity because that variable is NULL too."""
    tree = BareTree(width)
    tree.pages[tree.variables][NAMES.index("p2m_identity")] = value
    tree.mid(SLOT)[2] = value
    view = tree_view(tree.guest())
    assert agreed(view, SLOT * width.mid_span + 2 * width.per_page)[0] is Kind.CORRUPT
    assert Kind.IDENTITY not in view.mapping().totals()


@both_widths
def test_a_private_leaf_in_two_slots_is_read_for_both(width: EntryWidth) -> None:
    """What the kernel would find; that it is wrong is a rule's business (TRE-005)."""
    tree = BareTree(width)
    leaf = tree.page(width.invalid)
    tree.pages[leaf][0] = 77
    mid = tree.mid(SLOT)
    mid[0] = mid[1] = tree.va(leaf)
    view = tree_view(tree.guest())
    base = SLOT * width.mid_span
    assert view.trace(base).frame == view.trace(base + width.per_page).frame == 77
    assert view.mapping().totals()[Kind.MFN] == 2


def test_a_leaf_outside_the_machines_memory_is_unreadable() -> None:
    """The page tables say where it is, and nothing is there."""
    machine = holed("tree-3.16", "64")
    assert machine.shape is not None
    va = int(machine.shape.leaf_va[0:1].view(np.uint64)[0])  # type: ignore[index]
    entry = machine.pte(va)
    machine.memory.write_word(entry.address, (0xFFFFF << 12) | 0x67, 8)
    from gdb_p2m.target import Target

    (guest,) = Target(source_of(machine)).guests
    view = tree_view(guest)
    assert agreed(view, 0)[0] is Kind.UNREADABLE
    assert view.mapping().totals()[Kind.UNREADABLE] == 512


@pytest.mark.thorough
@given(st.data())
@settings(max_examples=60)
def test_no_pointers_at_all_make_map_and_trace_disagree(data: st.DataObject) -> None:
    """Random top and middle pages: bounded, no exception but a P2mError, and one answer for each PFN."""
    width = data.draw(st.sampled_from([WIDTH_64, WIDTH_32]))
    tree = BareTree(width, data.draw(st.sampled_from([NAMES, NAMES[:4], NAMES[:3]])))
    for _ in range(3):
        tree.page(data.draw(st.sampled_from([0, width.invalid, width.foreign_bit | 5, 0x999])))
    good = st.integers(0, len(tree.pages) + 8).map(tree.va)
    pointer = st.one_of(good, good, good, st.integers(0, width.invalid), good.map(lambda p: p + 8))
    slots = st.lists(st.tuples(st.integers(0, width.per_page - 1), pointer), max_size=6)
    shared_leaves = {tree.at[n] for n in ("p2m_missing", "p2m_identity") if n in tree.at}
    spoiled = shared_leaves if data.draw(st.integers(0, 9)) == 0 else set()
    for page in range(1, len(tree.pages)):
        for slot, value in data.draw(slots) if page not in shared_leaves - spoiled else ():
            tree.pages[page][slot] = value
    without = tuple(data.draw(st.sets(st.integers(0, len(tree.pages) - 1), max_size=2)))
    try:
        view = tree_view(tree.guest(without=without))
        mapping = view.mapping()
    except P2mError:
        return
    assert int(mapping.count.sum()) == mapping.limit == view.limit
    view.storage()
    for i in data.draw(st.lists(st.integers(0, len(mapping) - 1), max_size=8)):
        run = mapping.run(i)
        agreed(view, run.start)
        agreed(view, run.end - 1)


def test_the_kind_of_every_bad_pointer_is_kept_for_the_rules() -> None:
    tree = BareTree()
    for slot, (pointer, _) in enumerate(BAD_POINTERS.values()):
        tree.top[slot] = pointer
    found = read_tree(tree.guest())
    assert [Pointer(int(s)) for s in found.top_status[: len(BAD_POINTERS)]] == [
        Pointer.NULL,
        Pointer.MISALIGNED,
        Pointer.NOT_KERNEL,
        Pointer.UNMAPPED,
        Pointer.UNMAPPED,
        Pointer.MISALIGNED,
    ]
    assert (found.row[: len(BAD_POINTERS)] == -1).all() and (found.row[len(BAD_POINTERS) :] >= 0).all()
    view = TreeView(tree.guest())
    backing, frame = view.leaf_slots()
    assert (backing[: 512 * len(BAD_POINTERS)] == Backing.CORRUPT).all()
    assert (frame[: 512 * len(BAD_POINTERS)] == -1).all()
