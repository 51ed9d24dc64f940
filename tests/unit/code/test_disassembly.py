"""Code tells what a symbol table of functions does not: every variable of a real kernel, and nothing that is not proved."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdb_p2m.cli import build_parser
from gdb_p2m.code.flow import MAX_INSTRUCTIONS, read_function
from gdb_p2m.code.riscv import RiscvDecoder
from gdb_p2m.code.x86 import X86Decoder
from gdb_p2m.commands.base import Context, Report
from gdb_p2m.commands.disasm import VERB
from gdb_p2m.errors import NotFound, P2mError, Unreadable, UsageError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.render.text import to_text
from gdb_p2m.sources.base import Note, Source
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.sources.probe import open_source
from gdb_p2m.symbols.disassembly import NAMES
from gdb_p2m.symbols.xen_code import facts_from_code, xen_code
from gdb_p2m.target import Target
from gdb_p2m.views.registry import Views
from support.command_line import run_cli
from support.models import holed, runs, source_of
from support.places import DOM0, FIXTURES, SCHEMAS

LINUX = FIXTURES / "code" / "linux-6.1-dom0-400M.core.zst"
RISCV = FIXTURES / "code" / "xen-riscv-sv39x4.core.zst"
SCHEMA = json.loads((SCHEMAS / "disasm.json").read_text())
FOUND = [n for n in NAMES if n not in ("p2m_top", "p2m_mid_missing", "p2m_mid_identity")]
ROOTS = ("init_top_pgt", "init_level4_pgt", "swapper_pg_dir")


@cache
def source(path: object) -> Source:
    return open_source(str(path))


def with_note(name: str, keep: object, old: Source, memory: dict[int, bytes] | None = None) -> FakeSource:
    """The same memory (or damaged pages of it) with only those lines of its note that `keep` says."""
    pieces = {e.start: bytes(old.read(e.start, e.end - e.start)) for e in old.extents()}
    for address, data in (memory or {}).items():
        start = next(s for s, b in pieces.items() if s <= address < s + len(b))
        whole = bytearray(pieces[start])
        whole[address - start : address - start + len(data)] = data
        pieces[start] = bytes(whole)
    new = FakeSource(pieces, old.info.machine)
    new.info.cpus = old.info.cpus
    for note in old.info.notes:
        lines = note.desc.decode().splitlines() if note.name == name else []
        desc = "\n".join(x for x in lines if keep(x)).encode() if lines else note.desc  # type: ignore[operator]
        new.info.notes.append(Note(note.name, note.type, desc))
    return new


def functions_only(line: str) -> bool:
    """A kernel without CONFIG_KALLSYMS_ALL: its functions have names, its variables have none."""
    name = line.removeprefix("SYMBOL(").partition(")")[0]
    return not line.startswith("SYMBOL(") or name.startswith(
        ("get_", "set_", "__set_", "xen_setup", "xen_build", "xen_alloc")
    )


@cache
def stripped() -> Target:
    return Target(with_note("VMCOREINFO", functions_only, source(LINUX)))


def disasm(target: Target, *arguments: str) -> Report:
    args = build_parser(VERB, "p2m disasm", False).parse_args(list(arguments))
    report = VERB.run(Context(target, args.domain), args)
    jsonschema.validate(report.data, SCHEMA)
    return report


# -- static variables --------------------------------------------------------------------------------------


def test_every_variable_of_a_real_kernel_is_found_where_its_symbol_table_has_it() -> None:
    whole, guest = Target(source(LINUX)).domain(), stripped().domain()
    assert guest.names.symbol("xen_e820_table") is None
    for name in FOUND:
        found, real = guest.names.symbol(name), whole.names.symbol(name)
        assert found is not None and real is not None, name
        assert found.address == real.address, name
        assert found.source.startswith("disassembly of "), name


def test_the_map_of_the_stripped_kernel_is_the_real_one() -> None:
    ctx = Context(stripped())
    totals = {k.word: n for k, n in ctx.views.own().mapping().totals().items()}
    assert totals == DOM0.totals
    assert {k.word: n for k, n in ctx.views.get("list-list").mapping().totals().items()}["mfn"] == DOM0.totals["mfn"]
    assert ctx.guest.root.evidence.startswith("init_top_pgt (disassembly of xen_setup_mfn_list_list)")


def test_the_verb_symbols_names_the_function() -> None:
    from gdb_p2m.commands.symbols import VERB as SYMBOLS

    args = build_parser(SYMBOLS, "p2m symbols", False).parse_args(["p2m_identity", "p2m_missing_pte"])
    rows = SYMBOLS.run(Context(stripped()), args).data["symbols"]
    assert [r["source"] for r in rows] == ["disassembly of get_phys_to_machine", "disassembly of xen_alloc_p2m_entry"]


def test_a_kernel_whose_variables_are_named_is_not_disassembled() -> None:
    guest = Target(source(LINUX)).domain()
    assert "disassembly" not in [s.kind for s in guest.names.sources]


def test_two_candidates_that_pass_are_ambiguous_and_the_name_stays_unknown() -> None:
    """p2m_missing copied over a second variable that get_phys_to_machine loads: two pages of INVALID entries."""
    guest = Target(source(LINUX)).domain()
    blank = guest.variable("p2m_missing").to_bytes(8, "little")
    at = guest.space.translate(guest.names.require("page_offset_base").address)
    broken = Target(with_note("VMCOREINFO", functions_only, source(LINUX), {at: blank})).guests[0]
    assert broken.names.symbol("p2m_identity") is None
    assert any("p2m_identity is not known: 2 of the variables" in n and "ambiguous" in n for n in broken.names.notes)


def test_a_shared_page_that_was_overwritten_is_no_proof() -> None:
    guest = Target(source(LINUX)).domain()
    at = guest.page_of("p2m_missing") << 12
    broken = Target(with_note("VMCOREINFO", functions_only, source(LINUX), {at: bytes(8)})).guests[0]
    assert broken.names.symbol("p2m_identity") is not None
    assert broken.names.symbol("p2m_missing") is None
    assert broken.names.symbol("p2m_missing_pte") is None
    with pytest.raises(NotFound, match="p2m_missing"):
        Context(Target(broken.source)).views.get("linear")


def test_a_list_that_m2p_does_not_confirm_is_not_taken() -> None:
    guest = Target(source(LINUX)).domain()
    at = guest.frame_of(guest.variable("xen_p2m_addr")) << 12
    broken = Target(with_note("VMCOREINFO", functions_only, source(LINUX), {at: struct.pack("<Q", 0x1234)})).guests[0]
    assert broken.names.symbol("xen_p2m_addr") is None
    assert any("xen_p2m_addr is not known" in n for n in broken.names.notes)


# -- Xen on RISC-V ---------------------------------------------------------------------------------------------


def test_sizes_of_xen_come_from_code_when_no_types_are_there() -> None:
    """The truth is the DWARF of that Xen, which the note of its excerpt holds."""
    whole = Target(source(RISCV)).xen
    bare = with_note("VMCOREINFO_XEN", lambda x: not x.startswith(("SIZE", "OFFSET")), source(RISCV))
    xen = Target(bare).xen
    size, offset = xen.facts.fact("SIZE", "page_info"), xen.facts.fact("OFFSET", "page_info.v.md.pg")
    assert (
        (size.value, offset.value)
        == (whole.facts.size("page_info"), whole.facts.offset("page_info.v.md.pg"))
        == (48, 32)
    )
    assert size.source == offset.source == "disassembly of p2m_get_type"
    assert xen.facts.metadata_evidence == "disassembly of p2m_get_type: slots of 4 bytes"


def test_code_is_not_asked_when_types_are_known() -> None:
    xen = Target(source(RISCV)).xen
    assert not xen.facts.guessed and "note" in xen.facts.fact("SIZE", "page_info").source


def test_code_that_does_not_show_it_says_what_lacks() -> None:
    xen = Target(source(RISCV)).xen
    code = xen_code(xen.image, xen.space)
    start = xen.names.require("p2m_get_type").address
    cut = code.__class__(
        code.arch, lambda a, n: code.read(a, n) if a < start + 0x18 else b"\x82\x80" * (n // 2), code.first, code.end
    )
    facts = facts_from_code(cut, xen.names)
    assert (facts.page_info_size, facts.md_pg_offset) == (None, None)
    assert "frametable_virt_start" in facts.problem


# -- the verb --------------------------------------------------------------------------------------------------


def test_a_function_is_shown_with_names_and_current_values() -> None:
    guest = Target(source(LINUX)).domain()
    report = disasm(Target(source(LINUX)), "get_phys_to_machine")
    loads = {r["name"]: r["value"] for i in report.data["instructions"] for r in i["references"] if r["use"] == "load"}
    for name in ("xen_p2m_size", "xen_p2m_addr", "p2m_identity", "xen_max_p2m_pfn"):
        assert loads[name] == guest.variable(name)
    text = to_text(report)
    assert "p2m_identity = 0xffff888017df5000" in text
    assert "IDENTITY_FRAME_BIT" in text and "-> lookup_address" in text and "-> get_phys_to_machine+0xd0" in text


def test_risc_v_pairs_are_followed_to_the_variable() -> None:
    report = disasm(Target(source(RISCV)), "p2m_get_type")
    text = to_text(report)
    assert "frametable_virt_start = 0x30be800000" in text and "directmap_virt_start = 0x3180000000" in text
    assert "the type's bits of a PTE (RSW)" in text


def test_without_a_name_the_functions_worth_looking_at_are_listed() -> None:
    listed = {f["name"]: f["address"] for f in disasm(Target(source(LINUX))).data["functions"]}
    assert listed["get_phys_to_machine"] == 0xFFFFFFFF81020FF0 and listed["alloc_p2m"] is None


def test_the_stripped_kernel_shows_found_names_in_its_own_code() -> None:
    assert "p2m_identity = 0xffff888017df5000" in to_text(disasm(stripped(), "get_phys_to_machine"))


def test_a_function_whose_page_is_not_in_the_dump_says_so() -> None:
    with pytest.raises(NotFound, match="far_away at 0xffffffff81100000: the code at .* cannot be read"):
        name = "SYMBOL(far_away)=ffffffff81100000\n"
        old = source(LINUX)
        new = with_note("VMCOREINFO", lambda _: True, old)
        new.info.notes = [
            Note(n.name, n.type, name.encode() + n.desc if n.name == "VMCOREINFO" else n.desc) for n in new.info.notes
        ]
        disasm(Target(new), "far_away")


@pytest.mark.parametrize(("path", "function"), [(LINUX, "xen_alloc_p2m_entry"), (RISCV, "p2m_set_type")])
def test_an_excerpt_carries_the_code_with_names_and_values(path: Path, function: str, tmp_path: Path) -> None:
    out = tmp_path / "again.core"
    assert run_cli("excerpt", str(path), str(out)).code == 0
    before, after = (to_text(disasm(Target(source(p)), function)) for p in (path, out))
    assert before == after and "not in the dump" not in after


def test_a_variable_is_no_function() -> None:
    with pytest.raises(UsageError, match="p2m_identity is no code now"):
        disasm(Target(source(LINUX)), "p2m_identity")


def test_an_unknown_function_is_not_found() -> None:
    with pytest.raises(NotFound, match="no_such_function"):
        disasm(Target(source(LINUX)), "no_such_function")


# -- the flow ----------------------------------------------------------------------------------------------------

BASE = 0xFFFFFFFF81000000


def memory(code: bytes):  # type: ignore[no-untyped-def]
    def read(address: int, size: int) -> bytes:
        if not address >= BASE or address + size > BASE + len(code):
            raise Unreadable(address, "not there")
        return code[address - BASE : address - BASE + size]

    return read


def x86() -> X86Decoder:
    return X86Decoder(64, BASE, BASE + (1 << 30))


def test_code_behind_a_return_is_reached_by_its_jump_only() -> None:
    # jz +2; ret; int3; mov rax, [rip+0x10]; ret; then garbage
    code = bytes.fromhex("7402c3cc488b0510000000c3") + b"\xff" * 40
    function = read_function(memory(code), BASE, x86())
    assert [i.mnemonic for i in function.listing] == ["je", "ret", "mov", "ret"]
    assert [r.address for r in function.references("load")] == [BASE + 11 + 0x10]
    assert not function.problems


def test_an_endless_loop_and_an_endless_function_end() -> None:
    assert len(read_function(memory(b"\xeb\xfe" + bytes(20)), BASE, x86()).instructions) == 1
    endless = read_function(memory(b"\x90" * 20_000), BASE, x86())
    assert len(endless.instructions) == MAX_INSTRUCTIONS and "only the first" in endless.problems[0]


def test_code_that_is_no_code_is_a_problem_and_no_crash() -> None:
    function = read_function(memory(b"\x06" + bytes(40)), BASE, x86())
    assert not function.instructions and "no instruction is known" in function.problems[0]
    function = read_function(memory(b""), BASE, x86())
    assert "cannot be read" in function.problems[0]


def test_absolute_operands_of_32_bit_code_are_addresses() -> None:
    base = 0xC1000000
    decoder = X86Decoder(32, base, 1 << 32)
    found = decoder.decode(bytes.fromhex("a1785634c1") + bytes(8), base)  # mov eax, [0xc1345678]
    assert found is not None and [(r.address, r.use, r.size) for r in found.references] == [(0xC1345678, "load", 4)]


def test_a_register_of_risc_v_is_forgotten_at_a_call_and_when_overwritten() -> None:
    base = 0xFFFFFFFFC0000000
    decoder = RiscvDecoder(base, base + (1 << 24))

    def run(*words: int) -> list[tuple[int, str]]:
        decoder.forget()
        found, at = [], base
        for word in words:
            i = decoder.decode(word.to_bytes(4, "little") + bytes(12), at)
            assert i is not None
            found += [(r.address, r.use) for r in i.references if r.use in ("load", "store", "address")]
            at = i.next
        return found

    auipc_a4, ld_a4, jal, li_a4 = 0x0001D717, 0x7D473703, 0x008000EF, 0x00100713
    assert run(auipc_a4, ld_a4) == [(base + 0x1D000 + 0x7D4, "load")]
    assert run(auipc_a4, jal, ld_a4) == []
    assert run(auipc_a4, li_a4, ld_a4) == []


# -- older eras, in code of our own ------------------------------------------------------------------------------

READS = {
    "get_phys_to_machine": ("p2m_top", "xen_p2m_size", "xen_p2m_addr", "p2m_identity", "xen_max_p2m_pfn"),
    "__set_phys_to_machine": ("p2m_top", "xen_p2m_size", "xen_p2m_addr", "p2m_missing", "p2m_identity"),
    "alloc_p2m": (
        "p2m_top",
        "p2m_mid_missing",
        "p2m_mid_identity",
        "p2m_missing_pte",
        "p2m_identity_pte",
        "p2m_missing",
    ),
    "xen_build_mfn_list_list": ("p2m_mid_missing_mfn", "p2m_top_mfn_p", "p2m_top_mfn", "p2m_missing"),
    "xen_setup_mfn_list_list": ("HYPERVISOR_shared_info", "xen_start_info", "p2m_top_mfn"),
}
"""What the functions of the eras load (those of these variables that the kernel has)."""


@pytest.mark.parametrize("era", ["tree-2.6.37", "tree-2.6.39", "tree-3.16", "tree-3.18", "linear"])
def test_every_era_is_read_the_same_when_only_functions_are_named(era: str) -> None:
    machine = holed(era, "64")
    old = source_of(machine)
    guest = Target(old).guests[0]
    code, lines = {}, []
    for i, (function, variables) in enumerate(READS.items()):
        at = BASE + 0x100 * i
        body = b""
        for name in variables:
            symbol = guest.names.symbol(name)
            if symbol is not None:
                body += b"\x48\x8b\x05" + struct.pack("<i", symbol.address - (at + len(body) + 7))
        code[guest.space.translate(at)] = body + b"\xc3"
        lines.append(f"SYMBOL({function})={at:x}")
    new = with_note("VMCOREINFO", lambda line: not line.startswith("SYMBOL("), old, code)
    new.info.notes = [
        Note(n.name, n.type, n.desc + "\n".join(["", *lines]).encode() if n.name == "VMCOREINFO" else n.desc)
        for n in new.info.notes
    ]
    stripped = Target(new).guests[0]
    for name in {n for names in READS.values() for n in names}:
        real, found = guest.names.symbol(name), stripped.names.symbol(name)
        if name == "xen_max_p2m_pfn" and era != "linear":
            assert found is None, "nothing in a tree proves it"
            continue
        assert (None if found is None else found.address) == (None if real is None else real.address), name
    assert runs(Views(stripped).own().mapping()) == runs(Views(guest).own().mapping())


@pytest.mark.parametrize(
    "make", [x86, lambda: RiscvDecoder(BASE, BASE + (1 << 30)), lambda: X86Decoder(32, BASE, 1 << 64)]
)
@given(code=st.binary(min_size=0, max_size=600))
@settings(max_examples=60)
def test_any_bytes_are_followed_to_an_end_within_the_bounds(make, code: bytes) -> None:  # type: ignore[no-untyped-def]
    function = read_function(memory(code), BASE, make())
    assert all(i.address >= BASE and i.next <= BASE + len(code) for i in function.listing)
    for i in function.listing:
        assert i.data == code[i.address - BASE : i.next - BASE]
        assert all(0 <= r.address < 1 << 64 for r in i.references)


@pytest.mark.thorough
@given(
    damage=st.lists(
        st.tuples(
            st.sampled_from(("variables", "code", "shared", "anywhere")),
            st.integers(0, 1 << 20),
            st.binary(min_size=8, max_size=64),
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=30)
def test_in_damaged_memory_a_name_is_found_where_it_is_or_not_at_all(damage: list[tuple[str, int, bytes]]) -> None:
    real = Target(source(LINUX)).domain()
    pages = {
        "variables": [real.names.require(n).address for n in FOUND],
        "code": [
            real.names.require(n).address
            for n in ("get_phys_to_machine", "__set_phys_to_machine", "xen_alloc_p2m_entry")
        ],
        "shared": [
            real.variable(n) for n in ("p2m_missing", "p2m_identity", "p2m_missing_pte", "p2m_top_mfn", "p2m_top_mfn_p")
        ],
    }
    memory: dict[int, bytes] = {}
    extents = source(LINUX).extents()
    for where, number, data in damage:
        if where == "anywhere":
            e = extents[number % len(extents)]
            at = e.start + number % (e.end - e.start - 64)
        else:
            base = pages[where][number % len(pages[where])]
            at = real.space.translate((base & ~0xFFF) + number % (4096 - 64))
        memory[at] = data
    for guest in found_guests(with_note("VMCOREINFO", functions_only, source(LINUX), memory)):
        for name in FOUND:
            symbol = guest.names.symbol(name)
            assert symbol is None or symbol.address == real.names.require(name).address, name


def found_guests(memory: Source) -> list[LinuxGuest]:
    """The guests, or none when damage hides them."""
    try:
        return Target(memory).guests
    except P2mError:
        return []
