"""Pretty-printers in a real GDB, on a small compiled program that has the types of Linux and of Xen."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.gdb_process import SCRIPT, Gdb, find_gdb

pytestmark = pytest.mark.gdb

LINUX = r"""
typedef unsigned long pteval_t;
typedef struct { pteval_t pte; } pte_t;
typedef struct { unsigned long mfn; } mfn_t;
struct start_info { char magic[32]; unsigned long nr_pages; unsigned long shared_info; unsigned int flags;
                    unsigned long mfn_list; signed char cmd_line[16]; };
struct other { int mfn; };
pte_t leaf = { 0x801000002fc1b067ul }, none = { 0 };
const pte_t shared = { 0x801000002fc1e065ul };
pte_t row[2] = { { 0x1067ul }, { 0x2065ul } };
mfn_t mfn = { 0x30100 }, invalid = { -1ul };
struct start_info info = { "xen-3.0-x86_64p", 102400, 0x3fdb6000, 0x30b, 0xffffc90000000000ul, "console=hvc0" };
struct start_info evil = { "\033]0;evil\007", 1, 0, 0, 0, "" };
struct other other = { 5 };
"""
XEN = r"""
typedef struct { unsigned long pte; } pte_t;
typedef unsigned long mfn_t;
typedef enum { p2m_invalid, p2m_ram_rw, p2m_mmio_direct_io, p2m_ext_storage, p2m_map_foreign_rw, p2m_map_foreign_ro,
               p2m_first_external = p2m_ext_storage } p2m_type_t;
struct page_info { unsigned long list[2]; unsigned long count_info;
                   union { struct { unsigned long type_info; } inuse; } u; union { struct page_info *pg; } v; };
pte_t ram = { 0x2400011f }, foreign = { 0x27004317 }, table = { 0x27f87c01 }, hole = { 0x27f87c00 }, bad = { 0x600000002400011ful };
mfn_t mfn = 0x9c010;
p2m_type_t ext = p2m_ext_storage, rw = p2m_ram_rw, wrong = 9;
struct page_info used = { { 1, 2 }, 0x8000000000000003ul, { { 7 } }, { 0 } }, metadata;
struct page_info idle = { { 0, 0 }, 3ul << 55, { { 0 } }, { 0 } };
"""
STRANGE = r"""
typedef struct { char *a; int b; } pte_t;
typedef float mfn_t;
struct page_info { int n; };
struct start_info { int flags; };
typedef int p2m_type_t;
pte_t p = { 0, 7 }; mfn_t m = 1.5f; struct page_info i = { 3 }; struct start_info s = { 4 }; p2m_type_t t = 6;
"""

Compiled = Callable[..., Path]


@pytest.fixture
def compiled(tmp_path: Path) -> Compiled:
    def build(text: str, compiler: str = "gcc") -> Path:
        if shutil.which(compiler) is None:
            pytest.skip(f"{compiler} is not installed")
        source, out = tmp_path / "types.c", tmp_path / "types"
        source.write_text(text + "\nvoid _start(void) { for (;;); }\n")
        options = ["-g", "-O0", "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector", "-w"]
        subprocess.run([compiler, *options, "-o", str(out), str(source)], check=True, capture_output=True)
        return out

    return build


def shown(gdb: Gdb, program: Path, *expressions: str) -> list[str]:
    ran = gdb(f"file {program}", *(f"print {e}" for e in expressions))
    assert not ran.err.strip() or "warning" in ran.err, ran.err
    return [line.partition(" = ")[2] for line in ran.out.splitlines() if line.startswith("$")]


def test_types_of_linux(gdb: Gdb, compiled: Compiled) -> None:
    program = compiled(LINUX)
    values = shown(gdb, program, "leaf", "none", "shared", "row[1]", "mfn", "invalid", "other", "info", "evil")
    assert values[0] == "0x801000002fc1b067: maps memory, frame 0x2fc1b [P RW US A D NX]"
    assert values[1] == "0x0: not present, frame 0x0 [-]"
    assert values[2].startswith("0x801000002fc1e065: maps memory, frame 0x2fc1e")
    assert values[3].startswith("0x2065: maps memory, frame 0x2 [P US A D]")
    assert values[4:7] == ["MFN 0x30100 (machine address 0x30100000)", "INVALID_MFN", "{mfn = 5}"]
    expected = "start_info: xen-3.0-x86_64p, 102,400 pages (400 MiB), flags SIF_PRIVILEGED | SIF_INITDOMAIN | "
    assert values[7].startswith(expected) and "mfn_list = 18446683600570023936" in values[7]
    assert "\x1b" not in values[8] and r"\x1b]0;evil\x07" in values[8]


def test_types_of_xen_on_riscv(compiled: Compiled) -> None:
    program = compiled(XEN, "riscv64-linux-gnu-gcc")
    gdb = find_gdb("gdb-multiarch")
    names = ("ram", "foreign", "table", "hole", "mfn", "ext", "rw", "wrong", "used", "metadata", "idle", "bad")
    values = shown(gdb, program, *names)
    assert ": maps memory, type p2m_ram_rw, frame 0x90000 [V R W X U" in values[0]
    assert values[1].startswith("0x27004317: maps memory, type p2m_ext_storage, frame 0x9c010 [V R W U")
    assert values[2].startswith("0x27f87c01: table, frame 0x9fe1f [V")
    assert values[3].startswith("0x27f87c00: not present, frame 0x9fe1f")
    assert values[4] == "MFN 0x9c010 (machine address 0x9c010000)"
    assert values[5] == "3 (p2m_ext_storage = p2m_first_external: the type is in the metadata of the table)"
    assert values[6] == "1 (p2m_ram_rw: RAM, read, write and execute)"
    assert values[7] == "9 (no type)"
    assert values[8].startswith("page_info: in use, allocated, 3 references = {list = {1, 2}")
    assert "type_info = 7" in values[8]
    assert values[9].startswith("page_info: no owner, no reference")
    assert values[10].startswith("page_info: free, 0 references")
    assert "maps memory" not in values[11] and "PBMT" in values[11].partition("[")[0]


def test_types_of_the_same_name_with_other_members_are_left_to_gdb(gdb: Gdb, compiled: Compiled) -> None:
    values = shown(gdb, compiled(STRANGE), "p", "m", "i", "s", "t")
    assert values == ["{a = 0x0, b = 7}", "1.5", "{n = 3}", "{flags = 4}", "6"]


def test_printers_are_listed_once_after_a_second_source_and_can_be_turned_off(gdb: Gdb, compiled: Compiled) -> None:
    program = compiled(LINUX)
    ran = gdb(
        f"source {SCRIPT}",
        f"file {program}",
        "info pretty-printer global gdb-p2m",
        "disable pretty-printer global gdb-p2m;mfn_t",
        "print mfn",
        "print/r leaf",
        "disable pretty-printer global gdb-p2m",
        "print leaf",
    )
    assert ran.out.count("gdb-p2m\n") == 1
    assert [name in ran.out for name in ("pte_t", "mfn_t", "page_info", "p2m_type_t", "start_info")] == [True] * 5
    assert "$1 = {mfn = 196864}" in ran.out
    raw = 0x801000002FC1B067
    assert f"$2 = {{pte = {raw}}}" in ran.out and f"$3 = {{pte = {raw}}}" in ran.out


def test_a_value_that_cannot_be_read_is_gdbs_own_message(gdb: Gdb, compiled: Compiled) -> None:
    ran = gdb(f"file {compiled(LINUX)}", "print *(pte_t *) 0x10", "print *(struct start_info *) 0x10")
    assert ran.err.count("Cannot access memory at address 0x10") == 2
