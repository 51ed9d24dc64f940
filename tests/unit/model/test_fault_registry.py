"""The registry of faults: complete, applicable, and each changes what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdb_p2m.errors import UsageError
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.model.faults import FAULTS, Fault, break_machine, fault_by_id
from gdb_p2m.model.machine import Machine
from support.places import FIXTURES

ALL = FAULTS
RULES = [
    *(f"ENT-00{i}" for i in range(1, 7)),
    *(f"TRE-00{i}" for i in range(1, 8)),
    *(f"LIN-00{i}" for i in range(1, 10)),
    *(f"FLL-00{i}" for i in range(1, 7)),
    *(f"M2P-00{i}" for i in range(1, 4)),
    *(f"SIF-00{i}" for i in range(1, 4)),
    *(f"RMP-00{i}" for i in range(1, 7)),
    "DMP-001",
    "DMP-002",
]


def made(fault: Fault, broken: bool) -> Machine:
    path = FIXTURES / "models" / f"{fault.example}.model"
    return build(parse(path.read_text(), path.name), fault if broken else None, fault.stage)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_about_x86_has_a_fault(rule: str) -> None:
    assert any(f.rule == rule for f in ALL)


def test_ids_are_unique() -> None:
    assert len({f.id for f in ALL}) == len(ALL)


def test_faults_stand_in_the_order_of_the_rules() -> None:
    groups = [f.rule[:3] for f in FAULTS if f.rule[:3] in {r[:3] for r in RULES}]
    assert [g for i, g in enumerate(groups) if not i or groups[i - 1] != g] == list(dict.fromkeys(r[:3] for r in RULES))


@pytest.mark.parametrize("fault", ALL, ids=lambda f: f.id)
def test_it_applies_to_its_example_and_changes_the_dump(fault: Fault, tmp_path: Path) -> None:
    if fault.rule.startswith("GST"):
        pytest.skip("RISC-V faults have machines of their own")
    healthy, broken = made(fault, False), made(fault, True)
    assert healthy.broken is None and broken.broken is not None
    assert (broken.broken.fault, broken.broken.rule) == (fault.id, fault.rule) and broken.broken.what
    differs = healthy.pieces() != broken.pieces() or healthy.segments != broken.segments
    assert differs or healthy.note_slack != broken.note_slack
    if broken.broken.address is not None and fault.rule[:3] != "DMP":
        assert any(s <= broken.broken.address < s + len(b) for s, b in broken.pieces().items())


def test_a_fault_of_another_era_is_refused_with_the_reason() -> None:
    path = FIXTURES / "models" / "tree-dom0.model"
    with pytest.raises(UsageError, match=r"list-size-odd cannot be built into tree-dom0: a fault of linear guests"):
        build(parse(path.read_text(), path.name), "list-size-odd")


@pytest.mark.parametrize(
    ("fault", "text", "says"),
    [
        ("mid-page-pmds-differ", "nr_pages 8192", "a fault of 32-bit guests"),
        ("chain-cycle", "nr_pages 8192", "a fault of stage planned, not final"),
        ("zero-slot-past-nr-pages", "nr_pages 8192", "no free slot"),
        ("list-list-despite-4tools", "nr_pages 8192", "has a frame list list"),
        ("start-info-few-p2m-frames", "nr_pages 8192\ninitial_list inside", "inside the initial mapping"),
        ("remapped-otherwise", "nr_pages 8192", "needs a remap chain"),
        ("identity-of-another-pfn", "nr_pages 8192", "no identity entry in a private page"),
        ("owner-nobody", "nr_pages 8192", "no frame_table"),
    ],
)
def test_a_guest_that_lacks_what_it_breaks_is_refused(fault: str, text: str, says: str) -> None:
    d = parse(text, "guest")
    with pytest.raises(UsageError, match=says):
        build(d, fault)


def test_an_unknown_fault_is_an_error_that_lists_them() -> None:
    with pytest.raises(UsageError) as caught:
        fault_by_id("no-such-fault")
    assert "list-size-odd" in (caught.value.hint or "")


def test_break_machine_takes_a_fault_or_its_name() -> None:
    fault = fault_by_id("mfn-zero")
    for given in (fault, "mfn-zero"):
        machine = made(fault, False)
        break_machine(machine, given)
        assert machine.broken is not None and machine.broken.rule == "ENT-005"
