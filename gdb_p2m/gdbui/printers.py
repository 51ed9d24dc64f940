"""Pretty-printers for types that P2Ms are made of: pte_t, mfn_t, page_info, p2m_type_t, start_info.

They add a meaning to what GDB prints, and every member stays there. A type of the same name with other members is
left to GDB. `info pretty-printer` lists them; `disable pretty-printer global gdb-p2m` turns them off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gdb.printing import PrettyPrinter, SubPrettyPrinter, register_pretty_printer

import gdb
from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.pagetables import SV39, X86_64_4LEVEL
from gdb_p2m.layout.xen_riscv import PGC_ALLOCATED, PGC_COUNT_MASK, PGC_STATE_MASK, PGC_XEN_HEAP, TYPE_NAMES
from gdb_p2m.render.text import printable
from gdb_p2m.spaces.entries import decode
from gdb_p2m.structures.xen_pages import flag_names
from gdb_p2m.units import human_size, thousands

NAME = "gdb-p2m"
STATES = ("in use", "being taken offline", "offline", "free")
STATE_SHIFT = 55
MEANINGS = {
    "p2m_invalid": "nothing is mapped",
    "p2m_ram_rw": "RAM, read, write and execute",
    "p2m_mmio_direct_io": "a device's registers",
    "p2m_ext_storage": "the type is in the metadata of the table",
    "p2m_map_foreign_rw": "another domain's frame, read and write",
    "p2m_map_foreign_ro": "another domain's frame, read only",
}


class Meaning:
    """A value with a meaning, and its members, if it has any, below."""

    def __init__(self, text: str, value: gdb.Value | None = None) -> None:
        self.text = text
        self.value = value

    def to_string(self) -> str:
        """What stands for the whole."""
        return self.text

    def children(self) -> Iterator[tuple[str, gdb.Value]]:
        """Every member; members of anonymous structs by their place."""
        if self.value is not None:
            for i, f in enumerate(self.value.type.fields()):
                yield f.name or f"<anonymous {i}>", self.value[f]


def _word(value: gdb.Value) -> int:
    return int(value) & ((1 << 8 * value.type.sizeof) - 1)


def _is_riscv() -> bool:
    return "riscv" in gdb.selected_inferior().architecture().name()


def _pte(value: gdb.Value) -> Meaning | None:
    """Linux: { pteval_t pte; }. Xen on RISC-V: { unsigned long pte; }."""
    fields = value.type.strip_typedefs().fields()
    if len(fields) != 1 or fields[0].type.strip_typedefs().code != gdb.TYPE_CODE_INT:
        return None
    raw = _word(value[fields[0]])
    riscv = _is_riscv()
    shape = SV39 if riscv else X86_64_4LEVEL
    entry = decode("riscv" if riscv else "x86", raw, shape.levels[-1], True)
    text = entry.problem or entry.pointee.value
    if riscv and raw & pt.RISCV_V:
        # The level is not known: without R, W and X it is a pointer to a table wherever that may be.
        leaf = raw & (pt.RISCV_R | pt.RISCV_W | pt.RISCV_X)
        rsw = (raw & pt.RISCV_RSW_MASK) >> pt.RISCV_RSW_SHIFT
        text = (entry.problem or f"maps memory, type {TYPE_NAMES[rsw]}") if leaf else "table"
    return Meaning(f"{raw:#x}: {text}, frame {entry.frame:#x} [{entry.flags}]")


def _mfn(value: gdb.Value) -> Meaning | None:
    """A struct of one word in debug builds of Xen, a plain unsigned long in others."""
    plain = value.type.strip_typedefs()
    if plain.code == gdb.TYPE_CODE_STRUCT:
        fields = plain.fields()
        if len(fields) != 1 or fields[0].type.strip_typedefs().code != gdb.TYPE_CODE_INT:
            return None
        value = value[fields[0]]
    elif plain.code != gdb.TYPE_CODE_INT:
        return None
    raw = _word(value)
    if raw == (1 << 8 * value.type.sizeof) - 1:
        return Meaning("INVALID_MFN")
    return Meaning(f"MFN {raw:#x} (machine address {raw << 12:#x})")


def _page_info(value: gdb.Value) -> Meaning | None:
    """Its count_info in words: positions of the bits are those of 64-bit Xen, x86 and RISC-V (asm/mm.h)."""
    names = {f.name for f in value.type.strip_typedefs().fields()}
    if "count_info" not in names or value["count_info"].type.sizeof != 8:
        return None
    raw = _word(value["count_info"])
    if raw == 0:
        return Meaning("page_info: no owner, no reference (a table or metadata page of Xen's, or never used)", value)
    told = [STATES[(raw & PGC_STATE_MASK) >> STATE_SHIFT]]
    told += ["allocated"] if raw & PGC_ALLOCATED else []
    told += ["Xen heap"] if raw & PGC_XEN_HEAP else []
    told.append(f"{thousands(raw & PGC_COUNT_MASK)} references")
    return Meaning(f"page_info: {', '.join(told)}", value)


def _p2m_type(value: gdb.Value) -> Meaning | None:
    """All names of the value (3 has two: p2m_ext_storage and the sentinel p2m_first_external)."""
    plain = value.type.strip_typedefs()
    if plain.code != gdb.TYPE_CODE_ENUM:
        return None
    raw = int(value)
    names = [f.name for f in plain.fields() if f.enumval == raw]
    if not names:
        return Meaning(f"{raw} (no type)")
    meaning = next((MEANINGS[n] for n in names if n in MEANINGS), "")
    return Meaning(f"{raw} ({' = '.join(names)}" + (f": {meaning})" if meaning else ")"))


def _start_info(value: gdb.Value) -> Meaning | None:
    """Magic, size and flags in words."""
    names = {f.name for f in value.type.strip_typedefs().fields()}
    if not {"magic", "nr_pages", "flags"} <= names:
        return None
    magic = bytes(int(value["magic"][i]) & 0xFF for i in range(value["magic"].type.range()[1] + 1))
    shown = printable(magic.split(b"\0")[0].decode("latin-1"))
    pages, flags = _word(value["nr_pages"]), _word(value["flags"])
    size = f"{thousands(pages)} pages ({human_size(pages << 12)})"
    return Meaning(f"start_info: {shown}, {size}, flags {flag_names(flags)}", value)


_PRINTERS: dict[str, Callable[[Any], Meaning | None]] = {
    "pte_t": _pte,
    "mfn_t": _mfn,
    "page_info": _page_info,
    "p2m_type_t": _p2m_type,
    "start_info": _start_info,
}


class Printers(PrettyPrinter):  # type: ignore[misc]
    """What GDB asks for each value that it prints."""

    def __init__(self) -> None:
        super().__init__(NAME, [SubPrettyPrinter(name) for name in _PRINTERS])

    def __call__(self, value: gdb.Value) -> Meaning | None:
        """The printer for a value, None for values of other types."""
        kind = value.type.unqualified()
        name = kind.name if kind.code == gdb.TYPE_CODE_TYPEDEF else kind.tag
        make = _PRINTERS.get(name or "")
        if make is None or not all(s.enabled for s in self.subprinters if s.name == name):
            return None
        try:
            return make(value)
        except (gdb.error, TypeError, ValueError, RuntimeError):
            # Unreadable, or not what the name promises: GDB says it in its own words.
            return None


def register() -> None:
    """For all objects; the printers of an earlier `source` are replaced."""
    register_pretty_printer(None, Printers(), replace=True)
