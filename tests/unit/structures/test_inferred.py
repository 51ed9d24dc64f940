"""The linear list without any symbol of the kernel: the same map as with names, or none, never another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gdb_p2m.errors import P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Mapping
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.sources.base import Note, Source
from gdb_p2m.sources.probe import open_source
from gdb_p2m.target import Target
from gdb_p2m.views.registry import Views
from support.machine import Healthy, Machine, examine
from support.models import HOLED, source_of
from support.places import FIXTURES, bundled
from support.verbs import run_verb

LINUX = [p for p in bundled() if p.name.startswith("linux")]
MODELS = ["tiny-domu", "domu-131200", "odd-size-domu", "e820-host-domu", "virt-p2m-4tools", "pae-dom0"]


def nameless(source: Source) -> Source:
    """The same memory without a note that names anything; excerpts and models have no kallsyms."""
    source.info.notes = [n for n in source.info.notes if not n.name.startswith("VMCOREINFO")]
    return source


def the_guest(source: Source) -> LinuxGuest:
    return Target(source).guests[0]


def own_map(guest: LinuxGuest) -> Mapping:
    return Views(guest).own().mapping()


def same(a: Mapping, b: Mapping) -> bool:
    arrays = ("start", "count", "kind", "frame")
    return a.limit == b.limit and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays)


def hidden(machine: Machine) -> LinuxGuest:
    return the_guest(nameless(machine.source()))


@pytest.mark.parametrize("path", LINUX, ids=lambda p: p.name.split(".core")[0])
def test_every_bundled_kernel_gives_the_same_map_without_symbols(path: Path) -> None:
    named, bare = the_guest(open_source(str(path))), the_guest(nameless(open_source(str(path))))
    assert not named.inferred
    assert set(bare.inferred) >= {"xen_p2m_addr", "xen_p2m_size", "p2m_missing", "p2m_identity"}
    assert bare.names.symbol("xen_p2m_addr") is None and not bare.names.sources
    assert same(own_map(named), own_map(bare))
    assert bare.variable("xen_p2m_size") == named.variable("xen_p2m_size")
    assert bare.page_of("p2m_identity") == named.page_of("p2m_identity")
    assert bare.page_of("p2m_missing") == named.page_of("p2m_missing")
    assert bare.id == named.id, "start_info is found too"


@pytest.mark.parametrize("name", MODELS)
def test_model_guests_give_the_same_map_without_symbols(name: str) -> None:
    machine = build(parse((FIXTURES / "models" / f"{name}.model").read_text(), name))
    named, bare = the_guest(source_of(machine)), the_guest(nameless(source_of(machine)))
    assert bare.inferred and same(own_map(named), own_map(bare))


def test_with_virt_p2m_4tools_the_list_is_found_by_p2m_cr3_and_p2m_vaddr() -> None:
    """No frame list list: what lies past all memory is identity."""
    machine = build(parse((FIXTURES / "models" / "virt-p2m-4tools.model").read_text(), "v"))
    bare = the_guest(nameless(source_of(machine)))
    assert bare.root.evidence == "shared_info.p2m_cr3"
    assert "past all memory" in bare.inferred["p2m_identity"].evidence
    totals = {k.word: n for k, n in own_map(bare).totals().items()}
    assert totals == {"mfn": 65536, "identity": (1 << 27) - 65536}


def test_without_frame_lists_a_real_dom0_is_still_classified(dom0: Healthy) -> None:
    machine = dom0.machine.copy()
    machine.set_u64(dom0.shared_info("pfn_to_mfn_frame_list_list"), (1 << 64) - 1)
    bare = hidden(machine)
    assert bare.page_of("p2m_identity") == dom0.guest.page_of("p2m_identity")
    assert same(own_map(bare), dom0.views.own().mapping())


def test_a_start_info_that_lies_is_not_needed(dom0: Healthy) -> None:
    machine = dom0.machine.copy()
    machine.set_u64(dom0.start_info("shared_info"), dom0.guest.root.mfn << 12)
    bare = hidden(machine)
    assert "xen_start_info" not in bare.inferred and same(own_map(bare), dom0.views.own().mapping())
    assert "p2m_cr3 is this kernel's page table" in bare.inferred["HYPERVISOR_shared_info"].evidence


def refused(guest: LinuxGuest) -> str:
    """Why nothing was inferred; also that nothing is answered then."""
    assert not guest.inferred
    with pytest.raises(P2mError):
        own_map(guest)
    return next(n for n in guest.names.notes if "could not be inferred" in n)


def test_a_kernel_that_publishes_no_list_is_refused(dom0: Healthy) -> None:
    machine = dom0.machine.copy()
    machine.set_u64(dom0.shared_info("p2m_vaddr"), 0)
    machine.set_u64(dom0.shared_info("p2m_cr3"), 0)
    assert "does not publish its list" in refused(hidden(machine))


@pytest.mark.parametrize("field", ["p2m_vaddr", "p2m_cr3"])
def test_a_pointer_that_leads_elsewhere_is_refused(dom0: Healthy, field: str) -> None:
    machine = dom0.machine.copy()
    machine.set_u64(dom0.shared_info(field), machine.u64(dom0.shared_info(field)) + (1 << 30))
    refused(hidden(machine))


def test_identity_that_is_not_in_the_dump_is_refused_not_called_missing(dom0: Healthy) -> None:
    source = dom0.machine.without(dom0.guest.page_of("p2m_identity"))
    assert "is not in the dump" in refused(the_guest(nameless(source)))


def test_an_overwritten_shared_page_is_refused_not_read_as_entries(dom0: Healthy) -> None:
    machine = dom0.machine.copy()
    machine.write(dom0.page("p2m_identity"), bytes(range(256)) * 16)
    assert "holds entries" in refused(hidden(machine))


def test_a_stray_write_into_a_shared_page_is_corrupt_as_with_names(dom0: Healthy) -> None:
    machine = dom0.machine.copy()
    machine.set_u64(dom0.page("p2m_identity") + 8 * 5, 0x1234)
    named, bare = examine(machine.source()), hidden(machine)
    expected = named.mappings["linear"]
    assert isinstance(expected, Mapping) and same(own_map(bare), expected)
    assert "corrupt" in {k.word for k in own_map(bare).totals()}


def test_a_private_page_of_missing_that_is_mapped_twice_is_not_taken_for_identity(dom0: Healthy) -> None:
    machine = dom0.machine.copy()
    one, two = dom0.table_entry(0x19200, "L1"), dom0.table_entry(0x19400, "L1")
    machine.set_u64(two, machine.u64(one))
    expected = examine(machine.source()).mappings["linear"]
    bare = hidden(machine)
    assert isinstance(expected, Mapping) and same(own_map(bare), expected)
    assert bare.page_of("p2m_identity") == dom0.guest.page_of("p2m_identity")


def test_two_pages_that_could_be_identity_are_not_told_apart(dom0: Healthy) -> None:
    """The list's end is a third shared page, and nothing says what it means."""
    machine = dom0.machine.copy()
    tail = (1 << 27) - 512
    machine.set_u64(dom0.table_entry(tail, "L1"), machine.u64(dom0.table_entry(0x19200, "L1")))
    machine.set_u64(dom0.shared_info("pfn_to_mfn_frame_list_list"), (1 << 64) - 1)
    machine.set_u64(dom0.start_info("nr_pages"), 0x1000000)
    assert "nothing tells which is p2m_identity" in refused(hidden(machine))


def small_list() -> Machine:
    """A guest whose kernel has no room for hotplugged memory: its list is one page table long."""
    text = HOLED.format(era="linear", width="64") + "p2m_limit none\n"
    return Machine.of(source_of(build(parse(text, "small"))))


def test_a_small_list_gives_the_same_map() -> None:
    machine = small_list()
    named, bare = the_guest(machine.source()), hidden(machine)
    assert named.variable("xen_p2m_size") == bare.variable("xen_p2m_size") == (2 << 20) // 8
    assert same(own_map(named), own_map(bare))


def test_where_the_list_could_go_on_its_end_is_not_guessed() -> None:
    """After the list's page table comes another full one, as of a large vmalloc area; or one with a hole."""
    machine = small_list()
    named = the_guest(machine.source())
    l2, l1 = named.space.walk(named.variable("xen_p2m_addr")).steps[-2:]
    other = next(f for f in machine.frames() if f << 12 != l1.table and machine.read(f << 12, 4096) == bytes(4096))
    page = bytearray(machine.read(l1.table, 4096))
    assert all(page[i] & 1 for i in range(0, 4096, 8)), "a list has no hole"
    machine.write(other << 12, page)
    machine.set_u64(l2.address + 8, other << 12 | 0x67)
    assert "could be more of it" in refused(hidden(machine))
    machine.set_u64((other << 12) + 8 * 511, 0)
    assert same(own_map(hidden(machine)), own_map(named))


def with_some_names(machine: Machine, without: tuple[str, ...]) -> Source:
    """The note of names without some, as of a System.map that has exported symbols only."""
    source = machine.source()
    note = next(n for n in source.info.notes if n.name == "VMCOREINFO")
    kept = [line for line in note.desc.split(b"\n") if not any(b"(" + n.encode() + b")" in line for n in without)]
    source.info.notes = [n for n in source.info.notes if n is not note]
    source.info.notes.append(Note(note.name, note.type, b"\n".join(kept)))
    return source


def test_names_that_are_known_are_used_and_only_the_others_inferred(dom0: Healthy) -> None:
    guest = the_guest(with_some_names(dom0.machine, ("p2m_missing", "p2m_identity")))
    assert set(guest.inferred) == {"p2m_missing", "p2m_identity"}
    assert same(own_map(guest), dom0.views.own().mapping())


def test_an_inference_that_does_not_fit_the_names_is_dropped(dom0: Healthy) -> None:
    machine = dom0.machine.copy()
    machine.set_u64(dom0.at("xen_p2m_size"), 0x4000000)
    guest = the_guest(with_some_names(machine, ("p2m_missing", "p2m_identity")))
    assert "shared_info and the list give 0x8000000" in refused(guest)


def test_a_list_that_is_being_changed_is_said(dom0: Healthy) -> None:
    machine = dom0.machine.copy()
    machine.set_u64(dom0.shared_info("p2m_generation"), 7)
    assert "p2m_generation is odd" in hidden(machine).inferred["xen_p2m_addr"].evidence


def test_identity_that_backs_one_page_only_is_not_called_missing() -> None:
    """A list that memory fills to its end, with a single page of identity: nothing tells it from a private page."""
    machine = small_list()
    named = the_guest(machine.source())
    table = named.space.walk(named.variable("xen_p2m_addr")).steps[-1].table
    identity, missing = (named.page_of(n) << 12 for n in ("p2m_identity", "p2m_missing"))
    mapped = [a for a in range(table, table + 4096, 8) if machine.u64(a) & 0xFFFFFFFFFF000 == identity]
    for address in mapped[1:]:
        machine.set_u64(address, machine.u64(address) & ~0xFFFFFFFFFF000 | missing)
    assert "identity" in {k.word for k in own_map(the_guest(machine.source())).totals()}
    assert "nothing tells which is p2m_identity" in refused(hidden(machine))


def test_identity_is_told_from_missing_also_where_the_list_ends_with_missing(dom0: Healthy) -> None:
    machine = dom0.machine.copy()
    last = dom0.table_entry((1 << 27) - 512, "L1")
    machine.set_u64(last, machine.u64(last) & ~0xFFFFFFFFFF000 | dom0.page("p2m_missing"))
    expected = examine(machine.source()).mappings["linear"]
    bare = hidden(machine)
    assert isinstance(expected, Mapping) and same(own_map(bare), expected)
    assert "beside p2m_missing" in bare.inferred["p2m_identity"].evidence


def test_tree_guests_are_left_alone() -> None:
    machine = build(parse(HOLED.format(era="tree-3.18", width="64"), "tree"))
    assert not the_guest(source_of(machine)).inferred
    bare = the_guest(nameless(source_of(machine)))
    assert "could not be inferred" in " ".join(bare.names.notes) and not bare.inferred


def test_rules_never_rest_on_what_was_inferred(dom0: Healthy) -> None:
    examined = examine(nameless(dom0.machine.source()))
    assert examined.failed() == dom0.examined.failed()
    assert {"LIN-001", "LIN-003", "FLL-001", "FLL-003", "FLL-006"} <= examined.unchecked()
    assert examined.results["M2P-001"].status == "passed" and examined.results["LIN-002"].status == "passed"


def test_the_verbs_call_it_an_inference(dom0: Healthy) -> None:
    from gdb_p2m.commands.registry import BY_NAME

    target = Target(nameless(dom0.machine.source()))
    identify = run_verb(target, BY_NAME["identify"], "")
    assert "p2m_identity inferred: machine frame" in identify and "shared_info.p2m_cr3" in identify
    symbols = run_verb(target, BY_NAME["symbols"], "")
    row = next(line for line in symbols.splitlines() if line.startswith("xen_p2m_addr "))
    assert "0xffffc90000000000" in row and "inferred: " in row
    walk = run_verb(target, BY_NAME["walk"], "0xfee00")
    assert any("is inferred from shared_info" in n for n in target.notices)
    assert "= p2m_identity (inferred)" in walk and "inferred, not known by name" in walk
