"""The example that the kernel's comment draws, slot by slot, and where the comment is off by one.

E820 RAM to 1029 MiB, ACPI and reserved to 2001 MiB, RAM to 2048 MiB and on to 4 GiB; dom0_mem=max:3GB,1GB.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.model.leaves import IDENTITY, MISSING, PRIVATE
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.pieces import Fate
from support.places import FIXTURES

INVALID = (1 << 64) - 1
IDENTITY_BIT = 1 << 62
START, END = 263424, 512256
"""1029 MiB and 2001 MiB in pages, as the comment has them: 0x40500 and 0x7D100."""


@cache
def made(name: str) -> Machine:
    path = FIXTURES / "models" / f"{name}.model"
    return build(parse(path.read_text(), path.name))


@pytest.fixture(params=["documentation-example", "documentation-example-linear"])
def machine(request: pytest.FixtureRequest) -> Machine:
    return made(request.param)


def tree_slot(m: Machine, top: int, mid: int) -> int:
    """The pointer p2m_top[top][mid], read from memory level by level."""
    p2m_top = m.translate(m.variable("p2m_top"))
    mid_page = m.translate(m.memory.read_word(p2m_top + top * 8))
    return m.memory.read_word(mid_page + mid * 8)


def leaf_words(m: Machine, page: int) -> list[int]:
    """The 512 entries of leaf number `page`, from memory."""
    assert m.shape is not None
    return [int(w) for w in m.memory.words(int(m.shape.leaf_mfn[page]))]


def test_the_ends_are_the_leaves_that_the_comment_names() -> None:
    assert divmod(START // 512, 512) == (1, 2) and START % 512 == 256
    assert divmod(END // 512, 512) == (1, 488) and END % 512 == 256


def test_first_end_leaf(machine: Machine) -> None:
    words = leaf_words(machine, 512 + 2)
    assert words[:256] == [INVALID] * 256
    assert words[256:] == [IDENTITY_BIT | pfn for pfn in range(START, 0x40600)]


def test_second_end_leaf_stops_before_slot_256(machine: Machine) -> None:
    """The comment says p2m[1][488][0..256] is identity: the end is exclusive, so slot 256 is not."""
    words = leaf_words(machine, 512 + 488)
    assert words[:256] == [IDENTITY_BIT | pfn for pfn in range(0x7D000, END)]
    assert words[256] == INVALID
    assert words[257:] == [INVALID] * 255
    assert machine.p2m.at(END).fate is Fate.MISSING
    assert machine.p2m.at(END - 1).fate is Fate.IDENTITY


def test_between_the_ends_one_shared_page(machine: Machine) -> None:
    assert machine.shape is not None
    kinds = machine.shape.leaves.leaf[1]
    assert (kinds[3:488] == IDENTITY).all()
    assert kinds[2] == PRIVATE and kinds[488] == PRIVATE


def test_tree_pointers_of_the_second_gib() -> None:
    m = made("documentation-example")
    missing, identity = m.variable("p2m_missing"), m.variable("p2m_identity")
    assert [tree_slot(m, 1, i) for i in (0, 1)] == [missing] * 2
    assert [tree_slot(m, 1, i) for i in range(3, 488)] == [identity] * 485
    assert [tree_slot(m, 1, i) for i in range(489, 512)] == [missing] * 23
    assert tree_slot(m, 1, 2) not in (missing, identity) and tree_slot(m, 1, 488) not in (missing, identity)


def test_tree_tops() -> None:
    """0 and 1 have mid pages; 2 and 3 (to 4 GiB) are missing; everything behind the E820 is identity."""
    m = made("documentation-example")
    top = m.translate(m.variable("p2m_top"))
    pointers = [m.memory.read_word(top + i * 8) for i in range(512)]
    assert pointers[2:4] == [m.variable("p2m_mid_missing")] * 2
    assert pointers[4:] == [m.variable("p2m_mid_identity")] * 508
    assert len({*pointers[:2], m.variable("p2m_mid_missing"), m.variable("p2m_mid_identity")}) == 4


def test_first_gib_is_the_initial_memory(machine: Machine) -> None:
    assert np.array_equal(machine.entries(0, 1 << 18), machine.frames.mfns(0, 1 << 18).astype(np.uint64))
    assert machine.shape is not None
    assert (machine.shape.leaves.leaf[0] == PRIVATE).all()


def test_linear_extra_memory_is_private_and_what_max_forbids_is_identity() -> None:
    """The list invalidates only what the domain may grow into: 3 GiB in all. RAM past that was never more than
    identity (xen_p2m_elem_type), as in real dom0s whose E820 was cut."""
    m = made("documentation-example-linear")
    extra = (0x40500 - 0x40000) + (0x80000 - END)
    last = 0x80000 + (0x80000 - extra)
    assert m.plan.extra == [(0x40000, 0x40500), (END, last)]
    assert m.p2m.at(last - 1).fate is Fate.MISSING and m.p2m.at(last).fate is Fate.IDENTITY
    assert m.variable("xen_p2m_last_pfn") == last
    assert m.shape is not None
    assert (m.shape.leaves.leaf[2] == PRIVATE).all()
    assert m.shape.leaves.top[4] == IDENTITY
    assert MISSING not in m.shape.leaves.flat


def test_tree_extra_memory_needs_no_pages() -> None:
    m = made("documentation-example")
    assert m.shape is not None
    assert m.shape.leaves.top[2] == MISSING
    assert len(m.shape.leaves.private_pages()) == 512 + 2
