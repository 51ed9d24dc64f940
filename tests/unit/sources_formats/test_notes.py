"""Notes of every format: QEMU's and Xen's, of known and unknown size, and our own."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdb_p2m.sources.base import CoreTable, SourceInfo
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.sources.notes import MAX_NOTES, add_notes, core_table_note, describe_notes
from gdb_p2m.structures.xen_crash import xen_crash_rows, xen_release

CRASH_INFO, CRASH_REGS = 0x1000001, 0x1000002


def packed(name: str, kind: int, desc: bytes) -> bytes:
    raw = name.encode() + b"\0"
    return struct.pack("<III", len(raw), len(desc), kind) + raw.ljust(-(-len(raw) // 4) * 4, b"\0") + desc.ljust(-(-len(desc) // 4) * 4, b"\0")


def read(*notes: bytes) -> SourceInfo:
    info = SourceInfo("f", "unknown", "p", "x86-64")
    add_notes(info, b"".join(notes), "segment")
    describe_notes(info)
    return info


def crash(size: int, last: int = 0x1234) -> bytes:
    words = [4, 17, 0x1000, 0x1100, 0x1200, 0x1300, 0x1400, 0] + [0xF000] * ((size - 72) // 8) + [last]
    return packed("Xen", CRASH_INFO, struct.pack(f"<{len(words)}Q", *words)[:size])


def qemu(cr3: int, size: int = 440, declared: int = 440) -> bytes:
    desc = bytearray(size)
    struct.pack_into("<II", desc, 0, 1, declared)
    if size >= 424:
        struct.pack_into("<Q", desc, 416, cr3)
    return packed("QEMU", 0, bytes(desc))


def test_one_cpu_a_note_of_qemu() -> None:
    info = read(packed("CORE", 1, bytes(336)), qemu(0x1000), qemu(0x2000))
    assert [c.cr3 for c in info.cpus] == [0x1000, 0x2000]
    assert info.writer.startswith("QEMU")


@pytest.mark.parametrize(("size", "declared", "cpus"), [(432, 432, 1), (440, 400, 0), (300, 440, 0), (4, 0, 0)])
def test_the_size_field_of_qemus_note_counts(size: int, declared: int, cpus: int) -> None:
    desc = bytearray(size)
    if size >= 8:
        struct.pack_into("<II", desc, 0, 1, declared)
    assert len(read(packed("QEMU", 0, bytes(desc))).cpus) == cpus


@pytest.mark.parametrize(("size", "start"), [(72, None), (80, 0xF000)])
def test_crash_info_by_its_size(size: int, start: int | None) -> None:
    info = read(packed("Xen", CRASH_REGS, struct.pack("<4Q", 1, 2, 0x5000, 4)), crash(size))
    assert info.xen_crash is not None
    assert info.xen_crash.xen_phys_start == start
    assert info.xen_crash.frame_list_list == 0x1234
    assert [c.cr3 for c in info.cpus] == [0x5000]
    assert info.problems == []
    assert info.writer == "Xen kexec crash dump (Xen CRASH_INFO note)"


def test_a_longer_crash_info_gives_what_all_versions_have() -> None:
    info = read(crash(96))
    assert info.xen_crash is not None
    assert info.xen_crash.frame_list_list is None
    assert (info.xen_crash.major, info.xen_crash.minor) == (4, 17)
    assert "unknown version" in info.loses[0]


def test_short_notes_of_xen_are_problems() -> None:
    info = read(packed("Xen", CRASH_INFO, bytes(40)), packed("Xen", CRASH_REGS, bytes(16)))
    assert info.xen_crash is None
    assert info.cpus == []
    assert len(info.problems) == 2


@pytest.mark.parametrize(("last", "shown"), [(0, "none (0x0)"), ((1 << 64) - 1, "none (0xffffffffffffffff)"), (0x99, "machine frame 0x99")])
def test_the_record_for_people(last: int, shown: str) -> None:
    source = FakeSource({0x1000: b".7-pre".ljust(0x100, b"\0") + b"\xff\xfe\0".ljust(0x100, b"\0") + b"gcc 12\0".ljust(0x200, b"\0")})
    source.info.xen_crash = read(crash(80, last)).xen_crash
    rows = dict(xen_crash_rows(source))
    assert xen_release(source) == "4.17.7-pre"
    assert rows["Xen"].startswith("4.17.7-pre")
    assert rows["Xen compiler"] == "gcc 12"
    assert "Xen changeset" not in rows, "bytes that are no text are not shown"
    assert rows["dom0's frame list list"] == shown


def test_texts_that_are_not_in_the_dump_leave_the_numbers() -> None:
    source = FakeSource({0: bytes(16)})
    source.info.xen_crash = read(crash(72)).xen_crash
    assert xen_release(source) == "4.17"
    assert xen_crash_rows(FakeSource({0: b"x"})) == []
    assert xen_release(FakeSource({0: b"x"})) is None


def test_a_note_past_its_segment_is_a_problem_and_the_ones_before_it_stay() -> None:
    whole = packed("A", 1, b"one") + packed("B", 2, b"x" * 100)
    info = read(whole[:-8])
    assert [n.name for n in info.notes] == ["A"]
    assert "goes past its segment" in info.problems[0][1]


@given(st.binary(max_size=400))
def test_any_bytes_as_notes_are_read_or_refused(blob: bytes) -> None:
    info = read(blob)
    assert sum(len(n.desc) for n in info.notes) <= len(blob)


def test_notes_are_not_endless() -> None:
    info = read(packed("", 0, b"") * (MAX_NOTES + 10))
    assert len(info.notes) == MAX_NOTES
    assert len(info.problems) == 1


# -- our own notes ----------------------------------------------------------------------------------------------


def own(kind: int, desc: bytes) -> bytes:
    return packed("GDB-P2M", kind, desc)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 5000)), max_size=40, unique_by=lambda p: p[0]))
def test_a_core_table_survives_its_note(pairs: list[tuple[int, int]]) -> None:
    pairs.sort()
    pfn = np.array([p for p, _ in pairs], dtype=np.int64)
    mfn = np.array([m for _, m in pairs], dtype=np.int64)
    note = core_table_note(CoreTable(pfn, mfn, pfn, 77, len(pfn)))
    back = read(own(note.type, note.desc)).core_table
    assert back is not None
    assert np.array_equal(back.pfn, pfn)
    assert np.array_equal(back.mfn, mfn)
    assert (back.index, back.offset, back.entries) == (None, None, len(pfn))


@pytest.mark.parametrize("desc", [b"12345", struct.pack("<3Q", 0, 0, 1 << 39), struct.pack("<3Q", 1 << 41, 0, 1)])
def test_a_core_table_that_makes_no_sense_is_a_problem(desc: bytes) -> None:
    info = read(own(2, desc))
    assert info.core_table is None
    assert len(info.problems) == 1


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b'{"extents": [[1]]}', b'{"extents": [["a", "b"]]}', b'{"extents": 5}', b"\xff"])
def test_a_damaged_excerpt_note_is_a_problem(text: bytes) -> None:
    assert len(read(own(1, text)).problems) == 1


def test_an_excerpt_knows_its_original() -> None:
    info = read(own(1, json.dumps({"version": 1, "extents": [[0, 4096], [8192, 12288]]}).encode()))
    assert info.original is not None
    assert [(e.start, e.end) for e in info.original] == [(0, 4096), (8192, 12288)]
