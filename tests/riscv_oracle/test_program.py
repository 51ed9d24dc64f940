"""Building: names, shapes and build ids of what comes out, and clear words when it cannot."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection, SymbolTableSection

from .conftest import built
from .program import SOURCES, VARIANTS, Program, build_into

riscv = pytest.mark.riscv

SYMBOLS = {
    "domain_list",
    "frametable_virt_start",
    "directmap_virt_start",
    "phys_offset",
    "stage1_pgtbl_root",
    "start_page",
    "max_page",
    "gstage_modes",
}
ENUMERATORS = {
    "p2m_invalid": 0,
    "p2m_ram_rw": 1,
    "p2m_mmio_direct_io": 2,
    "p2m_ext_storage": 3,
    "p2m_first_external": 3,
    "p2m_map_foreign_rw": 4,
    "p2m_map_foreign_ro": 5,
}


VALUE_OF = {"DW_TAG_member": "DW_AT_data_member_location"}


def symbols(program: Program) -> set[str]:
    with program.elf.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return {s.name for s in table.iter_symbols()}


def dies(program: Program, tag: str) -> list[tuple[str, int | None, list[tuple[str, int | None]]]]:
    """(name, size, children as (name, offset or value)) of all entries of a tag that have children."""

    def number(die: DIE, name: str) -> int | None:
        return die.attributes[name].value if name in die.attributes else None

    def label(die: DIE) -> str:
        return die.attributes["DW_AT_name"].value.decode() if "DW_AT_name" in die.attributes else ""

    with program.elf.open("rb") as file:
        units = ELFFile(file).get_dwarf_info().iter_CUs()
        found = [die for unit in units for die in unit.iter_DIEs() if die.tag == tag and die.has_children]
        return [
            (
                label(die),
                number(die, "DW_AT_byte_size"),
                [
                    (label(c), number(c, VALUE_OF.get(str(c.tag), "DW_AT_const_value")))
                    for c in die.iter_children()
                ],
            )
            for die in found
        ]


@riscv
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_names_that_a_decoder_asks_for_are_there(variant: str) -> None:
    program = built(variant)
    names = symbols(program)
    assert names >= SYMBOLS
    assert ({"gstage_mode", "gstage_root_level"} <= names) == (variant == "sv39x4-v5")
    enums = [dict(children) for _, _, children in dies(program, "DW_TAG_enumeration_type")]
    assert ENUMERATORS in enums
    structs = {name: (size, dict(members)) for name, size, members in dies(program, "DW_TAG_structure_type")}
    assert ("md_t" in structs) == (variant != "sv39x4-v5")
    size, page_info = structs["page_info"]
    assert size == 48 and [page_info[m] for m in ("list", "count_info", "u", "v")] == [0, 16, 24, 32]
    assert ("mode" in structs["p2m_domain"][1]) == (variant != "sv39x4-v5")


@riscv
def test_offsets_are_those_of_xen_in_one_variant_and_not_in_others() -> None:
    """So that a reader of fixed offsets is told from a reader of DWARF."""
    seen = {
        v: {name: dict(members) for name, _, members in dies(built(v), "DW_TAG_structure_type")}
        for v in ("sv39x4", "sv39x4-v5")
    }
    xen = {"pages": 16, "root": 32, "mode": 40, "domain": 48, "max_mapped_gfn": 64, "lowest_mapped_gfn": 72}
    assert {m: seen["sv39x4"]["p2m_domain"][m] for m in xen} == xen
    assert seen["sv39x4"]["domain"]["domain_id"] == 0 and seen["sv39x4"]["domain"]["next_in_list"] == 152
    moved = seen["sv39x4-v5"]
    assert not {m for m in xen if moved["p2m_domain"].get(m) == xen[m]}
    assert moved["domain"]["domain_id"] != 0 and moved["domain"]["next_in_list"] != 152


def build_id(elf: Path) -> str:
    with elf.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".note.gnu.build-id")
        assert isinstance(section, NoteSection)
        return str(next(iter(section.iter_notes()))["n_desc"])


@riscv
def test_the_build_id_depends_on_the_sources_alone(tmp_path: Path) -> None:
    first = built("sv39x4")
    build_into(tmp_path / "elsewhere", "sv39x4")
    assert build_id(tmp_path / "elsewhere" / "sv39x4.elf") == build_id(first.elf)
    ids = {build_id(built(v).elf) for v in VARIANTS}
    assert len(ids) == len(VARIANTS)


def run_build(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(SOURCES / "build.sh"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def test_a_missing_compiler_is_named_with_the_package_that_has_it(tmp_path: Path) -> None:
    done = run_build(str(tmp_path / "out"), CROSS_COMPILE="no-such-prefix-")
    assert done.returncode == 3
    assert "no-such-prefix-gcc is not installed" in done.stderr and "gcc-riscv64-linux-gnu" in done.stderr
    assert not (tmp_path / "out").exists()


def test_build_without_arguments_shows_its_usage() -> None:
    done = run_build()
    assert done.returncode == 2 and "usage: build.sh OUTDIR" in done.stderr


@riscv
def test_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    built("sv39x4")
    done = run_build(str(tmp_path), "sv32x4")
    assert done.returncode == 2 and "no variant sv32x4" in done.stderr
