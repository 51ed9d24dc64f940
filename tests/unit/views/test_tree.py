"""The tree view on model guests of every era and both widths."""

from __future__ import annotations

import time

import numpy as np
import pytest

from gdb_p2m.errors import NotFound, NotUnderstood
from gdb_p2m.layout.x86_pv import WIDTH_32, WIDTH_64, EntryWidth
from gdb_p2m.mapping import Kind
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.model.leaves import IDENTITY, MISSING, PRIVATE
from gdb_p2m.model.machine import Machine
from gdb_p2m.views.leaves import Backing
from gdb_p2m.views.list_list import ListListView
from gdb_p2m.views.registry import Views
from gdb_p2m.views.tree import TreeView, tree_view
from support.models import TREE_ERAS, WIDTHS, guest_of, holed, runs
from support.places import FIXTURES
from support.trees import BareTree

EVERY = [(era, width) for era in TREE_ERAS for width in WIDTHS]


@pytest.fixture(scope="module", params=EVERY, ids=lambda p: f"{p[0]}-{p[1]}")
def machine(request: pytest.FixtureRequest) -> Machine:
    return holed(*request.param)


@pytest.fixture(scope="module")
def view(machine: Machine) -> TreeView:
    return tree_view(guest_of(machine))


def test_the_map_is_what_the_model_built(machine: Machine, view: TreeView) -> None:
    assert runs(view.mapping()) == machine.truth().words()
    assert view.limit == machine.width.max_p2m_pfn


def test_every_trace_says_what_the_map_says(machine: Machine, view: TreeView) -> None:
    for start, count, kind, frame in machine.truth().words():
        for pfn in {start, start + count // 2, start + count - 1}:
            t = view.trace(pfn)
            assert t.kind.word == kind, (hex(pfn), t.reason)
            assert t.frame == (None if frame is None else frame + pfn - start)


def test_every_step_of_a_trace_shows_what_memory_holds(machine: Machine, view: TreeView) -> None:
    for start, _count, _kind, _frame in machine.truth().words():
        for step in view.trace(start).steps:
            if step.address is not None:
                assert machine.memory.read_word(step.address, machine.width.bytes) == step.raw


def test_leaf_slots_are_the_pages_that_the_model_placed(machine: Machine, view: TreeView) -> None:
    assert machine.shape is not None
    backing, frame = view.leaf_slots()
    private = machine.shape.leaves.flat == PRIVATE
    assert ((backing == Backing.PRIVATE) == private).all()
    assert (frame[private] == machine.shape.leaf_mfn[private]).all()
    for what, model in ((Backing.MISSING, MISSING), (Backing.IDENTITY, IDENTITY)):
        assert ((backing == what) == (machine.shape.leaves.flat == model)).all()


def test_a_pfn_past_the_tree_is_identity_only_from_3_16_on(machine: Machine, view: TreeView) -> None:
    expected = Kind.IDENTITY if machine.description.era.mid_identity else Kind.MISSING
    for pfn in (view.limit, view.limit + 12345, 1 << 40):
        t = view.trace(pfn)
        assert (t.kind, t.frame, t.read_at) == (expected, None, None)
        assert "MAX_P2M_PFN" in t.steps[-1].meaning


def test_the_map_does_not_stop_at_xen_max_p2m_pfn(view: TreeView) -> None:
    assert view.guest.variable("xen_max_p2m_pfn") < view.limit
    last = view.mapping().run(len(view.mapping()) - 1)
    assert last.end == view.limit


def test_shared_pages_are_counted_by_the_slots_that_lead_to_them(machine: Machine, view: TreeView) -> None:
    assert machine.shape is not None
    leaves, per = machine.shape.leaves, machine.width.per_page
    storage = view.storage()
    shared = {name: (frame, slots) for name, frame, slots in storage.shared}
    private_tops = int(np.count_nonzero(leaves.top == PRIVATE))
    counts = {line.what: line.count for line in storage.lines}
    assert counts["private middle pages"] == private_tops == len(machine.shape.mids)
    assert counts["private leaves"] == int(np.count_nonzero(leaves.flat == PRIVATE))
    for name, kind in (("p2m_mid_missing", MISSING), ("p2m_mid_identity", IDENTITY)):
        if name in machine.shape.shared:
            assert shared[name] == (machine.page(name), int(np.count_nonzero(leaves.top == kind)))
    in_private = leaves.flat.reshape(per, per)[leaves.top == PRIVATE]
    for name, kind, mid in (
        ("p2m_missing", MISSING, "p2m_mid_missing"),
        ("p2m_identity", IDENTITY, "p2m_mid_identity"),
    ):
        if name in shared:
            whole = per if shared.get(mid, (0, 0))[1] else 0
            assert shared[name][1] == int(np.count_nonzero(in_private == kind)) + whole


def test_memory_in_use_is_that_of_distinct_pages(machine: Machine, view: TreeView) -> None:
    assert machine.shape is not None
    shape = machine.shape
    pages = 1 + len(shape.mids) + int(np.count_nonzero(shape.leaves.flat == PRIVATE))
    pages += len({"p2m_missing", "p2m_identity", "p2m_mid_missing", "p2m_mid_identity"} & set(shape.shared))
    assert view.storage().bytes_used == pages << 12
    whole = 1 + machine.width.per_page + machine.width.per_page**2
    assert view.storage().bytes_saved == (whole - pages) << 12


def test_what_compact_identity_saves_is_one_page_less_than_its_slots(machine: Machine, view: TreeView) -> None:
    """"x86/xen: compactly store large identity ranges in the p2m"'s point: before, each GiB of identity needed a middle page of its own."""
    slots = {name: n for name, _, n in view.storage().shared}.get("p2m_mid_identity", 0)
    assert bool(view.storage().notes) == bool(slots)
    if slots:
        assert f"for {slots} times" in view.storage().notes[0]
        assert f": {slots - 1} middle pages" in view.storage().notes[0]


def test_the_frame_lists_show_the_same_frames(machine: Machine) -> None:
    lists = ListListView(guest_of(machine))
    assert runs(lists.mapping()) == machine.list_list_truth().words()


def test_the_tree_is_the_guests_own_view(machine: Machine) -> None:
    assert Views(guest_of(machine)).own().name == "tree"


def test_the_kernels_own_drawing_reads_as_its_comment_says() -> None:
    """The drawing: 0x40500..0x7d0ff is identity, in p2m[1][2][256..511] to p2m[1][488][0..255].

    The comment counts slot 256 of p2m[1][488] too, which is one too many: the range's end is exclusive.
    """
    machine = build(parse((FIXTURES / "models" / "documentation-example.model").read_text(), "example"))
    view = tree_view(guest_of(machine))
    found = {r.start: (r.end, r.kind) for r in view.mapping()}
    assert found[0x40500] == (0x7D100, Kind.IDENTITY)
    ends = {0x404FF: Kind.MISSING, 0x40500: Kind.IDENTITY, 0x7D0FF: Kind.IDENTITY, 0x7D100: Kind.MISSING}
    for pfn, kind in ends.items():
        t = view.trace(pfn)
        assert t.kind is kind and t.read_what == "leaf entry"
        slots = [s.index for s in t.steps[1:]]
        assert slots == [1, pfn // 512 % 512, pfn % 512] and slots[1] in (2, 488)
    assert view.trace(0x7D0FF).steps[-1].index == 255
    middle = view.trace(0x60000)
    assert middle.kind is Kind.IDENTITY and middle.read_what == "mid slot: p2m_identity"


def test_a_page_reached_by_another_virtual_address_is_known_by_its_frame() -> None:
    """p2m_identity lies in the kernel's image and in the direct map: two addresses, one page."""
    machine = holed("tree-3.16", "64")
    assert machine.shape is not None
    page = machine.shape.shared["p2m_identity"]
    alias = machine.kernel.direct_va(page.pfn)
    assert alias != page.va
    mid = machine.shape.mids[0].mfn
    slot = 300
    machine.memory.write_word(machine.word_in(mid, slot), alias, 8)
    t = tree_view(guest_of(machine)).trace(slot * 512 + 5)
    assert t.kind is Kind.IDENTITY
    assert "another virtual address" in t.steps[2].meaning


@pytest.mark.parametrize("width", WIDTHS)
def test_identity_without_a_name_is_not_called_missing(width: str) -> None:
    """A source of names that lacks p2m_identity: the shared all-INVALID leaf cannot be told apart."""
    machine = holed("tree-3.16", width)
    truth = {(s, c): k for s, c, k, _ in machine.truth().words()}
    guest = guest_of(machine)
    guest.names._found |= {"p2m_identity": None, "p2m_mid_identity": None}
    view = tree_view(guest)
    totals = view.mapping().totals()
    assert totals[Kind.MFN] == sum(c for (_, c), k in truth.items() if k == "mfn")
    by_page = view.limit - 1
    t = view.trace(by_page)
    assert t.kind is Kind.CORRUPT and "p2m_identity is not known" in t.reason
    assert view.mapping().lookup(by_page).kind is Kind.CORRUPT  # type: ignore[union-attr]
    # What entries say is not touched: identity by entry stays identity.
    assert view.trace(0x9F).kind is Kind.IDENTITY


def test_a_guest_of_the_linear_era_has_no_tree() -> None:
    with pytest.raises(NotFound, match="p2m_top is not known") as caught:
        tree_view(guest_of(holed("linear", "64")))
    assert caught.value.hint is not None and "linear" in caught.value.hint


def test_a_tree_without_the_name_p2m_missing_is_not_read() -> None:
    guest = guest_of(holed("tree-3.16", "64"))
    guest.names._found["p2m_missing"] = None
    with pytest.raises(NotFound, match="p2m_missing"):
        tree_view(guest)


def test_a_two_level_tree_is_named_and_not_guessed_at() -> None:
    """Before 2.6.37 p2m_top is an array: its symbol is the page itself, and there is no p2m_mid_missing."""
    guest = guest_of(holed("tree-2.6.37", "64"))
    top = guest.names.require("p2m_top")
    guest.names._found["p2m_mid_missing"] = None
    guest.names._found["p2m_top"] = type(top)(top.name, type(top.address)(top.address & ~0xFFF), top.source)
    with pytest.raises(NotFound, match="two-level tree"):
        tree_view(guest)


@pytest.mark.parametrize(
    ("value", "message"),
    [(0, "p2m_top is NULL"), (0xFFFF_8800_0000_1234, "not the address of a page"), (0x1000, "points nowhere")],
)
def test_a_p2m_top_that_leads_to_no_page_is_an_error_that_names_it(value: int, message: str) -> None:
    machine = holed("tree-3.16", "64")
    machine.set_variable("p2m_top", value)
    with pytest.raises(NotUnderstood, match=message):
        tree_view(guest_of(machine))


@pytest.mark.parametrize("width", [WIDTH_64, WIDTH_32], ids=lambda w: f"{w.bits}")
def test_a_tree_of_private_pages_only_costs_its_pointers_not_its_pfns(width: EntryWidth) -> None:
    """Every top slot has a middle page of its own: 262,144 leaf pointers (1,048,576 with 32 bits)."""
    tree = BareTree(width)
    leaf = tree.page(width.invalid)
    tree.pages[leaf][:] = np.arange(width.per_page)
    pointers = np.array([tree.va(leaf), tree.va(tree.at["p2m_identity"])])
    for slot in range(width.per_page):
        tree.mid(slot)[:] = pointers[(slot + np.arange(width.per_page)) % 97 // 96]
    guest = tree.guest()
    started = time.perf_counter()
    view = tree_view(guest)
    backing, frame = view.leaf_slots()
    took = time.perf_counter() - started
    assert set(frame[backing == Backing.PRIVATE].tolist()) == {tree.mfn(leaf)}
    identity = np.add.outer(np.arange(width.per_page), np.arange(width.per_page)) % 97 == 96
    assert ((backing == Backing.IDENTITY) == identity.reshape(-1)).all()
    assert took < 4, "some hundredths of a second are usual"
