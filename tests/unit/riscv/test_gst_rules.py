"""The GST rules: silent on healthy machines, and each fails on its faults, alone as far as that is possible."""

from __future__ import annotations

import re

import pytest

from gdb_p2m.errors import UsageError
from gdb_p2m.model.riscv_faults import RISCV_FAULTS, RiscvFault, break_riscv
from gdb_p2m.rules.gst import GST_RULES
from gdb_p2m.sources.base import CpuState
from support.riscv import Machine, built, model

MODELS = ("riscv-two-domains", "riscv-v5", "riscv-sv48x4", "riscv-sv57x4")
NOTES = {r.id for r in GST_RULES if r.severity == "note"}


def broken(fault: RiscvFault) -> Machine:
    """The first model that the fault applies to, with it."""
    for name in MODELS:
        machine = model(name)
        try:
            break_riscv(machine.xen, fault)
        except UsageError:
            continue
        return machine
    raise AssertionError(f"no model suits fault {fault.id}")


@pytest.mark.parametrize("name", MODELS)
def test_a_healthy_machine_has_no_error_and_every_rule_could_look(name: str) -> None:
    machine = model(name)
    for index in range(len(machine.xen.domains)):
        for rule, result in machine.check(index).items():
            assert result.status != "could_not_check", (rule, result.reason)
            assert result.status != "failed" or rule in NOTES, (rule, result.findings)


def test_every_rule_looks_at_something_on_the_main_model() -> None:
    results = model("riscv-two-domains").check()
    assert {r for r, v in results.items() if not v.checked} == set()


@pytest.mark.parametrize("fault", RISCV_FAULTS, ids=lambda f: f.id)
def test_a_fault_is_found_by_its_rule_and_by_none_that_it_does_not_concern(fault: RiscvFault) -> None:
    results = broken(fault).check()
    failed = {rule for rule, v in results.items() if v.status == "failed"}
    assert fault.rule in failed
    assert failed - NOTES <= {fault.rule, *fault.also}
    others = {rule for rule, v in results.items() if v.status == "could_not_check"}
    if fault.unusable:
        assert others, "without its root nothing else can be looked at, and nothing else may pass"
    else:
        assert not others


@pytest.mark.parametrize("fault", RISCV_FAULTS, ids=lambda f: f.id)
def test_a_finding_says_where_what_was_expected_and_what_was_found(fault: RiscvFault) -> None:
    result = broken(fault).check()[fault.rule]
    for finding in result.findings:
        assert finding.expected and finding.found and finding.message
        assert all(isinstance(v, int) for v in finding.where.values())


def test_every_rule_has_a_fault() -> None:
    assert {f.rule for f in RISCV_FAULTS} == {r.id for r in GST_RULES}


def test_rules_explain_themselves_and_name_their_source() -> None:
    for rule in GST_RULES:
        assert re.fullmatch(r"GST-\d{3}", rule.id)
        assert len(rule.text) > 120 and rule.source and rule.kinds == ("riscv",)


def test_stale_slots_and_counts_are_notes_that_say_they_are_normal() -> None:
    results = model("riscv-two-domains").check()
    assert results["GST-008"].rule.severity == results["GST-010"].rule.severity == "note"
    assert all("normal" in f.message for f in results["GST-008"].findings)


def test_a_count_is_not_compared_where_the_era_does_not_count() -> None:
    result = model("riscv-v5").check()["GST-008"]
    assert (result.status, result.checked) == ("not_applicable", 0)


def test_hgatp_of_a_cpu_that_runs_the_domain_must_have_its_mode() -> None:
    machine = model("riscv-two-domains")
    domain = machine.domain()
    assert domain.hgatp is not None
    cpus = machine.target.source.info.cpus
    cpus.append(CpuState(0, {"hgatp": domain.hgatp | 7 << 44}))
    assert machine.check()["GST-001"].status == "passed"
    cpus[:] = [CpuState(0, {"hgatp": (domain.hgatp & (1 << 60) - 1) | 9 << 60})]
    result = machine.check()["GST-001"]
    assert result.status == "failed"
    assert "mode 9" in result.findings[0].message


def test_hgatp_that_names_no_root_is_reported_once() -> None:
    machine = model("riscv-two-domains")
    machine.target.source.info.cpus.append(CpuState(3, {"hgatp": 8 << 60 | 0x1234}))
    assert machine.check(0)["GST-001"].status == "failed"
    assert machine.check(1)["GST-001"].status == "passed"


def test_hgatp_zero_is_a_cpu_without_a_guest() -> None:
    machine = model("riscv-two-domains")
    machine.target.source.info.cpus.append(CpuState(0, {"hgatp": 0}))
    assert machine.check()["GST-001"].status == "passed"


def test_a_table_that_is_not_in_the_dump_is_could_not_check_and_not_passed() -> None:
    machine = model("riscv-two-domains")
    table = next(t for t in machine.xen.domains[0].p2m.tables() if t.level == 0)
    holed = Machine(machine.xen, frozenset({table.mfn}))
    results = holed.check()
    for rule in ("GST-002", "GST-003", "GST-004", "GST-005", "GST-007", "GST-008", "GST-009", "GST-010"):
        assert results[rule].status in ("could_not_check", "failed"), rule
        assert results[rule].reason, rule


def test_a_frame_table_that_is_not_in_the_dump_leaves_the_entries_checked() -> None:
    machine = model("riscv-two-domains")
    frames = frozenset(machine.xen.info_machine(t.mfn) >> 12 for t in machine.xen.domains[0].p2m.tables())
    results = Machine(machine.xen, frames).check()
    assert results["GST-002"].status == "passed"
    for rule in ("GST-004", "GST-006", "GST-007"):
        assert results[rule].status == "could_not_check", rule


def test_a_split_with_neighbours_of_other_types_is_no_finding() -> None:
    machine = built(
        "xen-riscv n\ndomain 1\nmap map_foreign_rw 0x200 0x200 0x90200\n"
        "map map_foreign_ro 0x240 1 0x90240\nmap ram_rw 0x250 4 0x90250 4k\n"
    )
    result = machine.check()["GST-012"]
    assert (result.status, result.checked) == ("passed", 507)
