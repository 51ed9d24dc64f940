"""The era is what is there: names, and memory where names leave it open; never the release."""

from __future__ import annotations

import pytest

from gdb_p2m.guest import LinuxGuest
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.model.machine import Machine
from gdb_p2m.structures.era import (
    LINEAR,
    TREE,
    TREE_IDENTITY,
    TREE_MID_IDENTITY,
    TREE_TWO_LEVELS,
    UNKNOWN,
    era_of,
)
from gdb_p2m.structures.p2m_tree import read_tree
from gdb_p2m.symbols.base import Symbol
from gdb_p2m.symbols.vmcoreinfo import VmcoreInfo
from gdb_p2m.units import VirtualAddress
from support.models import WIDTHS, guest_of, holed
from support.places import FIXTURES

NAMES = {
    "linear": LINEAR,
    "tree-2.6.37": TREE,
    "tree-2.6.39": TREE_IDENTITY,
    "tree-3.16": TREE_MID_IDENTITY,
    "tree-3.18": TREE_MID_IDENTITY,
}


def rename(guest: LinuxGuest, **names: int | None) -> LinuxGuest:
    """Let names have other addresses, or none."""
    for name, address in names.items():
        known = None if address is None else Symbol(name, VirtualAddress(address), "test")
        guest.names._found[name] = known
    return guest


@pytest.fixture
def machine() -> Machine:
    return holed("tree-3.16", "64")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("model", NAMES)
def test_every_era_is_known_by_its_names_without_conflict(model: str, width: str) -> None:
    era = era_of(guest_of(holed(model, width)))
    assert era.name == NAMES[model] and not era.conflicts and not era.notes
    assert era.is_tree == model.startswith("tree") and era.evidence


def test_no_names_no_era(machine: Machine) -> None:
    guest = rename(guest_of(machine), p2m_top=None)
    assert era_of(guest).name == UNKNOWN and not era_of(guest).is_tree


def test_a_pfn_past_the_end_is_identity_from_3_16_on() -> None:
    assert [era_of(guest_of(holed(m, "64"))).identity_past_end for m in NAMES] == [True, False, False, True, True]


def test_both_roots_named_is_a_conflict_that_memory_settles(machine: Machine) -> None:
    """xen_p2m_addr of another kernel's symbols: what it points at is no page."""
    top = machine.symbols["p2m_top"]
    guest = rename(guest_of(machine), xen_p2m_addr=machine.symbols["xen_max_p2m_pfn"])
    era = era_of(guest)
    assert era.name == TREE_MID_IDENTITY
    assert any("both xen_p2m_addr" in c and "p2m_top leads to a mapped page" in c for c in era.conflicts)
    guest = rename(guest_of(holed("linear", "64")), p2m_top=holed("linear", "64").symbols["xen_p2m_size"])
    era = era_of(guest)
    assert era.name == LINEAR and "p2m_top leads nowhere" in era.conflicts[0]
    assert top


def test_p2m_mid_identity_that_is_not_that_page_is_a_conflict(machine: Machine) -> None:
    machine.memory.write_word(machine.word_in(machine.page("p2m_mid_identity"), 3), 0x1234, 8)
    era = era_of(guest_of(machine))
    assert era.name == TREE_MID_IDENTITY
    assert len(era.conflicts) == 1 and "1 of 512 slots" in era.conflicts[0]


def test_p2m_mid_identity_that_leads_nowhere_is_a_conflict_not_an_error(machine: Machine) -> None:
    machine.set_variable("p2m_mid_identity", 0x1000)
    era = era_of(guest_of(machine))
    assert era.name == TREE_MID_IDENTITY and "cannot be compared" in era.conflicts[0]


def test_the_brk_name_is_not_the_page() -> None:
    """Before 3.16 RESERVE_BRK(p2m_mid_identity, ...) leaves a symbol .brk.p2m_mid_identity."""
    guest = rename(guest_of(holed("tree-2.6.39", "64")), **{".brk.p2m_mid_identity": 0xFFFF_FFFF_8140_0000})
    era = era_of(guest)
    assert era.name == TREE_IDENTITY and not era.conflicts
    assert any("reserved brk" in n for n in era.notes)


@pytest.mark.parametrize("width", WIDTHS)
def test_memory_shows_p2m_mid_identity_when_its_name_is_not_known(width: str) -> None:
    machine = holed("tree-3.18", width)
    guest = rename(guest_of(machine), p2m_mid_identity=None)
    era = era_of(guest)
    assert era.name == TREE_MID_IDENTITY
    assert any(f"{machine.page('p2m_mid_identity'):#x}" in e for e in era.evidence)


def test_memory_shows_none_before_3_16() -> None:
    """2.6.39 fills a private middle page with p2m_identity for each GiB: none of them is shared."""
    machine = build(parse((FIXTURES / "models" / "tree-2.6.39-dom0.model").read_text(), "dom0"))
    guest = guest_of(machine)
    tree = read_tree(guest)
    assert (tree.frame == machine.page("p2m_identity")).all(axis=1).any()
    assert era_of(guest).name == TREE_IDENTITY


def test_two_levels_are_told_from_three_by_the_array(machine: Machine) -> None:
    page = machine.symbols["p2m_top"] & ~0xFFF
    guest = rename(guest_of(machine), p2m_mid_missing=None, p2m_top=page)
    assert era_of(guest).name == TREE_TWO_LEVELS
    guest = rename(guest_of(machine), p2m_mid_missing=None)
    assert era_of(guest).name == TREE_MID_IDENTITY and "p2m_mid_missing" in era_of(guest).notes[0]


@pytest.mark.parametrize(
    ("model", "release", "noted"),
    [
        ("tree-3.16", "3.16.0-4-amd64", False),
        ("tree-3.16", "3.18.20", False),
        ("tree-3.16", "3.10.0-327.el7.x86_64", True),
        ("tree-2.6.39", "3.0.101", False),
        ("tree-2.6.39", "2.6.39", False),
        ("tree-2.6.37", "2.6.38.8", False),
        ("tree-2.6.37", "2.6.32-71.el6", True),
        ("linear", "3.19.0", False),
        ("linear", "6.1.0-56-amd64", False),
        ("linear", "3.18.0", True),
        ("linear", "not a release", False),
    ],
)
def test_a_release_that_contradicts_is_a_note_and_decides_nothing(model: str, release: str, noted: bool) -> None:
    guest = guest_of(holed(model, "64"))
    guest.names.sources.insert(0, VmcoreInfo.parse(f"OSRELEASE={release}\n"))
    era = era_of(guest)
    assert era.name == NAMES[model] and not era.conflicts
    assert any(release in n for n in era.notes) == noted
