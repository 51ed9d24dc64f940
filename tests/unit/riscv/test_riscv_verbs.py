"""The verbs on a RISC-V machine: wording, JSON, and refusals of what only x86 has."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command_line import run_cli
from support.places import ROOT
from support.riscv import model, syms_bytes, truth_csv

REAL = ROOT / "fixtures" / "xen-riscv-sv39x4.core.zst"
TRUTH = truth_csv(ROOT / "fixtures" / "xen-riscv-sv39x4.runs.csv")


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The main model as a dump with its note."""
    path = tmp_path_factory.mktemp("riscv") / "two.elf"
    model("riscv-two-domains").xen.write_elf(path)
    return path


def test_map_json_has_leaves_only_with_orders_and_no_holes() -> None:
    data = run_cli("map", REAL, "--domain", "2", "--json").json
    assert (data["schema"], data["view"], data["domain"], data["limit"]) == ("gdb-p2m/map/1", "gstage", 2, 1 << 29)
    got = [(r["start"], r["count"], r["kind"], r["frame"], r["order"]) for r in data["runs"]]
    assert got == TRUTH[2]


def test_map_range_and_kind_cut_the_runs() -> None:
    ran = run_cli("map", REAL, "--range", "0x90200..0x9020f", "--kind", "map_foreign_rw", "--json")
    (run,) = ran.json["runs"]
    assert (run["start"], run["count"], run["order"]) == (0x90200, 16, 9)


def test_map_csv_carries_the_order() -> None:
    lines = run_cli("map", REAL, "--domain", "2", "--format", "csv").out.splitlines()
    assert lines[0] == "start,count,kind,frame,order"
    assert lines[-1].endswith(",9")


def test_map_refuses_a_kind_that_only_pv_guests_have() -> None:
    ran = run_cli("map", REAL, "--kind", "missing")
    assert ran.code == 2 and "ram_rw" in ran.err


def test_lookup_speaks_of_gfns_and_says_where_it_read() -> None:
    answers = run_cli("lookup", REAL, "0x90000", "0x90005", "0x7", "--json").json["answers"]
    assert [a["kind"] for a in answers] == ["map_foreign_rw", "map_foreign_ro", "invalid"]
    assert all("gfn" in a and "pfn" not in a for a in answers)
    assert answers[0]["order"] == 0 and "metadata slot" in answers[0]["read_at"]["what"]
    assert "GFN" in run_cli("lookup", REAL, "7").out


def test_lookup_past_the_modes_limit_is_wrong_usage() -> None:
    ran = run_cli("lookup", REAL, hex(1 << 29))
    assert ran.code == 2 and "0x1fffffff" in ran.err


def test_lookup_mfn_finds_every_gfn_of_a_frame() -> None:
    start, _, kind, frame, order = TRUTH[1][0]
    (answer,) = run_cli("lookup", REAL, "--mfn", str(frame), "--json").json["answers"]
    assert {"gfn": start, "kind": kind, "order": order} in answer["gfns"]


def test_walk_shows_every_level_and_the_way_through_the_metadata() -> None:
    (view,) = run_cli("walk", REAL, "0x90005", "--json").json["views"]
    words = [s["where"] for s in view["steps"]]
    assert words == ["domain", "root", "L2 page 0", "L1", "L0", "page_info.v.md.pg", "metadata slot (md_t)"]
    assert all(s["address"] for s in view["steps"])
    assert view["answer"]["kind"] == "map_foreign_ro"
    text = run_cli("walk", REAL, "0x90005").out
    assert "GFN 0x90005" in text and "m2p" not in text.lower()


def test_walk_in_a_hole_ends_at_the_entry_that_is_not_valid() -> None:
    (view,) = run_cli("walk", REAL, "0x7fffff", "--json").json["views"]
    assert view["answer"]["kind"] == "invalid"
    assert view["steps"][-1]["where"] == "L2 page 0"


def test_domains_lists_ids_roots_and_modes() -> None:
    data = run_cli("domains", REAL, "--json").json
    assert data["schema"] == "gdb-p2m/domains/1"
    for entry in data["domains"]:
        roots = entry["roots"]
        assert entry["kind"] == "riscv" and roots["mode"] == "Sv39x4"
        assert roots["hgatp"] == 8 << 60 | roots["gstage"]["mfn"]
        assert roots["gstage"]["address"] == roots["gstage"]["mfn"] << 12


def test_identify_says_where_xen_is_and_which_layout_and_why() -> None:
    xen = run_cli("identify", REAL, "--json").json["xen"]
    assert xen["metadata"]["format"] == "md_t" and "SIZE(md_t)=4" in xen["metadata"]["evidence"]
    assert xen["mode"]["form"] == "pointer" and xen["mode"]["evidence"]
    assert xen["image"]["machine"] == 0x80200000
    assert [d["domain"] for d in xen["domains"]] == [1, 2]
    text = run_cli("identify", REAL).out
    assert "Xen on RISC-V" in text and "Sv39x4" in text


def test_symbols_lists_every_type_fact_with_its_source() -> None:
    data = run_cli("symbols", REAL, "--json").json
    facts = {f"{t['kind']}({t['name']})": t for t in data["types"]}
    assert facts["SIZE(page_info)"]["value"] == 48
    assert all(t["source"] for t in data["types"])
    absent = next(s for s in data["symbols"] if s["name"] == "gstage_mode")
    assert absent["address"] is None and absent["absence"]
    only = run_cli("symbols", REAL, "domain_list", "--json").json
    assert [s["name"] for s in only["symbols"]] == ["domain_list"]


def test_declared_offsets_are_said_aloud(tmp_path: Path) -> None:
    machine = model("riscv-v5")
    dump, syms = tmp_path / "raw.elf", tmp_path / "xen-syms"
    machine.xen.write_elf(dump, notes=False)
    syms.write_bytes(syms_bytes(machine.xen))
    data = run_cli("symbols", dump, "--xen", syms, "--json").json
    sources = {t["source"] for t in data["types"] if t["kind"] == "OFFSET" and t["value"] is not None}
    assert all("declared layout of the series' v5" in s for s in sources)
    assert any("pte_t" in n for n in data["notes"])


def test_stats_count_tables_leaves_and_metadata() -> None:
    data = run_cli("stats", REAL, "--json").json
    lines = {s["what"]: s["count"] for s in data["storage"]}
    assert lines["L2 table pages"] == 4
    assert lines["leaves of order 18"] == sum(c >> 18 for _, c, _, _, o in TRUTH[1] if o == 18)
    assert data["kinds"]["map_foreign_ro"] == sum(c for _, c, k, _, _ in TRUTH[1] if k == "map_foreign_ro")


@pytest.mark.parametrize("verb", ["list-list", "start-info", "shared-info", "remap", "m2p 1"])
def test_verbs_about_pv_guests_say_that_this_is_none(verb: str) -> None:
    name, *rest = verb.split()
    ran = run_cli(name, REAL, *rest)
    assert ran.code == 2, ran.err
    assert "RISC-V" in ran.err or "riscv" in ran.err


def test_an_unknown_domain_is_named_with_those_that_are_known() -> None:
    ran = run_cli("map", REAL, "--domain", "7")
    assert ran.code == 3 and "1, 2" in ran.err


def test_page_info_says_what_a_frame_is_in_use_as(dump: Path) -> None:
    machine = model("riscv-two-domains").xen
    p2m = machine.domains[0].p2m
    leaf = next(t for t in p2m.tables() if t.level == 0 and t.md)
    ram = 0x90000
    image = machine.description.load >> 12
    frames = run_cli(
        "page-info", dump, *(hex(f) for f in (p2m.root_mfn + 1, leaf.mfn, leaf.md, ram, image, 0x5)), "--json"
    ).json["frames"]
    root, table, md, memory, own, outside = frames
    assert root["used_as"] == ["page 1 of the root of d1"]
    assert table["used_as"] == ["L0 table of d1"]
    assert (table["tables"][0]["md_mfn"], table["tables"][0]["gfn"]) == (leaf.md, leaf.gfn)
    assert table["tables"][0]["live"] == len(p2m.live_slots(leaf))
    assert table["used_entries"] == machine.used(leaf.mfn)
    assert md["used_as"] == [f"metadata page of table {leaf.mfn:#x} of d1"]
    assert memory["used_as"] == ["memory of d1"] and memory["mapped_by"][0]["gfn"] == 0x80000
    assert own["used_as"] == ["Xen's image"]
    assert "no page_info" in outside["error"]


def test_page_info_of_free_and_unused_frames(tmp_path: Path) -> None:
    from gdb_p2m.model.riscv_xen import free_frame

    machine = model("riscv-two-domains").xen
    free = free_frame(machine)
    path = tmp_path / "two.elf"
    machine.write_elf(path)
    (frame,) = run_cli("page-info", path, hex(free), "--json").json["frames"]
    assert frame["used_as"] == ["free (PGC_state_free)"]


def test_an_excerpt_of_raw_memory_needs_no_xen_syms(tmp_path: Path) -> None:
    machine = model("riscv-sv48x4")
    dump, syms, out = tmp_path / "raw.elf", tmp_path / "xen-syms", tmp_path / "small.core.zst"
    machine.xen.write_elf(dump, notes=False)
    syms.write_bytes(syms_bytes(machine.xen))
    assert run_cli("excerpt", dump, out, "--xen", syms).code == 0
    assert out.stat().st_size < 40_000
    for verb in (["map"], ["check"], ["stats"], ["walk", "0x123456"], ["domains"], ["page-info", "0x81000"]):
        for domain in ("0", "5"):
            first = run_cli(verb[0], dump, *verb[1:], "--domain", domain, "--xen", syms, "--json")
            second = run_cli(verb[0], out, *verb[1:], "--domain", domain, "--json")
            assert (first.code, first.out) == (second.code, second.out), verb


def test_the_default_domain_is_dom0_where_there_is_one(dump: Path, tmp_path: Path) -> None:
    assert run_cli("map", dump, "--json").json["domain"] == 1
    with_dom0 = tmp_path / "dom0.elf"
    model("riscv-sv48x4").xen.write_elf(with_dom0)
    assert run_cli("map", with_dom0, "--json").json["domain"] == 0
