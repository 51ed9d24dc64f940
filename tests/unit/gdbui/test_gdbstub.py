"""GdbStubSource: the contract of sources, RAM only, few round trips, the same bytes whichever way they come."""

from __future__ import annotations

import numpy as np
import pytest

from gdb_p2m.errors import NotUnderstood, P2mError, Unreadable
from gdb_p2m.gdbui import gdbstub
from gdb_p2m.gdbui.gdbstub import BULK_PAGES, GdbStubSource
from gdb_p2m.sources.base import CpuState, Extent
from support.fake_qemu import RAM, FakeQemu, lost, memory

WAYS = ["right", "error", "off"]
"""pmemsave works; QEMU cannot write our files; pmemsave is switched off."""


def live(qemu: FakeQemu, bulk: bool = True) -> GdbStubSource:
    """The source over a fake."""
    return GdbStubSource(qemu, "127.0.0.1:1234", "x86-64", [CpuState(0, {"cr3": 0x1000})], bulk)


@pytest.fixture(params=WAYS)
def source(request: pytest.FixtureRequest) -> GdbStubSource:
    """Each way to read."""
    way: str = request.param
    return live(FakeQemu(pmemsave=way if way != "off" else "right"), way != "off")


def requests(source: GdbStubSource) -> int:
    """Round trips so far."""
    return source.counters.requests


def test_it_says_that_it_is_live_and_what_is_ram(source: GdbStubSource) -> None:
    assert source.extents() == tuple(Extent(a, b) for a, b in RAM)
    assert source.info.live and source.info.cpus[0].cr3 == 0x1000 and source.info.path == "127.0.0.1:1234"


@pytest.mark.parametrize(
    ("address", "size"),
    [(0, 1), (0x9FFFF, 1), (0x1FFE, 8), (0x10000, 0x8000), (0xC0000, 0x140000), (0xFFFFFFF8, 8), (0x1001, 0x20001)],
)
def test_reads_give_the_machines_bytes(source: GdbStubSource, address: int, size: int) -> None:
    assert bytes(source.read(address, size)) == memory(address, size)
    assert bytes(source.read(address, size)) == memory(address, size), "from the cache too"


@pytest.mark.parametrize(
    ("address", "size", "bad"),
    [
        (0xA0000, 8, 0xA0000),
        (0x9FFFC, 8, 0xA0000),
        (0x1FFFFC, 0x2000, 0x200000),
        (0xFEC00000, 4, 0xFEC00000),
        (0xFFFFFFFC, 8, 0x1_0000_0000),
        (1 << 52, 8, 1 << 52),
    ],
)
def test_what_is_not_ram_is_refused_and_never_asked_for(
    source: GdbStubSource, address: int, size: int, bad: int
) -> None:
    before = requests(source)
    with pytest.raises(Unreadable, match="not RAM") as caught:
        source.read(address, size)
    assert caught.value.address == bad
    assert requests(source) == before, "the stub would have answered with zeros, or with a device's register"


def test_pages_that_are_not_ram_are_marked_the_others_are_read(source: GdbStubSource) -> None:
    mfns = np.array([0x9F, 0xA0, 0xBF, 0xC0, -1, 0xFEC00, 1 << 40, 0x9F, 5], dtype=np.int64)
    pages, ok = source.read_pages(mfns)
    assert ok.tolist() == [True, False, False, True, False, False, False, True, True]
    for i, mfn in enumerate(mfns.tolist()):
        assert pages[i].tobytes() == (memory(mfn << 12, 4096) if ok[i] else bytes(4096))


def test_a_page_is_read_once(source: GdbStubSource) -> None:
    source.read(0x5008, 8)
    before = requests(source)
    source.read(0x5FF0, 16)
    source.read_pages(np.array([5], dtype=np.int64))
    assert requests(source) == before


def test_many_pages_near_each_other_are_few_round_trips() -> None:
    source = live(FakeQemu())
    before = requests(source)
    mfns = np.arange(0x100, 0x1F0, 3, dtype=np.int64)
    pages, ok = source.read_pages(mfns)
    assert ok.all() and all(p.tobytes() == memory(int(m) << 12, 4096) for m, p in zip(mfns, pages, strict=True))
    assert requests(source) - before <= 6, "one pmemsave, and one batch of samples to prove it"


def test_few_pages_are_not_worth_a_file() -> None:
    qemu = FakeQemu()
    source = live(qemu)
    source.read_pages(np.arange(1, BULK_PAGES, dtype=np.int64))
    assert not qemu.sent("pmemsave")
    assert len(qemu.sent("Qqemu")) == 2, "all of them in one stretch of physical mode"


def test_pmemsave_never_crosses_a_hole_in_ram() -> None:
    qemu = FakeQemu()
    source = live(qemu)
    mfns = np.concatenate((np.arange(0x90, 0xA0), np.arange(0xC0, 0xD0))).astype(np.int64)
    _, ok = source.read_pages(mfns)
    assert ok.all()
    asked = [(int(c.split()[1], 16), int(c.split()[2])) for c in qemu.sent("pmemsave")]
    assert asked == [(0x90000, 0x10000), (0xC0000, 0x10000)]


def test_a_page_that_is_ram_in_part_never_asks_for_its_other_part() -> None:
    qemu = FakeQemu()
    qemu.mtree = qemu.mtree.replace("00000000001fffff", "00000000001ff7ff")
    source = live(qemu)
    assert bytes(source.read(0x1FF7F8, 8)) == memory(0x1FF7F8, 8)
    with pytest.raises(Unreadable):
        source.read(0x1FF7FC, 8)
    assert qemu.sent("m1ff") == ["m1ff000,800"]


def test_a_scan_by_packets_asks_for_the_words_only() -> None:
    qemu = FakeQemu()
    source = live(qemu, bulk=False)
    words = source.strided_u64(Extent(0xC0000, 0x200000), 0x810)
    assert words.tolist() == [int.from_bytes(memory(a + 0x810, 8), "little") for a in range(0xC0000, 0x200000, 4096)]
    assert all(s.endswith(",8") for s in qemu.sent("m"))


def test_a_scan_gives_the_same_either_way(source: GdbStubSource) -> None:
    words = source.strided_u64(Extent(0x1000, 0x9F800), 8)
    assert words.tolist() == [int.from_bytes(memory(a + 8, 8), "little") for a in range(0x1000, 0x9F000, 4096)]
    assert len(source.strided_u64(Extent(0x1800, 0x1900), 8)) == 0


def test_memory_stays_bounded_and_right_when_more_is_read_than_the_cache_holds(
    source: GdbStubSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source._cache, "limit", 24 * 4096)
    monkeypatch.setattr(gdbstub, "KEEP_BYTES", 16 * 4096)
    for start in (0, 0x8000, 0x3000, 0x18000, 0x0):
        assert bytes(source.read(start, 0x10000)) == memory(start, 0x10000)
        assert source._cache.bytes <= 24 * 4096
    assert bytes(source.read(0x10000, 0x20000)) == memory(0x10000, 0x20000)


def test_after_the_machine_has_run_nothing_is_answered_any_more() -> None:
    qemu = FakeQemu()
    source = live(qemu)
    source.read(0x5000, 8)
    source.expire()
    qemu.log.clear()
    for read in (
        lambda: source.read(0x5000, 8),
        lambda: source.read_pages(np.array([5], dtype=np.int64)),
        lambda: source.strided_u64(Extent(0, 0x10000), 8),
    ):
        with pytest.raises(P2mError, match="has run since") as caught:
            read()
        assert not isinstance(caught.value, Unreadable), "else it would be taken for a page that is missing"
    assert qemu.log == []


def test_without_ram_ranges_there_is_no_source() -> None:
    qemu = FakeQemu()
    qemu.mtree = "unknown command: 'info'"
    with pytest.raises(NotUnderstood, match="which addresses are RAM"):
        live(qemu)


@pytest.mark.parametrize("after", range(2, 9))
def test_a_connection_that_is_lost_is_not_missing_memory(after: int) -> None:
    qemu = FakeQemu()
    source = live(qemu)
    qemu.before = lost(after)
    with pytest.raises(P2mError) as caught:
        source.read_pages(np.array([1, 2, 3, 0x50, 0x150], dtype=np.int64))
        source.read_pages(np.array([9], dtype=np.int64))
    assert not isinstance(caught.value, Unreadable)
