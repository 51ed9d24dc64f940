"""A picture says what the view says: every value in it is asked again with a trace, and nothing is lost unsaid."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from gdb_p2m.errors import NotSupported, P2mError
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.pictures.model import Options, Picture, Row
from gdb_p2m.pictures.pv import pv_picture
from gdb_p2m.pictures.registry import picture_of
from gdb_p2m.pictures.skeleton import Skeleton, kind_masks, skeleton_of
from gdb_p2m.render.picture_text import picture_text
from gdb_p2m.views.base import View
from gdb_p2m.views.leaves import Backing
from support.command_line import run_cli
from support.faults import FAULTS
from support.machine import Healthy
from support.pictures import NAMES, view_of
from support.places import DOM0, FIXTURES, SCHEMAS

LINUX = tuple(n for n in NAMES if not n.startswith("xen-riscv"))


@pytest.fixture(scope="module")
def views() -> dict[str, View]:
    return {}


@pytest.fixture
def view(request: pytest.FixtureRequest, views: dict[str, View]) -> View:
    name: str = request.param
    if name not in views:
        views[name] = view_of(name)
    return views[name]


every_view = pytest.mark.parametrize("view", NAMES, indirect=True)
every_linux_view = pytest.mark.parametrize("view", LINUX, indirect=True)


@every_view
def test_every_frame_in_a_picture_is_what_a_trace_of_its_number_finds(view: View) -> None:
    picture = picture_of(view, Options())
    asked = 0
    for box in picture.boxes:
        for row in box.rows:
            if row.kind is None or row.numbers is None or row.to is not None:
                continue
            for number in row.numbers:
                trace = view.trace(number)
                assert trace.kind is row.kind, (box.id, row)
                asked += 1
            if row.mfn is not None:
                assert view.trace(row.numbers[0]).frame == row.mfn, (box.id, row)
    assert asked > 3


@every_view
def test_links_lead_to_boxes_in_columns_further_right(view: View) -> None:
    picture = picture_of(view, Options())
    column = {b.id: b.column for b in picture.boxes}
    assert len(column) == len(picture.boxes)
    led_to = {r.to for b in picture.boxes for r in b.rows if r.to is not None}
    for box in picture.boxes:
        for row in box.rows:
            assert row.to is None or column[row.to] > box.column
        assert box.column == 0 or box.id in led_to


@every_linux_view
def test_the_rows_of_a_page_cover_its_slots_once(view: View) -> None:
    picture = picture_of(view, Options())
    for box in picture.boxes:
        if box.pages > 1 or not box.rows[0].label[0].isdigit():
            continue
        at = int(box.rows[0].label.split("..")[0])
        for row in (r for r in box.rows if r.label != "!"):
            first, _, last = row.label.partition("..")
            assert int(first) == at, (box.id, row)
            at = int(last or first) + 1
    top = picture.boxes[0]
    end = -1
    for row in top.rows:
        assert row.numbers is not None and row.numbers[0] == end + 1
        end = row.numbers[1]
    assert end == min(view.limit, _end_of_slots(view)) - 1


def _end_of_slots(view: View) -> int:
    skeleton = skeleton_of(view)
    return skeleton.first_pfn(len(skeleton.backing))


@every_view
@pytest.mark.parametrize("width", [40, 80, 100, 120, 200])
def test_no_line_is_longer_than_the_width_and_ascii_is_ascii(view: View, width: int) -> None:
    picture = picture_of(view, Options())
    for ascii_only in (False, True):
        text = picture_text(picture, width, ascii_only)
        assert max(map(len, text.splitlines())) <= width
        assert not ascii_only or text.isascii()


@every_view
def test_the_json_is_what_its_schema_says(view: View) -> None:
    import json

    schema = json.loads((SCHEMAS / "draw.json").read_text())
    document = json.loads(json.dumps(picture_of(view, Options(boxes=2, rows=3)).json()))
    assert not list(Draft202012Validator(schema).iter_errors(document))


@every_view
def test_few_boxes_and_rows_keep_the_picture_small_and_say_so(view: View) -> None:
    whole, small = picture_of(view, Options(boxes=50, rows=200)), picture_of(view, Options(boxes=1, rows=1))
    assert len(small.boxes) <= len(whole.boxes)
    left_out = any(r.folded for b in small.boxes for r in b.rows) or any(b.pages > 1 for b in small.boxes)
    assert left_out == bool(small.folded)


@every_linux_view
def test_a_number_that_is_asked_for_is_opened(view: View) -> None:
    runs = [r for r in view.mapping() if r.kind is Kind.MFN]
    number = runs[len(runs) // 2].start
    picture = picture_of(view, Options(boxes=1, rows=50, at=(number,)))
    opened = [b for b in picture.column(2) if b.pages == 1 and b.numbers and b.numbers[0] <= number <= b.numbers[1]]
    assert opened


def test_shared_pages_are_drawn_once_with_the_slots_that_stats_counts() -> None:
    view = view_of("linux-6.1-dom0-400M")
    picture = picture_of(view, Options())
    counts = {b.title: b.shared_by for b in picture.boxes if b.shared_by is not None}
    assert counts == {n: c for n, _, c in view.storage().shared if c}
    assert counts == {"p2m_identity_pte": 511, "p2m_identity": 261_632}
    assert "made, but no slot leads there: p2m_missing_pte, p2m_missing" in picture.remarks


def test_boundary_leaves_show_the_documented_kinds() -> None:
    """DOM0: PFN 0x9f..0xff is identity by entry, RAM ends at 0x19060, the E820 at 0x3ffdf."""
    picture = picture_of(view_of("linux-6.1-dom0-400M"), Options())
    leaves = [[(r.numbers, r.kind) for r in b.rows] for b in picture.column(2) if b.pages == 1 and b.numbers]
    assert leaves == [
        [((0, 0x9E), Kind.MFN), ((0x9F, 0xFF), Kind.IDENTITY), ((0x100, 0x1FF), Kind.MFN)],
        [((0x19000, 0x19060), Kind.MFN), ((0x19061, 0x191FF), Kind.MISSING)],
        [((0x3FE00, 0x3FFDF), Kind.MISSING), ((0x3FFE0, 0x3FFFF), Kind.IDENTITY)],
    ]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_broken_memory_is_drawn_or_refused_in_words(dom0: Healthy, odd: Healthy, fault) -> None:  # type: ignore[no-untyped-def]
    from gdb_p2m.target import Target
    from gdb_p2m.views.registry import Views

    healthy = dom0 if fault.truth is DOM0 else odd
    machine = healthy.machine.copy()
    fault.apply(healthy, machine)
    try:
        views = Views(Target(machine.source()).domain())
        pictures = [
            picture_of(v, Options()) for name, v in views.available() if isinstance(v, View) and name != "core-table"
        ]
    except P2mError as e:
        assert e.message
        return
    for picture in pictures:
        assert picture_text(picture, 80)


def test_damage_is_drawn_before_what_is_healthy(dom0: Healthy) -> None:
    """One entry of one of 199 alike leaves is overwritten: that leaf is opened, and the entry is a row."""
    from gdb_p2m.target import Target
    from gdb_p2m.views.registry import Views

    machine = dom0.machine.copy()
    machine.set_u64(dom0.entry(0x4321), 0xC000_0000_DEAD_0000)
    picture = picture_of(Views(Target(machine.source()).domain()).own(), Options(boxes=1))
    rows = [r for b in picture.column(2) for r in b.rows if r.kind is Kind.CORRUPT]
    assert [r.numbers for r in rows] == [(0x4321, 0x4321)]


def test_pages_that_the_dump_lacks_are_said_to_be_lacking(dom0: Healthy) -> None:
    from gdb_p2m.target import Target
    from gdb_p2m.views.registry import Views

    gone = dom0.entry(0x4200) >> 12
    picture = picture_of(Views(Target(dom0.machine.without(gone)).domain()).own(), Options())
    rows = [r for b in picture.boxes for r in b.rows if r.kind is Kind.UNREADABLE]
    assert rows and all("not in the dump" in r.text for r in rows)


class Whole(View):
    """512 GiB of guest memory, every leaf private: 2^27 PFNs in one run."""

    name = "linear"
    limit = 1 << 27

    def mapping(self) -> Mapping:
        one = np.array([0], dtype=np.int64)
        return Mapping("linear", self.limit, one, one + self.limit, one.astype(np.uint8), one + 0x1000000)

    def trace(self, number: int):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def storage(self):  # type: ignore[no-untyped-def]
        raise NotImplementedError


def whole_guest() -> Skeleton:
    """512 page tables with 512 private pages each, no two neighbours in machine memory."""
    base = skeleton_of(view_of("linux-6.1-dom0-400M"))
    frames = np.arange(512 * 512, dtype=np.int64) * 3 + 7
    return dataclasses.replace(
        base,
        view=Whole(),
        mid=np.arange(512, dtype=np.int64) * 5 + 0x900000,
        backing=np.full(512 * 512, Backing.PRIVATE, dtype=np.uint8),
        frame=frames,
        names={},
        shared_slots={},
    )


def test_512_gib_are_one_small_picture_that_says_what_it_folded() -> None:
    picture = pv_picture(whole_guest(), Options())
    assert len(picture.boxes) == 3
    assert picture.boxes[1].pages == 512 and picture.boxes[2].pages == 512 * 512
    assert picture.folded == (
        "262,144 list pages (only MFNs) are one stack",
        "512 page tables that are alike are one stack",
    )
    assert len(picture_text(picture, 80).splitlines()) < 40


def test_one_frame_in_512_gib_can_be_opened() -> None:
    picture = pv_picture(whole_guest(), Options(at=(0x5000123,)))
    assert [b for b in picture.column(2) if b.pages == 1 and b.numbers == (0x5000000, 0x50001FF)]


def test_kind_masks_agree_with_looking_at_every_pfn() -> None:
    view = view_of("holed-tree-3.16-64")
    masks = kind_masks(view.mapping(), 512, 64)
    for i, mask in enumerate(masks.tolist()):
        kinds, _ = view.mapping().expand(i * 512, i * 512 + 512)
        assert mask == sum(1 << k for k in np.unique(kinds).tolist())


def test_a_view_without_levels_has_no_picture() -> None:
    with pytest.raises(NotSupported, match="no structure"):
        picture_of(Whole(), Options())


# -- the verb -------------------------------------------------------------------------------------------


def test_svg_is_well_formed_and_not_overwritten_by_accident(tmp_path: Path) -> None:
    import xml.etree.ElementTree as ET

    out = tmp_path / "p2m.svg"
    ran = run_cli("draw", DOM0.path, "--svg", out)
    assert ran.code == 0 and "9 boxes" in ran.out
    root = ET.parse(out).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = "".join(root.itertext())
    assert "0x30100..0x301ff" in text and "from 261,632 slots" in text
    again = run_cli("draw", DOM0.path, "--svg", out)
    assert again.code == 2 and "is there already" in again.err
    assert run_cli("draw", DOM0.path, "--svg", out, "--force").code == 0
    assert run_cli("draw", DOM0.path, "--svg", DOM0.path, "--force").code == 2
    assert run_cli("draw", DOM0.path, "--svg", tmp_path / "no" / "x.svg").code == 3


@pytest.mark.parametrize("arguments", ["--boxes 0", "--rows 99999999", "--width x", "0x8000000", "--view core-table"])
def test_arguments_that_make_no_sense_are_refused(arguments: str) -> None:
    ran = run_cli("draw", DOM0.path, *arguments.split())
    assert ran.code in (2, 3) and ran.out == "" and ran.err.startswith("gdb-p2m: ")


def test_the_text_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "64")
    lines = run_cli("draw", DOM0.path).out.splitlines()
    assert max(map(len, lines)) <= 64
    assert run_cli("draw", DOM0.path, "--width", "64").out.splitlines() == lines


def test_a_terminal_that_knows_no_lines_gets_ascii(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    out = tmp_path / "p2m.txt"
    for encoding, ascii_only in (("utf-8", False), ("latin-1", True), ("ascii", True)):
        for extra in ([], ["-o", str(out)]):
            command = [sys.executable, "-m", "gdb_p2m.cli", "draw", str(DOM0.path), *extra]
            environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(FIXTURES.parent)}
            done = subprocess.run(command, capture_output=True, env=environment, check=True, timeout=60)
            assert done.stdout.decode(encoding).isascii() == (ascii_only or bool(extra))
    assert not out.read_text().isascii()


def test_titles_cannot_steer_the_terminal_or_the_markup() -> None:
    """Values are numbers and our own words; should that change, nothing unescaped must come out."""
    from gdb_p2m.render.picture_svg import picture_svg

    evil = "\x1b[2J</svg><script>alert(1)</script>"
    picture: Picture = picture_of(view_of("linux-6.1-dom0-400M"), Options())
    box = dataclasses.replace(picture.boxes[0], title=evil, rows=(Row(evil, evil),), notes=(evil,))
    svg = picture_svg(dataclasses.replace(picture, boxes=(box,), heading=(evil,)))
    assert "<script" not in svg and "\x1b" not in svg


def test_the_examples_of_the_help_are_there() -> None:
    assert (FIXTURES / "xen-riscv-sv39x4.core.zst").exists()
    assert isinstance(io.StringIO(run_cli("draw", DOM0.path, "0x8110", "--width", "80").out).readline(), str)
