"""One suite over every way to hold the same odd-shaped memory: holes, touching pieces, ends inside pages, frame 0.

tests/contract/test_dump_formats.py does the same for whole machines in every dump format.
A new source joins by one line in SOURCES.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gdb_p2m.errors import Unreadable
from gdb_p2m.sources.base import Extent, Source, merge_extents
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.sources.probe import open_source
from gdb_p2m.sources.recording import RecordingSource
from gdb_p2m.units import PAGE_SIZE
from support.elf_files import ElfFile, Load
from support.machine import Lacking

_RANDOM = np.random.default_rng(7)
FAR = 1 << 45


def _bytes(size: int) -> bytes:
    return _RANDOM.integers(0, 256, size, dtype=np.uint8).tobytes()


PIECES = {
    0: _bytes(2 * PAGE_SIZE),  # frame 0
    0x5000: _bytes(PAGE_SIZE),
    0x6000: _bytes(3 * PAGE_SIZE),  # touches the one before
    0x20800: _bytes(2 * PAGE_SIZE + 100),  # begins and ends inside a page
    FAR: _bytes(PAGE_SIZE),
}
EXTENTS = (Extent(0, 0x2000), Extent(0x5000, 0x9000), Extent(0x20800, 0x22864), Extent(FAR, FAR + PAGE_SIZE))


def _elf(folder: Path, pad: int = 0) -> Path:
    return ElfFile([Load(a, b) for a, b in PIECES.items()], pad=pad).write(folder / f"memory{pad}.core")


def _packed(folder: Path, suffix: str) -> Path:
    raw = _elf(folder).read_bytes()
    path = folder / f"memory.core{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix == ".gz" else zstandard.compress(raw))
    return path


def _overlapping(folder: Path) -> Path:
    """The same memory as segments that overlap, with equal bytes, in falling order."""
    loads = [Load(a, b) for a, b in reversed(PIECES.items())]
    loads += [Load(0x6800, PIECES[0x6000][0x800:0x1900]), Load(0, PIECES[0][:100])]
    return ElfFile(loads).write(folder / "overlapping.core")


def _lacking() -> Source:
    """A larger memory without what is not in PIECES."""
    return Lacking(FakeSource({**PIECES, 0x2000: bytes(PAGE_SIZE)}), {2})


SOURCES: dict[str, Callable[[Path], Source]] = {
    "fake": lambda folder: FakeSource(dict(PIECES)),
    "fake of bytearrays": lambda folder: FakeSource({a: bytearray(b) for a, b in PIECES.items()}),
    "recording": lambda folder: RecordingSource(FakeSource(dict(PIECES))),
    "lacking": lambda folder: _lacking(),
    "elf": lambda folder: open_source(str(_elf(folder))),
    "elf, unaligned in the file": lambda folder: open_source(str(_elf(folder, pad=13))),
    "elf, overlapping": lambda folder: open_source(str(_overlapping(folder))),
    "elf.zst": lambda folder: open_source(str(_packed(folder, ".zst"))),
    "elf.gz": lambda folder: open_source(str(_packed(folder, ".gz"))),
}


@pytest.fixture(scope="module", params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return SOURCES[request.param](tmp_path_factory.mktemp("source"))


def byte_at(address: int) -> int | None:
    """The truth: the byte, or None where there is none."""
    for start, data in PIECES.items():
        if start <= address < start + len(data):
            return data[address - start]
    return None


def page_at(frame: int) -> bytes:
    """The truth: a page that lies in one piece."""
    start, data = next((a, b) for a, b in PIECES.items() if a <= frame << 12 < a + len(b))
    return data[(frame << 12) - start :][:PAGE_SIZE]


addresses = st.one_of(
    st.integers(0, 0xA000),
    st.integers(0x20000, 0x23000),
    st.integers(FAR - 300, FAR + PAGE_SIZE + 300),
    st.integers(0, (1 << 64) - 1),
)


@settings(max_examples=25)
@given(address=addresses, size=st.one_of(st.integers(1, 40), st.integers(1, 5 * PAGE_SIZE)))
def test_a_read_gives_the_bytes_or_names_the_first_bad_address(source: Source, address: int, size: int) -> None:
    wanted = [byte_at(a) for a in range(address, address + size)]
    if None not in wanted:
        assert bytes(source.read(address, size)) == bytes(b for b in wanted if b is not None)
        return
    with pytest.raises(Unreadable) as error:
        source.read(address, size)
    assert error.value.address == address + wanted.index(None)
    assert f"{error.value.address:#x}" in error.value.message and error.value.reason


def test_extents_are_merged_and_sorted(source: Source) -> None:
    assert source.extents() == EXTENTS
    assert source.end() == FAR + PAGE_SIZE
    assert source.machine_extents() == EXTENTS or isinstance(source, Lacking)


@settings(max_examples=25)
@given(addresses, st.integers(1, 3 * PAGE_SIZE))
def test_holds_agrees_with_reading(source: Source, address: int, size: int) -> None:
    try:
        source.read(address, size)
        readable = True
    except Unreadable:
        readable = False
    assert source.holds(address, size) == readable


WHOLE = [0, 1, 5, 6, 7, 8, 0x21, FAR >> 12]
PARTLY = [0x20, 0x22]


@settings(max_examples=25)
@given(
    st.lists(st.one_of(st.sampled_from([*WHOLE, *PARTLY, 2, 4, 9, -1, 1 << 51]), st.integers(-2, 0x24)), max_size=40)
)
def test_pages_in_any_order_with_holes_and_repetitions(source: Source, frames: list[int]) -> None:
    pages, ok = source.read_pages(np.array(frames, dtype=np.int64))
    assert pages.shape == (len(frames), PAGE_SIZE)
    assert ok.tolist() == [f in WHOLE for f in frames]
    for frame, page, good in zip(frames, pages, ok, strict=True):
        assert page.tobytes() == (page_at(frame) if good else bytes(PAGE_SIZE))


def test_pages_in_batches_are_the_same_pages(source: Source) -> None:
    frames = np.array([*range(0x24), FAR >> 12], dtype=np.int64)
    whole, ok = source.read_pages(frames)
    for part, pages, good in source.iter_pages(frames, batch=5):
        assert np.array_equal(pages, whole[part]) and np.array_equal(good, ok[part])


@pytest.mark.parametrize("offset", [0, 2064, 4088])
def test_words_at_one_place_of_every_page(source: Source, offset: int) -> None:
    for extent in EXTENTS:
        first, last = -(-extent.start // PAGE_SIZE), extent.end // PAGE_SIZE
        expected = [
            int.from_bytes(bytes(byte_at((f << 12) + offset + i) or 0 for i in range(8)), "little")
            for f in range(first, last)
        ]
        assert source.strided_u64(extent, offset).tolist() == expected


def test_one_word(source: Source) -> None:
    assert source.read_u64(8) == int.from_bytes(PIECES[0][8:16], "little")
    with pytest.raises(Unreadable):
        source.read_u64(0x1FFC)


def test_reading_is_counted_in_pages_and_requests(source: Source) -> None:
    pages, requests = source.counters.pages, source.counters.requests
    source.read(0xFF8, 16)  # lies in two pages
    assert (source.counters.pages - pages, source.counters.requests - requests) == (2, 1)


def test_the_end_of_ram_is_not_the_rom_below_4_gib() -> None:
    rom = bytes(PAGE_SIZE)
    low, high = 0x3FFE0000, 0x100000000
    assert FakeSource({0: rom, low: rom, 0xFFFC0000: rom}).ram_end() == low + PAGE_SIZE
    # On a machine of more than 4 GiB the ROM touches the RAM above it: that RAM counts.
    touching = FakeSource({0: rom, 0xFFFFF000: rom, high: rom * 16})
    assert touching.extents()[-1] == Extent(0xFFFFF000, high + 16 * PAGE_SIZE)
    assert touching.ram_end() == high + 16 * PAGE_SIZE
    assert FakeSource({}).ram_end() == 0 and FakeSource({}).end() == 0


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_merged_extents_hold_the_same_addresses(pairs: list[tuple[int, int]]) -> None:
    merged = merge_extents(Extent(a, a + n) for a, n in pairs)
    held = {x for a, n in pairs for x in range(a, a + n)}
    assert {x for e in merged for x in range(e.start, e.end)} == held
    assert all(a.end < b.start for a, b in zip(merged, merged[1:], strict=False))


def test_a_recording_remembers_exactly_the_frames_that_were_read() -> None:
    source = RecordingSource(FakeSource(dict(PIECES)))
    assert source.frames().tolist() == []
    source.read(0xFFF, 2)
    source.read_pages(np.array([7, 3, 5], dtype=np.int64))
    with pytest.raises(Unreadable):
        source.read(0x1FFF, 2)
    source.strided_u64(Extent(0x5000, 0x9000), 0)  # a scan is no use of the pages
    assert source.frames().tolist() == [0, 1, 5, 7]
