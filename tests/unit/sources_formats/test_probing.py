"""What a file is, by its content: nesting, empty dumps, and files that only begin like a dump."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.model.writers import image_of
from gdb_p2m.model.writers_flattened import flatten, write_pieces
from gdb_p2m.model.writers_kdump import KdumpOptions, write_kdump
from gdb_p2m.sources.probe import open_source
from support.dump_files import FORMATS, tiny


@pytest.mark.parametrize("name", FORMATS)
def test_the_name_of_the_file_says_nothing(name: str, tmp_path: Path) -> None:
    written = FORMATS[name](tmp_path, tiny())
    misleading = written.path.rename(tmp_path / "photo.jpg")
    source = open_source(str(misleading), raw=written.raw)
    assert source.extents()
    source.close()


def test_a_dump_without_a_page_is_refused(tmp_path: Path) -> None:
    image = image_of(tiny())
    image.ram = [(0, 4096)]
    write_kdump(tmp_path / "dump", image, KdumpOptions(filtered=np.array([0])))
    assert open_source(str(tmp_path / "dump")).extents(), "the frame exists, though it was filtered"
    with open(tmp_path / "dump", "r+b") as file:
        file.seek(3 * 4096)
        file.write(bytes(2 * 4096))
    with pytest.raises(NotUnderstood, match="without any memory"):
        open_source(str(tmp_path / "dump"))


def test_a_flattened_stream_of_something_else_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "dump", "wb") as file:
        write_pieces(file, [(0, b"hello, this is no dump" * 10)])
    with pytest.raises(NotUnderstood, match="not a dump that we know"):
        open_source(str(tmp_path / "dump"))


def test_an_empty_flattened_stream_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "dump", "wb") as file:
        write_pieces(file, [])
    with pytest.raises(NotUnderstood, match="empty"):
        open_source(str(tmp_path / "dump"))


def test_a_stream_within_a_stream_is_refused(tmp_path: Path) -> None:
    write_kdump(tmp_path / "dump", image_of(tiny()))
    flatten(tmp_path / "dump", tmp_path / "once")
    flatten(tmp_path / "once", tmp_path / "twice")
    with pytest.raises(NotUnderstood):
        open_source(str(tmp_path / "twice"))


@pytest.mark.parametrize(
    "head",
    [b"KDUMP   ", b"makedumpfile\0\0\0\0", b"makedumpfile", b"\x7fELF", b"DISKDUMP", b"KDUMP", b"\0" * 8, b"MDMP"],
)
@pytest.mark.parametrize("size", [0, 100, 5000])
def test_files_that_only_begin_like_a_dump(tmp_path: Path, head: bytes, size: int) -> None:
    (tmp_path / "dump").write_bytes(head + bytes(size))
    with pytest.raises(NotUnderstood) as error:
        open_source(str(tmp_path / "dump"))
    assert str(tmp_path / "dump") in str(error.value)


def test_a_gzip_of_rubbish_names_the_formats_that_we_read(tmp_path: Path) -> None:
    (tmp_path / "dump.gz").write_bytes(gzip.compress(struct.pack("<Q", 5) * 100))
    with pytest.raises(NotUnderstood) as error:
        open_source(str(tmp_path / "dump.gz"))
    for word in ("kdump-compressed", "flattened", "xl dump-core", "--raw"):
        assert word in (error.value.hint or "")
