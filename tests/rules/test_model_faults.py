"""Faults that the model builds in, for rules about machines that the bundled dom0s cannot be made into.

Trees, 32-bit guests, boot stages and remap chains; `-m slow` adds all other faults of the model.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from gdb_p2m.model.build import build
from gdb_p2m.model.description import Stage, parse
from gdb_p2m.model.fault import Fault
from gdb_p2m.model.faults import FAULTS
from gdb_p2m.model.machine import Machine
from gdb_p2m.rules.base import Result, RuleContext, run_rule
from gdb_p2m.rules.catalogue import BY_ID
from gdb_p2m.sources.probe import open_source
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.structures.remap import read_chain
from gdb_p2m.target import Target
from gdb_p2m.views.registry import Views
from support.faults import FAULTS as REAL_FAULTS
from support.machine import Examined, Lacking, examine
from support.places import FIXTURES

REAL = {f.rule for f in REAL_FAULTS}
ONLY_MODEL = [f for f in FAULTS if f.rule not in REAL and f.rule != "RMP-006"]
OTHERS = [f for f in FAULTS if f.rule in REAL]
MUST_BE_HERE = (
    "TRE-001", "TRE-002", "TRE-003", "TRE-004", "TRE-005", "TRE-006", "TRE-007", "LIN-007",
    "SIF-002", "RMP-001", "RMP-002", "RMP-003", "RMP-004", "RMP-005", "RMP-006",
)  # fmt: skip


def made(example: str, stage: Stage, fault: Fault | None = None) -> Machine:
    """The model machine of a bundled description."""
    path = FIXTURES / "models" / f"{example}.model"
    return build(parse(path.read_text(), path.name), fault, stage)


def examine_machine(machine: Machine, path: Path) -> Examined:
    """Through a file, as a user would."""
    machine.write_elf(str(path))
    return examine(open_source(str(path)))


@cache
def healthy_failures(example: str, stage: Stage, folder: Path) -> frozenset[str]:
    """Rules that fail on the healthy machine: only notes may."""
    found = examine_machine(made(example, stage), folder / f"{example}-{stage}.core").failed()
    assert {BY_ID[i].severity for i in found} <= {"note"}, found
    return frozenset(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def check_fault(fault: Fault, folder: Path) -> None:
    machine = made(fault.example, fault.stage, fault)
    path = folder / "broken.core"
    examined = examine_machine(machine, path)
    path.unlink()
    assert examined.error is None, examined.error
    result = examined.results[fault.rule]
    assert result.status == "failed", (result.status, result.reason)
    others = examined.failed() - healthy_failures(fault.example, fault.stage, folder) - {fault.rule}
    notes = {i for i in others if BY_ID[i].severity == "note"}
    assert others - notes <= set(fault.also), others
    assert not examined.unchecked() - {"RMP-006"}
    broken = machine.broken
    assert broken is not None
    # Rules about pairs may name the other one of the pair.
    if broken.pfn is not None and "pfn" in result.findings[0].where and fault.rule not in ("TRE-005", "RMP-004"):
        spans = [(f.where["pfn"], f.where.get("count", 1)) for f in result.findings if "pfn" in f.where]
        assert any(a <= broken.pfn < a + n for a, n in spans), (broken, spans[:3])


@pytest.mark.parametrize("fault", ONLY_MODEL, ids=lambda f: f"{f.rule} {f.id}")
def test_the_fault_fails_its_rule(fault: Fault, folder: Path) -> None:
    check_fault(fault, folder)


@pytest.mark.slow
@pytest.mark.parametrize("fault", OTHERS, ids=lambda f: f"{f.rule} {f.id}")
def test_the_models_other_faults_fail_their_rules(fault: Fault, folder: Path) -> None:
    check_fault(fault, folder)


def test_every_rule_that_needs_the_model_is_here() -> None:
    assert {f.rule for f in ONLY_MODEL} | {"RMP-006"} >= set(MUST_BE_HERE)


def carried_out(machine: Machine, chain: Path, folder: Path) -> Result:
    """RMP-006 on a machine, against a chain recorded before."""
    path = folder / "later.core"
    machine.write_elf(str(path))
    target = Target(open_source(str(path)))
    guest = target.domain()
    context = RuleContext(target, guest, Views(guest), M2p(guest), str(chain))  # type: ignore[arg-type]
    return run_rule(BY_ID["RMP-006"], context)


def test_remap_is_compared_with_the_chain_that_was_recorded(folder: Path) -> None:
    from support.command_line import run_cli

    before = folder / "planned.core"
    made("lab-dom0", "planned").write_elf(str(before))
    guest = Target(open_source(str(before))).domain()
    assert read_chain(guest).pages > 0  # type: ignore[arg-type]
    chain = folder / "chain.json"
    saved = run_cli("remap", before, "--save", chain)
    assert saved.code == 0, saved.err

    good = carried_out(made("lab-dom0", "final"), chain, folder)
    assert (good.status, good.reason) == ("passed", "")
    assert good.checked == read_chain(guest).pages  # type: ignore[arg-type]

    fault = next(f for f in FAULTS if f.rule == "RMP-006")
    bad = carried_out(made(fault.example, fault.stage, fault), chain, folder)
    assert bad.status == "failed" and "MFN" in bad.findings[0].message


def test_a_record_that_the_dump_lacks_is_not_a_broken_chain(folder: Path) -> None:
    path = folder / "lacking.core"
    made("lab-dom0", "planned").write_elf(str(path))
    source = open_source(str(path))
    guest = Target(source).domain()
    first = read_chain(guest).chunks[0].mfn  # type: ignore[arg-type]
    results = examine(Lacking(source, {first})).results
    for rule in ("RMP-001", "RMP-002", "RMP-003", "RMP-004", "RMP-005"):
        assert results[rule].status == "could_not_check", rule
        assert f"{first << 12:#x}" in results[rule].reason
