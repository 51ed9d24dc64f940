"""What the model builds, the decoders read back: every view, every era, both widths, any frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import KIND_BY_WORD, Kind, Mapping
from gdb_p2m.model.build import build
from gdb_p2m.model.description import Description, DescriptionError, Stage, parse
from gdb_p2m.model.machine import Machine, Truth
from gdb_p2m.model.pieces import Fate
from gdb_p2m.target import Target
from gdb_p2m.views.registry import Views
from support.model_memory import source_of
from support.places import FIXTURES

MODELS = sorted(p.stem for p in (FIXTURES / "models").glob("*.model") if not p.stem.startswith("riscv"))
KIND_OF_FATE = np.array([KIND_BY_WORD[f.word] for f in Fate], dtype=np.uint8)


def load(name: str) -> Description:
    path = FIXTURES / "models" / f"{name}.model"
    return parse(path.read_text(), path.name)


def guest_of(machine: Machine) -> LinuxGuest:
    (guest,) = Target(source_of(machine)).guests
    return guest


def assert_same(got: Mapping, truth: Truth) -> None:
    """Run for run, to the last PFN."""
    assert got.limit == truth.limit
    want = (truth.start, truth.count, KIND_OF_FATE[truth.kind], truth.frame)
    for name, a, b in zip(
        ("start", "count", "kind", "frame"), (got.start, got.count, got.kind, got.frame), want, strict=True
    ):
        assert np.array_equal(a, b), f"{name}: {list(got)[:8]} is not {truth.words()[:8]}"


def assert_read_back(machine: Machine) -> None:
    views = Views(guest_of(machine))
    own = "linear" if machine.description.era.linear else "tree"
    assert views.own().name == own
    assert_same(views.own().mapping(), machine.truth())
    if machine.description.stage == "final" and not machine.description.virt_p2m_4tools:
        assert_same(views.get("list-list").mapping(), machine.list_list_truth())


@pytest.mark.parametrize("name", MODELS)
def test_every_bundled_description_reads_back(name: str) -> None:
    assert_read_back(build(load(name)))


@pytest.mark.parametrize("name", ["lab-dom0", "large-remap", "e820-host-domu", "tiny-domu"])
def test_the_planned_stage_reads_back(name: str) -> None:
    assert_read_back(build(load(name), stage="planned"))


@pytest.mark.parametrize("name", ["lab-dom0", "odd-size-domu", "tree-dom0", "tree-2.6.37-domu"])
def test_the_builders_list_reads_back(name: str) -> None:
    assert_read_back(build(load(name), stage="initial"))


@st.composite
def descriptions(draw: st.DrawFn) -> str:
    """Small guests: an E820 with holes anywhere above the kernel's first pages, any frames, any era."""
    era = draw(st.sampled_from(["linear", "linear", "linear", "tree-3.16", "tree-3.18", "tree-2.6.39", "tree-2.6.37"]))
    pae = draw(st.booleans())
    nr = draw(st.integers(0x1600, 0x3000))
    lines = [f"era {era}", f"width {'pae' if pae else '64'}", f"domain 1{draw(st.sampled_from(['', ' initdomain']))}"]
    lines.append(f"nr_pages {nr}")
    at, ram = 0, True
    ends = sorted(draw(st.lists(st.integers(0x1500, 0x5000), min_size=1, max_size=5, unique=True)))
    lines.append("e820 0x0-0x9fbff ram")
    lines.append("e820 0x9fc00-0xfffff reserved")
    at = 0x100
    for end in ends:
        size = (end - at) * 4096
        lines.append(f"e820 {at * 4096:#x}+{size:#x} {'ram' if ram else 'reserved'}")
        at, ram = end, not ram
    if draw(st.booleans()):
        lines.append("e820 0x100000000+512M ram")
    order = draw(st.sampled_from(["contiguous", "reversed", "scattered seed 9"]))
    lines.append(f"frames {order}")
    if draw(st.booleans()):
        lines.append(f"max_pages {nr + draw(st.integers(0, 0x2000))}")
    if draw(st.booleans()):
        lines.append(f"p2m_limit {'none' if draw(st.booleans()) else '4G'}")
    if draw(st.booleans()):
        lines.append(f"holes {draw(st.sampled_from(['remap', 'release']))}")
    for keyword in ("ballooned", "released"):
        if draw(st.booleans()):
            start = draw(st.integers(0x1400, nr - 2))
            lines.append(f"{keyword} {start}+{draw(st.integers(1, nr - start))}")
    if order == "contiguous" and draw(st.booleans()):
        lines.append(f"foreign {draw(st.integers(0x1400, 0x8000))}+{draw(st.integers(1, 600))} mfn 0x9000")
    if draw(st.booleans()):
        lines.append("initial_list inside")
    return "\n".join(lines)


@pytest.mark.thorough
@settings(max_examples=100)
@given(descriptions(), st.sampled_from(["final", "final", "planned", "initial"]))
@example("era tree-3.16\nnr_pages 0x1600\ne820 0+32M ram\nforeign 0x3000+600 mfn 0x9000", "final")
def test_any_guest_reads_back(text: str, stage: Stage) -> None:
    try:
        machine = build(parse(text, "drawn"), stage=stage)
    except DescriptionError:
        return
    assert_read_back(machine)


def test_scattered_frames_have_a_run_each() -> None:
    machine = build(load("domu-131200"))
    mapping = Views(guest_of(machine)).own().mapping()
    frames = mapping.frame[mapping.kind == Kind.MFN]
    assert len(frames) > 131_000 and len(np.unique(frames)) == len(frames)
