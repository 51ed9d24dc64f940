"""Damaged and hostile dumps of every format: an error of ours or an answer, in bounded time and memory."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdb_p2m.errors import P2mError
from gdb_p2m.sources.base import Extent
from gdb_p2m.sources.probe import open_source
from gdb_p2m.target import Target
from gdb_p2m.units import MIB, PAGE_SIZE
from gdb_p2m.views.registry import Views
from support.dump_files import FORMATS, system_map, tiny

NAMES = ("elf-paged", "elf-cut", "elf-flattened", "kdump-zlib", "kdump-lzo", "kdump-i386-v5", "kdump-flattened", "kdump-split", "xen-core")
SECONDS = 20
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 7, 0xFFF, 0x1000, 0x1001, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 63) - 1, (1 << 64) - 1]),
    st.integers(0, 1 << 20),
    st.integers(0, (1 << 64) - 1),
)


@pytest.fixture(scope="module", params=NAMES)
def dump(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    written = FORMATS[request.param](folder, tiny())
    system_map(tiny(), folder / "System.map")
    return written.path


@st.composite
def patches(draw: st.DrawFn, size: int) -> list[tuple[int, bytes]]:
    """Where to write what: mostly into headers and tables, which lie in front."""
    out = []
    for _ in range(draw(st.integers(1, 4))):
        near = st.one_of(st.integers(0, 512), st.integers(0, 5 * PAGE_SIZE), st.integers(0, size - 8))
        at = draw(near) & ~draw(st.sampled_from([0, 3, 7]))
        code = draw(st.sampled_from(["<B", "<H", "<I", "<Q", ">Q"]))
        data = struct.pack(code, draw(NUMBERS) & ((1 << 8 * struct.calcsize(code)) - 1))
        out.append((min(at, size - len(data)), data))
    return out


@contextmanager
def patched(path: Path, changes: list[tuple[int, bytes]]) -> Iterator[None]:
    """The file with changes, and as it was afterwards."""
    fd = os.open(path, os.O_RDWR)
    try:
        old = [(at, os.pread(fd, len(data), at)) for at, data in changes]
        for at, data in changes:
            os.pwrite(fd, data, at)
        yield
    finally:
        for at, data in reversed(old):
            os.pwrite(fd, data, at)
        os.close(fd)


def use(path: Path, *, decode: bool) -> None:
    """Everything that verbs do with a source. Raises what a verb would."""
    source = open_source(str(path))
    try:
        for extent in (*source.extents()[:3], *source.extents()[-3:]):
            part = Extent(extent.start, min(extent.end, extent.start + 32 * MIB))
            source.strided_u64(part, 2064)
        frames = np.concatenate((np.arange(3000), np.arange(7000, 7700), [-1, 1 << 40])).astype(np.int64)
        _, ok = source.read_pages(frames)
        assert source.frames_below(frames).shape == frames.shape
        for frame in frames[~ok][:3].tolist():
            assert source.missing_reason(frame << 12)
        assert all(isinstance(at, int) and text for at, text in source.info.problems + source.audit())
        if decode:
            target = Target(source, kernel=str(path.parent / "System.map"))
            for guest in target.guests:
                for _, view in Views(guest).available():
                    if not isinstance(view, P2mError):
                        view.mapping()
    finally:
        source.close()


@pytest.mark.thorough
@settings(max_examples=30)
@given(data=st.data(), decode=st.booleans())
def test_any_damage_gives_an_answer_or_an_error_of_ours(dump: Path, data: st.DataObject, decode: bool) -> None:
    with patched(dump, data.draw(patches(dump.stat().st_size))):
        began = time.monotonic()
        try:
            use(dump, decode=decode)
        except P2mError as e:
            assert str(e)
        assert time.monotonic() - began < SECONDS


@settings(max_examples=6)
@given(data=st.data())
def test_any_truncation_gives_an_answer_or_an_error_of_ours(dump: Path, data: st.DataObject) -> None:
    size = dump.stat().st_size
    cut = data.draw(st.one_of(st.integers(0, size), st.integers(0, min(size, 6 * PAGE_SIZE))))
    with open(dump, "rb") as file:
        kept = file.read(cut)
    short = dump.with_name("short")
    try:
        short.write_bytes(kept)
        use(short, decode=True)
    except P2mError as e:
        assert str(e)
    finally:
        short.unlink(missing_ok=True)


@settings(max_examples=8)
@given(data=st.data())
def test_damage_does_not_take_memory_without_end(dump: Path, data: st.DataObject) -> None:
    with patched(dump, data.draw(patches(dump.stat().st_size))):
        tracemalloc.start()
        try:
            use(dump, decode=False)
        except P2mError:
            pass
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 256 * MIB


def test_a_sparse_file_of_a_terabyte_is_opened_and_refused_quickly(tmp_path: Path) -> None:
    for head in (b"KDUMP   " + struct.pack("<i", 6), b"\x7fELF\x02\x01\x01", b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)):
        path = tmp_path / "dump"
        path.write_bytes(head)
        os.truncate(path, 1 << 40)
        began = time.monotonic()
        with pytest.raises(P2mError):
            use(path, decode=False)
        assert time.monotonic() - began < SECONDS
