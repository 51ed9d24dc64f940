"""`excerpt`: the code that `disasm` shows, with the names and the values of what it refers to.

Some pages of text; the note then has SYMBOL(function) and LENGTH(function) in bytes, as no symbol table says where
a function ends.
"""

from __future__ import annotations

from contextlib import suppress

from gdb_p2m.code.functions import Code
from gdb_p2m.errors import P2mError, Unreadable, Untranslatable
from gdb_p2m.layout.code import STACK_CHECK, CodeName
from gdb_p2m.symbols.disassembly import read_named_function
from gdb_p2m.symbols.table import SymbolTable


def record_code(code: Code, names: SymbolTable, wanted: tuple[CodeName, ...], noted: set[str]) -> list[str]:
    """Read the functions through `code` (which records); returns lines for the note. noted: names it has already."""
    symbols: dict[str, int] = {}
    lengths: dict[str, int] = {}
    for name in wanted:
        with suppress(P2mError):
            function = read_named_function(code, names, name.name)
            if not function.instructions:
                continue
            symbols[name.name] = function.start
            lengths[name.name] = max(i.next for i in function.listing) - function.start
            for r in function.references("load", "store", "call", "address"):
                if r.use in ("load", "store"):
                    # Constants without a name, too: the size of page_info is in one of them.
                    with suppress(Unreadable, Untranslatable):
                        code.read(r.address, r.size)
                near = names.nearest(r.address)
                if near is not None and not near[1]:
                    symbols[near[0]] = r.address
    if lengths and (stop := names.symbol(STACK_CHECK)) is not None:
        symbols[STACK_CHECK] = stop.address
    lines = [f"SYMBOL({n})={a:x}" for n, a in symbols.items() if n not in noted and _plain(n)]
    return lines + [f"LENGTH({n})={size}" for n, size in lengths.items()]


def _plain(name: str) -> bool:
    """Whether a name can stand in a note (mapping symbols of RISC-V, `$x`, and others cannot)."""
    return not any(c in name for c in "()=$ ") and name.isprintable()
