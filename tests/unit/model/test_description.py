"""Descriptions: what parses, and errors that name line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdb_p2m.layout.x86_pv import WIDTH_32
from gdb_p2m.model.build import build
from gdb_p2m.model.description import KEYWORDS, DescriptionError, E820Entry, ForeignRange, parse
from gdb_p2m.model.eras import ERAS
from support.places import FIXTURES

WHOLE = """
# a comment
guest    everything
era      linear
width    64
kernel   6.1.0
domain   3 initdomain
dom0_mem min:1G,max:3GB,1G        # and one behind a statement
e820     0x0-0x9fbff ram
e820     0x100000+2G ram
machine  0+4G
frames   scattered seed 7
holes    release
released 0x30000+16
ballooned 0x31000+0x10
p2m_limit none
virt_p2m_4tools yes
stage    planned
command_line console=hvc0 quiet
"""


def test_every_statement_ends_in_its_field() -> None:
    d = parse(WHOLE, "whole")
    assert (d.name, d.era.name, d.kernel, d.domain, d.initdomain) == ("everything", "linear", "6.1.0", 3, True)
    assert (d.nr_pages, d.max_pages) == (1 << 18, 3 << 18)
    assert d.e820 == (E820Entry(0, 0x9FC00, "ram"), E820Entry(0x100000, 0x100000 + (2 << 30), "ram"))
    assert d.machine == ((0, 4 << 30),)
    assert (d.order, d.seed, d.holes) == ("scattered", 7, "release")
    assert d.released == ((0x30000, 0x30010),) and d.ballooned == ((0x31000, 0x31010),)
    assert (d.p2m_limit, d.virt_p2m_4tools, d.stage) == (0, True, "planned")
    assert d.command_line == "console=hvc0 quiet"


def test_defaults_come_from_the_era() -> None:
    for era in ERAS:
        d = parse(f"era {era.name}\nnr_pages 8192", "short")
        assert d.kernel == era.release and d.holes == era.holes
        assert d.initial_list == ("outside" if era.linear else "inside")
        assert d.e820 == (E820Entry(0, 8192 << 12, "ram"),)
    assert parse("width pae\nnr_pages 8192", "short").width is WIDTH_32


def test_foreign_and_contiguous_start() -> None:
    d = parse("nr_pages 8192\nframes contiguous at 0x4000\nforeign 0x1f00+2 mfn 0x9000", "f")
    assert d.first_mfn == 0x4000 and d.foreign == (ForeignRange(0x1F00, 2, 0x9000),)


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("nr_pages 8192\nera 4.4", 2, "era", "none of: linear, tree-2.6.37"),
        ("nr_pages many", 1, "nr_pages", "not a number: 'many'"),
        ("nr_pages 8192 9", 1, "nr_pages", "one value"),
        ("\n\npages 8192", 3, "pages", "no such keyword"),
        ("nr_pages 8192\nnr_pages 8193", 2, "nr_pages", "given twice, first in line 1"),
        ("dom0_mem top:3G", 1, "dom0_mem", "neither min nor max"),
        ("dom0_mem 3Q", 1, "dom0_mem", "not a size"),
        ("e820 0x1000-0xfff ram", 1, "e820", "empty range"),
        ("e820 0x1000 ram", 1, "e820", "not a range"),
        ("e820 0+1M sram", 1, "e820", "none of: ram"),
        ("e820 0+1M", 1, "e820", "a range and a type"),
        ("e820 0+2M ram\ne820 1M+1M acpi", 2, "e820", "before the entry above ends (0x200000)"),
        ("machine 0+4097", 1, "machine", "page boundaries"),
        ("machine 0+1G\nmachine 512M+1G", 2, "machine", "overlaps"),
        ("frames contiguous seed 3", 1, "frames", "after contiguous"),
        ("frames reversed at 3", 1, "frames", "after reversed"),
        ("frames sorted", 1, "frames", "none of: contiguous"),
        ("foreign 0x1000+2 0x9000", 1, "foreign", "PFN+COUNT mfn MFN"),
        ("ballooned 0x1000", 1, "ballooned", "not a range of PFNs"),
        ("ballooned 0x1000+0", 1, "ballooned", "empty range"),
        ("domain", 1, "domain", "domain id"),
        ("domain 1 dom0", 1, "domain", "domain id"),
        ("stage last\nnr_pages 8192", 1, "stage", "none of: initial"),
        ("domain 1", 0, "nr_pages", "missing"),
        ("nr_pages 12", 1, "nr_pages", "a kernel at 16 MiB needs"),
        ("nr_pages 0x80000000", 1, "nr_pages", "the most is"),
        ("era tree-3.16\nnr_pages 0x8000001", 2, "nr_pages", "a three-level tree ends at 134217728"),
        ("nr_pages 8192\nera tree-3.16\nstage planned", 3, "stage", "no remap chain"),
        ("nr_pages 8192\nera tree-3.16\ninitial_list outside", 3, "initial_list", "only 64-bit kernels of the linear era"),
        ("nr_pages 8192\nera tree-3.18\nvirt_p2m_4tools yes", 3, "virt_p2m_4tools", "needs the linear list"),
        ("nr_pages 8192\nwidth pae\np2m_limit 512G", 3, "p2m_limit", "64G at most"),
        ("nr_pages 8192\ne820 1M+1G ram", 2, "e820", "no RAM at 0"),
    ],
)  # fmt: skip
def test_an_error_names_line_and_field(text: str, line: int, field: str, says: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        parse(text, "guest.model")
    where = f"guest.model:{line}" if line else "guest.model"
    assert caught.value.message.startswith(f"{where}: {field}: ")
    assert says in caught.value.message
    assert (caught.value.line, caught.value.field) == (line, field)


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("nr_pages 8192\nmachine 0+16M", "machine", "frames for guests"),
        ("nr_pages 8192\nmachine 0+1G\nmachine 2G+1M", "machine", "no room for Xen's M2P"),
        ("nr_pages 8192\nwidth pae\nmachine 0+32G", "machine", "16 GiB at most"),
        ("nr_pages 8192\nmachine 0+1G\nframes contiguous at 0x3ff00", "frames", "do not fit"),
        ("nr_pages 8192\nballooned 0x1000+1", "ballooned", "hit the kernel"),
        ("nr_pages 8192\nballooned 0x1fff+2", "ballooned", "past nr_pages"),
        ("nr_pages 8192\nforeign 0x1fff+2 mfn 0x110", "foreign", "the guest's own"),
        ("nr_pages 8192\nmachine 0+1G\nforeign 0x1fff+2 mfn 0x40000", "foreign", "not RAM"),
        ("nr_pages 8192\ne820 0+0x1008000 ram\ne820 18M+8G ram", "e820", "hit the kernel"),
        ("nr_pages 8192\ne820 0+20M ram\ne820 21M+8G ram\nremap_to 0x1800", "remap_to", "inside the initial memory"),
        ("nr_pages 4700\nballooned 0x1040+0x21c", "nr_pages", "too small"),
    ],
)
def test_what_only_building_can_tell_is_an_error_too(text: str, field: str, says: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        build(parse(text, "guest.model"))
    assert caught.value.field == field and says in caught.value.message


def test_an_unknown_stage_of_the_era_is_refused() -> None:
    with pytest.raises(DescriptionError):
        parse("era tree-3.16\nnr_pages 8192", "t").with_stage("planned")


X86_MODELS = sorted(p for p in (FIXTURES / "models").glob("*.model") if not p.stem.startswith("riscv"))


@pytest.mark.parametrize("path", X86_MODELS, ids=lambda p: p.stem)
def test_bundled_descriptions_are_named_after_their_files(path: Path) -> None:
    assert parse(path.read_text(), path.name).name == path.stem


def test_the_manual_explains_every_keyword() -> None:
    manual = (FIXTURES.parent / "docs" / "model.md").read_text()
    for keyword in KEYWORDS:
        assert f"`{keyword}" in manual, keyword
    for era in ERAS:
        assert f"`{era.name}`" in manual, era.name
