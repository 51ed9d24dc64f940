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


def choose(name: str, addresses: list[int], source: str) -> Symbol | None:
    """The lowest of a name's addresses as a Symbol, with a note in `source` when there are several."""
    if not addresses:
        return None
    if len(addresses) > 1:
        source += f" (one of {len(addresses)} of that name)"
    return Symbol(name, VirtualAddress(addresses[0]), source)


class SymbolSource(Protocol):
    """One place that knows names."""

    @property
    def kind(self) -> str:
        """Short fixed word of the `symbols` verb: "VMCOREINFO note", "VMCOREINFO in memory", "kallsyms",
        "Xen symbols", "symtab", "System.map", "DWARF", "disassembly", "declared"."""
        ...

    @property
    def detail(self) -> str:
        """File name or address where it was found."""
        ...

    @property
    def build_id(self) -> str | None:
        """GNU build id in lower case hex, or None when this source has none."""
        ...

    @property
    def release(self) -> str | None:
        """Kernel release (OSRELEASE) when known."""
        ...

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
