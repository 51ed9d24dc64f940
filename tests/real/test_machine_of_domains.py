"""A real machine with dom0 and three domUs: its domains, each decoded by its id, and all in one command."""

from __future__ import annotations

import json

import pytest

from gdb_p2m.cli import build_parser
from gdb_p2m.commands.base import Context
from gdb_p2m.commands.registry import BY_NAME
from gdb_p2m.errors import NotFound, UsageError
from gdb_p2m.layout import xen_x86 as layout
from gdb_p2m.target import Target
from support.machine_of_domains import (
    DYING,
    FOREIGN,
    NEXT_IN_LIST,
    PAGES,
    PAUSES,
    ROOTS,
    SHARED_INFO,
    STRUCT_DOMAINS,
    TOT_PAGES,
    TOTALS,
    asked,
    changed,
    frame_table,
    machine,
    target,
    told,
    without_xens_texts,
)

DOMAINS = sorted(PAGES)


# -- domains --------------------------------------------------------------------------------------------------


def test_domains_are_those_of_xl_list() -> None:
    document = asked(target(), "domains")
    found = document["domains"]
    assert {d["id"]: d["pages"] for d in found} == PAGES
    assert [d["state"] for d in found] == ["not paused", "paused", "paused", "paused"]
    assert {d["id"]: d["roots"]["page_table"]["mfn"] for d in found} == ROOTS
    assert {d["id"]: d["struct_domain"]["mfn"] for d in found} == STRUCT_DOMAINS
    assert {d["id"]: d["shared_info"]["mfn"] for d in found} == SHARED_INFO
    assert all(d["kind"] == "pv" and d["listed"] and not d["problems"] for d in found)
    assert "DOMID_IO" in {s["name"] for s in document["hypervisor"]["system"]}


def test_offsets_that_nothing_names_are_found_on_the_spot() -> None:
    document = asked(without_xens_texts(machine().copy()).source(), "domains")
    offsets = document["hypervisor"]["offsets"]
    found = {name: offsets[name]["value"] for name in ("shared_info", "tot_pages", "next_in_list")}
    assert found == {"shared_info": 16, "tot_pages": TOT_PAGES, "next_in_list": NEXT_IN_LIST}
    assert all(offsets[name]["source"].startswith("on the spot") for name in found)
    assert {d["id"]: (d["pages"], d["kind"]) for d in document["domains"]} == {i: (n, "pv") for i, n in PAGES.items()}
    # Neither Xen's symbols nor its code are in this memory: the list and the states are said to be unknown.
    assert "domain_list was not walked" in document["hypervisor"]["list_problem"]
    assert {d["state"] for d in document["domains"]} == {"unknown"}
    assert {d["listed"] for d in document["domains"]} == {None}


@pytest.mark.parametrize(("value", "state"), [(0, "paused"), (1, "dying"), (2, "dead")])
def test_a_dying_domain_is_said_to_be_dying(value: int, state: str) -> None:
    at = (STRUCT_DOMAINS[2] << 12) + DYING
    source = machine().source() if not value else changed(at, value, 4)
    assert asked(source, "domains")["domains"][2]["state"] == state


def test_a_member_that_cannot_be_the_pause_count_is_not_believed() -> None:
    document = asked(changed((STRUCT_DOMAINS[2] << 12) + PAUSES, 0x12345, 4), "domains")
    assert {d["state"] for d in document["domains"]} == {"unknown"}
    assert "not believed" in document["hypervisor"]["offsets"]["controller_pause_count"]["source"]


def test_a_cycle_in_domain_list_ends_and_is_told() -> None:
    first = layout.DIRECTMAP_VIRT + (STRUCT_DOMAINS[0] << 12)
    document = asked(changed((STRUCT_DOMAINS[2] << 12) + NEXT_IN_LIST, first), "domains")
    assert "is a cycle" in document["hypervisor"]["list_problem"]
    assert [d["id"] for d in document["domains"]] == DOMAINS
    assert document["domains"][3]["listed"] is None, "whether d3 is on the list is not known"


def test_a_domain_that_the_list_leaves_out_is_still_shown() -> None:
    document = asked(changed((STRUCT_DOMAINS[2] << 12) + NEXT_IN_LIST, 0), "domains")
    assert document["domains"][3]["listed"] is False
    assert any("not on domain_list" in p for p in document["domains"][3]["problems"])


def test_a_pointer_into_nothing_ends_the_list_with_a_reason() -> None:
    document = asked(changed((STRUCT_DOMAINS[1] << 12) + NEXT_IN_LIST, 0xFFFF_8300_1234_5000), "domains")
    assert "ends early" in document["hypervisor"]["list_problem"]
    assert document["hypervisor"]["broken"]
    assert [d["id"] for d in document["domains"]] == DOMAINS


def test_without_the_frame_table_the_scan_finds_the_guests_and_says_what_it_cannot_tell() -> None:
    document = asked(machine().without(*frame_table()), "domains")
    assert document["hypervisor"]["found"] is False and "none of its pages is in the dump" in document["hypervisor"]["reason"]
    assert [(d["id"], d["pages"], d["state"]) for d in document["domains"]] == [
        (0, PAGES[0], "unknown"), (None, PAGES[1], "unknown"), (None, PAGES[2], "unknown"), (None, PAGES[3], "unknown"),
    ]  # fmt: skip
    assert any("ids" in text for text in document["not_learned"])



def test_start_info_pages_without_a_kernel_are_shown_as_what_they_are() -> None:
    document = asked(machine().without(*frame_table(), ROOTS[3]), "domains")
    lonely = [d for d in document["domains"] if not d["roots"]]
    assert [(d["id"], d["pages"]) for d in lonely] == [(None, PAGES[3])]
    assert lonely[0]["shared_info"]["mfn"] == SHARED_INFO[3] and "start_info page" in lonely[0]["evidence"]


# -- --domain N and --all-domains ------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_domain_decodes_to_what_xens_own_tool_says(domain: int) -> None:
    document = asked(target(), f"map --domain {domain}")
    totals: dict[str, int] = {}
    for run in document["runs"]:
        totals[run["kind"]] = totals.get(run["kind"], 0) + run["count"]
    assert (document["domain"], totals) == (domain, TOTALS[domain])


def test_dom0_stays_the_default_and_costs_no_search() -> None:
    fresh = Target(machine().source())
    assert fresh.domain().id == 0
    assert [name for name, _ in fresh.timing.stages] == ["find guest and symbols"]
    assert len(fresh.guests) == 1 and len(fresh.all_guests) == 4 and fresh.all_guests[0] is fresh.guests[0]


def test_a_domain_that_is_not_there() -> None:
    with pytest.raises(NotFound, match=r"domain 4 is not known; domains found: 0, 1, 2, 3"):
        target().domain(4)


def test_all_domains_are_the_same_as_one_after_the_other() -> None:
    for verb in ("map", "check", "compare"):
        together = asked(target(), f"{verb} --all-domains")
        assert together["failed"] == [] and [d["domain"] for d in together["domains"]] == DOMAINS
        for one in together["domains"]:
            alone = asked(target(), f"{verb} --domain {one['domain']}")
            assert alone == {"schema": f"gdb-p2m/{verb}/1", **one}


def test_all_domains_as_csv_sarif_and_junit() -> None:
    lines = told(target(), "map --all-domains --kind foreign", "csv").splitlines()
    assert lines[0] == "domain,start,count,kind,frame" and len(lines) == 1 + len(FOREIGN)
    assert all(line.startswith("0,") for line in lines[1:])
    sarif = json.loads(told(target(), "check --all-domains M2P", "sarif"))
    assert [r["automationDetails"]["id"] for r in sarif["runs"]] == [f"domain {i}/" for i in DOMAINS]
    assert told(target(), "check --all-domains M2P", "junit").count("<testsuite ") == 4


def code_of(on: Target, line: str) -> int:
    """The exit code of a verb."""
    name, *words = line.split()
    args = build_parser(BY_NAME[name], name, False).parse_args(words)
    return BY_NAME[name].run(Context(on, args.domain), args).exit_code


def test_all_domains_and_one_domain_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        told(target(), "map --all-domains --domain 1")


def test_a_domain_that_cannot_be_read_does_not_hide_the_others() -> None:
    on = Target(machine().without(ROOTS[2]))
    together = asked(on, "map --all-domains")
    assert any("domain 2 cannot be read" in n for n in on.notices), "CSV and SARIF do not show what is missing"
    assert [code_of(on, f"{verb} --all-domains") for verb in ("map", "check", "compare")] == [3, 3, 3]
    assert [d["domain"] for d in together["domains"]] == [0, 1, 3]
    assert together["failed"] == [{"domain": 2, "reason": "no kernel of a PV guest was found in it"}]
