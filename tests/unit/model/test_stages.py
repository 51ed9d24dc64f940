"""The boot's stages: the builder's list, the planned chain, and what is left of both in the end."""

from __future__ import annotations

import numpy as np
import pytest

from gdb_p2m.layout.pagetables import X86_FRAME_MASK, X86_PRESENT, X86_RW
from gdb_p2m.model.build import build
from gdb_p2m.model.description import Stage, parse
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.pieces import Fate
from gdb_p2m.model.structs import start_info_layout
from support.places import FIXTURES

INIT_P2M = 0x8000000000


def made(name: str, stage: Stage) -> Machine:
    path = FIXTURES / "models" / f"{name}.model"
    return build(parse(path.read_text(), path.name), stage=stage)


def start_info(m: Machine, name: str) -> int:
    return m.memory.read_word(m.start_info + start_info_layout(m.width).field(name).offset, m.width.bytes)


def test_the_initial_list_has_a_top_level_slot_of_its_own() -> None:
    m = made("lab-dom0", "initial")
    assert start_info(m, "mfn_list") == INIT_P2M == m.variable("xen_p2m_addr")
    assert m.variable("xen_p2m_size") == 102400
    first, frames = start_info(m, "first_p2m_pfn"), start_info(m, "nr_p2m_frames")
    assert frames == 0xC8 + 3  # seen: 200 pages of list and three page tables
    for pfn in (0, 511, 102399):
        at = m.translate(INIT_P2M + pfn * 8)
        assert m.memory.read_word(at) == m.frames.mfn(pfn)
        assert m.frames.owners(np.array([at >> 12]))[0] == first + pfn // 512
    steps = m.tables.find(INIT_P2M)
    assert steps[0].index == 1
    tables = {(s.raw & X86_FRAME_MASK) >> 12 for s in steps[:-1]}
    assert {int(m.frames.owners(np.array([t]))[0]) for t in tables} == {first + 200, first + 201, first + 202}


def test_its_frames_and_tables_are_mapped_read_only() -> None:
    m = made("lab-dom0", "initial")
    first, frames = start_info(m, "first_p2m_pfn"), start_info(m, "nr_p2m_frames")
    for pfn in range(first, first + frames):
        entry = m.pte(m.kernel.direct_va(pfn)).raw
        assert entry & X86_PRESENT and not entry & X86_RW, hex(pfn)
    other = m.pte(m.kernel.direct_va(first - 1)).raw
    assert other & X86_RW


def test_in_the_end_the_slot_is_gone() -> None:
    m = made("lab-dom0", "final")
    assert m.memory.read_word((m.tables.root << 12) + 8) == 0
    assert start_info(m, "mfn_list") == m.variable("xen_p2m_addr") == 0xFFFFC90000000000


def test_the_initial_list_of_an_odd_size_is_filled_up() -> None:
    m = made("odd-size-domu", "initial")
    assert m.variable("xen_p2m_size") == 100352
    words = [m.memory.read_word(m.entry_address(pfn)) for pfn in range(100250, 100352)]
    assert words == [(1 << 64) - 1] * 102


@pytest.mark.parametrize(("name", "records"), [("lab-dom0", 1), ("large-remap", 66), ("tiny-domu", 1)])
def test_the_chain_holds_what_will_move_last_in_first_out(name: str, records: int) -> None:
    m = made(name, "planned")
    head, chain = m.variable("xen_remap_mfn"), []
    while head != m.width.invalid:
        words = m.memory.words(head)
        chain.append((head, int(words[1]), words[3 : 3 + int(words[2])].tolist()))
        head = int(words[0])
    assert len(chain) == records
    assert [c[1] for c in reversed(chain)] == [v.target for v in m.plan.moves]
    for mfn, target, mfns in chain:
        assert mfns[0] == mfn and 1 <= len(mfns) <= 509
        move = next(v for v in m.plan.moves if v.target == target)
        assert mfns == m.frames.mfns(move.source, move.source + move.count).tolist()
        assert m.p2m.at(move.source).fate is Fate.IDENTITY and m.p2m.at(target).fate is Fate.MISSING
        assert m.memory.read_word(m.xen.m2p_address(mfn)) == move.source


def test_the_chain_is_what_happens() -> None:
    planned, final = made("large-remap", "planned"), made("large-remap", "final")
    for move in planned.plan.moves:
        want = planned.frames.mfns(move.source, move.source + move.count)
        assert np.array_equal(final.entries(move.target, move.target + move.count), want.astype(np.uint64))
        mfn = int(want[0])
        assert final.memory.read_word(final.xen.m2p_address(mfn)) == move.target
    assert final.variable("xen_remap_mfn") == final.width.invalid


def test_before_it_is_published_shared_info_is_the_dummy_page() -> None:
    m = made("lab-dom0", "planned")
    assert m.variable("HYPERVISOR_shared_info") == m.symbols["xen_dummy_shared_info"]
    assert not any(m.memory.read(m.shared_info, 4096))
    assert m.variable("p2m_top_mfn") != 0


def test_a_tree_begins_in_the_builders_list() -> None:
    m = made("tree-dom0", "initial")
    assert start_info(m, "nr_p2m_frames") == 0
    assert start_info(m, "mfn_list") >= 0xFFFFFFFF81000000
    assert m.p2m.ranges(Fate.IDENTITY) == []
    assert m.shape is not None and len(m.shape.leaves.private_pages()) == 200
