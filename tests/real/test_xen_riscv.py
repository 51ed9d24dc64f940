"""Real memory of Xen on RISC-V: the decoded maps equal what Xen's own p2m_get_entry() said on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdb_p2m.sources.probe import open_source
from gdb_p2m.target import Target
from gdb_p2m.views.gstage import GstageView
from support.command_line import run_cli
from support.places import ROOT
from support.riscv import SHARED_REAL, Run, runs_of, truth_csv

FIXTURES = ROOT / "fixtures"
OWN = ("xen-riscv-sv39x4", "xen-riscv-sv48x4", "xen-riscv-sv57x4")
SHARED = "xen-riscv-sv39"


@pytest.fixture(scope="module", params=[*OWN, SHARED])
def real(request: pytest.FixtureRequest) -> tuple[Path, dict[int, list[Run]]]:
    """(excerpt, truth) of each real machine."""
    folder = FIXTURES if request.param in OWN else SHARED_REAL
    path = folder / f"{request.param}.core.zst"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path, truth_csv(folder / f"{request.param}.runs.csv")


def test_both_domains_have_exactly_the_runs_that_xen_saw(real: tuple[Path, dict[int, list[Run]]]) -> None:
    path, truth = real
    target = Target(open_source(str(path)))
    found = {d.id: runs_of(GstageView(d).mapping()) for d in target.domain_list.domains}
    assert found == truth
    assert not target.domain_list.problem and not target.domain_list.broken


def test_a_trace_of_both_ends_of_every_run_gives_the_same_answer(real: tuple[Path, dict[int, list[Run]]]) -> None:
    path, truth = real
    target = Target(open_source(str(path)))
    for domain in target.domain_list.domains:
        view = GstageView(domain)
        for start, count, kind, frame, order in truth[domain.id]:
            for gfn in {start, start + count - 1}:
                t = view.trace(gfn)
                assert frame is not None
                assert (t.kind.word, t.frame, t.order) == (kind, frame + gfn - start, order)
                assert t.read_at is not None


def test_the_frames_beside_every_run_are_not_taken_for_mapped(real: tuple[Path, dict[int, list[Run]]]) -> None:
    path, truth = real
    target = Target(open_source(str(path)))
    for domain in target.domain_list.domains:
        view = GstageView(domain)
        mapped = truth[domain.id]
        for start, count, *_ in mapped:
            for gfn in (start - 1, start + count):
                if 0 <= gfn < view.limit and not any(s <= gfn < s + c for s, c, *_ in mapped):
                    t = view.trace(gfn)
                    assert (t.kind.word, t.frame) == ("invalid", None)


def test_no_rule_finds_an_error_or_cannot_look(real: tuple[Path, dict[int, list[Run]]]) -> None:
    path, truth = real
    for domain in truth:
        ran = run_cli("check", path, "--domain", str(domain), "--json")
        assert ran.code == 0
        summary = ran.json["summary"]
        assert (summary["errors"], summary["warnings"], summary["could_not_check"]) == (0, 0, 0)
        looked = {r["id"] for r in ran.json["rules"] if r["checked"]}
        assert {"GST-001", "GST-002", "GST-005", "GST-007", "GST-009", "GST-013"} <= looked


def test_leftovers_of_real_xen_are_there_and_only_notes(real: tuple[Path, dict[int, list[Run]]]) -> None:
    ran = run_cli("check", real[0], "GST-008", "GST-010", "--domain", "1", "--json")
    assert {f["severity"] for f in ran.json["findings"]} == {"note"}
    assert {f["rule"] for f in ran.json["findings"]} == {"GST-008", "GST-010"}


def test_an_excerpt_of_an_excerpt_gives_the_same_answers(
    real: tuple[Path, dict[int, list[Run]]], tmp_path: Path
) -> None:
    path, truth = real
    again = tmp_path / "again.core.zst"
    assert run_cli("excerpt", path, again).code == 0
    for domain in truth:
        for verb in ("map", "check", "stats"):
            first = run_cli(verb, path, "--domain", str(domain), "--json")
            second = run_cli(verb, again, "--domain", str(domain), "--json")
            if verb == "check":  # the excerpt knows the extents of its original: DMP-001 looks at those
                assert first.json["findings"] == second.json["findings"]
            else:
                assert first.out == second.out


def test_the_modes_are_those_of_the_names() -> None:
    for name in OWN:
        path = FIXTURES / f"{name}.core.zst"
        domains = run_cli("domains", path, "--json").json["domains"]
        assert {d["roots"]["mode"].lower() for d in domains} == {name.removeprefix("xen-riscv-")}
        assert [d["id"] for d in domains] == [1, 2]
