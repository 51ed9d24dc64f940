"""ElfSource on real excerpts and on files that end or lie at every interesting place."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from gdb_p2m.errors import NotUnderstood, P2mError
from gdb_p2m.sources.probe import open_source
from support.elf_files import EM_386, ElfFile, Load, note, notes_of
from support.machine import Healthy

PAGE = bytes(range(256)) * 16


def test_an_excerpt_tells_its_writer_cpus_and_original(either: Healthy) -> None:
    info = either.machine.info
    assert info.format == "ELF vmcore" and info.machine == "x86-64" and not info.problems and not info.live
    assert "excerpt" in info.writer and "excerpt" in info.loses[0]
    assert len(info.cpus) == 1 and info.cpus[0].cr3 is not None and info.cpus[0].cr3 % 4096 == 0
    assert {n.name for n in info.notes} == {"CORE", "QEMU", "VMCOREINFO", "GDB-P2M"}
    assert info.original is not None
    end = max(e.end for e in info.original)
    assert end >> 12 >= either.truth.machine_frames


@pytest.mark.parametrize("cut", [1, 100, 4095, 4096, 4097, 2 * 4096 - 1])
def test_a_segment_that_ends_early_is_a_problem_and_keeps_what_is_there(tmp_path: Path, cut: int) -> None:
    whole = ElfFile([Load(0x10000, PAGE), Load(0x20000, PAGE)]).to_bytes()
    path = tmp_path / "cut.core"
    path.write_bytes(whole[:-cut])
    source = open_source(str(path))
    assert len(source.info.problems) == 1 + (cut > 4096)
    address, message = source.info.problems[-1]
    assert address == 0x20000 and "past the file's end" in message
    left = 2 * 4096 - cut
    assert sum(e.end - e.start for e in source.extents()) == left
    assert bytes(source.read(0x10000, min(left, 4096))) == PAGE[: min(left, 4096)]


def test_all_segments_gone_is_no_memory(tmp_path: Path) -> None:
    whole = ElfFile([Load(0x10000, PAGE)]).to_bytes()
    (tmp_path / "none.core").write_bytes(whole[:-4096])
    with pytest.raises(NotUnderstood, match="without any memory"):
        open_source(str(tmp_path / "none.core"))


def test_every_cut_inside_the_headers_is_an_error_of_ours(tmp_path: Path) -> None:
    whole = ElfFile([Load(0x10000, PAGE)], note("CORE", 1, b"12345678")).to_bytes()
    path = tmp_path / "cut.core"
    for length in range(len(whole) - 4096 + 1):
        path.write_bytes(whole[:length])
        with pytest.raises(P2mError) as error:
            open_source(str(path))
        assert str(path) in error.value.message


def test_a_note_segment_past_the_end_is_a_problem(tmp_path: Path) -> None:
    path = ElfFile([Load(0, PAGE)], note("CORE", 1, b"x" * 8), note_size=1 << 20).write(tmp_path / "notes.core")
    assert any("note segment goes past the file's end" in m for _, m in open_source(str(path)).info.problems)


def test_a_note_past_its_segment_is_a_problem_and_earlier_ones_stay(tmp_path: Path) -> None:
    blob = note("CORE", 1, b"x" * 8) + struct.pack("<III", 4, 1 << 20, 0) + b"Xen\0"
    source = open_source(str(ElfFile([Load(0, PAGE)], blob).write(tmp_path / "notes.core")))
    assert [n.name for n in source.info.notes] == ["CORE"]
    assert any("goes past its segment" in m for _, m in source.info.problems)


def test_no_notes_at_all(tmp_path: Path) -> None:
    for notes in (None, b""):
        source = open_source(str(ElfFile([Load(0, PAGE)], notes).write(tmp_path / "bare.core")))
        assert source.info.notes == [] and source.info.cpus == [] and not source.info.problems
        assert source.info.writer == "unknown"


def test_a_qemu_note_too_short_for_cr3_gives_no_cpu(tmp_path: Path) -> None:
    for size, declared, cpus in ((440, 440, 1), (432, 432, 1), (440, 100, 0), (100, 440, 0), (4, 0, 0), (0, 0, 0)):
        desc = (struct.pack("<II", 1, declared) + bytes(size))[:size]
        source = open_source(str(ElfFile([Load(0, PAGE)], note("QEMU", 0, desc)).write(tmp_path / "q.core")))
        assert len(source.info.cpus) == cpus, (size, declared)


def test_program_headers_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotUnderstood, match="32 bytes"):
        open_source(str(ElfFile([Load(0, PAGE)], phentsize=32).write(tmp_path / "ph.core")))


def test_the_machine_is_named(tmp_path: Path) -> None:
    source = open_source(str(ElfFile([Load(0, PAGE)], machine=EM_386).write(tmp_path / "i386.core")))
    assert source.info.machine == "i386"


def test_segments_at_unaligned_places_of_the_file_read_the_same(dom0: Healthy, tmp_path: Path) -> None:
    loads = [Load(a, d) for a, d in dom0.machine.pieces.items()]
    path = ElfFile(loads, notes_of(dom0.machine), pad=3).write(tmp_path / "odd.core")
    source = open_source(str(path))
    frames = np.array(dom0.machine.frames()[::7], dtype=np.int64)
    pages, ok = source.read_pages(frames)
    expected, _ = dom0.source.read_pages(frames)
    assert ok.all() and np.array_equal(pages, expected)


def test_after_close_the_file_is_released(dom0_core: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = open_source(str(dom0_core))
    source.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
