"""What elf_writer writes, ElfSource and an independent reader of ELF files read back."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from gdb_p2m.sources.base import Note
from gdb_p2m.sources.elf_writer import PN_XNUM, note_bytes, write_elf
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.sources.probe import open_source
from gdb_p2m.units import PAGE_SIZE

MEMORY = np.random.default_rng(3).integers(0, 256, 600 * PAGE_SIZE, dtype=np.uint8).tobytes()


def source(machine: str = "x86-64") -> FakeSource:
    return FakeSource({0: MEMORY}, machine)


@settings(max_examples=20)
@given(
    frames=st.sets(st.integers(0, 599), min_size=1, max_size=60),
    notes=st.lists(
        st.builds(Note, st.sampled_from(["CORE", "Xen", "a", "abc"]), st.integers(0, 9), st.binary(max_size=9))
    ),
)
def test_frames_and_notes_come_back(
    tmp_path_factory: pytest.TempPathFactory, frames: set[int], notes: list[Note]
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.core"
    wanted = np.array(sorted(frames), dtype=np.int64)
    with open(path, "wb") as file:
        segments = write_elf(file, source(), wanted, notes)
    back = open_source(str(path))
    assert back.info.notes == notes and back.info.machine == "x86-64" and not back.info.problems
    pages, ok = back.read_pages(np.arange(600, dtype=np.int64))
    assert np.flatnonzero(ok).tolist() == wanted.tolist()
    assert all(pages[f].tobytes() == MEMORY[f * PAGE_SIZE : (f + 1) * PAGE_SIZE] for f in frames)
    assert segments == len(back.extents()) == np.count_nonzero(np.diff(wanted) != 1) + 1


def test_another_reader_of_elf_files_sees_the_same() -> None:
    file = io.BytesIO()
    frames = np.array([0, 1, 2, 9, 300], dtype=np.int64)
    write_elf(file, source(), frames, [Note("CORE", 1, b"12345"), Note("VMCOREINFO", 0, b"OSRELEASE=6.1\n")])
    elf = ELFFile(file)
    assert elf["e_type"] == "ET_CORE" and elf["e_machine"] == "EM_X86_64"
    loads = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
    assert [(s["p_paddr"], s["p_filesz"]) for s in loads] == [(0, 0x3000), (0x9000, 0x1000), (300 << 12, 0x1000)]
    assert all(s["p_offset"] % PAGE_SIZE == 0 for s in loads)
    assert loads[1].data() == MEMORY[0x9000:0xA000]
    notes = next(s for s in elf.iter_segments() if s["p_type"] == "PT_NOTE")
    assert [(n["n_name"], n["n_descsz"]) for n in notes.iter_notes()] == [("CORE", 5), ("VMCOREINFO", 14)]


def test_more_segments_than_the_header_can_count(tmp_path: Path) -> None:
    """PN_XNUM: every second frame of 140,000 is a segment of its own."""
    frames = np.arange(0, 2 * PN_XNUM + 10, 2, dtype=np.int64)

    class Zeros(FakeSource):
        def _read(self, address: int, size: int) -> bytes:
            return (address >> 12).to_bytes(8, "little").ljust(size, b"\0")

    memory = Zeros({0: b""})
    path = tmp_path / "many.core"
    with open(path, "wb") as file:
        assert write_elf(file, memory, frames, []) == len(frames) > PN_XNUM
    back = open_source(str(path))
    assert len(back.extents()) == len(frames)
    words = [back.read_u64(int(f) << 12) for f in frames[:: len(frames) // 50]]
    assert words == frames[:: len(frames) // 50].tolist()


@pytest.mark.parametrize(("machine", "word"), [("x86-64", "EM_X86_64"), ("riscv64", "EM_RISCV"), ("i386", "EM_386")])
def test_the_machine_is_kept(machine: str, word: str) -> None:
    file = io.BytesIO()
    write_elf(file, source(machine), np.array([5], dtype=np.int64), [])
    assert ELFFile(file)["e_machine"] == word


def test_notes_are_padded_to_words() -> None:
    assert note_bytes(Note("Xen", 2, b"abcde")) == b"\x04\0\0\0\x05\0\0\0\x02\0\0\0Xen\0abcde\0\0\0"
