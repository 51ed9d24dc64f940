"""The kernel's E820 tables: which one is read, in which form, and what is refused."""

from __future__ import annotations

import struct

import pytest

from gdb_p2m.errors import NotFound, NotUnderstood
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.e820 import E820_MAX_ENTRIES
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.model.machine import Machine
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.structures.e820 import given_e820, read_e820
from gdb_p2m.target import Target
from support.e820 import GIVEN_PFN, POINTER_PFN, TABLE_PFN, Tables, given_map, kernel_map, table_bytes, with_e820
from support.places import FIXTURES

FREEING = 2


@pytest.fixture
def machine() -> Machine:
    return model("tiny-domu")


def model(name: str) -> Machine:
    path = FIXTURES / "models" / f"{name}.model"
    return build(parse(path.read_text(), path.name))


def guest_of(source: FakeSource) -> LinuxGuest:
    (guest,) = Target(source).guests
    return guest


def rows(guest: LinuxGuest) -> list[tuple[int, int, int]]:
    return [(r.start, r.end, r.type) for r in read_e820(guest).ranges]


@pytest.mark.parametrize("name", ["tiny-domu", "pae-dom0"])
def test_the_table_behind_the_pointer_is_read_in_both_word_sizes(name: str) -> None:
    machine = model(name)
    guest = guest_of(with_e820(machine))
    found = read_e820(guest)
    assert found.name == "e820_table_firmware"
    assert found.address == guest.variable("e820_table_firmware")
    assert rows(guest) == kernel_map(machine.description)


def test_words_of_types_and_pages_of_ram() -> None:
    guest = guest_of(with_e820(model("lab-dom0"), [(0, 0x9F800, 1), (0x9F800, 0xA0000, 4), (0x100000, 0x200000, 42)]))
    e820 = read_e820(guest)
    assert [r.word for r in e820.ranges] == ["ram", "nvs", "type 42"]
    assert e820.ram_pages(0, 0x1000) == 0x9F, "the half page is no RAM"
    assert e820.ram_pages(0x90, 0x95) == 5


def test_kexec_s_copy_serves_when_firmware_s_is_not_known(machine: Machine) -> None:
    tables = Tables(machine)
    tables.pointer("e820_table_kexec", tables.put("", TABLE_PFN, table_bytes([(0, 4096, 1)])))
    assert read_e820(guest_of(tables.source())).name == "e820_table_kexec"


@pytest.mark.parametrize("pointed", [False, True])
def test_e820_saved_is_the_table_or_a_pointer_to_it(machine: Machine, pointed: bool) -> None:
    tables = Tables(machine)
    if pointed:
        tables.pointer("e820_saved", tables.put("", TABLE_PFN, table_bytes([(0, 0x5000, 1)])))
    else:
        tables.put("e820_saved", TABLE_PFN, table_bytes([(0, 0x5000, 1)]))
    guest = guest_of(tables.source())
    assert rows(guest) == [(0, 0x5000, 1)]


def test_without_any_table_the_error_names_all_of_them(machine: Machine) -> None:
    with pytest.raises(NotFound, match=r"e820_table_firmware is not known.*e820_table_kexec.*e820_saved") as e:
        read_e820(guest_of(Tables(machine).source()))
    assert e.value.hint is not None and "--against FILE" in e.value.hint


def test_an_empty_table_is_that_of_a_kernel_before_memory_setup(machine: Machine) -> None:
    with pytest.raises(NotFound, match="e820_table_firmware is empty, the kernel has not set its memory up yet"):
        read_e820(guest_of(with_e820(machine, [])))


def test_a_pointer_that_leads_nowhere_is_no_map(machine: Machine) -> None:
    tables = Tables(machine)
    tables.pointer("e820_table_firmware", 0xFFFF_8000_DEAD_0000)
    with pytest.raises(NotFound, match="e820_table_firmware: .*0xffff8000dead0000"):
        read_e820(guest_of(tables.source()))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack("<I", E820_MAX_ENTRIES + 1), "claims 3,201 entries"),
        (table_bytes([(0, 0x2000, 1), (0x1000, 0x3000, 2)]), r"\[1\] .* starts at 0x1000, before .*\[0\] ends"),
        (table_bytes([(0, 0x2000, 1), (0x3000, 0x3000, 2)]), r"\[1\] .* is no range: start 0x3000, size 0x0"),
        (struct.pack("<IQQI", 1, 1 << 63, (1 << 63) + 1, 1), r"\[0\] .* is no range"),
    ],
    ids=["too many", "overlap", "empty range", "past the end"],
)
def test_a_table_that_makes_no_sense_is_refused_with_its_index(machine: Machine, data: bytes, words: str) -> None:
    tables = Tables(machine)
    tables.pointer("e820_table_firmware", tables.put("", TABLE_PFN, data))
    with pytest.raises(NotUnderstood, match=words):
        read_e820(guest_of(tables.source()))


def test_a_table_that_runs_off_the_mapping_is_not_an_empty_map(machine: Machine) -> None:
    last = machine.kernel.image_end - 1
    tables = Tables(machine)
    tables.pointer("e820_table_firmware", machine.kernel.kernel_va(last) + 4096 - 4)
    machine.memory.write(machine.kernel.machine_of_image(machine.kernel.kernel_va(last) + 4096 - 4), b"\x07\0\0\0")
    with pytest.raises(Exception, match=hex(machine.kernel.kernel_va(last + 1))):
        read_e820(guest_of(tables.source()))


@pytest.mark.parametrize(("state", "known"), [(0, True), (1, True), (FREEING, False), (3, False), (None, False)])
def test_the_map_as_xen_gave_it_is_believed_only_while_init_data_lives(
    machine: Machine, state: int | None, known: bool
) -> None:
    tables = Tables(machine)
    tables.put("xen_e820_table", GIVEN_PFN, table_bytes(given_map(machine.description)))
    if state is not None:
        tables.put("system_state", POINTER_PFN, state.to_bytes(4, "little"))
    found = given_e820(guest_of(tables.source()))
    assert (found is not None) == known
    if found is not None:
        assert [(r.start, r.end, r.type) for r in found.ranges] == given_map(machine.description)


def test_init_data_that_was_poisoned_is_no_map(machine: Machine) -> None:
    tables = Tables(machine)
    tables.put("xen_e820_table", GIVEN_PFN, b"\xcc" * 256)
    tables.put("system_state", POINTER_PFN, b"\0\0\0\0")
    assert given_e820(guest_of(tables.source())) is None
