"""ELF dumps beyond QEMU's plain one: overlapping PT_LOADs, more than e_phnum can say, makedumpfile -E, ELF32."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdb_p2m.errors import NotSupported, NotUnderstood, Unreadable
from gdb_p2m.model.writers import image_of, write_cut_elf, write_paged_elf
from gdb_p2m.model.writers_xen import crash_image
from gdb_p2m.sources.elf import ElfSource
from gdb_p2m.sources.probe import open_source
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE
from support.dump_files import LEFT_OUT, all_pages, model, tiny
from support.elf_files import EM_386, ElfFile, Load, note


def opened(path: Path) -> ElfSource:
    source = open_source(str(path))
    assert isinstance(source, ElfSource)
    return source


def patch(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def pattern(start: int, size: int) -> bytes:
    """Bytes that tell their own machine address."""
    return (np.arange(start, start + size, dtype=np.uint64) % 251).astype(np.uint8).tobytes()


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=12))
def test_segments_that_overlap_with_equal_bytes_read_as_one_memory(
    tmp_path_factory: pytest.TempPathFactory, ranges: list[tuple[int, int]]
) -> None:
    step = 256
    loads = [Load(a * step, pattern(a * step, n * step)) for a, n in ranges]
    source = opened(ElfFile(loads).write(tmp_path_factory.mktemp("elf") / "dump"))
    assert source.info.problems == []
    held = np.zeros(60, dtype=bool)
    for a, n in ranges:
        held[a : a + n] = True
    for start in range(56):
        for size in (1, 3):
            if held[start : start + size].all():
                assert bytes(source.read(start * step, size * step)) == pattern(start * step, size * step)
            else:
                with pytest.raises(Unreadable) as error:
                    source.read(start * step, size * step)
                assert error.value.address == (start + int(np.argmin(held[start : start + size]))) * step
    starts = [s for s, _, _ in source.segments]
    ends = [e for _, e, _ in source.segments]
    assert all(e <= s for e, s in zip(ends, starts[1:], strict=False)), "cut so that none overlaps another"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_segments_that_overlap_and_differ_are_a_contradiction(tmp_path: Path, order: tuple[int, int]) -> None:
    loads = [Load(0x1000, pattern(0x1000, 0x3000)), Load(0x2000, b"\x5a" * 0x1000)]
    source = opened(ElfFile([loads[i] for i in order]).write(tmp_path / "dump"))
    assert source.info.problems == [(0x2000, "segments at 0x1000 and 0x2000 overlap up to 0x3000 and differ")]


def test_a_difference_behind_a_third_segment_is_seen(tmp_path: Path) -> None:
    loads = [
        Load(0x0, pattern(0, 0x1000)),
        Load(0x800, pattern(0x800, 0x3000)),
        Load(0x900, pattern(0x900, 0x2000) + b"?" * 16),
    ]
    source = opened(ElfFile(loads).write(tmp_path / "dump"))
    assert [at for at, _ in source.info.problems] == [0x900]


def test_thousands_of_mappings_of_qemus_p_option_open_fast_and_read_the_same(tmp_path: Path) -> None:
    image = image_of(tiny())
    end = image.max_frame << PAGE_SHIFT
    rng = np.random.default_rng(5)
    starts = rng.integers(0, image.max_frame, 70_000) << PAGE_SHIFT
    sizes = rng.integers(1, 300, 70_000) << PAGE_SHIFT
    maps = [(a, min(end, a + n)) for a, n in zip(starts.tolist(), sizes.tolist(), strict=True)]
    write_paged_elf(tmp_path / "dump", image, [*maps, (0, end)])
    source = opened(tmp_path / "dump")
    assert source.info.problems == []
    assert source.info.writer.startswith("QEMU dump-guest-memory -p")
    assert any("page tables" in text for text in source.info.loses)
    assert len(source.extents()) == 1
    pages, ok = source.read_pages(np.arange(image.max_frame))
    assert ok.all()
    assert np.array_equal(pages, all_pages(image))


def test_headers_without_bytes_are_no_memory(tmp_path: Path) -> None:
    image = image_of(tiny())
    end = image.max_frame << PAGE_SHIFT
    write_paged_elf(tmp_path / "dump", image, [(0, end), (0xFEE0_0000, 0xFEE0_1000)])
    source = opened(tmp_path / "dump")
    assert source.end() == end
    assert source.ram_end() == end
    assert not source.holds(0xFEE0_0000)


def test_makedumpfile_e_names_memory_that_it_leaves_out(tmp_path: Path) -> None:
    machine = model()
    image = crash_image(machine)
    write_cut_elf(tmp_path / "dump", image, LEFT_OUT)
    source = opened(tmp_path / "dump")
    assert source.info.writer.startswith("makedumpfile -E")
    assert any("6 pages" in text and "filtered, or zero" in text for text in source.info.loses)
    assert "filtered, or zero" in source.missing_reason(300 << PAGE_SHIFT)
    assert source.missing_reason(image.max_frame << PAGE_SHIFT) == "not in the dump"
    assert source.ram_end() == image.max_frame << PAGE_SHIFT
    assert source.frames_below(np.array([5, 6, 303, 7680])).tolist() == [5, 5, 299, 7674]


def test_an_elf32_core_is_read(tmp_path: Path) -> None:
    data = pattern(0x5000, 0x2000)
    blob = note("Xen", 0x1000002, struct.pack("<4Q", 0, 0, 0x7000, 0))
    head = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01".ljust(16, b"\0"), 4, EM_386, 1, 0, 52, 0, 0, 52, 32, 2, 40, 0, 0)
    at = 52 + 64
    head += struct.pack("<8I", 4, at, 0, 0, len(blob), len(blob), 0, 0)
    head += struct.pack("<8I", 1, at + len(blob), 0, 0x5000, len(data), len(data), 0, 0)
    (tmp_path / "dump").write_bytes(head + blob + data)
    source = opened(tmp_path / "dump")
    assert source.info.machine == "i386"
    assert [c.cr3 for c in source.info.cpus] == [0x7000]
    assert bytes(source.read(0x5004, 100)) == pattern(0x5004, 100)


@pytest.mark.parametrize("ident", [b"\x7fELF\x03\x01", b"\x7fELF\x02\x03", b"\x7fELF"])
def test_no_such_elf(tmp_path: Path, ident: bytes) -> None:
    (tmp_path / "dump").write_bytes(ident.ljust(64 if len(ident) > 4 else 4, b"\0"))
    with pytest.raises(NotUnderstood):
        open_source(str(tmp_path / "dump"))


def test_big_endian_is_not_supported(tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(b"\x7fELF\x02\x02\x01".ljust(64, b"\0"))
    with pytest.raises(NotSupported, match="big-endian"):
        open_source(str(tmp_path / "dump"))


def test_addresses_near_the_end_of_the_world_are_a_problem_not_memory(tmp_path: Path) -> None:
    loads = [Load(0x1000, pattern(0x1000, 0x1000)), Load((1 << 64) - 0x800, b"x" * 0x1000), Load(1 << 63, b"y" * 16)]
    source = opened(ElfFile(loads).write(tmp_path / "dump"))
    assert len(source.info.problems) == 2
    assert source.end() == 0x2000


def test_a_million_headers_in_a_small_file_are_refused(tmp_path: Path) -> None:
    path = ElfFile([Load(0, b"x" * 4096)]).write(tmp_path / "dump")
    patch(path, 56, struct.pack("<H", 0xFFFF))
    patch(path, 40, struct.pack("<Q", 64))
    patch(path, 64 + 44, struct.pack("<I", 0xFFFF_FFFF))
    with pytest.raises(NotUnderstood):
        open_source(str(path))


def test_many_note_segments_over_the_same_bytes_do_not_multiply(tmp_path: Path) -> None:
    blob = note("X", 1, b"z" * (1 << 20))
    headers = [struct.pack("<IIQQQQQQ", 4, 0, 64 + 56 * 2002, 0, 0, len(blob), len(blob), 4)] * 2000
    path = ElfFile([Load(0, b"x" * PAGE_SIZE)], notes=blob, extra_headers=headers).write(tmp_path / "dump")
    assert len(opened(path).info.notes) <= 64
