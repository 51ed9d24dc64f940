"""What a source of names looks like.

A SymbolSource answers by exact name only: the real kernels have names such as
`p2m_dump_open` or `.brk.m2p_overrides` that a prefix match would take for ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from gdb_p2m.units import VirtualAddress


@dataclass(frozen=True, slots=True)
class Symbol:
    """One name. `source` says where it came from, in words for the user ("kallsyms in memory", ...)."""

    name: str
    address: VirtualAddress
    source: str


class SymbolSource(Protocol):
    """One place that knows names.

    kind: short fixed word of the `symbols` verb: "VMCOREINFO note", "VMCOREINFO in memory",
    "kallsyms", "symtab", "System.map", "DWARF", "disassembly", "declared".
    detail: file name or address where it was found.
    build_id: hex, or None when this source has none.
    release: kernel release (OSRELEASE) when known.
    """

    kind: str
    detail: str
    build_id: str | None
    release: str | None

    def symbol(self, name: str) -> Symbol | None:
        """The symbol of exactly this name, or None when this source does not have it."""
        ...

    def names(self) -> Iterable[str]:
        """All names, for completion and `symbols --all`; may be slow."""
        ...

    def nearest(self, address: int) -> tuple[str, int] | None:
        """(name, offset) of the last symbol at or below `address`, or None."""
        ...


class TypeSource(Protocol):
    """A source that also knows types (VMCOREINFO's OFFSET/SIZE/NUMBER, DWARF)."""

    def offset(self, path: str) -> int | None:
        """Byte offset of `struct.member[.member]`, or None."""
        ...

    def size(self, struct: str) -> int | None:
        """Size in bytes of a struct, or None."""
        ...

    def number(self, name: str) -> int | None:
        """A NUMBER() or enumerator, or None."""
        ...
