"""What memory setup decides from an E820: holes, extra memory, moves. Numbers by hand or from real consoles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdb_p2m.model.boot import BootPlan, Move, _block_moves, make_plan
from gdb_p2m.model.description import DescriptionError, parse


def plan(text: str) -> BootPlan:
    return make_plan(parse(text, "plan"))


PC = "e820 0x0-0x9fbff ram\ne820 0x9fc00-0xfffff reserved\ne820 0x100000-0x3ffdffff ram\ne820 0x3ffe0000-0xffffffff reserved\n"


def test_a_page_that_is_partly_ram_counts_as_hole() -> None:
    """0x9fc00 ends RAM inside page 0x9f: seen, the real dom0 has identity from 0x9f on."""
    assert plan(PC + "nr_pages 102400").holes == [(0x9F, 0x100), (0x3FFE0, 0x100000)]


def test_the_97_pages_of_a_pc_move_behind_the_initial_memory() -> None:
    """Seen: "Remapped 97 page(s)", last frame at PFN 0x19060."""
    p = plan(PC + "nr_pages 102400")
    assert p.moves == [Move(0x9F, 0x19000, 97)]
    assert p.extra == [(0x19000, 0x3FFE0)]
    assert (p.max_p2m_pfn, p.max_pfn) == (0x3FFE0, 0x3FFE0)


def test_extra_memory_is_ten_times_the_initial_size_at_most() -> None:
    """Seen on a 5 GiB machine with 401001K: the kernel's E820 ends at 0x14d3be pages."""
    text = PC.replace("0x3ffdffff", "0xbffdffff").replace("0x3ffe0000", "0xbffe0000")
    p = plan(text + "e820 0x100000000-0x17fffffff ram\nnr_pages 100250")
    assert p.extra[-1] == (0x100000, 0x14D3BE)
    assert p.max_p2m_pfn == 0x14D3BE


def test_max_pages_bounds_extra_memory_but_not_what_moves() -> None:
    p = plan(PC + "nr_pages 102400\nmax_pages 102400")
    assert p.moves == [Move(0x9F, 0x19000, 97)] and p.extra == [(0x19000, 0x19061)]


def test_linear_moves_are_cut_to_remap_records() -> None:
    p = plan("e820 0-0xfffffff ram\ne820 0x10000000-0xffffffff reserved\ne820 0x100000000+1G ram\nnr_pages 0x10400")
    assert [(m.source, m.target, m.count) for m in p.moves] == [
        (0x10000, 0x100000, 509), (0x10000 + 509, 0x100000 + 509, 509), (0x10000 + 1018, 0x100000 + 1018, 6)
    ]  # fmt: skip


def test_pae_records_hold_1021_frames() -> None:
    text = "width pae\ne820 0-0xfffffff ram\ne820 0x10000000-0xffffffff reserved\ne820 0x100000000+1G ram\nnr_pages 0x10400"
    assert [m.count for m in plan(text).moves] == [1021, 3]


def test_without_room_the_frames_are_given_back() -> None:
    p = plan("e820 0-0xfffffff ram\ne820 0x10000000-0xffffffff reserved\nnr_pages 0x10400")
    assert not p.moves and p.given_back == [(0x10000, 0x10400)]


def test_room_is_used_up_before_frames_are_given_back() -> None:
    p = plan("e820 0-0xfffffff ram\ne820 0x10000000-0xffffffff reserved\ne820 0x100000000+1M ram\nnr_pages 0x10400")
    assert p.moves == [Move(0x10000, 0x100000, 256)] and p.given_back == [(0x10100, 0x10400)]


def test_moves_go_on_in_the_next_stretch_of_ram() -> None:
    text = (
        "e820 0-0xfffffff ram\ne820 0x10000000-0xffffffff reserved\ne820 0x100000000+1M ram\ne820 0x200000000+1M ram\n"
    )
    p = plan(text + "nr_pages 0x10180")
    assert p.moves == [Move(0x10000, 0x100000, 256), Move(0x10100, 0x200000, 128)]


def test_old_trees_give_back_what_lies_under_holes() -> None:
    p = plan("era tree-2.6.39\n" + PC + "nr_pages 102400")
    assert not p.moves and p.given_back == [(0x9F, 0x100)]


def test_the_oldest_tree_has_no_identity_but_gives_back_too() -> None:
    assert plan("era tree-2.6.37\n" + PC + "nr_pages 102400").given_back == [(0x9F, 0x100)]


def test_the_target_may_be_given() -> None:
    text = PC + "e820 0x100000000+1G ram\nnr_pages 102400\nremap_to 0x100000"
    assert plan(text).moves == [Move(0x9F, 0x100000, 97)]


def test_a_target_in_the_initial_memory_is_an_error() -> None:
    with pytest.raises(DescriptionError, match="inside the initial memory"):
        plan(PC + "nr_pages 102400\nremap_to 0x2000")


def test_dom0_mem_of_the_documentation() -> None:
    p = plan("dom0_mem max:3GB,1GB\ne820 0+1029M ram\ne820 1029M+972M reserved\ne820 2001M+2095M ram")
    assert p.holes == [(0x40500, 0x7D100)]
    assert sum(e - s for s, e in p.extra) == 2 << 18
    assert p.extra[0] == (0x40000, 0x40500)


def test_whole_leaves_of_a_3_16_move_go_first() -> None:
    """By hand from "xen: Delay remapping memory of pv-domain"'s removed code: source 0x10100, target 0x100080, 1300 pages.

    Aligned: source 0x10200..0x10600 (two leaves), target 0x100200..0x100400 (one leaf): one leaf moves whole.
    Left 788, in step: source 0x10100.. and target 0x100080.. until either reaches its aligned part and jumps it.
    """
    moves = list(_block_moves(0x10100, 1300, 0x100080, 512))
    assert moves[0] == Move(0x10200, 0x100200, 512)
    assert moves[1:] == [
        Move(0x10100, 0x100080, 0x100),
        Move(0x10400, 0x100180, 0x80),
        Move(0x10480, 0x100400, 788 - 0x180),
    ]


@given(st.integers(0, 3000), st.integers(1, 4000), st.integers(10_000, 13_000))
def test_block_moves_move_every_page_once(source: int, count: int, target: int) -> None:
    seen_from: list[int] = []
    seen_to: list[int] = []
    for m in _block_moves(source, count, target, 512):
        seen_from += range(m.source, m.source + m.count)
        seen_to += range(m.target, m.target + m.count)
    assert sorted(seen_from) == list(range(source, source + count))
    assert sorted(seen_to) == list(range(target, target + count))
