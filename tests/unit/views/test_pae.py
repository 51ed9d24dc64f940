"""32-bit PAE guests: 4-byte entries, 1024 a page, two page tables below a middle page's span."""

from __future__ import annotations

import numpy as np
import pytest

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.layout.pagetables import I386_PAE
from gdb_p2m.layout.x86_pv import WIDTH_32
from gdb_p2m.mapping import Kind
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.model.machine import Machine
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.structures.xen_pages import shared_info, start_info, unfold_cr3
from gdb_p2m.views.leaves import Backing
from gdb_p2m.views.linear import LinearView, linear_view
from gdb_p2m.views.list_list import ListListView
from gdb_p2m.views.tree import tree_view
from support.models import TREE_ERAS, guest_of, holed, runs
from support.places import FIXTURES

PER_PAGE = 1024


@pytest.fixture(scope="module")
def linear() -> Machine:
    return holed("linear", "pae")


@pytest.fixture(scope="module")
def view(linear: Machine) -> LinearView:
    return linear_view(guest_of(linear))


def test_the_width_is_that_of_the_root_not_of_the_dumps_header(linear: Machine) -> None:
    """QEMU writes EM_X86_64 for a 64-bit machine, whatever its guests are."""
    guest = guest_of(linear)
    assert guest.source.info.machine == "x86-64"
    assert guest.width is WIDTH_32 and guest.space.shape is I386_PAE and guest.space.word == 4


def test_the_linear_list_is_what_the_model_built(linear: Machine, view: LinearView) -> None:
    assert runs(view.mapping()) == linear.truth().words()
    assert view.limit == 1 << 30
    for start, count, kind, frame in linear.truth().words():
        for pfn in (start, start + count - 1):
            t = view.trace(pfn)
            assert (t.kind.word, t.frame) == (kind, None if frame is None else frame + pfn - start)


def test_a_list_page_holds_1024_entries_of_4_bytes(linear: Machine, view: LinearView) -> None:
    t = view.trace(PER_PAGE + 5)
    entry = t.steps[-1]
    assert entry.index == 5 and entry.address is not None
    raw = int.from_bytes(view.guest.source.read(entry.address, 4), "little")
    assert entry.raw == raw == t.frame
    assert view.base + (PER_PAGE + 5) * 4 >> 12 == (view.base >> 12) + 1


def test_both_page_tables_below_a_middle_page_are_counted(view: LinearView) -> None:
    """PMDS_PER_MID_PAGE = 2: 1024 list pages are 4 MiB of list."""
    assert len(view.pages.pmds.status) * 512 >= len(view.backing)
    assert len(view.backing) == view.size // PER_PAGE
    assert len(view.pages.pmds.status) % WIDTH_32.pmds_per_mid_page == 0


def test_the_shared_page_of_a_pae_list_is_identity_by_page(view: LinearView) -> None:
    backing, _frame = view.leaf_slots()
    by_page = np.flatnonzero(backing == Backing.IDENTITY)
    assert len(by_page)
    t = view.trace(int(by_page[0]) * PER_PAGE)
    assert t.kind is Kind.IDENTITY and "p2m_identity" in t.read_what


def test_the_frame_lists_have_4_byte_slots(linear: Machine) -> None:
    lists = ListListView(guest_of(linear))
    assert runs(lists.mapping()) == linear.list_list_truth().words()
    assert len(lists.lists.top) == PER_PAGE


@pytest.mark.parametrize("era", [*TREE_ERAS, "linear"])
def test_the_m2p_agrees_with_every_frame_of_the_map(era: str) -> None:
    machine = holed(era, "pae")
    guest = guest_of(machine)
    mapping = (linear_view if era == "linear" else tree_view)(guest).mapping()
    table = M2p(guest)
    checked = 0
    for run in mapping:
        if run.kind is Kind.MFN:
            assert run.frame is not None
            pfns, ok = table.lookup(np.arange(run.frame, run.frame + run.count))
            assert ok.all() and (pfns == np.arange(run.start, run.end, dtype=np.uint64)).all()
            checked += run.count
    assert checked > 0x3000


def test_without_its_name_the_m2p_is_where_xen_maps_large_pages(linear: Machine) -> None:
    """Xen moves the compat table up as far as the machine allows; 0xf5800000 is only the lowest start."""
    guest = guest_of(linear)
    base = M2p(guest).base
    guest.names._found["machine_to_phys_mapping"] = None
    found = M2p(guest)
    assert found.base == base and "large pages" in found.base_source
    assert found.entry(linear.frames.mfn(0x1234)).pfn == 0x1234


def test_start_info_and_shared_info_have_32_bit_fields(linear: Machine) -> None:
    guest = guest_of(linear)
    assert start_info(guest).text("magic").startswith("xen-3.0-x86_32")
    assert start_info(guest).number("nr_pages") == linear.description.nr_pages
    info = shared_info(guest)
    assert info.number("pfn_to_mfn_frame_list_list") == linear.page("p2m_top_mfn")
    assert info.number("p2m_vaddr") == guest.variable("xen_p2m_addr")
    assert unfold_cr3(info.number("p2m_cr3"), 32) == linear.tables.root


def test_pointers_of_a_pae_tree_are_words_of_4_bytes() -> None:
    view = tree_view(guest_of(holed("tree-3.18", "pae")))
    pfn = 0x1FFFFF
    t = view.trace(pfn)
    top, mid = t.steps[1], t.steps[2]
    assert (top.index, mid.index) == (pfn >> 20, pfn >> 10 & 1023)
    assert top.raw is not None and 0xC000_0000 <= top.raw < 1 << 32
    assert top.address == view.tree.top_at + 4 * (pfn >> 20)


@pytest.mark.parametrize("name", ["pae-dom0", "pae-tree-domu"])
def test_the_example_guests_read_as_built(name: str) -> None:
    machine = build(parse((FIXTURES / "models" / f"{name}.model").read_text(), name))
    guest = guest_of(machine)
    view = (linear_view if machine.description.era.linear else tree_view)(guest)
    assert runs(view.mapping()) == machine.truth().words()
    assert guest.id == (0 if machine.description.initdomain else None)


def test_a_list_that_wraps_past_4_gib_is_refused_not_read_around() -> None:
    """xen_p2m_addr near the end of 32 bits with a size that does not fit."""
    machine = holed("linear", "pae")
    machine.set_variable("xen_p2m_addr", 0xFFFF_F000)
    with pytest.raises(NotUnderstood, match="cannot be that large"):
        linear_view(guest_of(machine))
