"""Raw memory: only the user knows where it lies, and of which machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gdb_p2m.errors import NotUnderstood, Unreadable, UsageError
from gdb_p2m.model.writers import image_of, write_raw
from gdb_p2m.sources.probe import open_source
from gdb_p2m.sources.raw import parse_raw
from gdb_p2m.target import Target
from gdb_p2m.units import PAGE_SHIFT
from gdb_p2m.views.registry import Views
from support.dump_files import all_pages, system_map, tiny


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", (0, "x86-64")),
        ("0x80000000:riscv64", (0x8000_0000, "riscv64")),
        ("4096:i386", (4096, "i386")),
        ("12", None),
        ("0x1000:vax", None),
        ("-4096", None),
        ("x", None),
        ("", None),
        (hex(1 << 56), None),
    ],
)
def test_addresses_and_machines_as_typed(text: str, expected: tuple[int, str] | None) -> None:
    if expected is None:
        with pytest.raises(UsageError):
            parse_raw(text)
    else:
        assert parse_raw(text) == expected


def test_the_guest_is_found_by_a_scan(tmp_path: Path) -> None:
    write_raw(tmp_path / "ram", image_of(tiny()))
    names = system_map(tiny(), tmp_path / "System.map")
    (guest,) = Target(open_source(str(tmp_path / "ram"), raw="0"), kernel=str(names)).guests
    assert guest.root.mfn == tiny().tables.root
    tiny().write_elf(tmp_path / "elf")
    (same,) = Target(open_source(str(tmp_path / "elf"))).guests
    assert list(Views(guest).own().mapping()) == list(Views(same).own().mapping())


def test_a_base_shifts_everything(tmp_path: Path) -> None:
    write_raw(tmp_path / "ram", image_of(tiny()))
    source = open_source(str(tmp_path / "ram"), raw="0x100000000")
    assert source.info.loses
    frame = tiny().tables.root
    page = all_pages(image_of(tiny()))[frame]
    assert bytes(source.read((1 << 32) + (frame << PAGE_SHIFT), 4096)) == page.tobytes()
    with pytest.raises(Unreadable):
        source.read(frame << PAGE_SHIFT, 8)


def test_a_last_part_of_a_page_is_a_problem_and_readable(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(bytes(range(256)) * 16 + b"tail")
    source = open_source(str(tmp_path / "ram"), raw="0")
    assert source.info.problems
    assert bytes(source.read(4096, 4)) == b"tail"
    with pytest.raises(Unreadable) as error:
        source.read(4090, 11)
    assert error.value.address == 4100
    assert len(source.strided_u64(source.extents()[0], 0)) == 1
    assert source.frames_below(np.array([0, 1, 2])).tolist() == [0, 1, 1]


def test_without_the_option_raw_memory_is_no_dump_and_the_hint_names_it(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(bytes(8192))
    with pytest.raises(NotUnderstood) as error:
        open_source(str(tmp_path / "ram"))
    assert "--raw" in (error.value.hint or "")


def test_an_empty_file_is_no_memory(tmp_path: Path) -> None:
    (tmp_path / "ram").touch()
    with pytest.raises(NotUnderstood, match="empty"):
        open_source(str(tmp_path / "ram"), raw="0")
