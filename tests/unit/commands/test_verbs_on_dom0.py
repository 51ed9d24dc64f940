"""What each verb tells about the bundled dom0s, in text and JSON: numbers that were known before."""

from __future__ import annotations

import json
import re

import pytest

from gdb_p2m.commands.registry import BY_NAME, all_verbs
from gdb_p2m.errors import NotFound
from gdb_p2m.mapping import Kind
from gdb_p2m.target import Target
from support.faults import mfn_of
from support.machine import Healthy
from support.verbs import command_lines, run_verb


def text(h: Healthy, verb: str, arguments: str = "") -> str:
    return run_verb(h.target, BY_NAME[verb], arguments)


def data(h: Healthy, verb: str, arguments: str = ""):  # type: ignore[no-untyped-def]
    return json.loads(run_verb(h.target, BY_NAME[verb], arguments, "json"))


def cells(table: str, first: str) -> list[str]:
    """The cells of the row that begins with `first`."""
    row = next(
        line for line in table.splitlines() if line.split("  ")[0].strip() == first or line.lstrip().startswith(first)
    )
    return re.split(r"\s{2,}", row.strip())


def test_identify(either: Healthy) -> None:
    shown = text(either, "identify")
    for word in (either.truth.release, either.truth.build_id, "linear virtual list (Linux 3.19 on)", "SIF_INITDOMAIN"):
        assert word in shown
    document = data(either, "identify")
    guest = document["guests"][0]
    assert (guest["domain"], guest["word_bits"], guest["era"]) == (0, 64, "linear")
    assert guest["root"]["mfn"] == either.guest.root.mfn
    assert guest["start_info"]["nr_pages"] == either.truth.nr_pages
    assert {v["view"]: v.get("limit") for v in guest["views"] if "limit" in v} == {
        "linear": 1 << 27,
        "list-list": 1 << 27,
    }
    assert document["source"]["memory_bytes"] == sum(len(b) for b in either.machine.pieces.values())


def test_domains(either: Healthy) -> None:
    found = data(either, "domains")["domains"]
    assert [(d["id"], d["kind"], d["pages"]) for d in found] == [(0, "pv", either.truth.totals["mfn"])]


def test_symbols_have_addresses_values_sources_or_what_absence_costs(dom0: Healthy) -> None:
    found = {s["name"]: s for s in data(dom0, "symbols")["symbols"]}
    assert found["xen_p2m_size"]["value"] == 1 << 27
    assert found["xen_p2m_addr"]["value"] == 0xFFFFC90000000000
    assert found["p2m_top"] == {"name": "p2m_top", "address": None, "source": None, "absence": "no tree view"}
    assert "VMCOREINFO note" in found["p2m_missing"]["source"]
    assert "Sources, in the order in which they are asked:\n1. VMCOREINFO note" in text(dom0, "symbols")
    one = data(dom0, "symbols", "p2m_identity nowhere")["symbols"]
    assert [s["address"] is None for s in one] == [False, True]
    everything = data(dom0, "symbols", "--all")["symbols"]
    assert {s["name"] for s in everything} >= {"xen_p2m_addr", "init_top_pgt"}


def test_lookup_knows_every_kind(dom0: Healthy) -> None:
    answers = data(dom0, "lookup", "0 0x9e 0x9f 0x100 0x19060 0x19061 0x3ffe0 0xfee00 0x7ffffff")["answers"]
    kinds = [a["kind"] for a in answers]
    assert kinds == ["mfn", "mfn", "identity", "mfn", "mfn", "missing", "identity", "identity", "identity"]
    assert [a["frame"] for a in answers if a["kind"] == "mfn"] == [mfn_of(dom0, p) for p in (0, 0x9E, 0x100, 0x19060)]
    for answer in answers:
        assert answer["read_at"]["address"] is not None, "each answer says where it was read"
    by_entry, by_page = answers[2], answers[7]
    assert by_entry["read_at"]["what"] == "P2M entry"
    assert "maps p2m_identity" in by_page["read_at"]["what"]
    raw = dom0.source.read_u64(by_entry["read_at"]["address"])
    assert raw == 1 << 62 | 0x9F


def test_lookup_backwards(dom0: Healthy) -> None:
    mfn = mfn_of(dom0, 0x200)
    answers = data(dom0, "lookup", f"--mfn {mfn:#x} 0xfee00 0")["answers"]
    owner = answers[0].pop("owner")
    assert answers[0] == {"mfn": mfn, "pfns": [{"pfn": 0x200, "kind": "mfn"}], "m2p": "PFN 0x200"}
    assert owner["domain"] is None and "frame table" in owner["reason"], "this excerpt has none of Xen's records"
    assert answers[1]["pfns"] == [{"pfn": 0xFEE00, "kind": "identity"}]
    assert answers[2]["pfns"] == [] and answers[2]["m2p"] == "INVALID_M2P_ENTRY"


def test_walk_shows_every_step_of_every_view(dom0: Healthy) -> None:
    document = data(dom0, "walk", "0xfee00")
    linear, lists = (next(v for v in document["views"] if v["view"] == n) for n in ("linear", "list-list"))
    assert [s["where"] for s in linear["steps"]] == [
        "xen_p2m_addr",
        "xen_p2m_size",
        "L4",
        "L3",
        "L2",
        "L1",
        "entry",
    ]
    assert linear["answer"]["kind"] == "identity" and "m2p" not in document
    assert lists["answer"]["kind"] == "missing", "the frame lists cannot show identity by page"
    for step in linear["steps"] + lists["steps"]:
        if step["address"] is not None and step["raw"] is not None:
            assert dom0.source.read_u64(step["address"]) == step["raw"], step
    with_frame = data(dom0, "walk", "0x200")
    assert with_frame["m2p"]["agrees"] is True and with_frame["m2p"]["raw"] == 0x200
    assert "p2m_identity" in text(dom0, "walk", "0xfee00") and "side by side" in text(dom0, "walk", "0")


def test_map_in_text(dom0: Healthy) -> None:
    folded = text(dom0, "map", "--fold").splitlines()
    assert [line.split() for line in folded[2:7]] == [
        ["0x0", "0x9e", "159", "mfn", "1"],
        ["0x9f", "0xff", "97", "identity", "1"],
        ["0x100", "0x19060", "102,241", "mfn", "470"],
        ["0x19061", "0x3ffdf", "159,615", "missing", "1"],
        ["0x3ffe0", "0x7ffffff", "133,955,616", "identity", "1"],
    ]
    assert folded[-1] == "5 stretches: 102,400 mfn, 133,955,713 identity, 159,615 missing"
    rows = text(dom0, "map").splitlines()
    assert rows[-1].startswith("474 runs: ") and len(rows) == 474 + 2 + 2
    assert text(dom0, "map", "--range 0x19061..0x3ffdf --kind mfn").splitlines()[-1] == "0 runs: nothing in this range"


def test_map_of_the_odd_dom0(odd: Healthy) -> None:
    folded = text(odd, "map", "--fold")
    assert "150,250 mfn, 132,907,168 identity, 1,160,310 missing" in folded
    assert ["0x100000", "0x17ffff", "524,288", "missing", "1"] in [line.split() for line in folded.splitlines()]


def test_stats(dom0: Healthy) -> None:
    document = data(dom0, "stats")
    assert document["kinds"] == dom0.truth.totals and document["runs"] == 474
    shared = {s["name"]: s["slots"] for s in document["shared"]}
    assert shared == {"p2m_missing_pte": 0, "p2m_identity_pte": 511, "p2m_missing": 0, "p2m_identity": 261_632}
    assert document["bytes_used"] == (512 + 2 + 2) * 4096
    assert document["bytes_used"] + document["bytes_saved"] > 1 << 30
    assert "511.0 GiB" in text(dom0, "stats"), "the address space of identity"


def test_list_list(dom0: Healthy) -> None:
    document = data(dom0, "list-list")
    assert document["top_mfn"] == dom0.guest.page_of("p2m_top_mfn") and document["max_pfn"] == 0x3FFE0
    assert [(s["first"], s["last"], s["what"]) for s in document["top"]] == [
        (0, 0, "mid page"),
        (1, 511, "p2m_mid_missing_mfn"),
    ]
    mid = data(dom0, "list-list", "--top 0")
    assert mid["mid"][0]["mfn"] == dom0.entry(0) >> 12
    assert mid["mid"][-1]["last"] == 511
    shared = data(dom0, "list-list", "--top 511")["mid"]
    assert [s["what"] for s in shared] == ["p2m_missing"]


def test_start_info_and_shared_info(either: Healthy) -> None:
    fields = {f["name"]: f["value"] for f in data(either, "start-info")["fields"]}
    assert fields["nr_pages"] == either.truth.nr_pages and fields["mfn_list"] == 0xFFFFC90000000000
    assert "SIF_PRIVILEGED | SIF_INITDOMAIN" in text(either, "start-info")
    fields = {f["name"]: f["value"] for f in data(either, "shared-info")["fields"]}
    assert fields["p2m_vaddr"] == 0xFFFFC90000000000 and fields["p2m_generation"] % 2 == 0
    assert f"page table at MFN {either.guest.root.mfn:#x}" in text(either, "shared-info")


def test_m2p(dom0: Healthy) -> None:
    mfn = mfn_of(dom0, 0x200)
    entries = data(dom0, "m2p", f"{mfn} 0")["entries"]
    assert entries[0]["pfn"] == 0x200 and entries[0]["address"] == dom0.m2p_entry(mfn)
    assert entries[1]["pfn"] is None and entries[1]["meaning"] == "INVALID_M2P_ENTRY"


def test_remap_is_over(dom0: Healthy) -> None:
    document = data(dom0, "remap")
    assert (document["state"], document["chunks"]) == ("done", [])


def test_check_of_a_choice_of_rules(dom0: Healthy) -> None:
    assert [r["id"] for r in data(dom0, "check", "lin-004 FLL")["rules"]] == [
        "LIN-004",
        *(f"FLL-{i:03}" for i in range(1, 7)),
    ]
    assert "1,024" in cells(text(dom0, "check", "LIN-004"), "LIN-004")


def test_rules_explained() -> None:
    from gdb_p2m.commands.base import Context

    parser_args = type("Args", (), {"rules": ["LIN-004"], "format": "text"})()
    report = BY_NAME["rules"].run(Context(None), parser_args)
    assert "512 entries all map one shared page" in " ".join(report.blocks[0].text.split())  # type: ignore[union-attr]


def test_page_info_without_xens_frame_table_says_what_is_missing(dom0: Healthy) -> None:
    with pytest.raises(NotFound, match=r"Xen's frame table, at 0xffff82e000000000, is not in the dump") as error:
        text(dom0, "page-info", "0x30100")
    assert error.value.hint is not None and "lookup --mfn" in error.value.hint


@pytest.mark.parametrize(("verb", "arguments"), command_lines(), ids=lambda x: getattr(x, "name", x))
def test_asking_twice_gives_the_same_bytes(dom0: Healthy, verb, arguments: str) -> None:  # type: ignore[no-untyped-def]
    again = Target(dom0.machine.source())
    for fmt in ("text", "json"):
        assert run_verb(dom0.target, verb, arguments, fmt) == run_verb(again, verb, arguments, fmt)


@pytest.mark.parametrize("verb", all_verbs(), ids=lambda v: v.name)
def test_every_verb_explains_itself(verb) -> None:  # type: ignore[no-untyped-def]
    assert verb.summary and not verb.summary.endswith(".")
    assert len(verb.description) > 40 and verb.description.rstrip().endswith((".", ")"))


def test_cost_follows_distinct_pages(dom0: Healthy) -> None:
    """2^27 slots, some 520 pages of list, tables and variables are read, once each or twice."""
    target = Target(dom0.machine.source())
    target.domain()
    before = target.source.counters.pages
    view = run_verb(target, BY_NAME["map"], "--fold")
    assert "102,400 mfn" in view
    assert target.source.counters.pages - before < 600


def test_kinds_are_never_guessed_from_values_alone(dom0: Healthy) -> None:
    """Identity by page: the entries read INVALID; a reader of values only would call 133,955,584 PFNs missing."""
    page = dom0.machine.read(dom0.page("p2m_identity"), 4096)
    assert page == b"\xff" * 4096
    run = dom0.views.own().mapping().lookup(0x7000000)
    assert run is not None and run.kind is Kind.IDENTITY
