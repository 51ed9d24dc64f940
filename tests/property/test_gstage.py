"""The G-stage decoder against the model: any description is decoded to what was built, in every mode and layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.xen_riscv import MODES, SERIES_V5, XEN_4_22_EMBEDDED, XEN_4_22_POINTER
from gdb_p2m.mapping import Kind
from gdb_p2m.model.riscv import RiscvDescription, RiscvDomainDescription, Step
from gdb_p2m.model.riscv_p2m import Table
from gdb_p2m.spaces.entries import Pointee, decode
from gdb_p2m.views.gstage_tables import POINTER_MASK
from gdb_p2m.views.gstage_types import EXTERNAL, Types
from support.riscv import built, model, runs_of

TYPES = ("p2m_ram_rw", "p2m_mmio_direct_io", "p2m_map_foreign_rw", "p2m_map_foreign_ro")
RAM_FIRST = 0x80000
WINDOW = 0x600
"""GFNs of each of the windows in which steps are made, so that they meet and overlap."""


@st.composite
def steps(draw: st.DrawFn, limit: int) -> list[Step]:
    """Operations near a few places: borders of tables, of root pages, both ends of the address space."""
    quarter = limit // 4
    bases = (0, 0x40000 - WINDOW // 2, quarter - WINDOW // 2, 2 * quarter, limit - WINDOW)
    found = []
    for _ in range(draw(st.integers(1, 12))):
        base = draw(st.sampled_from(bases))
        at = draw(st.integers(0, WINDOW - 1) | st.sampled_from((0, 0x200, 0x400)))
        count = draw(st.integers(1, 40) | st.sampled_from((0x200, 0x400)))
        gfn = base + at
        count = min(count, limit - gfn)
        what = draw(st.sampled_from(("map", "map", "map", "unmap")))
        mfn = draw(st.integers(0x1000, 0x1400)) + draw(st.sampled_from((0, gfn & 0x1FF)))
        level = draw(st.integers(0, 2))
        found.append(Step(what, gfn, count, mfn, draw(st.sampled_from(TYPES)), level))
    if draw(st.booleans()):
        found.append(Step("map", 0x80000, 0x40000, 0x400000, draw(st.sampled_from(TYPES)), 2))
        found.append(Step("map", 0x80000 + draw(st.integers(0, 0x3FFFF)), 1, 0x1234, draw(st.sampled_from(TYPES)), 0))
    return found


@st.composite
def descriptions(draw: st.DrawFn) -> RiscvDescription:
    """A machine with one or two domains."""
    mode = draw(st.sampled_from(MODES))
    return RiscvDescription(
        "any",
        draw(st.sampled_from((XEN_4_22_POINTER, XEN_4_22_EMBEDDED, SERIES_V5))),
        mode,
        draw(st.sampled_from((pt.SV39, pt.SV48))),
        0x8000_0000,
        16 << 20,
        draw(st.booleans()),
        [RiscvDomainDescription(i, draw(steps(mode.gfn_limit))) for i in range(draw(st.integers(1, 2)))],
    )


@pytest.mark.thorough
@settings(max_examples=60)
@given(descriptions())
def test_the_map_is_what_was_built(description: RiscvDescription) -> None:
    machine = built(description)
    assert not machine.target.domain_list.broken
    for index in range(len(description.domains)):
        assert runs_of(machine.view(index).mapping()) == machine.truth(index)


@pytest.mark.thorough
@settings(max_examples=30)
@given(descriptions(), st.data())
def test_a_trace_of_any_gfn_agrees_with_the_map(description: RiscvDescription, data: st.DataObject) -> None:
    view = built(description).view()
    mapping = view.mapping()
    gfns = {data.draw(st.integers(0, view.limit - 1)) for _ in range(5)}
    for run in list(mapping)[:20]:
        gfns |= {run.start, run.end - 1, max(run.start - 1, 0), min(run.end, view.limit - 1)}
    for gfn in gfns:
        run, trace = mapping.lookup(gfn), view.trace(gfn)
        if run is None:
            assert trace.kind is Kind.INVALID and trace.frame is None
        else:
            assert (trace.kind, trace.frame, trace.order) == (run.kind, run.frame, run.order)


@pytest.mark.thorough
@settings(max_examples=25)
@given(descriptions())
def test_no_rule_finds_an_error_in_what_xen_would_build(description: RiscvDescription) -> None:
    machine = built(description)
    for index in range(len(description.domains)):
        for rule, result in machine.check(index).items():
            assert result.status != "could_not_check", (rule, result.reason)
            if result.status == "failed":
                assert result.rule.severity == "note", (rule, result.findings)


entries = st.integers(0, (1 << 64) - 1) | st.builds(
    lambda high, ppn, low: high << 54 | ppn << 10 | low,
    st.sampled_from((0, 0, 0, 1, 0x40, 0x80, 0x100, 0x180, 0x200, 0x3FF)),
    st.integers(0, 1 << 20) | st.integers(0, (1 << 44) - 1),
    st.integers(0, 1023),
)


@given(st.lists(entries, min_size=1, max_size=40), st.sampled_from(MODES))
def test_the_bulk_classification_agrees_with_the_decoder_of_single_entries(raws: list[int], mode: object) -> None:
    from gdb_p2m.layout.xen_riscv import GstageMode

    assert isinstance(mode, GstageMode)
    types = Types(model_facts())
    raw = np.array(raws, dtype=np.uint64)
    for level in mode.shape.levels:
        last = level is mode.shape.levels[-1]
        kinds = types.kinds(raw, level, last)
        pointers = (raw & np.uint64(POINTER_MASK)) == np.uint64(pt.RISCV_V)
        for i, value in enumerate(raws):
            pte = decode("riscv", value, level, last)
            assert bool(pointers[i]) == (pte.pointee is Pointee.TABLE or (last and is_plain_pointer(value)))
            if pte.pointee is Pointee.LEAF and not value & pt.RISCV_N:
                rsw = value >> 8 & 3
                assert kinds[i] == (Kind.INVALID, Kind.RAM_RW, Kind.MMIO_DIRECT_IO, EXTERNAL)[rsw]
            elif pte.pointee is not Pointee.ABSENT:
                assert kinds[i] == Kind.CORRUPT


def is_plain_pointer(value: int) -> bool:
    """A pointer to a table but for its level."""
    return decode("riscv", value, pt.SV39.levels[0], False).pointee is Pointee.TABLE


_FACTS: list[object] = []


def model_facts() -> object:
    """Facts of the model, found once."""
    if not _FACTS:
        _FACTS.append(model("riscv-two-domains").target.xen.facts)
    return _FACTS[0]


@pytest.mark.thorough
@settings(max_examples=60)
@given(st.data())
def test_random_entries_in_a_leaf_table_are_decoded_as_one_by_one(data: st.DataObject) -> None:
    """Hostile leaf tables: whatever stands in the slots, map and trace agree and nothing is lost or invented."""
    machine = built("xen-riscv t\nram 0x80000000+16M\ndomain 1\nmap map_foreign_rw 0x0 600 0x81000 4k\n")
    p2m = machine.xen.domains[0].p2m
    table: Table = next(t for t in p2m.tables() if t.level == 0 and t.gfn == 0)
    near = data.draw(st.integers(0, (1 << 44) - 1))
    sensible = st.builds(
        lambda step, low: (near + step & (1 << 44) - 1) << 10 | low,
        st.integers(0, 4),
        st.sampled_from((0x11F, 0x1DF, 0x15F, 0x317, 0x313, 0x3D7, 0x217, 1, 0, 0x11E)),
    )
    at = data.draw(st.integers(0, 500))
    for i, raw in enumerate(data.draw(st.lists(entries | sensible, min_size=1, max_size=60))):
        if at + i < 512:
            p2m.put(table, at + i, raw)
            if data.draw(st.booleans()):
                p2m.set_slot(table, at + i, data.draw(st.integers(0, 15)))
    view = machine.view()
    mapping = view.mapping()
    for gfn in range(512):
        run, trace = mapping.lookup(gfn), view.trace(gfn)
        if run is None:
            assert trace.kind is Kind.INVALID and not p2m.entry(table, gfn) & 1
        else:
            assert (trace.kind, trace.frame) == (run.kind, run.frame), hex(p2m.entry(table, gfn))
    starts = mapping.start
    assert np.all(starts[1:] >= starts[:-1] + mapping.count[:-1])
