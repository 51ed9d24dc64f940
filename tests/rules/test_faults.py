"""Every rule fails on a real dom0 that was broken for it, names the place, and keeps quiet otherwise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gdb_p2m.errors import P2mError
from gdb_p2m.model.riscv_faults import RISCV_FAULTS
from gdb_p2m.rules.base import Result
from gdb_p2m.rules.catalogue import BY_ID, CATALOGUE
from support.faults import FAULTS, Fault
from support.machine import Examined, examine, healthy, walk_agrees_with_map
from support.places import ROOT

ELSEWHERE = {
    "TRE": "tests/rules/test_model_faults.py",
    "GST": "tests/unit/riscv",
    "PRE": "tests/unit/prediction",
    "RMP": "tests/rules/test_model_faults.py",
    "LIN-007": "tests/rules/test_model_faults.py",
    "SIF-002": "tests/rules/test_model_faults.py",
    "M2P-002": "tests/real/test_frame_owners.py",
}
"""Rules of machines that the bundled x86 dom0s cannot be made into: where their faults are."""


def broken(fault: Fault) -> tuple[Examined, dict[str, int]]:
    """The broken memory, examined; and where the finding must be."""
    whole = healthy(fault.truth)
    machine = whole.machine.copy()
    where = fault.apply(whole, machine)
    return examine(machine.source()), where or {}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_the_fault_fails_its_rule_and_only_those_that_have_a_point(fault: Fault) -> None:
    examined, where = broken(fault)
    assert examined.error is None, examined.error
    before = healthy(fault.truth).examined
    failing = {i: r for i, r in examined.results.items() if r.status == "failed"}
    changed = {i for i, r in failing.items() if r.findings != before.results[i].findings}
    assert fault.rule in changed, examined.results[fault.rule]
    assert changed == {fault.rule, *fault.also}
    assert examined.unchecked() == fault.also_unchecked | before.unchecked()
    result = examined.results[fault.rule]
    assert result.status == "failed" and result.total >= 1
    places = [f.where for f in result.findings]
    assert any(where.items() <= place.items() for place in places), f"{where} in none of {places[:3]}"
    findings_are_clear(result)
    walk_and_map_agree(examined, where)


def findings_are_clear(result: Result) -> None:
    """What was expected, what was found, in one line, with a place."""
    for finding in result.findings:
        assert finding.message and finding.expected and finding.found
        assert finding.expected != finding.found
        assert len(finding.message) < 400 and "\n" not in finding.message
        assert finding.where, "a finding names a place: a PFN, an address, a value"


def walk_and_map_agree(examined: Examined, where: dict[str, int]) -> None:
    """The two ways of reading say the same on broken memory, too."""
    mapping = examined.mappings["linear"]
    if isinstance(mapping, P2mError):
        assert examined.results["LIN-001"].status == "failed"
        return
    interesting = {0, 0xA0, 0x9F, 0x200, 0x300, 0x400, 0x7000000, where.get("pfn", 0), mapping.limit - 1}
    edges = {int(s) for s in mapping.start[:: max(1, len(mapping) // 60)]}
    walk_agrees_with_map(examined, sorted(interesting | edges))


def test_no_rule_of_the_catalogue_lacks_a_fault() -> None:
    made = {f.rule for f in (*FAULTS, *RISCV_FAULTS)}
    lacking = []
    for rule in CATALOGUE:
        if rule.id not in made:
            place = ELSEWHERE.get(rule.id) or ELSEWHERE.get(rule.id.split("-")[0])
            if place is None or not names_rule(ROOT / place, rule.id):
                lacking.append(rule.id)
    assert not lacking
    assert made <= BY_ID.keys()


def names_rule(place: Path, rule: str) -> bool:
    """Whether a test file, or one of a folder, speaks of the rule."""
    files = [place] if place.is_file() else sorted(place.glob("test_*.py"))
    return any(f'"{rule}"' in f.read_text() for f in files)


def test_rule_ids_are_unique_and_in_order() -> None:
    ids = [r.id for r in CATALOGUE]
    assert len(set(ids)) == len(ids)
    for group in {i.split("-")[0] for i in ids}:
        numbers = [int(i.split("-")[1]) for i in ids if i.startswith(group + "-")]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("rule", CATALOGUE, ids=lambda r: r.id)
def test_rules_explain_themselves(rule) -> None:  # type: ignore[no-untyped-def]
    assert re.fullmatch(r"[A-Z0-9]{3}-\d{3}", rule.id)
    assert rule.severity in ("error", "warning", "note")
    assert (rule.title and rule.title[0].lower() == rule.title[0]) or rule.title[0].isupper()
    assert len(rule.text) > 40 and rule.text.endswith(".")
    assert rule.source and rule.eras
