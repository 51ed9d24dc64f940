"""Model memory: blocks, pages over them, and the ELF core that holds it all."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.model.elf import CoreNote, Segment, qemu_cpu_notes, write_core
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.memory import Memory, Rows
from gdb_p2m.sources.probe import open_source
from support.places import FIXTURES

PAGE = 4096


def numbered(frames: np.ndarray) -> Memory:
    """A block whose pages hold their frame number in every word."""
    memory = Memory()

    def rows(first: int, end: int) -> Rows:
        return np.repeat(frames[first:end].astype("<u8"), 512).view(np.uint8).reshape(end - first, PAGE)

    memory.add_block(frames, rows)
    return memory


@pytest.mark.parametrize("frames", [np.arange(100, 400), np.array([7, 3, 900, 5, 4])], ids=["consecutive", "scattered"])
def test_a_block_reads_like_pages(frames: np.ndarray) -> None:
    memory = numbered(frames)
    for frame in frames[:: max(1, len(frames) // 7)].tolist():
        assert memory.read_word(frame * PAGE + 8 * 300) == frame
        assert memory.words(frame)[511] == frame
    assert memory.read_word(10_000 * PAGE) == 0


def test_a_written_page_hides_its_row() -> None:
    memory = numbered(np.arange(100, 400))
    memory.write_word(150 * PAGE + 4092, 0x1122334455667788)
    assert memory.read(150 * PAGE + 4088, 16).hex() == "96000000" + "8877665544332211" + "00000000"
    pieces = memory.pieces()
    assert list(pieces) == [100 * PAGE] and len(pieces[100 * PAGE]) == 300 * PAGE
    assert pieces[100 * PAGE][50 * PAGE + 4092 : 51 * PAGE + 4].hex() == "8877665544332211"


def test_an_unwritten_frame_reads_as_zero_and_is_not_stored() -> None:
    memory = Memory()
    memory.write(5 * PAGE + 10, b"abc")
    assert memory.read(4 * PAGE, 2 * PAGE)[PAGE + 9 : PAGE + 14] == b"\0abc\0"
    assert list(memory.pieces()) == [5 * PAGE]


def test_a_core_holds_all_ram_but_takes_little_disk(tmp_path: Path) -> None:
    memory = numbered(np.array([40, 3, 39, 200_000]))
    segments = [Segment(0, 64 << 20), Segment(1 << 29, (1 << 29) + (1 << 30))]
    path = tmp_path / "core"
    write_core(path, memory, segments, [CoreNote("ABC", 7, b"12345")])
    assert path.stat().st_size == PAGE + (64 << 20) + (1 << 30)
    assert path.stat().st_blocks * 512 < 1 << 20
    source = open_source(str(path))
    assert [(e.start, e.end) for e in source.extents()] == [(s.start, s.end) for s in segments]
    for frame in (3, 39, 40, 200_000):
        assert source.read_u64(frame * PAGE) == frame
    assert source.read_u64(41 * PAGE) == 0 and source.info.problems == []
    assert [(n.name, n.type, n.desc) for n in source.info.notes] == [("ABC", 7, b"12345")]


def test_headers_of_a_core_byte_by_byte(tmp_path: Path) -> None:
    """ELF64, ET_CORE, EM_X86_64; the note segment first; p_paddr is the machine address."""
    path = tmp_path / "core"
    write_core(path, Memory(), [Segment(0x10000, 0x12000)], [CoreNote("A", 1, b"")])
    head = path.read_bytes()[:256]
    assert head[:20].hex() == "7f454c46020101" + "00" * 9 + "0400" + "3e00"
    assert struct.unpack_from("<QQ", head, 24)[1] == 64 and struct.unpack_from("<HHH", head, 52) == (64, 56, 2)
    assert struct.unpack_from("<IIQQQQQQ", head, 64) == (4, 0, 176, 0, 0, 16, 16, 0)
    assert struct.unpack_from("<IIQQQQQQ", head, 120) == (1, 0, PAGE, 0, 0x10000, 0x2000, 0x2000, 0)
    assert head[176:192] == struct.pack("<III", 2, 0, 1) + b"A\0\0\0"


def test_the_cpu_note_carries_cr3_where_qemu_puts_it() -> None:
    prstatus, qemu = qemu_cpu_notes(0x12345000, 0xFFFFFFFF81000000)
    assert (prstatus.name, prstatus.type, len(prstatus.desc)) == ("CORE", 1, 336)
    assert (qemu.name, qemu.type) == ("QEMU", 0)
    assert struct.unpack_from("<II", qemu.desc) == (1, len(qemu.desc))
    assert struct.unpack_from("<Q", qemu.desc, 416) == (0x12345000,)


def model(name: str) -> Machine:
    path = FIXTURES / "models" / f"{name}.model"
    return build(parse(path.read_text(), path.name))


def test_file_and_pieces_hold_the_same(tmp_path: Path) -> None:
    machine = model("tiny-domu")
    path = tmp_path / "tiny.core"
    machine.write_elf(path)
    source = open_source(str(path))
    assert source.ram_end() == machine.xen.ram[-1][1]
    stored = np.zeros(source.end() // PAGE, dtype=bool)
    for start, data in machine.pieces().items():
        assert bytes(source.read(start, len(data))) == data
        stored[start // PAGE : (start + len(data)) // PAGE] = True
    pages = np.frombuffer(source.read(0, source.end()), dtype=np.uint8).reshape(-1, PAGE)
    assert not pages[~stored].any()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "order"), [(27, "contiguous"), (25, "scattered seed 5")])
def test_512_gib_take_seconds_and_little_memory(size: int, order: str, tmp_path: Path) -> None:
    """2^27 entries, 1 GiB of list and 1 GiB of M2P, without a Python object per PFN (scattered frames: a quarter)."""
    import resource
    import time

    text = f"nr_pages {1 << size}\nframes {order}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    machine = build(parse(text, "big"))
    built = time.process_time() - start
    path = tmp_path / "big.core"
    machine.write_elf(path)
    written = time.process_time() - start - built
    try:
        assert built < 20 and written < 120
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10
        assert path.stat().st_blocks * 512 < 3 << 30
        source = open_source(str(path))
        for pfn in (0, 511, 512, 9_999_999, (1 << size) - 1):
            mfn = machine.frames.mfn(pfn)
            assert source.read_u64(machine.entry_address(pfn)) == mfn
            assert source.read_u64(machine.xen.m2p_address(mfn)) == pfn
        source.close()
    finally:
        path.unlink()
