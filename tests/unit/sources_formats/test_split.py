"""makedumpfile --split: any part opens the whole, as far as its files are there."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gdb_p2m.errors import NotUnderstood, Unreadable
from gdb_p2m.model.writers import image_of
from gdb_p2m.model.writers_kdump import KdumpOptions, write_kdump
from gdb_p2m.sources.probe import open_source
from gdb_p2m.sources.split import SplitSource
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE
from support.dump_files import all_pages, model, tiny

EDGES = (0, 700, 3000, 7680)
NAMES = ("one.core", "zz", "part.3")


@pytest.fixture(params=[6, 2])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    image = image_of(tiny())
    assert image.max_frame == EDGES[-1]
    for name, part in zip(NAMES, pairwise(EDGES), strict=True):
        write_kdump(tmp_path / name, image, KdumpOptions(part=part, version=request.param))
    (tmp_path / "notes.txt").write_text("not a dump")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_each_part_finds_the_others_whatever_they_are_called(folder: Path, name: str) -> None:
    source = open_source(str(folder / name))
    assert isinstance(source, SplitSource)
    assert len(source.parts) == 3
    assert "3 files of a split dump" in source.info.format
    assert source.info.loses == []
    pages, ok = source.read_pages(np.arange(EDGES[-1]))
    assert ok.all()
    assert np.array_equal(pages, all_pages(image_of(tiny())))
    across = (EDGES[1] << PAGE_SHIFT) - 100
    assert bytes(source.read(across, 200)) == all_pages(image_of(tiny())).reshape(-1)[across : across + 200].tobytes()


def test_a_missing_part_is_named_and_its_frames_are_unreadable(folder: Path) -> None:
    (folder / "zz").unlink()
    source = open_source(str(folder / "one.core"))
    assert any("0x2bc..0xbb7" in text for text in source.info.loses)
    with pytest.raises(Unreadable, match="another file of this split dump"):
        source.read(1000 << PAGE_SHIFT, 8)
    _, ok = source.read_pages(np.arange(EDGES[-1]))
    assert np.array_equal(np.flatnonzero(~ok), np.arange(700, 3000))
    assert source.frames_below(np.array([699, 700, 3000, 7680])).tolist() == [699, 700, 700, 5380]


def test_parts_of_another_dump_are_left_alone(folder: Path) -> None:
    other = model("tree-2.6.37-domu")
    write_kdump(folder / "other", image_of(other), KdumpOptions(part=(3000, 7680)))
    (folder / "part.3").unlink()
    source = open_source(str(folder / "one.core"))
    assert isinstance(source, SplitSource)
    assert len(source.parts) == 2


def test_a_copy_of_a_part_is_not_taken_twice(folder: Path) -> None:
    (folder / "copy").write_bytes((folder / "zz").read_bytes())
    source = open_source(str(folder / "one.core"))
    assert isinstance(source, SplitSource)
    assert len(source.parts) == 3


def test_a_damaged_sibling_does_not_hide_the_part_that_was_named(folder: Path) -> None:
    (folder / "zz").write_bytes((folder / "zz").read_bytes()[:5000])
    source = open_source(str(folder / "one.core"))
    assert bytes(source.read(300 << PAGE_SHIFT, PAGE_SIZE)) == all_pages(image_of(tiny()))[300].tobytes()
    assert isinstance(source, SplitSource)
    assert len(source.parts) == 2


def test_a_part_that_ends_before_it_begins_is_refused(tmp_path: Path) -> None:
    write_kdump(tmp_path / "dump", image_of(tiny()), KdumpOptions(part=(500, 400)))
    with pytest.raises(NotUnderstood, match="split"):
        open_source(str(tmp_path / "dump"))
