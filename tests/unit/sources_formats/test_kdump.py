"""kdump-compressed dumps: what is in the headers, what is not in the file, and what contradicts itself."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from gdb_p2m.errors import NotSupported, NotUnderstood, Unreadable
from gdb_p2m.model.writers import image_of
from gdb_p2m.model.writers_kdump import DESCRIPTOR, KdumpOptions, write_kdump
from gdb_p2m.model.writers_xen import crash_image
from gdb_p2m.sources.content import MappedContent
from gdb_p2m.sources.kdump import KdumpSource
from gdb_p2m.sources.kdump_pages import PageCache
from gdb_p2m.units import MIB, PAGE_SHIFT, PAGE_SIZE
from support.dump_files import LEFT_OUT, all_pages, model, tiny


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A healthy zlib dump. Tests may change it."""
    write_kdump(tmp_path / "dump", image_of(tiny()))
    return tmp_path / "dump"


def opened(path: Path, **options: int) -> KdumpSource:
    return KdumpSource(MappedContent(open(path, "rb"), str(path)), str(path), **options)


def patch(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def first_descriptor(path: Path) -> int:
    return opened(path).header.descriptors_at


def texts(source: KdumpSource) -> str:
    return "; ".join(text for _, text in source.info.problems)


# -- what the dump says -----------------------------------------------------------------------------------------


def test_qemus_notes_give_the_writer_and_the_cpus(path: Path) -> None:
    info = opened(path).info
    assert info.writer == "QEMU dump-guest-memory (QEMU CPU notes)"
    assert [c.cr3 for c in info.cpus] == [tiny().cr3]
    assert info.format == "kdump-compressed, version 6, zlib"
    assert any(n.name == "VMCOREINFO" for n in info.notes)


@pytest.mark.parametrize("size", [72, 80])
def test_xens_notes_are_read_by_their_size(tmp_path: Path, size: int) -> None:
    machine = model()
    write_kdump(tmp_path / "dump", crash_image(machine, size=size, cpus=3))
    info = opened(tmp_path / "dump").info
    assert info.writer == "makedumpfile; Xen kexec crash dump (Xen CRASH_INFO note)"
    assert [c.cr3 for c in info.cpus] == [machine.cr3] * 3
    assert info.xen_crash is not None
    assert (info.xen_crash.major, info.xen_crash.minor) == (4, 17)
    assert info.xen_crash.frame_list_list == machine.page("p2m_top_mfn")
    assert info.xen_crash.xen_phys_start == (machine.xen.m2p_first << PAGE_SHIFT if size == 80 else None)


def test_pages_that_were_filtered_are_counted_and_named_as_such(tmp_path: Path) -> None:
    write_kdump(tmp_path / "dump", image_of(tiny()), KdumpOptions(filtered=LEFT_OUT, dump_level=31))
    source = opened(tmp_path / "dump")
    text = "6 pages (24 KiB) left out by the writer, dump level 31: page cache, private page cache, user pages, free pages"
    assert source.info.loses == [text]
    assert source.missing_reason(300 << PAGE_SHIFT) == "filtered out by the dump's writer"
    assert source.missing_reason(tiny().xen.max_frame << PAGE_SHIFT) == "not in the dump"
    with pytest.raises(Unreadable, match="filtered") as error:
        source.read((300 << PAGE_SHIFT) + 8, 8)
    assert error.value.address == (300 << PAGE_SHIFT) + 8
    assert source.holds(300 << PAGE_SHIFT, PAGE_SIZE), "the frame exists all the same"


def test_incomplete_pages_are_not_zero_pages(tmp_path: Path) -> None:
    write_kdump(tmp_path / "dump", image_of(tiny()), KdumpOptions(incomplete=LEFT_OUT))
    source = opened(tmp_path / "dump")
    assert "incomplete" in source.missing_reason(301 << PAGE_SHIFT)
    assert "incomplete" in texts(source)
    with pytest.raises(Unreadable, match="incomplete"):
        source.read(301 << PAGE_SHIFT, 1)
    _, ok = source.read_pages(np.array([301, 303]))
    assert ok.tolist() == [False, True]


# -- cost -------------------------------------------------------------------------------------------------------


def test_the_cache_keeps_within_its_bytes(path: Path) -> None:
    source = opened(path, cache_bytes=20 * PAGE_SIZE)
    pages = all_pages(image_of(tiny()))
    full = np.flatnonzero(pages.any(axis=1))[:400]
    for frame in [*full.tolist(), *full.tolist()[::-1]]:
        assert bytes(source.read(frame << PAGE_SHIFT, PAGE_SIZE)) == pages[frame].tobytes()
        assert source.pages.cache.bytes <= 20 * PAGE_SIZE
    read, ok = source.read_pages(full)
    assert ok.all()
    assert np.array_equal(read, pages[full])
    assert source.pages.cache.bytes <= 20 * PAGE_SIZE
    assert source.pages.cache.bytes == sum(len(p) for p in source.pages.cache._pages.values())


def test_the_cache_drops_what_was_not_used_for_longest() -> None:
    cache = PageCache(3)
    for key in (1, 2, 3):
        cache.put(key, b"x")
    cache.get(1)
    cache.put(4, b"y")
    assert [cache.get(k) for k in (1, 2, 3, 4)] == [b"x", None, b"x", b"y"]
    cache.put(5, b"longer than all")
    assert len(cache) == 3


def test_equal_pages_are_decompressed_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(path)
    decoded = []
    real = source.pages._decode
    monkeypatch.setattr(source.pages, "_decode", lambda *a: decoded.append(a) or real(*a))  # type: ignore[func-returns-value]
    zero = np.flatnonzero(~all_pages(image_of(tiny())).any(axis=1))
    source.read_pages(zero[:2000])
    for frame in zero[-50:].tolist():
        source.read(frame << PAGE_SHIFT, 8)
    assert len(decoded) == 1


def test_a_single_read_decompresses_a_single_page(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(path)
    read = []
    real = source._content.read
    monkeypatch.setattr(source._content, "read", lambda at, n: read.append(n) or real(at, n))  # type: ignore[func-returns-value]
    source.read(tiny().cr3, 8)
    source.read(tiny().cr3 + 2064, 8)
    assert sum(read) < PAGE_SIZE + 64


# -- damage -----------------------------------------------------------------------------------------------------


def test_a_descriptor_past_the_end_of_the_file_is_a_problem_and_its_page_unreadable(path: Path) -> None:
    at = first_descriptor(path) + 9 * DESCRIPTOR.itemsize
    patch(path, at, struct.pack("<QII", 1 << 40, 100, 1))
    source = opened(path)
    assert "page descriptor 9" in texts(source)
    assert "past the file's end" in source.missing_reason(9 << PAGE_SHIFT)
    _, ok = source.read_pages(np.arange(8, 11))
    assert ok.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("size", "flags", "says"),
    [(0, 1, "0 bytes"), (4097, 1, "4097"), (4095, 0, "4095"), (100, 0x40, "unknown flags"), (0xFFFF_FFFF, 0, "past the file's end")],
)
def test_descriptors_that_make_no_sense(path: Path, size: int, flags: int, says: str) -> None:
    at = first_descriptor(path) + 9 * DESCRIPTOR.itemsize
    patch(path, at + 8, struct.pack("<II", size, flags))
    source = opened(path)
    assert says in texts(source)
    assert says in source.missing_reason(9 << PAGE_SHIFT)
    assert len(source.audit()) == 1


def test_a_page_that_is_too_long_or_damaged_is_unreadable_with_the_reason(path: Path) -> None:
    frame = tiny().cr3 >> PAGE_SHIFT
    bomb = zlib.compress(bytes(3 * MIB), 9)
    end = path.stat().st_size
    at = first_descriptor(path) + frame * DESCRIPTOR.itemsize
    with open(path, "ab") as file:
        file.write(bomb)
    patch(path, at, struct.pack("<QII", end, len(bomb), 1))
    source = opened(path)
    with pytest.raises(Unreadable, match="more than 4096 bytes"):
        source.read(frame << PAGE_SHIFT, 8)


@pytest.mark.parametrize("lost", [1, 3, 1000])
def test_a_bitmap_that_lost_bits_contradicts_the_descriptors(path: Path, lost: int) -> None:
    h = opened(path).header
    half = h.bitmap_at + h.bitmap_bytes // 2
    with open(path, "r+b") as file:
        for at in (h.bitmap_at, half):
            file.seek(at)
            bits = np.unpackbits(np.frombuffer(file.read(h.bitmap_bytes // 2), dtype=np.uint8), bitorder="little")
            bits[5000 : 5000 + lost] = 0
            file.seek(at)
            file.write(np.packbits(bits, bitorder="little").tobytes())
    assert f"room for {lost:,} more descriptors" in texts(opened(path))


def test_a_bitmap_with_too_many_bits_contradicts_the_descriptors(tmp_path: Path) -> None:
    write_kdump(tmp_path / "dump", image_of(tiny()), KdumpOptions(filtered=np.arange(100, 400)))
    h = opened(tmp_path / "dump").header
    with open(tmp_path / "dump", "r+b") as file:
        file.seek(h.bitmap_at)
        ram = file.read(h.bitmap_bytes // 2)
        file.write(ram)
    source = opened(tmp_path / "dump")
    assert source.info.problems, "page data was taken for descriptors"
    assert source.audit()


def test_frames_in_the_file_that_do_not_exist_contradict_the_first_bitmap(path: Path) -> None:
    h = opened(path).header
    patch(path, h.bitmap_at + 100, b"\0")
    source = opened(path)
    assert "8 frames are in the file that the first bitmap leaves out" in texts(source)
    assert source.read(800 << PAGE_SHIFT, 8) is not None


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.1])
def test_a_truncated_file_says_so_and_gives_what_is_left(path: Path, keep: float) -> None:
    h = opened(path).header
    whole = path.stat().st_size
    data = whole - h.descriptors_at
    with open(path, "r+b") as file:
        file.truncate(h.descriptors_at + int(data * keep) - 1)
    source = opened(path)
    problems = source.info.problems + source.audit()
    assert problems
    frames = np.arange(tiny().xen.max_frame)
    pages, ok = source.read_pages(frames)
    assert not ok.all()
    assert np.array_equal(pages[ok], all_pages(image_of(tiny()))[ok])
    lost = int(frames[~ok][0])
    assert source.missing_reason(lost << PAGE_SHIFT) != "not in the dump"


@pytest.mark.parametrize("size", [0, 8, 100, 511, 512, 4096, 4096 + 50, 2 * 4096, 3 * 4096 + 5])
def test_a_file_that_ends_in_its_headers_is_refused(path: Path, size: int) -> None:
    with open(path, "r+b") as file:
        file.truncate(size)
    with pytest.raises(NotUnderstood):
        opened(path)


@pytest.mark.parametrize("version", [0, 7, -1, 1 << 24])
def test_unknown_versions_are_refused(path: Path, version: int) -> None:
    patch(path, 8, struct.pack("<i", version))
    with pytest.raises(NotUnderstood, match="version"):
        opened(path)


def test_larger_pages_are_not_supported(path: Path) -> None:
    patch(path, 428, struct.pack("<i", 65536))
    with pytest.raises(NotSupported, match="65536"):
        opened(path)


@pytest.mark.parametrize(("at", "value"), [(428, 0), (428, -4096), (428, 4095), (432, 0), (432, -1), (436, 0)])
def test_sizes_that_make_no_sense_are_refused(path: Path, at: int, value: int) -> None:
    patch(path, at, struct.pack("<i", value))
    with pytest.raises(NotUnderstood):
        opened(path)


@pytest.mark.parametrize("frames", [0, (1 << 32) + 1, (1 << 64) - 1])
def test_numbers_of_frames_that_no_machine_has_are_refused(path: Path, frames: int) -> None:
    patch(path, 440, struct.pack("<I", 0))
    patch(path, PAGE_SIZE + 96, struct.pack("<Q", frames))
    with pytest.raises(NotUnderstood, match="frames"):
        opened(path)


def test_more_frames_than_the_bitmap_has_bits_are_refused(path: Path) -> None:
    patch(path, PAGE_SIZE + 96, struct.pack("<Q", 1 << 30))
    with pytest.raises(NotUnderstood, match="bitmap"):
        opened(path)


@pytest.mark.parametrize("at", [32, 48])
def test_notes_past_the_end_are_a_problem(path: Path, at: int) -> None:
    patch(path, PAGE_SIZE + at, struct.pack("<Q", 1 << 50))
    assert "goes past the end" in texts(opened(path))


def test_a_note_that_is_longer_than_the_notes_is_a_problem(path: Path) -> None:
    patch(path, 2 * PAGE_SIZE + 4, struct.pack("<I", 1 << 20))
    assert "goes past its kdump notes" in texts(opened(path))
