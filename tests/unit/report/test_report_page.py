"""The page holds what the verbs say, nothing that it was not meant to run, and needs nothing but itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from gdb_p2m.mapping import Kind
from gdb_p2m.report.lanes import Lane, Mark, bounded, by_frame, m2p_lane, of_mapping, own_pages
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.units import Mfn
from support.command_line import run_cli
from support.faults import FAULTS
from support.machine import Healthy
from support.places import DOM0, FIXTURES, ODD, SCHEMAS, bundled, shared
from support.report_pages import hostile, page_of, seen

MAX_PAGE = 1_500_000
PAGES = [p for p in (*bundled(), *shared())]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("report") / "page.html"
    ran = run_cli("report", DOM0.path, "-o", out)
    assert ran.code == 0 and "474 runs" in ran.out
    return out.read_text()


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name.removesuffix(".core.zst"))
def test_every_real_memory_has_a_page_that_needs_nothing_else(path: Path, tmp_path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the checkout (../shared/real)")
    out = tmp_path / "page.html"
    ran = run_cli("report", path, "-o", out, "--json")
    schema = json.loads((SCHEMAS / "report.json").read_text())
    assert ran.code == 0 and not list(Draft202012Validator(schema).iter_errors(ran.json))
    assert ran.json["bytes"] == out.stat().st_size < MAX_PAGE
    parsed = seen(out.read_text())
    assert len(parsed.ids) == len(set(parsed.ids))
    for tag, name, value in parsed.attributes:
        assert name not in ("src", "srcset", "style") and not name.startswith("on"), (tag, name)
        assert name != "href" or value.startswith("#"), (tag, value)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & parsed.tags.keys()
    assert "default-src 'none'" in dict((n, v) for t, n, v in parsed.attributes if t == "meta")["content"] or any(
        "default-src 'none'" in v for _, n, v in parsed.attributes if n == "content"
    )


def test_the_data_of_the_page_are_the_runs_of_map(page: str) -> None:
    data = seen(page).data
    runs = run_cli("map", DOM0.path, "--json").json["runs"]
    table = data["runs"]
    assert table["total"] == len(runs)
    names = [k["name"] for k in data["kinds"]]
    for i, run in enumerate(runs):
        assert (table["start"][i], table["count"][i], names[table["kind"][i]]) == (
            run["start"],
            run["count"],
            run["kind"],
        )
        assert table["frame"][i] == run.get("frame", -1)
    whole = data["strip"]["lanes"][0]
    assert whole["start"] == table["start"] and whole["count"] == table["count"]


def test_every_kind_has_a_lane_of_its_own_and_they_add_up(page: str) -> None:
    strip = seen(page).data["strip"]
    lanes = {lane["name"]: sum(lane["count"]) for lane in strip["lanes"][1:]}
    assert lanes == DOM0.totals and sum(lanes.values()) == strip["limit"]


def test_totals_findings_and_identity_are_on_the_page(page: str) -> None:
    text = seen(page).text
    for words in (
        "102,400",
        "133,955,713",
        "6.1.0-56-amd64",
        "LIN-009",
        "p2m_identity_pte",
        "from 261,632 slots",
        "ISC",
    ):
        assert words in text or words in page, words
    assert "Permission to use, copy, modify" in text, "the library's licence comes with it"


def test_kinds_are_told_apart_without_colour(page: str) -> None:
    """Each kind of one architecture has its own pattern; letters and words stand beside it."""
    kinds = {k["name"]: k for k in seen(page).data["kinds"]}
    for group in (
        ("mfn", "foreign", "identity", "missing", "unreadable", "corrupt"),
        ("ram_rw", "mmio_direct_io", "map_foreign_rw", "map_foreign_ro"),
    ):
        assert len({kinds[n]["pattern"] for n in group}) == len(group)
        assert len({kinds[n]["letter"] for n in group}) == len(group)
        assert len({kinds[n]["light"] for n in group}) == len(group)


@pytest.mark.parametrize("fault", FAULTS[::3], ids=lambda f: f.name)
def test_broken_memory_has_a_page_that_names_the_rule(dom0: Healthy, odd: Healthy, fault) -> None:  # type: ignore[no-untyped-def]
    healthy = odd if fault.truth is ODD else dom0
    machine = healthy.machine.copy()
    fault.apply(healthy, machine)
    page = page_of(machine.source())
    assert fault.rule in {f["rule"] for f in seen(page.html).data["findings"]}


def test_what_cannot_be_shown_says_why_and_the_rest_is_there(dom0: Healthy) -> None:
    lost = dom0.guest.space.translate(dom0.guest.names.require("xen_p2m_addr").address) >> 12
    page = page_of(dom0.machine.without(lost))
    assert "view" in page.sections and "xen_p2m_addr" in page.sections["view"]
    text = seen(page.html).text
    assert "Not shown:" in text and "xen_p2m_addr" in text and "6.1.0-56-amd64" in text
    assert "could_not_check" not in text and "could not check" in text


# -- hostile strings ----------------------------------------------------------------------------------------


def test_a_release_that_is_a_script_is_text(dom0: Healthy, page: str) -> None:
    evil = page_of(hostile(dom0.machine))
    assert "</script><script>" in evil.title, "the dump's release reaches the page"
    parsed, plain = seen(evil.html), seen(page)
    assert parsed.tags["script"] == plain.tags["script"] == 4
    assert "img" not in parsed.tags and not [a for a in parsed.attributes if a[1].startswith("on")]
    assert parsed.scripts[1:] == plain.scripts[1:], "scripts are ours, byte for byte"
    assert "window.hit=1" in parsed.text and "{{7*7}}" in parsed.text and "49&lt;" not in parsed.text
    assert (
        "\x1b" not in evil.html and "\u202e" not in evil.html and "\u2028" not in evil.html and r"\x202e" in parsed.text
    )
    assert not re.search(r"<(?!/script)", parsed.scripts[0]), "data hold no markup"


def test_data_with_markup_stay_data(dom0: Healthy) -> None:
    """A finding's text can hold words of the dump: in the page's data `<` is never literal."""
    from gdb_p2m.render.templating import environment

    text = environment().from_string("{{ data|tojson }}").render(data={"a": "</script><!--\u2028"})
    assert "<" not in text and json.loads(text)["a"].startswith("</script>")


# -- lanes --------------------------------------------------------------------------------------------------


def test_machine_frames_are_the_map_turned_round(dom0: Healthy) -> None:
    mapping = dom0.views.own().mapping()
    lane = by_frame("dom0", mapping)
    assert int(lane.count.sum()) == DOM0.totals["mfn"]
    assert bool(np.all(lane.start[1:] >= lane.start[:-1] + lane.count[:-1]))
    for i in range(0, len(lane.start), 7):
        run = mapping.lookup(int(lane.value[i]))
        assert run is not None and run.frame == int(lane.start[i])


def test_the_m2p_lane_says_what_each_entry_says(either: Healthy) -> None:
    from gdb_p2m.commands.base import Context
    from gdb_p2m.target import Target

    ctx = Context(Target(either.source))
    mapping = either.views.own().mapping()
    lane, table = m2p_lane(ctx, mapping), M2p(either.guest)
    assert int(lane.count[lane.kind == Mark.M2P_AGREES].sum()) == either.truth.totals["mfn"]
    assert int(lane.count.sum()) == sum(len(words) for _, words in table.pieces())
    touching = lane.start[1:] == (lane.start + lane.count)[:-1]
    follows = np.where(lane.value[:-1] < 0, lane.value[1:] < 0, lane.value[1:] == (lane.value + lane.count)[:-1])
    assert not (touching & follows & (lane.kind[1:] == lane.kind[:-1])).any(), "stretches are maximal"
    for i in range(0, len(lane.start), 11):
        entry = table.entry(Mfn(int(lane.start[i])))
        assert (entry.pfn if entry.pfn is not None else -1) == int(lane.value[i])
        assert (entry.pfn is None) == (lane.kind[i] in (Mark.M2P_INVALID, Mark.M2P_SHARED))


def test_pages_of_the_p2m_are_the_ones_that_stats_counts(dom0: Healthy) -> None:
    view = dom0.views.own()
    lane = own_pages(view)
    stored = next(s.count for s in view.storage().lines if s.what == "private pages of the list")
    # besides them: two tables, the PMD page, four shared pages of which one is a table
    assert int(lane.count.sum()) == stored + 1 + 1 + 4
    assert set(lane.kind.tolist()) == {Mark.P2M_PAGE}


def test_xen_s_own_owners_have_lanes_where_the_dump_holds_its_frame_table() -> None:
    """The model's machine has one guest, frames of a second domain, and Xen's own."""
    from gdb_p2m.commands.base import Context
    from gdb_p2m.model.build import build
    from gdb_p2m.model.description import parse
    from gdb_p2m.report.lanes import owner_lanes
    from gdb_p2m.target import Target
    from support.models import source_of

    text = (FIXTURES / "models" / "frame-table-domu.model").read_text()
    ctx, problems = Context(Target(source_of(build(parse(text, "frame-table-domu"))))), list[str]()
    lanes = {lane.name: lane for lane in owner_lanes(ctx, problems)}
    assert not problems and {"Xen: domain 8", "Xen: domain 9", "Xen: DOMID_XEN"} == lanes.keys()
    owned = lanes["Xen: domain 8"]
    for run in ctx.views.own().mapping():
        if run.kind is Kind.MFN:
            assert run.frame is not None
            i = int(np.searchsorted(owned.start, run.frame, side="right")) - 1
            assert owned.start[i] <= run.frame and run.frame + run.count <= owned.start[i] + owned.count[i]


def test_large_memory_is_not_searched_for_other_guests_and_the_page_says_so(
    dom0: Healthy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gdb_p2m.report import lanes

    assert "other domains" not in page_of(dom0.machine.source()).sections["machine"]
    monkeypatch.setattr(lanes, "MAX_SEARCHED", 1 << 20)
    page = page_of(dom0.machine.source())
    assert "other domains: not searched for in 4.1 MiB" in page.sections["machine"]
    assert seen(page.html).data["machine"]["lanes"][0]["name"] == "domain 0"


def lane_of(stretches: list[tuple[int, int, int]]) -> Lane:
    start, count, kind = (np.array(column) for column in zip(*stretches, strict=True))
    return Lane("x", start.astype(np.int64), count.astype(np.int64), kind.astype(np.uint8), start * 0 - 1)


def test_too_many_stretches_are_joined_and_the_lane_says_so() -> None:
    many = lane_of([(i, 1, i % 2) for i in range(10_000)] + [(1 << 20, 1 << 10, int(Kind.IDENTITY))])
    few = bounded(many, 100)
    assert len(few.start) <= 100 and few.note
    assert few.kind[0] == Mark.MIXED and few.kind[-1] == Kind.IDENTITY
    assert few.start[0] == 0 and int(few.start[-1] + few.count[-1]) == (1 << 20) + (1 << 10)
    assert int(few.count.sum()) == int(many.count.sum())


@pytest.mark.parametrize("limit", [3000, 40])
def test_a_joined_stretch_never_says_where_it_leads(limit: int) -> None:
    """Frames of joined runs are not consecutive: first frame plus offset would be a wrong MFN."""
    lane = lane_of([(i, 1, int(Kind.MFN)) for i in range(4000)] + [(5000 + i * 2, 1, i % 2) for i in range(2000)])
    lane.value = lane.start * 7 + 1
    joined = bounded(lane, limit)
    alone = set(zip(lane.start.tolist(), lane.count.tolist(), lane.value.tolist(), strict=True))
    assert len(joined.start) <= limit and joined.note
    known = {n for a, c in zip(lane.start.tolist(), lane.count.tolist(), strict=True) for n in range(a, a + c)}
    for a, c, kind in zip(joined.start.tolist(), joined.count.tolist(), joined.kind.tolist(), strict=True):
        assert kind == Mark.MIXED or known >= set(range(a, a + c)), "a hole never becomes a frame of some kind"
    for first, count, value in zip(joined.start.tolist(), joined.count.tolist(), joined.value.tolist(), strict=True):
        assert value == -1 or (first, count, value) in alone


def test_what_is_rare_is_exact_even_when_the_rest_had_to_be_joined() -> None:
    from gdb_p2m.mapping import MappingBuilder
    from gdb_p2m.report import page

    builder = MappingBuilder("linear", 400_000)
    for i in range(0, 400_000, 2):
        builder.add(i, 2, Kind.CORRUPT if i == 123_456 else (Kind.MISSING, Kind.MFN)[i // 2 % 2], i)
    lanes = {lane["name"]: lane for lane in page._lane_per_kind(builder.build())}
    assert lanes["corrupt"]["start"] == [123_456] and lanes["corrupt"]["count"] == [2] and not lanes["corrupt"]["note"]
    assert lanes["mfn"]["note"] and len(lanes["mfn"]["start"]) <= 60_000


def test_stretches_of_one_kind_are_joined_without_loss() -> None:
    lane = lane_of([(i, 1, 0) for i in range(500)] + [(600, 5, 0), (605, 1, 3)])
    joined = bounded(lane, 10)
    assert list(zip(joined.start.tolist(), joined.count.tolist(), joined.kind.tolist(), strict=True)) == [
        (0, 500, 0),
        (600, 5, 0),
        (605, 1, 3),
    ]
    assert of_mapping("x", _mapping()).note == ""


def _mapping():  # type: ignore[no-untyped-def]
    from support.pictures import view_of

    return view_of("holed-tree-3.16-64").mapping()


# -- the verb -----------------------------------------------------------------------------------------------


def test_output_is_wanted_never_an_input_and_not_overwritten_by_accident(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert run_cli("report", DOM0.path).code == 2
    assert run_cli("report", DOM0.path, "-o", DOM0.path, "--force").code == 2
    assert run_cli("report", DOM0.path, "-o", tmp_path / "no" / "page.html").code == 3
    out.write_text("mine")
    assert run_cli("report", DOM0.path, "-o", out).code == 2 and out.read_text() == "mine"
    assert run_cli("report", DOM0.path, "-o", out, "--force").code == 0
    printed = run_cli("report", DOM0.path, "-o", "-").out
    assert printed == out.read_text() and printed.startswith("<!DOCTYPE html>")


def test_templates_style_and_library_are_part_of_the_package() -> None:
    """What `pip install .` carries is what pyproject names: every file that is not Python must match a pattern."""
    import tomllib
    from fnmatch import fnmatch

    root = FIXTURES.parent
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["gdb_p2m"]
    package = root / "gdb_p2m"
    others = [
        str(p.relative_to(package))
        for folder in ("report", "render")
        for p in (package / folder).rglob("*")
        if p.is_file() and p.suffix not in (".py", ".pyc")
    ]
    assert others and all(any(fnmatch(o, pattern) for pattern in patterns) for o in others)
