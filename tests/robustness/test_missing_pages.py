"""A page that the dump does not hold never changes an answer: it makes it "unreadable", or "could not check".

Each page of a real dom0's excerpt is left out in turn; views, rules and verbs are run on the rest.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from gdb_p2m.errors import P2mError
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.rules.base import Result
from support.command_line import run_cli
from support.machine import Examined, Healthy, covers_without_gaps, examine, same_or_unreadable, walk_agrees_with_map
from support.verbs import run_every_verb

SAMPLED = {"linux-6.1-400M": 80, "linux-6.12-odd-5G": 16}
"""Pages beside the deciding ones that the quick suite leaves out in turn."""


def table_frames(healthy: Healthy) -> set[int]:
    """Frames that decide much: page tables of the list, the shared pages, the frame lists, variables, tables above."""
    guest = healthy.guest
    view = healthy.views.get("linear")
    frames = {int(f) for f in np.unique(view.pages.pte_table) if f >= 0}  # type: ignore[attr-defined]
    base = guest.variable("xen_p2m_addr")
    for address in (base, guest.names.require("xen_p2m_addr").address, guest.variable("xen_start_info")):
        frames |= {s.table >> 12 for s in guest.space.walk(address).steps}
    for name in ("p2m_missing", "p2m_identity", "p2m_missing_pte", "p2m_identity_pte", "p2m_top_mfn", "p2m_top_mfn_p"):
        frames |= {guest.page_of(name), healthy.at(name) >> 12}
    for name in ("p2m_mid_missing_mfn", "HYPERVISOR_shared_info", "xen_start_info"):
        frames |= {guest.page_of(name), healthy.at(name) >> 12}
    lists = healthy.views.get("list-list").lists  # type: ignore[attr-defined]
    return frames | {int(f) for f in np.unique(lists.top)} | {guest.root.mfn}


def sampled_frames(healthy: Healthy) -> list[int]:
    """The deciding frames, and every n-th of the rest: the same ones in every run."""
    every = healthy.machine.frames()
    important = table_frames(healthy) & set(every)
    rest = [f for f in every if f not in important]
    return sorted(important | set(rest[:: max(1, len(rest) // SAMPLED[healthy.truth.name])]))


def rule_problem(before: Result, after: Result) -> str | None:
    """What is wrong with a rule's result on memory that lacks a page, None when nothing is."""
    if (after.status, after.findings, after.total) == (before.status, before.findings, before.total):
        if after.reason == before.reason and after.checked < before.checked:
            return f"{after.status} after looking at {after.checked:,} of {before.checked:,}, without a word"
        return None
    if after.status == "could_not_check":
        return None if after.reason else "could not check, but does not say why"
    if after.status == "failed" and before.status == "failed" and after.total <= before.total:
        return None if after.reason else "fewer findings, without a word"
    what = "; ".join(f.message for f in after.findings[:1])
    return f"{before.status} became {after.status}: {what or after.reason or 'no reason'}"


def problems_of(before: Examined, after: Examined) -> list[str]:
    """Everything that the missing page changed but must not have."""
    if after.error is not None:
        return [] if after.error.hint else [f"the error has no hint: {after.error}"]
    found = []
    for rule, result in before.results.items():
        if problem := rule_problem(result, after.results[rule]):
            found.append(f"{rule}: {problem}")
    for name, healthy in before.mappings.items():
        mapping = after.mappings[name]
        if isinstance(mapping, Mapping) and isinstance(healthy, Mapping):
            found += [f"view {name}: PFN {pfn:#x}: {what}" for pfn, what in same_or_unreadable(healthy, mapping)[:3]]
            covers_without_gaps(mapping)
    return found


def boundaries(mapping: Mapping, at_most: int = 40) -> list[int]:
    """First and last PFN of some runs, all those that cannot be read among them."""
    step = max(1, len(mapping) // at_most)
    runs = {*range(0, len(mapping), step), *np.flatnonzero(mapping.kind == Kind.UNREADABLE)[:at_most].tolist()}
    return sorted({p for i in runs for p in (int(mapping.start[i]), int(mapping.start[i] + mapping.count[i]) - 1)})


def examine_without(healthy: Healthy, *mfns: int) -> tuple[Examined, list[str]]:
    """What the rest of the memory gives, and what is wrong with that."""
    after = examine(healthy.machine.without(*mfns))
    found = problems_of(healthy.examined, after)
    for name in ("linear", "list-list"):
        mapping = after.mappings.get(name)
        if isinstance(mapping, Mapping):
            walk_agrees_with_map(after, boundaries(mapping), name)
    return after, found


@pytest.mark.thorough
def test_no_single_missing_page_changes_an_answer(either: Healthy) -> None:
    problems = {}
    for mfn in sampled_frames(either):
        _after, found = examine_without(either, mfn)
        if found:
            problems[hex(mfn)] = found
    assert not problems


@pytest.mark.slow
def test_no_missing_page_of_all_changes_an_answer(dom0: Healthy) -> None:
    problems = {}
    for mfn in dom0.machine.frames():
        _after, found = examine_without(dom0, mfn)
        if found:
            problems[hex(mfn)] = found
    assert not problems


@pytest.mark.parametrize("share", [0.02, 0.2, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_many_missing_pages_change_no_answer(dom0: Healthy, share: float, seed: int) -> None:
    chance = random.Random(f"{seed} {share}")
    # Roots stay, or nearly every draw would end at "no guest found".
    keep = table_frames(dom0) if seed % 2 else set()
    lost = [m for m in dom0.machine.frames() if m not in keep and chance.random() < share]
    _after, found = examine_without(dom0, *lost)
    assert not found


def test_a_missing_page_is_noticed_by_the_rules_that_need_it(dom0: Healthy) -> None:
    """Each kind of page, and the rules that must say that they could not look."""
    guest, machine = dom0.guest, dom0.machine
    private = dom0.entry(0x200) >> 12
    pte_table = dom0.table_entry(0x200, "L1") >> 12
    cases = {
        "a private page of the list": (private, {"ENT-001", "ENT-002", "ENT-003", "ENT-005", "M2P-001", "DMP-002"}),
        "a page table of the list": (pte_table, {"LIN-002", "LIN-005", "LIN-006", "FLL-004", "ENT-002", "M2P-001"}),
        "p2m_missing": (guest.page_of("p2m_missing"), {"LIN-003"}),
        "p2m_identity": (guest.page_of("p2m_identity"), {"LIN-003"}),
        "p2m_missing_pte": (guest.page_of("p2m_missing_pte"), {"LIN-004"}),
        "p2m_identity_pte": (guest.page_of("p2m_identity_pte"), {"LIN-004", "LIN-002", "LIN-005"}),
        "p2m_top_mfn": (guest.page_of("p2m_top_mfn"), {"FLL-002", "FLL-004"}),
        "p2m_top_mfn_p": (guest.page_of("p2m_top_mfn_p"), {"FLL-002"}),
        "p2m_mid_missing_mfn": (guest.page_of("p2m_mid_missing_mfn"), {"FLL-003", "FLL-004"}),
        "start_info": (guest.page_of("xen_start_info"), {"SIF-001", "SIF-002", "SIF-003", "FLL-001", "ENT-004"}),
        "shared_info": (guest.page_of("HYPERVISOR_shared_info"), {"FLL-001", "FLL-005", "FLL-006", "SIF-001"}),
        "the M2P of PFN 0x200": (
            dom0.m2p_entry(dom0.views.own().trace(0x200).frame or 0) >> 12,
            {"M2P-001", "M2P-003"},
        ),
        "xen_p2m_addr": (dom0.at("xen_p2m_addr") >> 12, {"LIN-001", "ENT-001", "FLL-004", "M2P-001"}),
    }
    for what, (mfn, needed) in cases.items():
        after = examine(machine.without(mfn))
        assert after.error is None, what
        lacking = needed - after.unchecked()
        assert not lacking, f"without {what}: {[(i, after.results[i]) for i in sorted(lacking)]}"
        assert not after.failed() - dom0.examined.failed(), what


@pytest.mark.thorough
def test_pages_of_the_excerpt_matter(dom0: Healthy) -> None:
    """The excerpt holds no page for nothing: of a sample, leaving any out changes what rules or views say."""
    idle = []
    for mfn in dom0.machine.frames()[::25]:
        after = examine(dom0.machine.without(mfn))
        if after.error is None and after.results == dom0.examined.results:
            idle.append(hex(mfn))
    assert len(idle) <= 1, idle


@pytest.mark.parametrize(
    "which", ["a private page", "a page table", "p2m_missing", "start_info", "shared_info", "M2P", "xen_p2m_addr"]
)
def test_every_verb_answers_or_explains_without_a_page(dom0: Healthy, which: str) -> None:
    guest = dom0.guest
    lost = {
        "a private page": lambda: dom0.entry(0x200) >> 12,
        "a page table": lambda: dom0.table_entry(0x200, "L1") >> 12,
        "p2m_missing": lambda: guest.page_of("p2m_missing"),
        "start_info": lambda: guest.page_of("xen_start_info"),
        "shared_info": lambda: guest.page_of("HYPERVISOR_shared_info"),
        "M2P": lambda: dom0.m2p_entry(0x30100) >> 12,
        "xen_p2m_addr": lambda: dom0.at("xen_p2m_addr") >> 12,
    }[which]()
    for command, ended in run_every_verb(dom0.machine.without(lost)).items():
        if isinstance(ended, P2mError):
            assert str(ended).count("\n") <= 2, command
            assert "machine address" in ended.message or "not in the dump" in ended.message, (command, ended.message)
        else:
            assert ended, command


def test_the_command_line_says_which_page_is_missing(dom0: Healthy, tmp_path_factory: pytest.TempPathFactory) -> None:
    from support.elf_files import write_machine

    path = tmp_path_factory.mktemp("lacking") / "lacking.core"
    lost = dom0.entry(0x200)
    write_machine(path, dom0.machine, without={lost >> 12})
    ran = run_cli("lookup", path, "0x200")
    assert ran.code == 0 and "unreadable" in ran.out and f"{lost:#x}" in ran.out
    totals = run_cli("map", path, "--fold").out
    assert "unreadable" in totals
    checked = run_cli("check", path)
    assert checked.code == 0 and "COULD NOT CHECK" in checked.out
