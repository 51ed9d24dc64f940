"""`check --against`: on real memory, in every format, on excerpts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.sources.base import Note
from gdb_p2m.sources.elf_writer import write_elf
from support.command_line import run_cli
from support.e820 import with_e820
from support.places import FIXTURES, SHARED_REAL

DOM0 = FIXTURES / "linux-6.1-dom0-400M.core.zst"
LAB = FIXTURES / "models" / "lab-dom0.model"


def test_a_real_dom0_is_what_the_model_of_its_machine_says() -> None:
    ran = run_cli("check", DOM0, "--against", LAB, "--json")
    assert ran.code == 0
    prediction = ran.json["prediction"]
    assert prediction["agree"] == prediction["compared"] == 1 << 27
    assert prediction["differences"] == [] and prediction["storage"]["differences"] == []
    assert prediction["moved_pages"] == 97, "as the console of such a machine says: Remapped 97 page(s)"
    rules = {r["id"]: r for r in ran.json["rules"]}
    assert rules["PRE-001"] == {"id": "PRE-001", "status": "passed", "checked": 1 << 27}
    assert rules["PRE-002"]["status"] == "passed"


@pytest.mark.parametrize(
    ("excerpt", "model"), [("linux-3.16-tree", "tree-dom0"), ("linux-3.18-tree", "tree-3.18-hole-dom0")]
)
def test_real_trees_are_what_the_model_says(excerpt: str, model: str) -> None:
    path = SHARED_REAL / f"{excerpt}.core.zst"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    ran = run_cli("check", path, "PRE", "--against", FIXTURES / "models" / f"{model}.model", "--json")
    prediction = ran.json["prediction"]
    assert prediction["agree"] == prediction["compared"] == 1 << 27
    assert prediction["storage"]["agree"] == prediction["storage"]["compared"] == 1 << 18


@pytest.fixture
def smaller(tmp_path: Path) -> Path:
    path = tmp_path / "smaller.model"
    path.write_text(LAB.read_text().replace("dom0_mem     400M", "dom0_mem     390M"))
    return path


def test_differences_are_notes_in_text_json_sarif_and_junit(smaller: Path) -> None:
    text = run_cli("check", DOM0, "LIN-001", "--against", smaller)
    assert text.code == 0, "notes are no errors"
    assert "NOTE PRE-001" in text.out and "this domain began with 102,400 pages, not with 99,840" in text.out
    assert "LIN-001" in text.out and "LIN-002" not in text.out
    assert "99,840 pages, era linear, stage final" in text.out
    document = run_cli("check", DOM0, "PRE", "--against", smaller, "--json").json
    assert [r["id"] for r in document["rules"]] == ["PRE-001", "PRE-002"]
    assert document["prediction"]["differences"] == [
        {
            "start": 0x18661,
            "count": 2560,
            "expected": "missing",
            "found": "mfn",
            "explained": "this domain began with 102,400 pages, not with 99,840",
        }
    ]
    assert document["summary"]["notes"] == 2560 and document["summary"]["errors"] == 0
    sarif = json.loads(run_cli("check", DOM0, "PRE", "--against", smaller, "--format", "sarif").out)
    (found,) = sarif["runs"][0]["results"]
    assert found["ruleId"] == "PRE-001" and found["level"] == "note"
    assert "PRE-001" in run_cli("check", DOM0, "PRE", "--against", smaller, "--format", "junit").out


def test_without_the_option_there_is_no_section_and_the_rules_do_not_apply() -> None:
    document = run_cli("check", DOM0, "--json").json
    assert "prediction" not in document
    assert {r["status"] for r in document["rules"] if r["id"].startswith("PRE")} == {"not_applicable"}


@pytest.mark.parametrize("word", ["e820", "dump"])
def test_a_dump_without_the_map_could_not_be_checked_and_says_why(word: str, tmp_path: Path) -> None:
    machine = build(parse((FIXTURES / "models" / "tiny-domu.model").read_text(), "tiny"))
    dump = tmp_path / "tiny.core"
    machine.write_elf(dump)
    ran = run_cli("check", dump, "--against", word, "--json")
    assert "e820_table_firmware is not known" in ran.json["prediction"]["reason"]
    rules = {r["id"]: r for r in ran.json["rules"]}
    assert rules["PRE-001"]["status"] == rules["PRE-002"]["status"] == "could_not_check"
    assert rules["LIN-001"]["status"] == "passed"
    assert "could not be made" in run_cli("check", dump, "PRE", "--against", word).out


def test_an_excerpt_gives_the_same_answer_as_the_dump(tmp_path: Path) -> None:
    text = (FIXTURES / "models" / "lab-dom0.model").read_text() + "\nballooned 0x8000+0x123\n"
    machine = build(parse(text, "ballooned"))
    source = with_e820(machine, balloon=machine.description.nr_pages - 0x123)
    frames = [a >> 12 for e in source.extents() for a in range(e.start, e.end, 4096)]
    dump, small = tmp_path / "whole.core", tmp_path / "small.core"
    notes = [*(Note(n.name, n.type, n.desc) for n in machine.cpu_notes()), *source.info.notes]
    with open(dump, "wb") as file:
        write_elf(file, source, frames, notes)
    assert run_cli("excerpt", dump, small).code == 0
    assert small.stat().st_size < dump.stat().st_size
    answers = [run_cli("check", path, "--against", "e820", "--json").json for path in (dump, small)]
    assert answers[0]["prediction"]["differences"][0]["explained"].endswith("counts the same: 291 pages out")
    assert answers[0] == answers[1]


def test_a_description_that_cannot_be_read_ends_the_verb(tmp_path: Path) -> None:
    missing = run_cli("check", DOM0, "--against", tmp_path / "nothing.model")
    assert missing.code == 3 and "nothing.model: cannot be read: No such file" in missing.err
    bad = tmp_path / "bad.model"
    bad.write_text("era linear\nnr_pages many\n")
    ran = run_cli("check", DOM0, "--against", bad)
    assert ran.code == 3 and "bad.model:2: nr_pages" in ran.err and ran.out == ""


def test_riscv_has_no_memory_map_to_predict_from() -> None:
    path = SHARED_REAL / "xen-riscv-sv39.core.zst"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    ran = run_cli("check", path, "--against", "e820")
    assert ran.code == 2 and "RISC-V" in ran.err


def test_the_rules_explain_themselves_without_a_dump() -> None:
    ran = run_cli("rules", "PRE")
    assert "PRE-001 (note)" in ran.out and "PRE-002 (note)" in ran.out
