"""Verb `disasm`: the kernel's (or Xen's) own code in memory, its operands with our names and their values now."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Any

from gdb_p2m.code.flow import Function, Instruction, Reference
from gdb_p2m.code.functions import Code
from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa
from gdb_p2m.errors import NotFound, Unreadable, Untranslatable, UsageError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.code import LINUX_CODE, XEN_RISCV_CODE, CodeName
from gdb_p2m.layout.names import ALL_NAMES
from gdb_p2m.layout.pagetables import X86_NX
from gdb_p2m.layout.x86_pv import WIDTH_32, WIDTH_64
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.symbols.disassembly import linux_code, read_named_function
from gdb_p2m.symbols.table import SymbolTable
from gdb_p2m.symbols.xen_code import xen_code

MEANING = {n.name: n.meaning for n in ALL_NAMES}
_BIT = re.compile(r"^bt[src]? \w+, (0x[0-9a-f]+|\d+)$")


@dataclass(frozen=True)
class Image:
    """One image: its code, its names, the functions worth looking at, and the domain where there is one."""

    code: Code
    names: SymbolTable
    known: tuple[CodeName, ...]
    domain: int | None
    space: VirtualSpace | None = None

    def is_data(self, address: int) -> bool:
        """Whether x86 page tables forbid to execute what is there (False where they cannot be read)."""
        if self.space is None:
            return False
        try:
            return bool(self.space.walk(address).steps[-1].pte.raw & X86_NX)
        except Untranslatable:
            return False


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="the function; without it, those worth looking at are listed"
    )


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """One function, or the list of those that read and write the P2M."""
    image = _image(ctx)
    return _list(image) if args.name is None else _show(image, args.name)


def _image(ctx: Context) -> Image:
    if ctx.target.is_riscv:
        xen = ctx.target.xen
        return Image(xen_code(xen.image, xen.space), xen.names, XEN_RISCV_CODE, None)
    # Not ctx.domain: code is there although the P2M may not be.
    guest = ctx.domain
    assert isinstance(guest, LinuxGuest)
    return Image(linux_code(guest.space), guest.names, LINUX_CODE, guest.id, guest.space)


def _list(image: Image) -> Report:
    rows: list[list[Cell]] = []
    entries = []
    for known in image.known:
        symbol = image.names.symbol(known.name)
        address = None if symbol is None else symbol.address
        rows.append([known.name, hexa(address) if address else "not named here", known.since, known.meaning])
        entries.append({"name": known.name, "address": address, "since": known.since, "meaning": known.meaning})
    report = Report({"schema": "gdb-p2m/disasm/1", "domain": image.domain, "functions": entries})
    report.table(["function", "address", "where it is found", "what it does"], rows)
    return report


def _show(image: Image, name: str) -> Report:
    if image.is_data(image.names.require(name).address):
        raise UsageError(
            f"{name} is no code now: its page is not executable (data, or code of the boot that was freed)",
            hint=f"`symbols {name}` shows its address and value",
        )
    function = read_named_function(image.code, image.names, name)
    if not function.instructions:
        raise NotFound(
            f"{name} at {function.start:#x}: {'; '.join(function.problems) or 'there is no code'}",
            hint="an excerpt carries the functions that `disasm` without a name lists; others need the whole dump",
        )
    naming = Naming(image, function, name)
    rows: list[list[Cell]] = []
    entries: list[dict[str, Any]] = []
    expected = None
    for i in function.listing:
        if expected is not None and i.address != expected:
            rows.append(["...", "", ""])
        expected = i.next
        told = [naming.reference(r) for r in i.references]
        note = constant_note(i, image.code.arch)
        shown = [_text(r) for r in told] + ([note] if note else [])
        rows.append([f"+{i.address - function.start:#x}", f"{i.mnemonic} {i.operands}".rstrip(), "; ".join(shown)])
        entries.append(
            {
                "address": i.address,
                "bytes": i.data.hex(),
                "text": f"{i.mnemonic} {i.operands}".rstrip(),
                "references": told,
                "note": note or None,
            }
        )
    data = {
        "schema": "gdb-p2m/disasm/1",
        "domain": image.domain,
        "name": name,
        "address": function.start,
        "arch": image.code.arch,
        "instructions": entries,
        "problems": function.problems,
    }
    report = Report(data)
    what = next((f": {k.meaning}" for k in image.known if k.name == name), "")
    report.table(["offset", "instruction", "what it names"], rows, f"{name} at {function.start:#x}{what}")
    used = _variables(naming, function)
    if used:
        report.table(["variable", "address", "value now", "meaning"], used, "Variables that it uses")
    for problem in function.problems:
        report.text(f"Not shown: {problem}.")
    return report


class Naming:
    """Names and values of what a function refers to."""

    def __init__(self, image: Image, function: Function, name: str) -> None:
        self.image = image
        self.function = function
        self.name = name

    def reference(self, r: Reference) -> dict[str, Any]:
        """JSON of one reference: name and offset where known; the value for variables that can be read."""
        inside = r.use == "jump" and r.address in self.function.instructions
        near = (self.name, r.address - self.function.start) if inside else self.image.names.nearest(r.address)
        value = self.value(r)
        return {
            "use": r.use,
            "address": r.address,
            "name": None if near is None else near[0],
            "offset": None if near is None else near[1],
            "size": r.size,
            "value": value,
        }

    def value(self, r: Reference) -> int | None:
        """What a variable of up to 8 bytes holds now, None when it cannot be read or is no variable."""
        if r.use not in ("load", "store") or r.size not in (1, 2, 4, 8):
            return None
        try:
            return int.from_bytes(self.image.code.read(r.address, r.size), "little")
        except (Unreadable, Untranslatable):
            return None


def _text(r: dict[str, Any]) -> str:
    """A reference for people."""
    if r["name"] is None:
        name = f"{r['address']:#x}"
    else:
        name = r["name"] + (f"+{r['offset']:#x}" if r["offset"] else "")
    if r["use"] in ("call", "jump"):
        return f"-> {name}"
    if r["use"] == "address":
        return f"&{name}"
    value = "not in the dump" if r["value"] is None else f"{r['value']:#x}"
    return f"{name} = {value}" if r["use"] == "load" else f"writes {name}, now {value}"


def _variables(naming: Naming, function: Function) -> list[list[Cell]]:
    """The named variables, each once, with what they mean where we know it."""
    rows: list[list[Cell]] = []
    for r in function.references("load", "store"):
        told = naming.reference(r)
        if told["name"] is not None and told["offset"] == 0:
            value = "not in the dump" if told["value"] is None else f"{told['value']:#x}"
            rows.append([told["name"], f"{r.address:#x}", value, MEANING.get(told["name"], "")])
    return rows


def constant_note(i: Instruction, arch: str) -> str:
    """What a constant in an instruction stands for: the flag bits of entries, INVALID, the type bits of a PTE."""
    text = f"{i.mnemonic} {i.operands}"
    if arch == "riscv64":
        return "the type's bits of a PTE (RSW)" if i.mnemonic == "andi" and text.endswith(", 0x300") else ""
    width = WIDTH_32 if arch == "i386" else WIDTH_64
    if (m := _BIT.match(text)) is not None:
        bits = {width.foreign_bit: "FOREIGN_FRAME_BIT", width.identity_bit: "IDENTITY_FRAME_BIT"}
        return bits.get(1 << int(m[1], 0), "") if int(m[1], 0) < 64 else ""
    if i.mnemonic == "cmp" and (text.endswith(", -1") or text.endswith(f", {width.invalid:#x}")):
        return "INVALID_P2M_ENTRY"
    if i.mnemonic in ("movabs", "mov"):
        constants = {
            width.foreign_bit: "FOREIGN_FRAME_BIT",
            width.identity_bit: "IDENTITY_FRAME_BIT",
            width.identity_bit - 1: "all bits but the two flags of an entry",
        }
        m = re.search(r", (0x[0-9a-f]+)$", text)
        return constants.get(int(m[1], 16), "") if m else ""
    return ""


VERB = Verb(
    "disasm",
    "the kernel's own lookup code in memory, with our names and the current values of its operands",
    "Follows a function's code from its entry, in a PV guest's kernel or in Xen on RISC-V, and annotates what each "
    "instruction refers to: variables with their values in this memory, calls, jumps, and the flag bits of P2M "
    "entries. "
    "Without NAME it lists the functions that read and write the P2M.",
    "get_phys_to_machine",
    configure,
    run,
)
