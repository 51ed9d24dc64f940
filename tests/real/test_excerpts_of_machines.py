"""Excerpts of a machine with several domains: the whole machine again, some domains of it, one domain without traces of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdb_p2m.sources.probe import open_source
from gdb_p2m.target import Target
from support.command_line import run_cli
from support.machine_of_domains import PAGES, PATH, ROOTS, asked, target


def excerpt(out: Path, *words: str) -> Target:
    ran = run_cli("excerpt", PATH, out, *words)
    assert ran.code == 0, ran.err
    return Target(open_source(str(out)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return excerpt(tmp_path_factory.mktemp("whole") / "out.core", "--all-domains")


@pytest.mark.parametrize("line", ["map --all-domains", "check --all-domains", "compare --all-domains", "lookup --mfn 0x6d602 0"])
def test_an_excerpt_of_all_domains_gives_the_same_answers(whole: Target, line: str) -> None:
    assert asked(whole, line) == asked(target(), line)


def test_it_shows_the_same_domains(whole: Target) -> None:
    keys = ("id", "kind", "state", "pages", "struct_domain", "shared_info", "listed", "problems")
    one, two = (asked(t, "domains")["domains"] for t in (whole, target()))
    assert [[d[k] for k in keys] for d in one] == [[d[k] for k in keys] for d in two]


@pytest.mark.thorough
def test_xz_is_much_smaller(tmp_path: Path) -> None:
    packed = excerpt(tmp_path / "out.core.xz", "--domain", "1")
    excerpt(tmp_path / "out.core.gz", "--domain", "1")
    assert (tmp_path / "out.core.xz").stat().st_size < (tmp_path / "out.core.gz").stat().st_size / 5
    assert [g.id for g in packed.all_guests] == [1]


def test_one_domu_alone_is_one_guest_whose_neighbours_are_known_by_name(tmp_path: Path) -> None:
    """No page table of dom0 comes along, which the reader would take for a guest that cannot be read."""
    alone = excerpt(tmp_path / "d2.core", "--domain", "2")
    assert [(g.id, g.root.mfn) for g in alone.all_guests] == [(2, ROOTS[2])]
    assert asked(alone, "map --domain 2")["runs"] == asked(target(), "map --domain 2")["runs"]
    found = {d["id"]: (d["kind"], d["pages"], d["state"]) for d in asked(alone, "domains")["domains"]}
    assert found == {n: ("pv", PAGES[n], "paused" if n else "not paused") for n in PAGES}
    assert asked(alone, "check M2P-002")["summary"]["passed"] == 1


def test_some_domains_by_their_numbers(tmp_path: Path) -> None:
    some = excerpt(tmp_path / "d13.core", "--domain", "1", "--also", "3", "--also", "3")
    assert [g.id for g in some.all_guests] == [1, 3]
    for domain in (1, 3):
        line = f"compare --domain {domain}"
        one, two = asked(some, line), asked(target(), line)
        assert (one["agree_in_all"], one["disagreements"]) == (two["agree_in_all"], [])


def test_a_domain_that_is_not_there_is_refused(tmp_path: Path) -> None:
    ran = run_cli("excerpt", PATH, tmp_path / "out.core", "--also", "7")
    assert ran.code == 3 and "domain 7 is not known" in ran.err and not (tmp_path / "out.core").exists()
