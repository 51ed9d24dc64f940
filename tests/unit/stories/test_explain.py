"""`explain` tells the truth in every era: whole stories against golden files, and each claim against what was read."""

from __future__ import annotations

import io
import json
import os
import re
from functools import cache
from pathlib import Path

import jsonschema
import pytest

from gdb_p2m.cli import build_parser
from gdb_p2m.cli import run as run_cli
from gdb_p2m.commands.base import Context, Report
from gdb_p2m.commands.explain import VERB
from gdb_p2m.errors import UsageError
from gdb_p2m.layout.x86_pv import WIDTH_32, WIDTH_64
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.render.text import to_text
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.sources.probe import open_source
from gdb_p2m.stories.base import SOURCES
from gdb_p2m.target import Target
from support.models import holed, source_of
from support.places import FIXTURES, ROOT, SCHEMAS, SHARED_REAL
from support.riscv import ModelSource
from support.riscv import model as riscv_model

GOLDEN = ROOT / "tests" / "golden" / "explain"
SCHEMA = json.loads((SCHEMAS / "explain.json").read_text())
MODELS = FIXTURES / "models"


@cache
def target(name: str) -> Target:
    """A model, a guest with every kind (`holed ERA WIDTH`), or a real excerpt."""
    if name.startswith("holed "):
        return Target(source_of(holed(*name.split()[1:])))
    if (MODELS / f"{name}.model").exists():
        text = (MODELS / f"{name}.model").read_text()
        if "xen-riscv " in text:
            return Target(ModelSource(riscv_model(name).xen))
        return Target(source_of(build(parse(text, name))))
    for folder in (FIXTURES, SHARED_REAL):
        if (path := folder / f"{name}.core.zst").exists():
            return Target(open_source(str(path)))
    pytest.skip(f"{name} lies beside some checkouts only")


def explained(name: str, number: int, *options: str) -> Report:
    args = build_parser(VERB, "p2m explain", False).parse_args([hex(number), *options])
    report = VERB.run(Context(target(name), args.domain), args)
    jsonschema.validate(report.data, SCHEMA)
    return report


def prose(report: Report) -> str:
    """The text with all white space as single blanks, so that folding does not matter."""
    return re.sub(r"\s+", " ", to_text(report))


# name, number, case; the golden text of each is tests/golden/explain/NAME-NUMBER.txt
STORIES = [
    ("linux-6.1-dom0-400M", 0x100, "mfn-entry"),
    ("linux-6.1-dom0-400M", 0x19010, "mfn-entry"),
    ("linux-6.1-dom0-400M", 0x9F, "identity-entry"),
    ("linux-6.1-dom0-400M", 0xFEE00, "identity-shared-table"),
    ("linux-6.1-dom0-400M", 0x19061, "missing-entry"),
    ("linux-6.1-dom0-400M", 0x8000000, "identity-past-end"),
    ("linux-6.1-domu-150M-e820-host", 0x9600, "identity-shared-leaf"),
    ("linux-6.1-dom0-600M-kexec", 0x187FFC, "foreign-entry"),
    ("linux-3.16-tree", 0xFEE00, "identity-shared-table"),
    ("linux-3.18-tree", 0x9F, "identity-entry"),
    ("xen-riscv-sv39x4", 0x90000, "map_foreign_rw-metadata"),
    ("xen-riscv-sv39x4", 0x80000, "ram_rw-pte"),
    ("xen-riscv-sv39x4", 0x30010, "mmio_direct_io-pte"),
    ("xen-riscv-sv39x4", 0x123, "invalid-hole"),
    ("riscv-v5", 0x90005, "map_foreign_ro-metadata"),
    ("tree-2.6.37-domu", 0x8001, "missing-shared-leaf"),
    ("tree-2.6.39-dom0", 0x100000, "missing-shared-table"),
    ("tree-2.6.39-dom0", 0x8000000, "missing-past-end"),
    ("pae-dom0", 0x100000, "identity-shared-table"),
    ("documentation-example", 512256, "missing-entry"),
    ("documentation-example", 263424, "identity-entry"),
]


@pytest.mark.parametrize(("name", "number", "case"), STORIES)
def test_the_story_is_the_golden_one(name: str, number: int, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    report = explained(name, number)
    assert report.data["case"] == case
    path = GOLDEN / f"{name}-{number:#x}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(to_text(report))
    assert to_text(report) == path.read_text()


@pytest.mark.parametrize("width", ["64", "pae"])
@pytest.mark.parametrize("era", ["tree-2.6.37", "tree-2.6.39", "tree-3.16", "tree-3.18", "linear"])
def test_every_era_and_width_tells_of_every_kind_of_its_own(era: str, width: str) -> None:
    name = f"holed {era} {width}"
    view = Context(target(name)).views.own()
    told = {}
    for run in view.mapping():
        report = explained(name, run.start)
        assert report.data["answer"]["kind"] == run.kind.word
        told[run.kind.word] = prose(report)
    assert {"mfn", "missing", "foreign"} <= told.keys()
    assert ("identity" in told) == (era != "tree-2.6.37")
    per_page = (WIDTH_64 if width == "64" else WIDTH_32).per_page
    for text in told.values():
        assert f" * {per_page}^2 + " in text or "xen_p2m_addr" in text
        assert ("__pfn_to_mfn()" in text) == (era == "linear")
        assert ("which takes the PFN apart into the slots" in text) == (era != "linear")
    foreign_bit = 63 if width == "64" else 31
    if era != "tree-2.6.37":
        assert f"bit {foreign_bit} (FOREIGN_FRAME_BIT)" in told["foreign"]


def test_a_story_never_names_its_own_era_as_another() -> None:
    titles = {
        "tree-2.6.37": "2.6.37, 2.6.38:",
        "tree-2.6.39": "2.6.39 to 3.15:",
        "tree-3.16": "3.16 to 3.18:",
        "linear": "3.19 on:",
    }
    for era in titles:
        text = prose(explained(f"holed {era} 64", 0x100))
        assert {e for e, title in titles.items() if f"- {title}" in text} == titles.keys() - {era}


def test_identity_by_page_is_told_from_missing_by_page_though_both_read_invalid() -> None:
    identity, missing = explained("pae-dom0", 0x100000), explained("tree-2.6.39-dom0", 0x100000)
    assert "identity is a property of the page" in prose(identity).lower()
    assert "Why the content reads INVALID" not in prose(missing)


def test_the_documentation_example_ends_where_the_arithmetic_says() -> None:
    last, after = explained("documentation-example", 512255), explained("documentation-example", 512256)
    assert (last.data["answer"]["kind"], after.data["answer"]["kind"]) == ("identity", "missing")
    assert "512256 " not in prose(after) and "0x7d100 = 1 * 512^2 + 488 * 512 + 256" in prose(after)


def test_the_frame_lists_say_missing_of_identity_and_that_is_explained() -> None:
    views = {v["view"]: v["kind"] for v in explained("linux-6.1-dom0-400M", 0xFEE00).data["views"]}
    assert views == {"linear": "identity", "list-list": "missing"}
    assert "invisible here, by design" in prose(explained("linux-6.1-dom0-400M", 0xFEE00))


def test_one_view_alone_can_be_asked_and_the_answer_stays_the_guests_own() -> None:
    data = explained("linux-6.1-dom0-400M", 0xFEE00, "--view", "list-list").data
    assert [v["view"] for v in data["views"]] == ["list-list"]
    assert (data["view"], data["answer"]["kind"]) == ("linear", "identity")


def test_a_frame_whose_leaf_is_not_in_the_dump_is_unreadable_and_nothing_is_guessed() -> None:
    machine = holed("linear", "64")
    healthy = Context(Target(source_of(machine))).views.own().trace(0x200)
    assert healthy.read_at is not None
    broken = Target(source_of(machine, without=[healthy.read_at >> 12]))
    args = build_parser(VERB, "p2m explain", False).parse_args(["0x200"])
    report = VERB.run(Context(broken), args)
    jsonschema.validate(report.data, SCHEMA)
    assert report.data["case"] == "unreadable"
    assert "nothing is known of this PFN" in prose(report)
    assert "In other eras" not in prose(report)


def test_an_overwritten_entry_of_a_shared_page_is_corrupt_and_says_so() -> None:
    machine = holed("linear", "64")
    source = source_of(machine)
    view = Context(Target(source)).views.own()
    shared = next(r.start for r in view.mapping() if r.kind.word == "identity" and r.count > 1024)
    number = (shared // 512 + 1) * 512
    entry = view.trace(number).steps[-1].address
    assert entry is not None
    page = b"\x07" + source.read(entry & ~0xFFF, 4096)[1:]
    damaged = FakeSource({**dict(source._pieces), entry & ~0xFFF: page})
    damaged.info = source.info
    args = build_parser(VERB, "p2m explain", False).parse_args([hex(number)])
    report = VERB.run(Context(Target(damaged)), args)
    assert report.data["case"] == "corrupt"
    assert "the shared page was overwritten" in prose(report)


def test_a_number_that_no_machine_has_is_refused() -> None:
    with pytest.raises(UsageError, match="out of range"):
        explained("tiny-domu", 1 << 52)


def test_past_the_end_is_told_for_risc_v_too() -> None:
    report = explained("xen-riscv-sv39x4", 1 << 29)
    assert report.data["case"] == "invalid-past-end"
    assert "Sv39x4 has guest frames 0..0x1fffffff only" in prose(report)


def test_sections_of_our_own_documents_that_stories_cite_exist() -> None:
    for cited in SOURCES.values():
        if cited.where.startswith("docs/"):
            text = (ROOT / cited.where).read_text()
            section = re.search(r'"(.+)"', cited.title)
            assert f"## {section[1]}\n" in text if section else text.startswith(f"# {cited.title}\n"), cited


def test_the_text_is_folded_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, most in (("60", 60), ("10", 40), ("400", 100)):
        monkeypatch.setenv("COLUMNS", columns)
        lines = to_text(explained("linux-6.1-dom0-400M", 0xFEE00)).splitlines()
        assert most - 15 < max(map(len, lines)) <= most


def test_in_pipes_and_files_the_width_does_not_depend_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    words = ["explain", str(FIXTURES / "linux-6.1-dom0-400M.core.zst"), "0xfee00"]
    out = io.StringIO()
    assert (
        run_cli(words, out, io.StringIO())
        == run_cli([*words, "-o", str(tmp_path / "o")], io.StringIO(), io.StringIO())
        == 0
    )
    golden = (GOLDEN / "linux-6.1-dom0-400M-0xfee00.txt").read_text()
    assert out.getvalue() == (tmp_path / "o").read_text() == golden


def test_early_in_boot_the_builders_list_is_told_of_and_no_shared_page() -> None:
    text = (MODELS / "lab-dom0.model").read_text()
    early = Target(source_of(build(parse(text, "lab-dom0"), stage="initial")))
    args = build_parser(VERB, "p2m explain", False).parse_args(["0x9f"])
    report = VERB.run(Context(early), args)
    assert report.data["case"] == "mfn-entry"
    assert "still on the domain builder's list" in prose(report)
    assert "holes are the same two pages" not in prose(report)


@pytest.mark.parametrize(
    ("name", "number"), [("code/linux-6.1-dom0-400M", 0xFEE00), ("code/xen-riscv-sv39x4", 0x90000)]
)
def test_where_the_code_is_named_the_verb_that_shows_it_is(name: str, number: int) -> None:
    assert "`disasm " in prose(explained(name, number))


def test_golden_files_have_no_leftovers() -> None:
    assert {p.name for p in Path(GOLDEN).iterdir()} == {f"{n}-{i:#x}.txt" for n, i, _ in STORIES}
