"""Every verb's JSON is what its schema says (tests/schemas), on real memory, healthy and broken, of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from gdb_p2m.commands.registry import all_verbs
from gdb_p2m.errors import P2mError
from support.command_line import run_cli
from support.faults import FAULTS
from support.machine import Healthy
from support.places import BOTH, FIXTURES, SCHEMAS, SHARED_REAL
from support.verbs import command_lines, run_every_verb

OTHER_DOCUMENTS = {"model-faults"}


def validate(text: str) -> dict:  # type: ignore[type-arg]
    """The document, after it was compared with the schema that it names. Duplicate keys and floats are refused."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len({k for k, _ in pairs}) == len(pairs), "a key occurs twice"
        return dict(pairs)

    def no_float(text: str) -> float:
        raise AssertionError(f"{text} is no JSON integer")

    document = json.loads(text, object_pairs_hook=unique, parse_float=no_float, parse_constant=no_float)
    family, name, version = document["schema"].split("/")
    assert (family, version) == ("gdb-p2m", "1")
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    errors = sorted(Draft202012Validator(schema).iter_errors(document), key=lambda e: list(e.absolute_path))
    assert not errors, "; ".join(f"{list(e.absolute_path)}: {e.message[:200]}" for e in errors[:5])
    return document  # type: ignore[no-any-return]


def test_every_verb_has_a_schema_and_every_schema_a_verb() -> None:
    names = {p.stem for p in SCHEMAS.glob("*.json")}
    verbs = {v.name for v in all_verbs() if "json" in v.formats}
    assert names - OTHER_DOCUMENTS == verbs


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda p: p.stem)
def test_schemas_are_schemas(path: Path) -> None:
    schema = json.loads(path.read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"] == {"const": f"gdb-p2m/{path.stem}/1"}
    assert schema["title"]


def test_all_verbs_on_a_healthy_dom0(either: Healthy) -> None:
    for command, text in run_every_verb(either.source, "json").items():
        assert not isinstance(text, P2mError), f"{command}: {text}"
        document = validate(text)
        assert command.startswith(document["schema"].split("/")[1])


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.rule in ("ENT-006", "LIN-002", "FLL-001", "SIF-001")][::2])
def test_all_verbs_on_broken_memory(dom0: Healthy, fault) -> None:  # type: ignore[no-untyped-def]
    machine = dom0.machine.copy()
    fault.apply(dom0, machine)
    for text in run_every_verb(machine.source(), "json").values():
        if not isinstance(text, P2mError):
            validate(text)


def test_all_verbs_with_pages_missing(dom0: Healthy) -> None:
    lost = (dom0.entry(0x200) >> 12, dom0.m2p_entry(0x30100) >> 12, dom0.guest.page_of("xen_start_info"))
    documents = [
        validate(t) for t in run_every_verb(dom0.machine.without(*lost), "json").values() if isinstance(t, str)
    ]
    assert any(d["schema"] == "gdb-p2m/check/1" and d["summary"]["could_not_check"] for d in documents)


def test_the_rules_and_the_faults_of_the_model() -> None:
    validate(run_cli("rules", "--json").out)
    validate(run_cli("rules", "LIN-004", "FLL", "--json").out)
    validate(run_cli("model", "--faults", "--json").out)


def test_two_dumps_compared() -> None:
    validate(run_cli("diff", BOTH[0].path, BOTH[1].path, "--json").out)
    riscv = [FIXTURES / f"xen-riscv-sv{n}x4.core.zst" for n in (39, 48)]
    assert validate(run_cli("diff", *riscv, "--json").out)["runs"]


def test_verbs_that_write_files(dom0_core: Path, tmp_path: Path) -> None:
    document = validate(run_cli("excerpt", dom0_core, tmp_path / "out.core", "--json").out)
    assert document["pages"] > 900 and document["bytes"] == (tmp_path / "out.core").stat().st_size
    validate(run_cli("export", dom0_core, "--elf", tmp_path / "o.elf", "--csv", tmp_path / "o.csv", "--json").out)
    model = FIXTURES / "models" / "tiny-domu.model"
    validate(run_cli("model", model, "-o", tmp_path / "tiny.core", "--json").out)


@pytest.mark.parametrize("name", ["linux-3.16-tree", "linux-3.18-tree", "xen-riscv-sv39"])
def test_all_verbs_on_other_machines(name: str) -> None:
    path = SHARED_REAL / f"{name}.core.zst"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the checkout (../shared/real)")
    for verb, arguments in command_lines():
        ran = run_cli(verb.name, path, *arguments.split(), "--json")
        if ran.code in (0, 1):
            validate(ran.out)
        else:
            assert ran.out == "" and ran.err.startswith("gdb-p2m: ")


# -- what schemas cannot say ----------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["linear", "list-list"])
def test_runs_of_a_map_cover_everything_once_and_are_maximal(either: Healthy, view: str) -> None:
    document = run_cli("map", either.truth.path, "--view", view, "--json").json
    runs = document["runs"]
    assert runs[0]["start"] == 0 and runs[-1]["start"] + runs[-1]["count"] == document["limit"] == 1 << 27
    for a, b in zip(runs, runs[1:], strict=False):
        assert a["start"] + a["count"] == b["start"]
        continues = a["kind"] == b["kind"] and a.get("frame", 0) + a["count"] == b.get("frame", a["count"])
        assert not continues, (a, b)


@pytest.mark.parametrize("truth", BOTH, ids=lambda t: t.name)
def test_the_map_is_the_known_truth(truth) -> None:  # type: ignore[no-untyped-def]
    runs = run_cli("map", truth.path, "--json").json["runs"]
    totals: dict[str, int] = {}
    joined: list[list[object]] = []
    for r in runs:
        totals[r["kind"]] = totals.get(r["kind"], 0) + r["count"]
        if joined and joined[-1][2] == r["kind"]:
            joined[-1][1] = r["start"] + r["count"] - 1
        else:
            joined.append([r["start"], r["start"] + r["count"] - 1, r["kind"]])
    assert totals == truth.totals
    assert tuple(tuple(j) for j in joined) == truth.runs


def test_the_list_list_cannot_tell_identity_by_page_from_missing(dom0: Healthy) -> None:
    """By design: shared identity pages read as INVALID there; everything else agrees."""
    runs = run_cli("map", dom0.truth.path, "--view", "list-list", "--json").json["runs"]
    totals: dict[str, int] = {}
    for r in runs:
        totals[r["kind"]] = totals.get(r["kind"], 0) + r["count"]
    assert totals["mfn"] == 102_400
    assert totals["identity"] == 97 + 0x40000 - 0x3FFE0
    assert totals["missing"] == (1 << 27) - 102_400 - totals["identity"]


def test_the_summary_adds_up(dom0: Healthy) -> None:
    for machine in (dom0.machine, broken(dom0)):
        document = json.loads(run_every_verb(machine.source(), "json")["check "])  # type: ignore[arg-type]
        summary, rules, findings = document["summary"], document["rules"], document["findings"]
        for status in ("passed", "failed", "not_applicable", "could_not_check"):
            assert summary[status] == sum(r["status"] == status for r in rules)
        assert sum(summary[k] for k in ("errors", "warnings", "notes")) == sum(r.get("findings", 0) for r in rules)
        assert {f["rule"] for f in findings} == {r["id"] for r in rules if r["status"] == "failed"}


def broken(h: Healthy):  # type: ignore[no-untyped-def]
    machine = h.machine.copy()
    machine.set_u64(h.entry(0x200), 0)
    return machine


def test_ranges_and_kinds_cut_the_same_map(dom0: Healthy) -> None:
    whole = run_cli("map", dom0.truth.path, "--json").json["runs"]
    window = run_cli("map", dom0.truth.path, "--range", "0x90..0x10f", "--json").json["runs"]
    assert [(r["start"], r["count"], r["kind"]) for r in window] == [
        (0x90, 0xF, "mfn"),
        (0x9F, 0x61, "identity"),
        (0x100, 0x10, "mfn"),
    ]
    assert window[0]["frame"] == whole[0]["frame"] + 0x90
    assert run_cli("map", dom0.truth.path, "--range", "0x90+0x80", "--json").json["runs"] == window
    only = run_cli("map", dom0.truth.path, "--kind", "missing", "--kind", "identity", "--json").json["runs"]
    assert only == [r for r in whole if r["kind"] in ("missing", "identity")]
