"""Who owns a frame of a real machine with four domains: page-info, lookup, rule M2P-002, and four views side by side."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gdb_p2m.errors import P2mError
from gdb_p2m.layout import xen_x86 as layout
from gdb_p2m.sources.base import Source
from gdb_p2m.target import Target
from support.machine_of_domains import (
    FOREIGN,
    PAGES,
    PATH,
    ROOTS,
    SHARED_INFO,
    STRUCT_DOMAINS,
    asked,
    changed,
    frame_table,
    machine,
    page_info,
    target,
    told,
    without_xens_texts,
)

DOMAINS = sorted(PAGES)


# -- who owns a frame -----------------------------------------------------------------------------------------


def test_page_info_shows_a_root_shared_pages_and_both_sides_of_a_grant() -> None:
    pfn, (mfn, owner, own_pfn) = next(iter(FOREIGN.items()))
    root, ring, shared, struct = asked(target(), f"page-info {ROOTS[1]} {mfn} {SHARED_INFO[1]} {STRUCT_DOMAINS[1]}")["frames"]
    assert (root["type"], root["type_flags"]) == ("PGT_l4_page_table", ["PGT_pinned", "PGT_validated"])
    assert (root["owner"]["domain"], root["owner"]["confirmed"], root["flags"]) == (1, True, ["PGC_allocated"])
    assert ring["mapped_by"] == [
        {"domain": 0, "pfn": pfn, "kind": "foreign"}, {"domain": owner, "pfn": own_pfn, "kind": "mfn"},
    ]  # fmt: skip
    assert ring["references"] > 2, "the mapping of another domain counts"
    assert shared["used_as"] == ["shared_info of d1"] and "PGC_xen_heap" in shared["flags"]
    assert struct["used_as"] == ["struct domain of d1"] and struct["owner"]["domain"] is None


@pytest.mark.parametrize("pfn", sorted(FOREIGN))
def test_lookup_names_the_owner_of_a_foreign_frame_and_its_pfn_there(pfn: int) -> None:
    mfn, owner, own_pfn = FOREIGN[pfn]
    (answer,) = asked(target(), f"lookup --mfn {mfn}")["answers"]
    assert answer["pfns"] == [{"pfn": pfn, "kind": "foreign"}]
    assert answer["owner"] == {"domain": owner, "name": f"domain {owner}", "pfn": own_pfn, "confirmed": True}


def test_frames_of_every_domain_are_named_from_dom0() -> None:
    for domain in DOMAINS:
        mapping_of = asked(target(), f"map --domain {domain} --kind mfn")["runs"]
        run = mapping_of[len(mapping_of) // 2]
        (answer,) = asked(target(), f"lookup --mfn {run['frame']}")["answers"]
        assert (answer["owner"]["domain"], answer["owner"]["pfn"]) == (domain, run["start"])


def test_an_owner_whose_p2m_leads_elsewhere_is_not_confirmed() -> None:
    before = asked(target(), "lookup --domain 1 0x300")["answers"][0]
    mfn, at = before["frame"], before["read_at"]["address"]
    (answer,) = asked(changed(at, (1 << 64) - 1), f"lookup --mfn {mfn}")["answers"]
    assert answer["owner"]["confirmed"] is False and "missing" in answer["owner"]["reason"]


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_frame_of_a_healthy_domain_is_its_own(domain: int) -> None:
    document = asked(target(), f"check M2P-002 --domain {domain}")
    assert document["rules"] == [{"id": "M2P-002", "status": "passed", "checked": PAGES[domain] + 1}]


@pytest.mark.parametrize(
    ("owner", "says"),
    [(STRUCT_DOMAINS[3], "belongs to domain 3"), (0, "belongs to nobody"), (0x7FFD8, "belongs to DOMID_XEN")],
)
def test_a_frame_of_another_owner_is_found_by_m2p_002(owner: int, says: str) -> None:
    mfn = asked(target(), "lookup --domain 1 0x1234")["answers"][0]["frame"]
    source = changed(page_info(mfn) + layout.PAGE_INFO_DOMAIN, owner, 4)
    document = asked(source, "check M2P --domain 1")
    assert {r["id"]: r["status"] for r in document["rules"]}["M2P-002"] == "failed"
    (finding,) = [f for f in document["findings"] if f["rule"] == "M2P-002"]
    assert finding["where"] == {"pfn": 0x1234, "mfn": mfn, "space": "machine"} and says in finding["message"]


def test_a_root_that_belongs_to_another_domain_is_found() -> None:
    source = changed(page_info(ROOTS[0]) + layout.PAGE_INFO_DOMAIN, STRUCT_DOMAINS[3], 4)
    document = asked(source, "check M2P-002")
    assert document["summary"]["errors"] == PAGES[0], "all frames but the root itself, and the root as such"
    assert "belongs to domain 3, not to domain 0" in document["findings"][0]["message"]


def test_records_that_are_not_in_the_dump_are_could_not_check() -> None:
    mfn = asked(target(), "lookup --domain 1 0x1234")["answers"][0]["frame"]
    document = asked(machine().without(page_info(mfn) >> 12), "check M2P-002 --domain 1")
    (rule,) = document["rules"]
    assert rule["status"] == "could_not_check" and rule["checked"] == PAGES[1] + 1 - 128
    assert "128 frames cannot be read" in rule["reason"]


def test_frames_of_other_guests_are_not_worth_a_note_but_lost_ones_are() -> None:
    """M2P-003: without the frame table it could not tell the one from the other."""
    healthy = asked(target(), "check M2P-003 --domain 1")
    assert [r["status"] for r in healthy["rules"]] == ["passed"]
    lost = asked(target(), "lookup --domain 1 0x300")["answers"][0]
    document = asked(changed(lost["read_at"]["address"], (1 << 64) - 1), "check M2P-003 --domain 1")
    (finding,) = document["findings"]
    assert finding["where"] == {"mfn": lost["frame"], "pfn": 0x300, "count": 1, "space": "machine"}
    assert "they are this domain's" in finding["message"]
    without = asked(machine().without(*frame_table()), "check M2P-003")
    assert {f["message"].split("(")[-1] for f in without["findings"]} == {"who owns them is not known here)"}


# -- compare --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_four_views_of_a_healthy_domain_agree_in_every_pfn(domain: int) -> None:
    document = asked(target(), f"compare --domain {domain}")
    assert (document["agree_in_all"], document["disagree"], document["disagreements"]) == (1 << 27, 0, [])
    views = {v["view"]: v for v in document["views"]}
    assert views.keys() == {"list-list", "m2p", "owner", "owned frames"}
    assert views["list-list"]["agree"] == 1 << 27
    assert [views[v]["agree"] for v in ("m2p", "owner", "owned frames")] == [PAGES[domain]] * 3


def test_grants_are_shown_from_both_sides() -> None:
    document = asked(target(), "compare")
    assert {f["pfn"]: (f["frame"], f["owner"], f["owner_pfn"]) for f in document["foreign"]} == FOREIGN
    for domain in (1, 2, 3):
        theirs = asked(target(), f"compare --domain {domain}")["mapped_by_others"]
        assert {o["pfn"]: (o["frame"], domain, o["own_pfn"]) for o in theirs} == {
            pfn: row for pfn, row in FOREIGN.items() if row[1] == domain
        }


def disagreements(source: Source, domain: int = 1) -> list[tuple[str, str | None, int, int]]:
    document = asked(source, f"compare --domain {domain}")
    assert document["disagreeing_runs"] == len(document["disagreements"])
    covered = {p for d in document["disagreements"] for p in range(d["start"], d["start"] + d["count"])}
    assert document["disagree"] == len(covered) and document["agree_in_all"] == (1 << 27) - len(covered)
    return [(d["view"], d["rule"], d["start"], d["count"]) for d in document["disagreements"]]


def test_a_lost_entry_is_seen_by_xen_only() -> None:
    """The list and the frame list list share the page of entries, so both lose it; Xen still knows whose the frame is."""
    at = asked(target(), "lookup --domain 1 0x300")["answers"][0]["read_at"]["address"]
    assert disagreements(changed(at, (1 << 64) - 1)) == [("owned frames", "M2P-003", 0x300, 1)]


def test_an_entry_with_another_domains_frame() -> None:
    theirs = asked(target(), "lookup --domain 2 0x400")["answers"][0]["frame"]
    at = asked(target(), "lookup --domain 1 0x300")["answers"][0]["read_at"]["address"]
    assert disagreements(changed(at, theirs)) == [
        ("m2p", "M2P-001", 0x300, 1), ("owner", "M2P-002", 0x300, 1), ("owned frames", "M2P-003", 0x300, 1),
    ]  # fmt: skip


def test_a_frame_list_that_leads_elsewhere_is_one_run() -> None:
    """d1's mid slot of PFNs 0x200..0x3ff set to the leaf of 0x400..0x5ff."""
    steps = [json.loads(told(target(), f"walk --domain 1 --view list-list {n}", "json")) for n in (0x200, 0x400)]
    slots = [next(s for s in w["views"][0]["steps"] if s["where"] == "mid") for w in steps]
    found = disagreements(changed(slots[0]["address"], slots[1]["raw"]))
    assert {(view, rule) for view, rule, _, _ in found} == {("list-list", "FLL-004")}
    assert sum(count for _, _, _, count in found) == 512 and min(start for _, _, start, _ in found) == 0x200


def test_a_missing_record_makes_pfns_unknown_not_agreeing() -> None:
    mfn = asked(target(), "lookup --domain 1 0x1234")["answers"][0]["frame"]
    document = asked(machine().without(page_info(mfn) >> 12), "compare --domain 1")
    owner = next(v for v in document["views"] if v["view"] == "owner")
    assert (owner["agree"], owner["disagree"], owner["unknown"]) == (PAGES[1] - 128, 0, 128)
    assert (document["agree_in_all"], document["disagree"]) == ((1 << 27) - 128, 0)


def test_identity_by_entry_is_not_excused_as_identity_by_page() -> None:
    """dom0's PFN 0x9f is identity in its own entry: a frame list whose leaf says INVALID there contradicts it."""
    view = target().domain(0)
    walk = json.loads(told(target(), "walk --view list-list 0", "json"))
    slot = next(s for s in walk["views"][0]["steps"] if s["where"] == "mid")
    missing = view.page_of("p2m_missing")  # type: ignore[union-attr]
    found = disagreements(changed(slot["address"], int(missing)), 0)
    assert found[0][:2] == ("list-list", "FLL-004") and sum(f[3] for f in found) == 512


# -- hostile memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_noise_in_xens_records_ends_in_answers_or_clear_errors(seed: int) -> None:
    random = np.random.default_rng(seed)
    other = machine().copy()
    pages = [*STRUCT_DOMAINS.values(), *(page_info(m) >> 12 for m in ROOTS.values())]
    for frame in random.choice(pages, 3, replace=False).tolist():
        other.write(frame << 12, random.bytes(4096))
    if seed % 2:
        other = without_xens_texts(other)
    on = Target(other.source())
    for line in ("domains", "check M2P --all-domains", "compare --all-domains", f"page-info {ROOTS[1]} 5", "lookup --mfn 5"):
        try:
            asked(on, line)
        except P2mError as e:
            assert e.message and "Traceback" not in e.message


def test_the_fixture_is_small() -> None:
    assert PATH.stat().st_size < 100 << 10


def test_with_nothing_to_compare_with_there_is_an_error_and_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    from gdb_p2m.errors import NotFound
    from gdb_p2m.model.build import build
    from gdb_p2m.model.description import parse
    from gdb_p2m.structures.m2p import M2p
    from support.model_memory import source_of
    from support.places import FIXTURES

    text = (FIXTURES / "models" / "virt-p2m-4tools.model").read_text()
    monkeypatch.setattr(M2p, "pieces", lambda self: [])
    with pytest.raises(NotFound, match="nothing to compare"):
        told(source_of(build(parse(text, "virt-p2m-4tools"))), "compare")
