"""Lies, loops and damage in a RISC-V machine's memory: corrupt, unreadable or an error, never a wrong frame."""

from __future__ import annotations

import time

import pytest

from gdb_p2m.errors import NotFound, NotUnderstood, P2mError
from gdb_p2m.layout import pagetables as pt
from gdb_p2m.mapping import Kind
from gdb_p2m.model.riscv_faults import break_riscv
from gdb_p2m.model.riscv_p2m import Table
from gdb_p2m.model.riscv_xen import member
from gdb_p2m.structures.page_info import FrameTable
from gdb_p2m.views.gstage import GstageView
from support.riscv import Machine, built, model, runs_of

V = pt.RISCV_V


def pointer(mfn: int) -> int:
    """An entry that points to a table."""
    return mfn << pt.RISCV_PPN_SHIFT | V


def agree(view: GstageView) -> None:
    """The trace of both ends of every run gives the run's answer."""
    for run in view.mapping():
        for gfn in {run.start, run.end - 1}:
            t = view.trace(gfn)
            frame = None if run.frame is None else run.frame + gfn - run.start
            assert (t.kind, t.frame) == (run.kind, frame), t


def leaf_tables(machine: Machine) -> list[Table]:
    return [t for t in machine.xen.domains[0].p2m.tables() if t.level == 0]


# -- tables ---------------------------------------------------------------------------------------------


def test_a_root_whose_entries_all_lead_to_the_root_ends_at_once() -> None:
    machine = built("xen-riscv loops\nmode sv57x4\nram 0x80000000+64M\ndomain 1\n")
    p2m = machine.xen.domains[0].p2m
    for i in range(2048):
        p2m.put(p2m.roots[i // 512], i % 512, pointer(p2m.root_mfn + i % 4))
    began = time.monotonic()
    view = machine.view()
    assert runs_of(view.mapping()) == [(0, view.limit, "corrupt", None, 0)]
    assert time.monotonic() - began < 5
    assert "loop" in view.trace(12345).reason


def test_tables_that_share_tables_on_every_level_cost_no_more_than_their_pages() -> None:
    machine = built("xen-riscv shared\nmode sv57x4\nram 0x80000000+64M\ndomain 1\nmap ram_rw 0 1 0x81000 4k\n")
    p2m = machine.xen.domains[0].p2m
    for table in p2m.tables():
        if table.children:
            child = next(iter(table.children.values()))
            for slot in range(512):
                p2m.put(table, slot, pointer(child.mfn))
    began = time.monotonic()
    view = machine.view()
    kinds = view.mapping().totals()
    assert time.monotonic() - began < 5
    assert kinds[Kind.RAM_RW] == 1
    assert sum(kinds.values()) == 512 * (1 << 36) - 511
    agree(view)


def test_what_lies_below_the_second_use_of_a_table_is_corrupt_and_the_first_use_stays() -> None:
    machine = built("xen-riscv twice\ndomain 1\nmap ram_rw 0 512 0x81001 4k\n")
    p2m = machine.xen.domains[0].p2m
    table = next(t for t in p2m.tables() if t.level == 1)
    p2m.put(table, 7, p2m.entry(table, 0))
    view = machine.view()
    assert runs_of(view.mapping()) == [(0, 512, "ram_rw", 0x81001, 0), (7 * 512, 512, "corrupt", None, 0)]
    agree(view)


def test_a_table_outside_ram_is_corrupt_and_not_read() -> None:
    machine = model("riscv-two-domains")
    break_riscv(machine.xen, "table-outside")
    view = machine.view()
    run = view.mapping().lookup(511 << 18)
    assert run is not None and run.kind is Kind.CORRUPT
    assert "outside Xen's RAM" in view.trace(511 << 18).reason
    agree(view)


def test_a_table_that_the_dump_does_not_hold_is_unreadable_and_the_rest_is_there() -> None:
    machine = model("riscv-two-domains")
    table = leaf_tables(machine)[1]
    before = machine.view().mapping()
    holed = Machine(machine.xen, frozenset({table.mfn}))
    view = holed.view()
    after = view.mapping()
    lost = after.lookup(table.gfn)
    assert lost is not None and lost.kind is Kind.UNREADABLE
    rest = [r for r in runs_of(after) if r[2] != "unreadable"]
    assert rest == [r for r in runs_of(before) if not table.gfn <= r[0] < table.gfn + 512]
    agree(view)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("superpage-misaligned", "misaligned"),
        ("reserved-bits", "reserved bits"),
        ("pointer-last-level", "last level"),
        ("pointer-accessed", "pointer to a table"),
    ],
)
def test_entries_that_the_hardware_refuses_are_corrupt_with_the_reason(fault: str, problem: str) -> None:
    machine = model("riscv-two-domains")
    break_riscv(machine.xen, fault)
    view = machine.view()
    corrupt = [r for r in view.mapping() if r.kind is Kind.CORRUPT]
    assert corrupt
    assert problem in view.trace(corrupt[0].start).reason
    agree(view)


def test_a_leaf_above_level_2_is_corrupt() -> None:
    machine = model("riscv-sv48x4")
    break_riscv(machine.xen, "leaf-too-high")
    view = machine.view()
    run = view.mapping().lookup(511 << 27)
    assert run is not None and (run.kind, run.count) == (Kind.CORRUPT, 1)
    assert "L3" in view.trace(511 << 27).reason
    agree(view)


def test_a_frame_number_that_overflows_into_the_reserved_bits_ends_the_run() -> None:
    machine = built("xen-riscv carry\ndomain 1\nmap ram_rw 0 4 0x81000 4k\n")
    p2m = machine.xen.domains[0].p2m
    last = (1 << 44) - 1
    p2m.put(leaf_tables(machine)[0], 0, last << 10 | 0x11F)
    p2m.put(leaf_tables(machine)[0], 1, ((last + 1) << 10 | 0x11F) & ((1 << 64) - 1))
    view = machine.view()
    assert runs_of(view.mapping())[:2] == [(0, 1, "ram_rw", last, 0), (1, 1, "corrupt", None, 0)]
    agree(view)


def test_an_invalid_entry_with_a_frame_number_is_invalid() -> None:
    machine = built("xen-riscv keep\ndomain 1\nmap ram_rw 0 4 0x81000 4k\n")
    p2m = machine.xen.domains[0].p2m
    table = leaf_tables(machine)[0]
    p2m.put(table, 2, p2m.entry(table, 2) & ~V)
    view = machine.view()
    assert runs_of(view.mapping()) == [(0, 2, "ram_rw", 0x81000, 0), (3, 1, "ram_rw", 0x81003, 0)]
    assert view.trace(2).kind is Kind.INVALID


def test_a_valid_entry_without_a_type_is_invalid_and_shows_no_frame() -> None:
    machine = model("riscv-two-domains")
    break_riscv(machine.xen, "valid-invalid")
    run = next(r for r in machine.view().mapping() if r.kind is Kind.INVALID)
    assert (run.frame, run.count, run.order) == (None, 1, 0)
    assert "p2m_invalid" in machine.view().trace(run.start).reason


# -- metadata -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        "metadata-null",
        "metadata-off-element",
        "metadata-outside",
        "metadata-is-table",
        "metadata-shared",
        "type-cleared",
        "type-unknown",
    ],
)
def test_a_type_that_cannot_be_known_is_corrupt_and_no_guess(fault: str) -> None:
    machine = model("riscv-two-domains")
    healthy = machine.truth()
    break_riscv(machine.xen, fault)
    view = machine.view()
    corrupt = [r for r in view.mapping() if r.kind is Kind.CORRUPT]
    assert corrupt
    for run in corrupt:
        assert run.frame is None
        t = view.trace(run.start)
        assert t.reason
        was = next(h for h in healthy if h[0] <= run.start < h[0] + h[1])
        assert was[2].startswith("map_foreign")
    agree(view)


@pytest.mark.parametrize("layout", ["riscv-two-domains", "riscv-v5"])
def test_metadata_or_page_infos_that_are_not_in_the_dump_leave_the_type_unreadable(layout: str) -> None:
    machine = model(layout)
    table = next(t for t in machine.xen.domains[0].p2m.tables() if t.md and t.level == 0)
    for lost in (table.md, machine.xen.info_machine(table.mfn) >> 12):
        view = Machine(machine.xen, frozenset({lost})).view()
        kinds = view.mapping().totals()
        assert kinds[Kind.UNREADABLE] and Kind.CORRUPT not in kinds
        assert kinds[Kind.RAM_RW]
        agree(view)


def test_stale_slots_mean_nothing() -> None:
    machine = model("riscv-two-domains")
    p2m = machine.xen.domains[0].p2m
    before = runs_of(machine.view().mapping())
    for table in p2m.tables():
        if table.md:
            live = set(p2m.live_slots(table))
            for slot in range(512):
                if slot not in live:
                    p2m.set_slot(table, slot, 5)
    assert runs_of(machine.view().mapping()) == before


def test_only_the_bits_of_the_type_count_in_an_md_t_and_all_in_a_pte_t() -> None:
    for name, kind in (("riscv-two-domains", Kind.MAP_FOREIGN_RW), ("riscv-v5", Kind.CORRUPT)):
        machine = model(name)
        p2m = machine.xen.domains[0].p2m
        found = p2m.find(0x90000, 0)
        assert found is not None
        p2m.set_slot(*found, p2m.slot(*found) | 0xAB00)
        run = machine.view().mapping().lookup(0x90000)
        assert run is not None and run.kind is kind


# -- roots and lists --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["root-unaligned", "root-off-element", "mode-level"])
def test_a_root_or_mode_that_cannot_be_is_an_error_that_says_so(fault: str) -> None:
    machine = model("riscv-two-domains")
    break_riscv(machine.xen, fault)
    with pytest.raises(NotUnderstood, match="domain 1"):
        machine.view()
    assert runs_of(machine.view(1).mapping()) == machine.truth(1)


def test_a_domain_without_a_root_is_listed_and_has_no_p2m() -> None:
    machine = model("riscv-two-domains")
    member(machine.xen, machine.xen.domains[1], "root", 0)
    assert machine.domain(1).root_mfn is None
    with pytest.raises(NotFound, match="NULL"):
        machine.view(1)


def test_a_cycle_in_the_domain_list_ends_with_a_problem() -> None:
    machine = model("riscv-two-domains")
    first, second = machine.xen.domains
    at = second.address - machine.xen.direct_base + 152
    machine.xen.memory.write_word(at, first.address)
    found = machine.target.domain_list
    assert [d.id for d in found.domains] == [1, 2]
    assert "cycle" in found.problem


def test_a_domain_list_that_leads_nowhere_keeps_what_was_found() -> None:
    machine = model("riscv-two-domains")
    at = machine.xen.domains[0].address - machine.xen.direct_base + 152
    machine.xen.memory.write_word(at, 0xDEAD_BEE0)
    found = machine.target.domain_list
    assert [d.id for d in found.domains] == [1]
    assert found.broken or found.problem


def test_a_pages_list_without_end_is_a_finding() -> None:
    machine = model("riscv-two-domains")
    break_riscv(machine.xen, "list-cycle")
    assert machine.check()["GST-007"].status == "failed"


# -- the frame table --------------------------------------------------------------------------------------


def test_page_info_and_frame_are_converted_both_ways() -> None:
    machine = model("riscv-two-domains")
    frames = FrameTable(machine.target.xen)
    for mfn in (frames.first, frames.first + 1, frames.end - 1):
        assert frames.mfn(frames.virtual(mfn)) == mfn
        assert frames.virtual(mfn) == machine.xen.info_virtual(mfn)
        assert frames.read(mfn).address == machine.xen.info_machine(mfn)


@pytest.mark.parametrize("change", [1, 8, 47])
def test_a_pointer_that_is_not_on_an_element_is_refused(change: int) -> None:
    frames = FrameTable(model("riscv-two-domains").target.xen)
    with pytest.raises(NotUnderstood, match="not on an element"):
        frames.mfn(frames.virtual(frames.first + 5) + change)


@pytest.mark.parametrize("mfn", [0, -1, 0x7FFFF, 0xA0000, 1 << 40])
def test_a_pointer_outside_the_frame_table_is_refused(mfn: int) -> None:
    frames = FrameTable(model("riscv-two-domains").target.xen)
    with pytest.raises(NotUnderstood, match="outside the frame table"):
        frames.mfn(frames.virtual(mfn))
    with pytest.raises(NotUnderstood, match="no page_info"):
        frames.read(mfn)


def test_words_of_many_page_infos_are_those_of_each() -> None:
    import numpy as np

    machine = model("riscv-two-domains")
    frames = FrameTable(machine.target.xen)
    mfns = np.array([t.mfn for t in machine.xen.domains[0].p2m.tables()] + [frames.first, frames.end, 0])
    values, ok = frames.words(mfns, frames.v_offset)
    assert ok.tolist() == [True] * (len(mfns) - 2) + [False, False]
    for mfn, value in zip(mfns[:-2].tolist(), values.tolist(), strict=False):
        assert value == frames.read(mfn).v


def test_start_page_and_max_page_that_make_no_sense_are_an_error() -> None:
    machine = model("riscv-two-domains")
    machine.xen.variable("max_page", 3)
    with pytest.raises(P2mError, match="start_page, max_page"):
        _ = machine.target.domain_list
