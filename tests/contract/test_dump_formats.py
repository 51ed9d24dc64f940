"""One suite over every dump format: the same machine, written in all of them, must read the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdb_p2m.errors import Unreadable
from gdb_p2m.model.writers import image_of
from gdb_p2m.sources.base import Extent, Source, merge_extents
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE
from support.dump_files import FORMATS, Written, all_pages, tiny

Bytes = npt.NDArray[np.uint8]


@dataclass
class Dump:
    """An open dump, the whole machine's pages and which frames the dump must hold."""

    source: Source
    pages: Bytes
    held: npt.NDArray[np.bool_]
    written: Written


@pytest.fixture(scope="module", params=FORMATS)
def dump(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dump:
    machine = tiny()
    written = FORMATS[request.param](tmp_path_factory.mktemp("dump"), machine)
    pages = all_pages(image_of(machine))
    held = np.zeros(len(pages), dtype=bool)
    held[image_of(machine).frames()] = True
    held[written.lacks] = False
    return Dump(written.open(), pages, held, written)


def test_every_page_reads_as_the_machine_had_it(dump: Dump) -> None:
    frames = np.arange(len(dump.pages), dtype=np.int64)
    for part, pages, ok in dump.source.iter_pages(frames):
        assert np.array_equal(ok, dump.held[part])
        assert np.array_equal(pages[ok], dump.pages[part][ok])
        assert not pages[~ok].any(), "rows that could not be read are zeros"


def test_pages_come_in_the_order_that_was_asked_for_with_repetitions(dump: Dump) -> None:
    wanted = np.random.default_rng(1).integers(0, len(dump.pages) + 50, 400)
    pages, ok = dump.source.read_pages(wanted)
    inside = wanted < len(dump.pages)
    assert np.array_equal(ok, np.where(inside, dump.held[np.where(inside, wanted, 0)], False))
    assert np.array_equal(pages[ok], dump.pages[wanted[ok]])


def test_no_page_is_asked_for(dump: Dump) -> None:
    pages, ok = dump.source.read_pages(np.zeros(0, dtype=np.int64))
    assert pages.shape == (0, PAGE_SIZE)
    assert ok.shape == (0,)


def test_frames_that_do_not_exist_are_not_read(dump: Dump) -> None:
    wild = np.array([-1, len(dump.pages), 1 << 40, (1 << 52) - 1], dtype=np.int64)
    _, ok = dump.source.read_pages(wild)
    assert not ok.any()


@settings(max_examples=60)
@given(data=st.data())
def test_any_stretch_reads_as_the_machine_had_it_or_names_the_first_bad_byte(dump: Dump, data: st.DataObject) -> None:
    address = data.draw(st.integers(0, len(dump.pages) * PAGE_SIZE - 1))
    size = data.draw(st.one_of(st.integers(1, 32), st.integers(1, 5 * PAGE_SIZE)))
    first, last = address >> PAGE_SHIFT, (address + size - 1) >> PAGE_SHIFT
    bad = [f for f in range(first, last + 1) if f >= len(dump.pages) or not dump.held[f]]
    if bad:
        with pytest.raises(Unreadable) as error:
            dump.source.read(address, size)
        assert error.value.address == max(address, bad[0] << PAGE_SHIFT)
        assert error.value.reason
    else:
        flat = dump.pages[first : last + 1].reshape(-1)
        offset = address - (first << PAGE_SHIFT)
        assert bytes(dump.source.read(address, size)) == flat[offset : offset + size].tobytes()


@pytest.mark.parametrize("offset", [0, 2064, PAGE_SIZE - 8])
def test_words_of_all_pages_are_the_pages_words(dump: Dump, offset: int) -> None:
    for extent in dump.source.extents():
        words = dump.source.strided_u64(extent, offset)
        frames = np.arange(-(-extent.start // PAGE_SIZE), extent.end // PAGE_SIZE)
        expected = np.ascontiguousarray(dump.pages[frames][:, offset : offset + 8]).view(np.uint64)[:, 0]
        assert np.array_equal(words, np.where(dump.held[frames], expected, 0))


def test_words_of_a_part_of_an_extent(dump: Dump) -> None:
    extent = dump.source.extents()[0]
    whole = dump.source.strided_u64(extent, 0)
    part = Extent(extent.start + 3 * PAGE_SIZE, extent.end - 2 * PAGE_SIZE)
    if part.start < part.end:
        assert np.array_equal(dump.source.strided_u64(part, 0), whole[3:-2])


def test_extents_are_sorted_merged_and_hold_all_readable_pages(dump: Dump) -> None:
    extents = dump.source.extents()
    assert extents == merge_extents(extents)
    assert dump.source.end() == extents[-1].end
    covered = np.zeros(len(dump.pages) + 64, dtype=bool)
    for e in extents:
        covered[e.start >> PAGE_SHIFT : e.end >> PAGE_SHIFT] = True
    assert covered[: len(dump.pages)][dump.held].all()
    assert not covered[len(dump.pages) :].any()
    for frame in (0, 5, 300, 4000, len(dump.pages) - 1, len(dump.pages)):
        assert dump.source.holds(frame << PAGE_SHIFT, PAGE_SIZE) == bool(covered[frame])


def test_frames_below_counts_what_can_be_read(dump: Dump) -> None:
    before = np.concatenate(([0], np.cumsum(dump.held)))
    frames = np.array([0, 1, 5, 6, 299, 303, 4000, 4001, len(dump.pages), len(dump.pages) + 99], dtype=np.int64)
    expected = before[np.minimum(frames, len(dump.pages))]
    if "incomplete" in dump.written.path.parent.name or dump.source.info.problems:
        return  # An incomplete page is in the file: only its content is lost.
    assert np.array_equal(dump.source.frames_below(frames), expected)


def test_a_healthy_dump_has_no_problems(dump: Dump) -> None:
    expected = ["incomplete"] if dump.source.info.problems else []
    assert all(any(word in text for word in expected) for _, text in dump.source.info.problems)
    assert dump.source.audit() == []


def test_the_format_and_its_writer_are_named(dump: Dump) -> None:
    info = dump.source.info
    assert info.format
    assert info.writer
    assert info.machine in ("x86-64", "i386")
    if len(dump.written.lacks) and not info.problems and info.format != "raw memory":
        assert info.loses, "a dump that lacks pages says so"


def test_reading_is_counted(dump: Dump) -> None:
    before = dump.source.counters.pages
    frame = int(np.flatnonzero(dump.held)[-1])
    dump.source.read(frame << PAGE_SHIFT, 8)
    assert dump.source.counters.pages == before + 1
