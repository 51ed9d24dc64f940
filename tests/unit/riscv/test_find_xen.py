"""Finding Xen in raw RISC-V memory: by the note, by the build id of xen-syms, and refusing the wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdb_p2m.errors import NotFound, NotUnderstood, UsageError
from gdb_p2m.layout.pagetables import SV39, SV48
from gdb_p2m.model.riscv_xen import IMAGE_SIZE, ROOT_TABLE, TEXT_NOTE
from gdb_p2m.sources.probe import open_source
from gdb_p2m.spaces.xen_image import build_ids_in_memory
from gdb_p2m.structures.domain_list import read_domains
from gdb_p2m.target import Target
from gdb_p2m.views.gstage import GstageView
from gdb_p2m.xen_riscv import open_xen
from support.command_line import run_cli
from support.riscv import Machine, ModelSource, model, runs_of, syms_bytes

MODELS = ("riscv-two-domains", "riscv-v5", "riscv-sv48x4", "riscv-sv57x4")


def raw(machine: Machine) -> ModelSource:
    """The memory as QEMU dumps it: without VMCOREINFO_XEN."""
    return ModelSource(machine.xen, notes=False)


@pytest.fixture
def two() -> Machine:
    """A fresh main model."""
    return model("riscv-two-domains")


def syms(machine: Machine, folder: Path, build_id: str | None = None) -> str:
    """Its xen-syms as a file."""
    path = folder / "xen-syms"
    path.write_bytes(syms_bytes(machine.xen, build_id=build_id))
    return str(path)


@pytest.mark.parametrize("name", MODELS)
def test_by_build_id_with_symbols_alone_every_layout_is_decoded(name: str, tmp_path: Path) -> None:
    machine = model(name)
    xen = open_xen(raw(machine), syms(machine, tmp_path))
    assert xen.image.phys_offset == machine.xen.phys_offset
    assert machine.xen.build_id in xen.image.evidence
    assert xen.space.shape is machine.xen.description.tables
    for domain, index in zip(read_domains(xen).domains, range(9), strict=False):
        assert runs_of(GstageView(domain).mapping()) == machine.truth(index)


def test_by_the_note_alone(two: Machine) -> None:
    xen = two.target.xen
    assert xen.image.phys_offset == two.xen.phys_offset
    assert "note" in xen.image.evidence


def test_without_note_and_without_file_the_message_says_what_to_give(two: Machine) -> None:
    with pytest.raises(NotFound, match="VMCOREINFO_XEN") as e:
        open_xen(raw(two))
    assert "--xen" in (e.value.hint or "")


def test_a_file_of_another_build_is_refused_with_both_ids(two: Machine, tmp_path: Path) -> None:
    other = "00112233445566778899aabbccddeeff00112233"
    for source in (raw(two), ModelSource(two.xen)):
        with pytest.raises(NotUnderstood) as e:
            open_xen(source, syms(two, tmp_path, other))
        assert other in e.value.message and two.xen.build_id in e.value.message


def test_the_wrong_file_is_exit_code_3(two: Machine, tmp_path: Path) -> None:
    dump = tmp_path / "machine.elf"
    two.xen.write_elf(dump, notes=False)
    ran = run_cli("identify", dump, "--xen", syms(two, tmp_path, "ab" * 20))
    assert ran.code == 3
    assert "ab" * 20 in ran.err and two.xen.build_id in ran.err


def test_memory_without_any_build_id_says_so(two: Machine, tmp_path: Path) -> None:
    two.xen.memory.write(two.xen.machine_of(two.xen.link + TEXT_NOTE), bytes(64))
    with pytest.raises(NotFound, match="no other build id"):
        open_xen(raw(two), syms(two, tmp_path))


def test_build_ids_in_memory_are_listed_with_their_places(two: Machine) -> None:
    at = two.xen.machine_of(two.xen.link + TEXT_NOTE)
    assert (at, two.xen.build_id) in build_ids_in_memory(raw(two))


def test_a_copy_of_the_image_that_never_ran_is_passed_over(two: Machine, tmp_path: Path) -> None:
    load = two.xen.description.load
    image = two.xen.memory.read(load, IMAGE_SIZE)
    unset = bytearray(image)
    offset = two.xen.symbols["phys_offset"] - two.xen.link
    unset[offset : offset + 8] = bytes(8)
    two.xen.memory.write(load + (64 << 20), bytes(unset))
    assert open_xen(raw(two), syms(two, tmp_path)).image.phys_offset == two.xen.phys_offset


def test_an_image_that_has_not_started_is_not_taken_for_a_running_xen(two: Machine, tmp_path: Path) -> None:
    two.xen.memory.write_word(two.xen.machine_of(two.xen.symbols["phys_offset"]), 0)
    with pytest.raises(NotUnderstood, match="has not started"):
        open_xen(raw(two), syms(two, tmp_path))


def test_two_running_images_are_no_reason_to_guess(two: Machine, tmp_path: Path) -> None:
    load, copy = two.xen.description.load, two.xen.description.load + (64 << 20)
    two.xen.memory.write(copy, two.xen.memory.read(load, IMAGE_SIZE))
    offset = two.xen.symbols["phys_offset"] - two.xen.link
    two.xen.memory.write_word(copy + offset, copy - two.xen.link & (1 << 64) - 1)
    with pytest.raises(NotUnderstood, match="several places"):
        open_xen(raw(two), syms(two, tmp_path))


def test_a_note_that_contradicts_the_memory_is_refused(two: Machine) -> None:
    two.xen.memory.write_word(two.xen.machine_of(two.xen.symbols["phys_offset"]), 0x1000)
    with pytest.raises(NotUnderstood, match="does not belong|phys_offset"):
        _ = two.target.xen


def test_a_file_without_build_id_is_refused_without_a_note_and_taken_with_one(two: Machine, tmp_path: Path) -> None:
    path = tmp_path / "xen-syms"
    data = syms_bytes(two.xen).replace(b"\3\0\0\0GNU\0", b"\7\0\0\0GNU\0")
    path.write_bytes(data)
    with pytest.raises(NotUnderstood, match="no build id"):
        open_xen(raw(two), str(path))
    assert open_xen(ModelSource(two.xen), str(path)).build_id == two.xen.build_id


def test_a_kernel_is_no_xen_syms_and_kernel_no_option_here(two: Machine, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    xen = model("riscv-two-domains").xen
    del xen.symbols["domain_list"]
    path.write_bytes(syms_bytes(xen))
    with pytest.raises(NotUnderstood, match="domain_list"):
        open_xen(raw(two), str(path))
    with pytest.raises(UsageError, match="--kernel"):
        _ = Target(raw(two), kernel=str(path)).xen


def test_own_table_is_told_by_what_it_maps() -> None:
    for name, shape in (("riscv-two-domains", SV39), ("riscv-sv48x4", SV48)):
        xen = model(name).target.xen
        assert xen.space.shape is shape
        assert "_start" in xen.shape_evidence


def test_without_the_images_page_table_the_direct_map_still_tells(two: Machine) -> None:
    """As in a small excerpt: the tables that map the image are not there."""
    root = two.xen.table.root
    words = two.xen.memory.words(root)
    l2 = int(words[511]) >> 10
    xen = Machine(two.xen, frozenset({l2})).target.xen
    assert xen.space.shape is SV39 and "direct map" in xen.shape_evidence
    assert [d.id for d in read_domains(xen).domains] == [1, 2]


def test_without_xens_page_table_the_direct_map_is_arithmetic_and_page_infos_are_unreadable(two: Machine) -> None:
    xen = Machine(two.xen, frozenset({two.xen.table.root})).target
    domains = xen.domain_list.domains
    assert [d.id for d in domains] == [1, 2]
    kinds = GstageView(domains[0]).mapping().totals()
    assert {k.word for k in kinds} == {"ram_rw", "mmio_direct_io", "unreadable"}


def test_addresses_of_the_image_never_need_the_page_table(two: Machine) -> None:
    space = two.target.xen.space
    assert space.translate(two.xen.link + ROOT_TABLE) == two.xen.table.root << 12


def test_the_dump_of_the_model_is_read_like_its_memory(two: Machine, tmp_path: Path) -> None:
    dump = tmp_path / "machine.elf"
    two.xen.write_elf(dump)
    domain = read_domains(open_xen(open_source(str(dump)))).domains[0]
    assert runs_of(GstageView(domain).mapping()) == two.truth()
