"""Kernel files by content: ELF symbol tables, stripped ELF kernels, and everything that is neither."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import zstandard
from elf_maker import (
    ET_CORE,
    ET_DYN,
    ET_REL,
    PT_LOAD,
    SHT_NOTE,
    SHT_PROGBITS,
    Elf,
    note,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kallsyms_encoder import BANNER, BUILD_ID, VARIANTS, kernel

from gdb_p2m.errors import NotSupported, NotUnderstood, P2mError
from gdb_p2m.symbols.elf_notes import XEN_ELFNOTE_INIT_P2M
from gdb_p2m.symbols.kallsyms import Kallsyms
from gdb_p2m.symbols.symtab import Symtab, kernel_xen_notes, open_elf_file, open_kernel_file

TEXT = 0xFFFFFFFF81000000
GLOBAL_OBJECT, LOCAL_OBJECT, SECTION, FILE = 0x11, 0x01, 0x03, 0x04
SYMBOLS = [
    ("", 0, 0, 0),
    ("vmlinux.c", 0, FILE, 0xFFF1),
    ("", TEXT, SECTION, 1),
    ("_text", TEXT, 0x10, 1),
    ("_stext", TEXT, 0x10, 1),
    ("xen_p2m_addr", TEXT + 0x2000, GLOBAL_OBJECT, 1),
    ("p2m_addr", TEXT + 0x3000, LOCAL_OBJECT, 1),
    ("twice", TEXT + 0x5000, LOCAL_OBJECT, 1),
    ("twice", TEXT + 0x4000, LOCAL_OBJECT, 1),
    ("percpu_thing", 0x1000, LOCAL_OBJECT, 2),
    ("imported", 0, 0x10, 0),
    ("linux_banner", TEXT + 0x100, GLOBAL_OBJECT, 1),
]
XEN_NOTES = note(b"Xen", 6, b"linux\0") + note(b"Xen", XEN_ELFNOTE_INIT_P2M, (0x8000000000).to_bytes(8, "little"))
NOTES = note(b"GNU", 3, BUILD_ID) + XEN_NOTES


def vmlinux(**changes: object) -> Elf:
    text = bytes(0x100) + BANNER + bytes(0x1000)
    made = Elf(
        segments=[(PT_LOAD, TEXT, text)],
        symbols=list(SYMBOLS),
        sections=[(".text", SHT_PROGBITS, text), (".notes", SHT_NOTE, NOTES)],
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def stripped(seed: int = 1, variant: int = 6) -> tuple[bytes, list[tuple[int, str]]]:
    """A vmlinux as it lies in a vmlinuz, and its symbols."""
    made = kernel(VARIANTS[variant], seed)
    bits = 8 * made.variant.word
    elf = Elf(bits=bits, segments=[(PT_LOAD, made.variant.base, bytes(made.image))], notes=NOTES)
    return elf.bytes(), made.symbols


def save(directory: Path, data: bytes, name: str = "file") -> str:
    path = directory / name
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("bits", [64, 32])
def test_names_have_their_addresses(tmp_path: Path, bits: int) -> None:
    symbols = [(n, a & (1 << bits) - 1, i, s) for n, a, i, s in SYMBOLS]
    source = open_kernel_file(save(tmp_path, vmlinux(bits=bits, symbols=symbols, segments=[]).bytes()))
    assert isinstance(source, Symtab) and source.kind == "symtab"
    wanted = {n: a for n, a, _, _ in symbols if n not in ("", "vmlinux.c", "imported", "twice")}
    for name, address in wanted.items():
        found = source.symbol(name)
        assert found is not None and found.address == address
    for absent in ("", "xen_p2m_add", "xen_p2m_addr\0", "p2m", "addr", "imported", "vmlinux.c", "\ud800", "x" * 99):
        assert source.symbol(absent) is None
    assert set(source.names()) == {*wanted, "twice"}


def test_a_name_that_ends_another_is_its_own_symbol(tmp_path: Path) -> None:
    """Linkers let p2m_addr share the bytes of xen_p2m_addr."""
    source = open_kernel_file(save(tmp_path, vmlinux().bytes()))
    found = source.symbol("p2m_addr")
    assert found is not None and found.address == TEXT + 0x3000


def test_of_several_symbols_the_lowest_is_given_and_the_others_are_told(tmp_path: Path) -> None:
    source = open_kernel_file(save(tmp_path, vmlinux().bytes()))
    found = source.symbol("twice")
    assert found is not None and found.address == TEXT + 0x4000
    assert found.source.endswith("(one of 2 of that name)")


def test_build_id_release_and_debug_information_are_seen(tmp_path: Path) -> None:
    source = open_kernel_file(save(tmp_path, vmlinux().bytes()))
    assert isinstance(source, Symtab)
    assert (source.build_id, source.release) == (BUILD_ID.hex(), "6.6.6-test-amd64")
    assert not source.has_dwarf
    made = vmlinux()
    made.sections.append((".debug_info", SHT_PROGBITS, b"x"))
    source = open_kernel_file(save(tmp_path, made.bytes()))
    assert isinstance(source, Symtab) and source.has_dwarf


def test_nearest_names_the_symbol_below(tmp_path: Path) -> None:
    source = open_kernel_file(save(tmp_path, vmlinux().bytes()))
    assert source.nearest(TEXT + 0x2010) == ("xen_p2m_addr", 0x10)
    assert source.nearest(TEXT) == ("_text", 0)
    assert source.nearest(0x1000) == ("percpu_thing", 0)
    assert source.nearest(0x1001) is None
    assert source.nearest(TEXT - 1) is None
    assert source.nearest((1 << 64) - 1) is None


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), st.integers(TEXT, TEXT + 0x100000)), max_size=60
    )
)
def test_any_symbol_table_is_read_back(tmp_path: Path, pairs: list[tuple[str, int]]) -> None:
    symbols = [("_stext", TEXT, 0x10, 1), *((n, a, LOCAL_OBJECT, 1) for n, a in pairs)]
    source = open_kernel_file(save(tmp_path, vmlinux(symbols=symbols).bytes()))
    assert isinstance(source, Symtab)
    wanted: dict[str, set[int]] = defaultdict(set)
    for name, address, _, _ in symbols:
        wanted[name].add(address)
    for name, addresses in wanted.items():
        assert source.addresses(name) == sorted(addresses)
        assert source.addresses(name + "_") == sorted(wanted.get(name + "_", ()))


@pytest.mark.parametrize("variant", range(len(VARIANTS)), ids=lambda i: VARIANTS[i].name)
def test_a_stripped_kernel_answers_from_its_kallsyms(tmp_path: Path, variant: int) -> None:
    data, symbols = stripped(2, variant)
    path = save(tmp_path, data)
    source = open_kernel_file(path)
    assert isinstance(source, Kallsyms) and source.kind == "kallsyms" and source.detail == path
    names, addresses = source.all()
    assert list(zip(addresses.tolist(), names, strict=True)) == symbols
    assert source.build_id == BUILD_ID.hex()


def test_percpu_segments_at_zero_do_not_belong_to_the_image(tmp_path: Path) -> None:
    made = kernel(VARIANTS[6], 3)
    segments = [(PT_LOAD, made.variant.base, bytes(made.image)), (PT_LOAD, 0, bytes(0x1000))]
    source = open_kernel_file(save(tmp_path, Elf(segments=segments).bytes()))
    assert source.symbol("_stext") is not None


def test_segments_that_span_more_than_a_kernel_are_refused(tmp_path: Path) -> None:
    segments = [(PT_LOAD, TEXT, b"x" * 100), (PT_LOAD, TEXT + (600 << 20), b"y")]
    with pytest.raises(NotUnderstood, match="more than any kernel"):
        open_kernel_file(save(tmp_path, Elf(segments=segments).bytes()))


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("gzip", gzip.compress),
        ("xz", lzma.compress),
        ("bzip2", bz2.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
    ],
)
def test_compressed_files_are_unpacked(tmp_path: Path, name: str, pack: object) -> None:
    assert callable(pack)
    source = open_kernel_file(save(tmp_path, pack(vmlinux().bytes())))
    assert source.symbol("xen_p2m_addr") is not None
    cut = pack(vmlinux().bytes())[:-20]
    with pytest.raises(NotUnderstood, match=name):
        open_kernel_file(save(tmp_path, cut))


def test_xen_notes_are_listed(tmp_path: Path) -> None:
    for data in (vmlinux().bytes(), stripped()[0], gzip.compress(vmlinux().bytes())):
        found = {n.type: n.desc for n in kernel_xen_notes(save(tmp_path, data))}
        assert found[XEN_ELFNOTE_INIT_P2M] == (0x8000000000).to_bytes(8, "little")
        assert found[6] == b"linux\0"
        assert len(found) == 2
    assert len(kernel_xen_notes(vmlinux().bytes())) == 2
    with pytest.raises(NotUnderstood):
        kernel_xen_notes(b"not an ELF file")


def test_open_elf_file_refuses_text(tmp_path: Path) -> None:
    assert open_elf_file(save(tmp_path, vmlinux().bytes())).word == 8
    with pytest.raises(NotUnderstood, match="not an ELF file"):
        open_elf_file(save(tmp_path, b"ffffffff81000000 T _text\n"))


# -- what must be refused, and how it is said ---------------------------------------------------------------


def refusal(path: str) -> str:
    with pytest.raises(P2mError) as caught:
        open_kernel_file(path)
    assert path in caught.value.message
    return str(caught.value)


def test_files_that_cannot_be_opened_say_why(tmp_path: Path) -> None:
    assert "No such file" in refusal(str(tmp_path / "absent"))
    assert "directory" in refusal(str(tmp_path))
    assert "empty" in refusal(save(tmp_path, b""))
    os.mkfifo(tmp_path / "pipe")
    assert "device or pipe" in refusal(str(tmp_path / "pipe"))
    with pytest.raises(P2mError):
        open_kernel_file("bad\0name")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    path = save(tmp_path, vmlinux().bytes())
    os.chmod(path, 0)
    assert "Permission denied" in refusal(path)


def test_files_that_are_no_kernels_say_what_they_are(tmp_path: Path) -> None:
    assert "core" in refusal(save(tmp_path, vmlinux(type=ET_CORE).bytes()))
    assert "module" in refusal(save(tmp_path, vmlinux(type=ET_REL).bytes()))
    library = vmlinux(type=ET_DYN, symbols=[("malloc", 0x1000, 0x12, 1)])
    assert "no _stext" in refusal(save(tmp_path, library.bytes()))
    assert "without a symbol table" in refusal(save(tmp_path, vmlinux(symbols=None).bytes()))
    assert "no PT_LOAD" in refusal(save(tmp_path, Elf().bytes()))
    assert "EFI" in refusal(save(tmp_path, b"MZ" + bytes(1000)))
    assert "dump" in refusal(save(tmp_path, b"KDUMP   " + bytes(1000)))
    assert "23 21 2f" in refusal(save(tmp_path, b"#!/bin/sh\n"))
    assert "try:" in refusal(save(tmp_path, os.urandom(3) + bytes(5000)))


def test_a_real_program_is_refused(tmp_path: Path) -> None:
    assert "try:" in refusal(os.path.realpath(sys.executable))


def test_a_xen_boot_image_is_refused_because_its_addresses_are_physical(tmp_path: Path) -> None:
    made = kernel(VARIANTS[10], 4)
    data = Elf(bits=32, segments=[(PT_LOAD, 0x200000, bytes(made.image))]).bytes()
    assert "not a kernel at its virtual address" in refusal(save(tmp_path, data))


def test_big_endian_files_are_not_supported(tmp_path: Path) -> None:
    made = Elf(big_endian=True).bytes()
    swapped = bytearray(made)
    swapped[18:20] = (22).to_bytes(2, "big")
    with pytest.raises((NotSupported, NotUnderstood)):
        open_kernel_file(save(tmp_path, bytes(swapped)))


def test_every_truncation_is_refused_or_still_right(tmp_path: Path) -> None:
    data = vmlinux().bytes()
    for cut in [*range(0, 400, 13), *range(400, len(data), 97), len(data) - 1]:
        assert "try:" in refusal(save(tmp_path, data[:cut])), cut


def test_names_outside_the_string_table_are_refused(tmp_path: Path) -> None:
    made = vmlinux()
    table, _ = made.symbol_tables()
    data = made.bytes()
    at = data.index(table)
    broken = data[: at + 24 * 5] + b"\xff\xff\xff\x7f" + data[at + 24 * 5 + 4 :]
    assert "outside the string table" in refusal(save(tmp_path, broken))


@pytest.mark.thorough
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8)), max_size=4))
def test_damaged_files_give_symbols_or_a_message(
    tmp_path: Path, headers: bool, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(vmlinux().bytes() if headers else stripped()[0])
    for at, new in changes:
        at %= 250 if headers and at % 3 else len(data)
        data[at : at + len(new)] = new
    try:
        source = open_kernel_file(save(tmp_path, bytes(data)))
    except P2mError:
        return
    source.symbol("_stext")
    source.nearest(TEXT + 5)
    list(source.names())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([b"", b"\x7fELF", b"\x7fELF\x02\x01\x01", b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh9", b"MZ"]),
    st.binary(max_size=600),
)
def test_any_bytes_are_refused_with_a_message(tmp_path: Path, head: bytes, rest: bytes) -> None:
    refusal(save(tmp_path, head + rest))


def test_large_section_counts_are_refused_quickly(tmp_path: Path) -> None:
    data = bytearray(vmlinux().bytes() + bytes(70000 * 64))
    data[60:62] = (65000).to_bytes(2, "little")
    assert "section headers" in refusal(save(tmp_path, bytes(data)))


def test_importing_the_readers_stays_light() -> None:
    code = (
        "import sys, gdb_p2m.symbols.vmcoreinfo, gdb_p2m.symbols.kallsyms, gdb_p2m.symbols.xen_symbols;"
        "print([m for m in ('elftools', 'zstandard', 'lzma', 'construct', 'capstone') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_large_symbol_table_is_read_in_a_moment(tmp_path: Path) -> None:
    rng = random.Random(1)
    symbols = [("_stext", TEXT, 0x10, 1)]
    made = vmlinux(symbols=symbols)
    names = [f"sym_{rng.randrange(1 << 40):x}" for _ in range(2000)]
    made.symbols = symbols + [(n, TEXT + i, 1, 1) for i, n in enumerate(names)]
    source = open_kernel_file(save(tmp_path, made.bytes()))
    for i, name in enumerate(names):
        found = source.symbol(name)
        assert found is not None and found.address == TEXT + names.index(name), i
