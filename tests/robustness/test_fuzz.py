"""Random damage to a real dom0: verbs answer or end with a P2mError, in bounded time, and never contradict themselves.

Repeatable in every run; `-m slow` does more of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_missing_pages import boundaries, table_frames

from gdb_p2m.errors import P2mError
from gdb_p2m.layout.names import ALL_NAMES
from gdb_p2m.mapping import Mapping
from support.command_line import run_cli
from support.machine import Examined, Healthy, Machine, covers_without_gaps, examine, walk_agrees_with_map
from support.verbs import run_every_verb

SCALE = int(os.environ.get("FUZZ_SCALE", "1"))
"""How many times more examples: FUZZ_SCALE=40 HYPOTHESIS_PROFILE=search looks for new faults for minutes."""
SECONDS = 20
"""Processor time that one damaged memory may take, all verbs together."""

Damage = list[tuple[int, bytes]]


@pytest.fixture(scope="module")
def victim(dom0: Healthy) -> Machine:
    """One copy for all examples, which undo what they do."""
    return dom0.machine.copy()


@pytest.fixture(scope="module")
def places(dom0: Healthy) -> list[int]:
    """Machine addresses of words that steer decoding: variables, structures, entries of deciding tables."""
    names = [n.name for n in ALL_NAMES if dom0.guest.has(n.name)]
    found = [dom0.at(n) for n in names]
    found += [dom0.start_info(n) for n in ("magic", "nr_pages", "shared_info", "flags", "mfn_list", "nr_p2m_frames")]
    found += [dom0.shared_info(n) for n in ("max_pfn", "pfn_to_mfn_frame_list_list", "p2m_cr3", "p2m_vaddr")]
    for frame in sorted(table_frames(dom0)):
        found += [(frame << 12) + 8 * i for i in (0, 1, 3, 256, 258, 402, 510, 511)]
    return [a for a in found if any(s <= a < s + len(d) for s, d in dom0.machine.pieces.items())]


@contextmanager
def damaged(machine: Machine, damage: Damage) -> Iterator[Machine]:
    """The machine with bytes overwritten, restored at the end."""
    undo = [(a, machine.read(a, len(b))) for a, b in damage]
    try:
        for address, data in damage:
            machine.write(address, data)
        yield machine
    finally:
        for address, data in reversed(undo):
            machine.write(address, data)


def words(machine: Machine, places: list[int]) -> st.SearchStrategy[Damage]:
    """A few words overwritten with values that could be frames, pointers, entries, sizes, or nonsense."""
    frames = machine.frames()
    value = st.one_of(
        st.sampled_from([0, 1, 2**64 - 1, 2**63, 2**62, 2**52, 2**47, 2**40, 2**32, 2**31, 4096, 511, 512]),
        st.integers(0, 2**64 - 1),
        st.sampled_from(frames),
        st.builds(lambda f, flags: f << 12 | flags, st.sampled_from(frames), st.sampled_from([0x61, 0x63, 0x67, 0xE3])),
        st.sampled_from(places).map(lambda a: a >> 12 << 12 | 0x67),
    ).map(lambda v: v.to_bytes(8, "little"))
    return st.lists(st.tuples(st.sampled_from(places), value), min_size=1, max_size=4)


def flips(machine: Machine) -> st.SearchStrategy[Damage]:
    """Some bytes anywhere overwritten."""
    anywhere = st.builds(lambda f, o: (f << 12) + o, st.sampled_from(machine.frames()), st.integers(0, 4095))
    return st.lists(st.tuples(anywhere, st.binary(min_size=1, max_size=1)), min_size=1, max_size=12)


def consistent(examined: Examined) -> None:
    """What must hold of any memory at all."""
    if examined.error is not None:
        assert examined.error.message
        return
    for result in examined.results.values():
        assert result.status != "passed" or result.checked > 0
        assert result.status not in ("could_not_check", "not_applicable") or result.reason
        assert (result.status == "failed") == bool(result.findings) and result.total >= len(result.findings)
    for name, mapping in examined.mappings.items():
        if isinstance(mapping, Mapping):
            covers_without_gaps(mapping)
            walk_agrees_with_map(examined, boundaries(mapping, 12), name)


def survive(machine: Machine, damage: Damage, every_verb: bool) -> None:
    started = time.process_time()
    with damaged(machine, damage):
        consistent(examine(machine.source()))
        if every_verb:
            for fmt in ("text", "json"):
                for output in run_every_verb(machine.source(), fmt).values():
                    assert isinstance(output, P2mError) or output.endswith("\n")
    assert time.process_time() - started < SECONDS


@pytest.mark.thorough
@settings(max_examples=15 * SCALE)
@given(data=st.data())
def test_damaged_words_that_steer_decoding(victim: Machine, places: list[int], data: st.DataObject) -> None:
    survive(victim, data.draw(words(victim, places)), every_verb=False)


@pytest.mark.thorough
@settings(max_examples=10 * SCALE)
@given(data=st.data())
def test_flipped_bytes_anywhere(victim: Machine, data: st.DataObject) -> None:
    survive(victim, data.draw(flips(victim)), every_verb=False)


@pytest.mark.thorough
@settings(max_examples=5 * SCALE)
@given(data=st.data())
def test_every_verb_survives_damage(victim: Machine, places: list[int], data: st.DataObject) -> None:
    survive(victim, data.draw(words(victim, places)), every_verb=True)


@pytest.mark.slow
@settings(max_examples=400 * SCALE)
@given(data=st.data())
def test_much_more_damage(victim: Machine, places: list[int], data: st.DataObject) -> None:
    damage = data.draw(st.one_of(words(victim, places), flips(victim)))
    survive(victim, damage, every_verb=data.draw(st.booleans()))


@pytest.mark.thorough
@settings(max_examples=40 * SCALE)
@given(data=st.data())
def test_damaged_headers_and_notes(
    dom0_core: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The first bytes of the file: ELF header, program headers, notes."""
    original = dom0_core.read_bytes()
    path = tmp_path_factory.getbasetemp() / "headers.core"
    if not path.exists():
        path.write_bytes(original)
    end = original.index(b'{"version"') + 80
    at = data.draw(st.integers(0, end - 8))
    new = data.draw(
        st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, bytes(8), b"\x01\0\0\0"]))
    )
    started = time.process_time()
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), new, at)
        try:
            for verb in ("identify", "check"):
                ran = run_cli(verb, path)
                assert ran.code in (0, 1, 3)
                assert ran.code != 3 or ran.out == ""
        finally:
            os.pwrite(file.fileno(), original[at : at + 8], at)
    assert time.process_time() - started < SECONDS


def test_a_list_page_that_maps_everything_many_times_stays_bounded(dom0: Healthy) -> None:
    """All of p2m_identity_pte maps one page of alternating entries: 2^27 slots could be 2^27 runs."""
    machine = dom0.machine.copy()
    page = dom0.entry(0x200) & ~0xFFF
    machine.write(page, b"".join((0x1000 + 7 * i).to_bytes(8, "little") for i in range(512)))
    table = dom0.page("p2m_identity_pte")
    machine.write(table, (page | 0x61).to_bytes(8, "little") * 512)
    started = time.process_time()
    examined = examine(machine.source())
    assert examined.results["LIN-004"].status == examined.results["LIN-006"].status == "failed"
    assert isinstance(examined.mappings["linear"], P2mError) and "runs" in str(examined.mappings["linear"])
    assert time.process_time() - started < SECONDS


def test_page_tables_that_lead_in_circles_end(dom0: Healthy) -> None:
    machine = dom0.machine.copy()
    root = dom0.guest.root.mfn << 12
    slot = (dom0.guest.variable("xen_p2m_addr") >> 39) & 511
    machine.set_u64(root + 8 * slot, root | 0x67)
    consistent(examine(machine.source()))
    for level in ("L2", "L1"):
        machine = dom0.machine.copy()
        at = dom0.table_entry(0x200, level)
        machine.set_u64(at, at & ~0xFFF | 0x67)
        consistent(examine(machine.source()))
