"""Offsets of members that nothing names, found in Xen's code: against debug information, and code made up for it."""

from __future__ import annotations

import pytest

from gdb_p2m.errors import Unreadable
from gdb_p2m.structures.x86_domains import Offset, XenDomain, XenDomains
from gdb_p2m.structures.x86_frame_table import Census
from gdb_p2m.structures.x86_state import add_states
from gdb_p2m.symbols.base import Symbol
from gdb_p2m.symbols.elf_image import ElfImage
from gdb_p2m.symbols.symtab import open_elf_file
from gdb_p2m.symbols.xen_file import open_xen_file
from gdb_p2m.symbols.xen_memory import XenNames
from gdb_p2m.units import VirtualAddress
from unit.symbols.test_real_kernels import cached

PAUSE, KILL = 0xFFFF_82D0_4020_0000, 0xFFFF_82D0_4020_1000
EXCHANGE = bytes.fromhex("8b8f44010000 f00fb19344010000 c3")  # mov ecx,[rdi+0x144]; lock cmpxchg [rbx+0x144],edx; ret
STORE = bytes.fromhex("8b8740010000 c7834001000001000000 c3")  # mov eax,[rdi+0x140]; mov dword [rbx+0x140],1; ret


class Code:
    """A virtual space of some functions."""

    def __init__(self, code: dict[int, bytes]) -> None:
        self.code = code

    def read(self, address: int, size: int) -> bytes:
        for start, data in self.code.items():
            if start <= address < start + len(data):
                return (data[address - start :] + b"\x90" * size)[:size]
        raise Unreadable(address, "not in the dump")


class Names(XenNames):
    """Symbols of the two functions, if they are known."""

    def __init__(self, **at: int) -> None:
        super().__init__()
        self.at = at

    def symbol(self, name: str) -> Symbol | None:
        return Symbol(name, VirtualAddress(self.at[name]), "test") if name in self.at else None


def domain(pauses: int = 0, dying: int = 0) -> XenDomain:
    raw = bytearray(2048)
    raw[0x144:0x148], raw[0x140:0x144] = pauses.to_bytes(4, "little"), dying.to_bytes(4, "little")
    return XenDomain(1, 0xFFFF_8300_0000_1000, 1, bytes(raw), Census())


def state(code: dict[int, bytes], names: XenNames, *domains: XenDomain) -> XenDomains:
    found = XenDomains(list(domains))
    add_states(Code(code), names, found)  # type: ignore[arg-type]
    return found


WHOLE = {PAUSE: EXCHANGE, KILL: STORE}
KNOWN = {"domain_unpause_by_systemcontroller": PAUSE, "domain_kill": KILL}


@pytest.mark.parametrize(
    ("pauses", "dying", "word"), [(0, 0, "not paused"), (2, 0, "paused"), (0, 1, "dying"), (3, 2, "dead")]
)
def test_states_by_the_members_that_the_code_shows(pauses: int, dying: int, word: str) -> None:
    found = state(WHOLE, Names(**KNOWN), domain(pauses, dying))
    assert found.guests[0].state == word
    assert (found.offsets["controller_pause_count"].value, found.offsets["is_dying"].value) == (0x144, 0x140)


def test_without_the_functions_the_state_is_unknown_and_says_why() -> None:
    found = state(WHOLE, Names(), domain(1, 1))
    assert found.guests[0].state == "unknown"
    assert "domain_unpause_by_systemcontroller is known" in found.guests[0].state_evidence


def test_code_that_is_not_in_the_dump_is_said_to_be() -> None:
    found = state({KILL: STORE}, Names(**KNOWN), domain(1))
    assert found.guests[0].state == "unknown" and "not in the dump" in found.guests[0].state_evidence


def test_dying_is_known_though_pauses_are_not() -> None:
    assert state({KILL: STORE}, Names(**KNOWN), domain(0, 2)).guests[0].state == "dead"


def test_another_function_at_that_place_gives_no_offset() -> None:
    found = state({PAUSE: bytes.fromhex("31c0c3"), KILL: STORE}, Names(**KNOWN), domain())
    assert found.offsets["controller_pause_count"] == Offset(
        None, "domain_unpause_by_systemcontroller has no locked compare-and-exchange"
    )


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_the_code_of_distributions_agrees_with_their_debug_information(suite: str) -> None:
    """Where xen-syms has DWARF it must say the same; where it has not, both members lie side by side as in its source."""
    path = str(cached(suite, "xen-syms-*"))
    file, elf = open_xen_file(path), open_elf_file(path)
    names = Names(**{n: s.address for n in KNOWN if (s := file.symtab.symbol(n)) is not None})
    found = state({names.at[n]: bytes_at(elf, names.at[n]) for n in KNOWN}, names, domain())
    pauses, dying = found.offsets["controller_pause_count"].value, found.offsets["is_dying"].value
    assert pauses is not None and dying is not None and pauses == dying + 4
    if file.dwarf is not None:
        assert pauses == file.dwarf.offset("domain.controller_pause_count")
        assert dying == file.dwarf.offset("domain.is_dying")


def bytes_at(elf: ElfImage, address: int) -> bytes:
    segment = next(s for s in elf.segments if s.type == "PT_LOAD" and s.address <= address < s.address + s.file_size)
    at = segment.offset + address - segment.address
    return bytes(elf.data[at : at + 256])
