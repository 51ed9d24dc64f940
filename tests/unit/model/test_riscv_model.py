"""Descriptions of Xen on RISC-V: the verb `model`, mappings kept as a formula, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gdb_p2m.model.riscv import parse_riscv
from gdb_p2m.model.riscv_faults import RISCV_FAULTS, RiscvFault
from gdb_p2m.model.riscv_p2m import BULK_TABLES
from support.command_line import run_cli
from support.places import FIXTURES
from support.riscv import built, runs_of

MODELS = FIXTURES / "models"
COUNT = (BULK_TABLES + 3) * 512 + 100
LARGE = f"""xen-riscv large
mode sv39x4
ram 0x80000000+64M
domain 1
map mmio_direct_io 0x200 {COUNT} 0x40000000 4k
map map_foreign_ro 0x100000 5 0x81000
"""


def test_a_large_mapping_reads_back_to_the_last_leaf_and_breaks_no_rule() -> None:
    machine = built(parse_riscv(LARGE))
    view = machine.view()
    assert runs_of(view.mapping()) == machine.truth()
    assert machine.truth()[0] == (0x200, COUNT, "mmio_direct_io", 0x40000000, 0)
    for gfn in (0x1FF, 0x200, 0x200 + BULK_TABLES * 512 - 1, 0x200 + COUNT - 1, 0x200 + COUNT):
        run, trace = view.mapping().lookup(gfn), view.trace(gfn)
        assert (run.frame if run else None) == trace.frame
    assert all(v.status != "failed" for v in machine.check().values())


@pytest.mark.parametrize("change", ["map ram_rw 0x400 1 0x81000", "unmap 0x400 1"])
def test_a_large_mapping_cannot_be_changed_and_the_message_says_where(tmp_path: Path, change: str) -> None:
    path = tmp_path / "large.model"
    path.write_text(LARGE + change + "\n")
    ran = run_cli("model", path, "-o", tmp_path / "large.core")
    assert ran.code == 3 and "0x400" in ran.err and "large.model" in ran.err


@pytest.mark.parametrize("name", ["riscv-two-domains", "riscv-v5", "riscv-sv48x4", "riscv-sv57x4"])
def test_the_verb_builds_what_the_other_verbs_read(tmp_path: Path, name: str) -> None:
    out = tmp_path / "machine.core"
    said = json.loads(run_cli("model", MODELS / f"{name}.model", "-o", out, "--json").out)
    assert said["fault"] is None
    ran = run_cli("check", out)
    assert ran.code == 0 and "0 errors" in ran.out


@pytest.mark.parametrize("fault", RISCV_FAULTS, ids=lambda f: f.id)
def test_each_fault_can_be_built_into_the_model_that_it_names(tmp_path: Path, fault: RiscvFault) -> None:
    out = tmp_path / "broken.core"
    ran = run_cli("model", MODELS / f"{fault.example}.model", "-o", out, "--fault", fault.id)
    assert ran.code == 0 and fault.rule in ran.out
    assert fault.rule in run_cli("check", out).out.split("\nrule ")[0], "the rule's finding comes first"


def test_a_stage_and_an_unknown_fault_are_refused(tmp_path: Path) -> None:
    model = MODELS / "riscv-v5.model"
    assert run_cli("model", model, "-o", tmp_path / "a", "--stage", "initial").code == 2
    ran = run_cli("model", model, "-o", tmp_path / "a", "--fault", "LIN-004")
    assert ran.code == 2 and "LIN-004" in ran.err and "table-loop" in ran.err
    assert not (tmp_path / "a").exists()
