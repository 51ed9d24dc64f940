"""Xen's code on RISC-V, and what it tells of structures when no debug information does.

p2m_get_type() turns the page_info of a metadata page into its frame: it loads v.md.pg, subtracts
frametable_virt_start and divides by sizeof(struct page_info). A division without a rest is compiled to a shift and a
multiplication with the inverse of the odd part, so size = odd part << shift. Both are read from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gdb_p2m.code.flow import Instruction
from gdb_p2m.code.functions import Code
from gdb_p2m.errors import P2mError, Unreadable, Untranslatable
from gdb_p2m.spaces.xen_image import Image, XenSpace
from gdb_p2m.symbols.disassembly import read_named_function
from gdb_p2m.symbols.table import SymbolTable

TEACHER = "p2m_get_type"
_MASK = (1 << 64) - 1
_MEMORY = re.compile(r"(\w+), (-?(?:0x)?[0-9a-f]+)\((\w+)\)")


@dataclass(frozen=True)
class CodeFacts:
    """sizeof(struct page_info) and offsetof(struct page_info, v.md.pg), bytes; slot_bytes: of a metadata slot.

    None for what the code does not show. problem: why not.
    """

    page_info_size: int | None
    md_pg_offset: int | None
    slot_bytes: int | None
    problem: str = ""


def xen_code(image: Image, space: XenSpace) -> Code:
    """The code of Xen's image."""
    return Code("riscv64", space.read, image.start, image.end)


def facts_from_code(code: Code, names: SymbolTable) -> CodeFacts:
    """What p2m_get_type() knows. Raises nothing for what memory holds."""
    table = names.symbol("frametable_virt_start")
    try:
        function = read_named_function(code, names, TEACHER)
    except P2mError as e:
        return CodeFacts(None, None, None, e.message)
    if table is None:
        return CodeFacts(None, None, None, "frametable_virt_start is not known")
    listing = function.listing
    at = next(
        (i for i, x in enumerate(listing) if table.address in [r.address for r in x.references if r.use == "load"]),
        None,
    )
    if at is None:
        why = "; ".join(function.problems) or f"{TEACHER} does not load frametable_virt_start"
        return CodeFacts(None, None, None, why)
    size = _size(code, listing[at:])
    offset = _offset(listing[:at])
    slot = _slot(listing[at:])
    lacking = [w for w, v in (("the size of page_info", size), ("v.md.pg", offset)) if v is None]
    return CodeFacts(size, offset, slot, f"{TEACHER} does not show {', '.join(lacking)}" if lacking else "")


def _names(i: Instruction) -> tuple[str, list[str]]:
    """Mnemonic without the prefix of compressed forms, operands."""
    return i.mnemonic.removeprefix("c."), [o.strip() for o in i.operands.split(",")] if i.operands else []


def _size(code: Code, listing: list[Instruction]) -> int | None:
    """From `sub; srai K; mul INVERSE` after the load of the frame table's start."""
    shift: int | None = None
    inverse: int | None = None
    for i in listing[:16]:
        name, ops = _names(i)
        if name == "srai" and shift is None:
            shift = int(ops[-1], 0)
        loads = [r for r in i.references if r.use == "load" and r.size == 8]
        if loads and shift is not None and inverse is None:
            inverse = _read(code, loads[0].address)
        if name == "mul":
            break
    else:
        return None
    if shift is None or inverse is None or not inverse & 1:
        return None
    size = pow(inverse, -1, 1 << 64) << shift
    # A struct of a few words: anything else is another constant.
    return size if 16 <= size <= 512 and size % 8 == 0 else None


def _read(code: Code, address: int) -> int | None:
    try:
        return int.from_bytes(code.read(address, 8), "little")
    except (Unreadable, Untranslatable):
        return None


def _offset(listing: list[Instruction]) -> int | None:
    """The last load through a register before: `ld pg, OFFSET(page)`."""
    for i in reversed(listing[-4:]):
        name, _ = _names(i)
        m = _MEMORY.match(i.operands)
        if name == "ld" and m and m[3] not in ("sp", "s0", "fp"):
            return int(m[2], 0)
    return None


def _slot(listing: list[Instruction]) -> int | None:
    """The index of the metadata slot is shifted by log2 of its size, then added: `lwu; slli N; add; lw|ld`."""
    for before, i in zip(listing, listing[1:], strict=False):
        if _names(before)[0] in ("lwu", "lw", "ld") and _names(i)[0] == "slli":
            shift = int(_names(i)[1][-1], 0)
            if shift in (0, 1, 2, 3):
                return 1 << shift
    return None
