"""Bulk walks against the walk of single addresses, on small random page tables of every shape."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdb_p2m.errors import Untranslatable
from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.pagetables import PageTableShape
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.spaces.entries import Pointee, decode, decode_array
from gdb_p2m.spaces.radix import Status, canonical, slots, translate_many, walk
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, MachineAddress

SHAPES = (
    pt.X86_64_4LEVEL,
    pt.X86_64_5LEVEL,
    pt.I386_PAE,
    pt.SV39,
    pt.SV48,
    pt.SV57,
    pt.SV39X4,
    pt.SV48X4,
    pt.SV57X4,
)
FRAMES = 24
"""Pages of the machine: few, so that random entries often lead to tables, and to the same ones."""
BASE = 0x100
HELD = range(BASE, BASE + FRAMES)


X86_FLAGS = (*(0x67,) * 6, 0x65, 0x61, 0xE7, 0xE5, 0x66, 0x0)
X86_HIGH = (*(0,) * 6, pt.X86_NX, 1 << 58)
RISCV_FLAGS = (*(0x1,) * 14, 0xF, 0xDF, 0x7, 0x3, 0xCF, 0x1F, 0x5, 0x13, 0x11, 0x0, 0x21, 0x117)
RISCV_HIGH = (*(0,) * 16, pt.RISCV_PBMT_IO, pt.RISCV_PBMT_MASK, 1 << 54, pt.RISCV_N)
ELSEWHERE = (0, 0x4000, 0x40000, (1 << 40) - 1)


@dataclass(frozen=True)
class Tables:
    """A machine with some page tables; `root` is a machine address, `used` the slots that hold anything."""

    shape: PageTableShape
    source: FakeSource
    root: MachineAddress
    used: tuple[int, ...]


def entry(shape: PageTableShape, rng: random.Random) -> int:
    """Mostly a pointer to a page of the machine; else a leaf, nothing, or what the architecture forbids."""
    frame = rng.choice(HELD) if rng.random() < 0.9 else rng.choice(ELSEWHERE)
    if shape.entry_format == "x86":
        return rng.choice(X86_HIGH) | frame << PAGE_SHIFT | rng.choice(X86_FLAGS)
    return rng.choice(RISCV_HIGH) | frame << pt.RISCV_PPN_SHIFT | rng.choice(RISCV_FLAGS)


@st.composite
def tables(draw: st.DrawFn) -> Tables:
    """Pages in which a few slots lead to pages of the machine, outside of it, or nowhere."""
    shape = draw(st.sampled_from(SHAPES))
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    used = tuple(sorted({0, 511, *(rng.randrange(512) for _ in range(2))}))
    # A PAE root of 32 bytes may lie anywhere in its page; roots of the x4 modes take four pages.
    offset = rng.choice([0, 0x20, 0xFE0]) if shape is pt.I386_PAE else 0
    memory = np.zeros((FRAMES, PAGE_SIZE // 8), dtype=np.uint64)
    for frame in range(FRAMES):
        for slot in used:
            memory[frame, slot] = entry(shape, rng)
    for slot in range(4 if shape is pt.I386_PAE else 0):
        memory[0, offset // 8 + slot] = entry(shape, rng)
    absent = set(rng.sample(HELD, 2)) if rng.random() < 0.3 else set()
    pieces = {f << PAGE_SHIFT: memory[f - BASE].tobytes() for f in HELD if f not in absent}
    return Tables(shape, FakeSource(pieces), MachineAddress((BASE << PAGE_SHIFT) + offset), used)


def within(t: Tables) -> st.SearchStrategy[int]:
    """Addresses whose indices are slots that hold something."""
    levels = t.shape.levels

    def join(indices: tuple[int, ...], page: int) -> int:
        first, rest = indices[0] + 512 * page, indices[1:]
        address = (first & (levels[0].entries - 1)) << levels[0].shift
        address |= sum(i << level.shift for i, level in zip(rest, levels[1:], strict=True))
        sign = t.shape.signed and address >> (t.shape.va_bits - 1)
        return address | ((1 << 64) - (1 << t.shape.va_bits) if sign else 0)

    return st.builds(join, st.tuples(*(st.sampled_from(t.used) for _ in levels)), st.integers(0, 3))


def addresses(t: Tables) -> st.SearchStrategy[int]:
    """Addresses that the tables map, perhaps, and such around the ends of the space and of its halves."""
    half = 1 << (t.shape.va_bits - 1)
    points = [0, half, 1 << t.shape.va_bits, (1 << 64) - half, (1 << 64) - 1]
    points += [1 << level.shift for level in t.shape.levels] + [511 << level.shift for level in t.shape.levels]
    near = st.builds(lambda p, d: (p + d) % (1 << 64), st.sampled_from(points), st.integers(-(1 << 14), 1 << 14))
    return st.one_of(within(t), within(t), within(t), near, st.integers(0, (1 << 64) - 1))


def outcome(t: Tables, address: int) -> tuple[Status, int]:
    """What `walk` says, in the words of the bulk walks."""
    try:
        return Status.OK, walk(t.source, t.shape, t.root, address).frame
    except Untranslatable as e:
        if e.unreadable:
            return Status.UNREADABLE, -1
        if not canonical(t.shape, address):
            return Status.MALFORMED, -1
        last = e.steps[-1].pte.pointee  # type: ignore[attr-defined]
        return (Status.ABSENT if last is Pointee.ABSENT else Status.MALFORMED), -1


quick = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.thorough
@given(st.data())
@quick
def test_many_translations_agree_with_single_walks(data: st.DataObject) -> None:
    t = data.draw(tables())
    wanted = data.draw(st.lists(addresses(t), max_size=12))
    found = translate_many(t.source, t.shape, t.root, np.array(wanted, dtype=np.uint64))
    assert [(Status(int(s)), int(f)) for s, f in zip(found.status, found.frame, strict=True)] == [
        outcome(t, a) for a in wanted
    ]


@pytest.mark.thorough
@given(st.data())
@quick
def test_slots_of_the_last_level_agree_with_single_walks(data: st.DataObject) -> None:
    t = data.draw(tables())
    start = data.draw(addresses(t))
    end = min(start + data.draw(st.integers(1, 40 * PAGE_SIZE)), 1 << 64)
    level = t.shape.levels[-1]
    found = slots(t.source, t.shape, t.root, start, end, level)
    pages = range(start >> PAGE_SHIFT, ((end - 1) >> PAGE_SHIFT) + 1)
    assert found.first == start & ~(PAGE_SIZE - 1) and len(found.status) == len(pages)
    for i, page in enumerate(pages):
        status, frame = outcome(t, page << PAGE_SHIFT)
        assert (Status(int(found.status[i])), int(found.frame[i])) == (status, frame)
        if status is Status.OK:
            whole = walk(t.source, t.shape, t.root, page << PAGE_SHIFT)
            last = whole.steps[-1]
            assert bool(found.writable[i]) == whole.writable
            assert int(found.raw[i]) == last.pte.raw
            assert bool(found.large[i]) == (last.level is not level)
            assert int(found.table[i]) == (-1 if found.large[i] else last.address >> PAGE_SHIFT)


@pytest.mark.thorough
@given(st.data())
@quick
def test_slots_of_upper_levels_are_the_entries_that_walks_pass(data: st.DataObject) -> None:
    t = data.draw(tables())
    level = data.draw(st.sampled_from(t.shape.levels[:-1]))
    start = data.draw(addresses(t))
    end = min(start + data.draw(st.integers(1, 8)) * (1 << level.shift), 1 << 64)
    found = slots(t.source, t.shape, t.root, start, end, level)
    first = start >> level.shift
    assert len(found.status) == ((end - 1) >> level.shift) - first + 1
    for i in range(len(found.status)):
        address = (first + i) << level.shift
        if not canonical(t.shape, address):
            assert found.status[i] == Status.MALFORMED
            continue
        try:
            steps = walk(t.source, t.shape, t.root, address).steps
        except Untranslatable as e:
            steps = e.steps  # type: ignore[assignment]
        passed = [s for s in steps if s.level is level]
        if passed:
            entry = passed[0].pte
            assert int(found.raw[i]) == entry.raw
            assert (found.status[i] == Status.OK) == (entry.pointee in (Pointee.TABLE, Pointee.LEAF))
            if found.status[i] == Status.OK:
                assert int(found.frame[i]) == entry.frame
        else:
            assert found.status[i] != Status.OK or found.large[i]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.name)
@given(raw=st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=20), low=st.integers(0, 0xFF))
@settings(max_examples=60, deadline=None)
def test_arrays_of_entries_decode_like_single_entries(shape: PageTableShape, raw: list[int], low: int) -> None:
    """All-random words hardly ever have the right flags: the low byte is set for half of them."""
    words = raw + [r & ~0xFF & ((1 << 54) - 1) | low for r in raw]
    for level in shape.levels:
        last = level is shape.levels[-1]
        many = decode_array(shape.entry_format, np.array(words, dtype=np.uint64), level, last)
        for i, word in enumerate(words):
            one = decode(shape.entry_format, word, level, last)
            assert bool(many.leaf[i]) == (one.pointee is Pointee.LEAF), hex(word)
            assert bool(many.table[i]) == (one.pointee is Pointee.TABLE), hex(word)
            assert bool(many.present[i]) == (one.pointee is not Pointee.ABSENT), hex(word)
            if one.pointee in (Pointee.LEAF, Pointee.TABLE):
                assert (int(many.frame[i]), bool(many.writable[i])) == (one.frame, one.writable)


def test_a_table_that_leads_to_itself_ends_with_the_depth_of_the_shape() -> None:
    """The L4's own frame in every slot: Xen has one such slot in every PV L4 (258)."""
    page = np.full(512, BASE << PAGE_SHIFT | 0x67, dtype=np.uint64).tobytes()
    source = FakeSource({BASE << PAGE_SHIFT: page})
    root = MachineAddress(BASE << PAGE_SHIFT)
    for shape in (pt.X86_64_4LEVEL, pt.X86_64_5LEVEL):
        found = walk(source, shape, root, 0xFFFF_8880_0000_1000)
        assert found.frame == BASE and len(found.steps) == len(shape.levels)
        many = slots(source, shape, root, 0, 64 * PAGE_SIZE, shape.levels[-1])
        assert (many.frame == BASE).all()


def test_slots_across_the_hole_between_the_halves_are_malformed_only_there() -> None:
    """0x7ffffffff000 is the last page of the lower half; what follows is no address at all."""
    page = np.full(512, BASE << PAGE_SHIFT | 0x67, dtype=np.uint64).tobytes()
    source = FakeSource({BASE << PAGE_SHIFT: page})
    found = slots(
        source,
        pt.X86_64_4LEVEL,
        MachineAddress(BASE << PAGE_SHIFT),
        0x7FFF_FFFF_E000,
        0x8000_0000_2000,
        pt.X86_64_4LEVEL.levels[-1],
    )
    assert found.status.tolist() == [Status.OK, Status.OK, Status.MALFORMED, Status.MALFORMED]


def test_the_rights_of_a_pae_root_do_not_count() -> None:
    """PAE's four root entries have no R/W bit; on bare metal it is reserved and zero."""
    l3 = np.zeros(512, dtype=np.uint64)
    l3[3] = (BASE + 1) << PAGE_SHIFT | pt.X86_PRESENT
    below = np.full(512, (BASE + 2) << PAGE_SHIFT | 0x67, dtype=np.uint64)
    pieces = {(BASE + i) << PAGE_SHIFT: p.tobytes() for i, p in enumerate((l3, below, below))}
    source, root = FakeSource(pieces), MachineAddress(BASE << PAGE_SHIFT)
    assert walk(source, pt.I386_PAE, root, 0xC100_0000).writable
    many = slots(source, pt.I386_PAE, root, 0xC100_0000, 0xC100_2000, pt.I386_PAE.levels[-1])
    assert many.writable.all()


def test_more_tables_than_a_batch_are_translated_too() -> None:
    """Addresses in no order, each with a last table of its own."""
    count = 5000
    # One L2 table holds 512 last tables: frames 1.. are L2s, then the last tables.
    l4, l3 = np.zeros(512, np.uint64), np.zeros(512, np.uint64)
    l2 = np.zeros((10, 512), np.uint64)
    l1 = np.zeros((count, 512), np.uint64)
    l4[0] = 1 << PAGE_SHIFT | 0x67
    first_l1 = 12
    for i in range(10):
        l3[i] = (2 + i) << PAGE_SHIFT | 0x67
    for i in range(count):
        l2[i // 512, i % 512] = (first_l1 + i) << PAGE_SHIFT | 0x67
        l1[i, i % 512] = (0x100000 + i) << PAGE_SHIFT | 0x67
    memory = np.concatenate((l4[None], l3[None], l2, l1)).tobytes()
    source = FakeSource({0: memory})
    wanted = [(i << 21) + ((i % 512) << PAGE_SHIFT) for i in range(count)]
    order = np.random.default_rng(1).permutation(count)
    found = translate_many(
        source, pt.X86_64_4LEVEL, MachineAddress(0), np.array(wanted, dtype=np.uint64)[order]
    )
    assert (found.status == Status.OK).all() and (found.frame == 0x100000 + order).all()
