"""VMCOREINFO: names, sizes, offsets and numbers of one kernel (or of Xen) as lines of text.

The kernel writes the text at boot (kernel/vmcore_info.c, kernel/crash_core.c before 6.9): it is an ELF note
of kdump's cores and a page of the running kernel's memory. Xen writes the same form as VMCOREINFO_XEN.

    OSRELEASE=6.1.0-44-amd64
    SYMBOL(init_uts_ns)=ffffffff8264f8c0       hexadecimal
    SIZE(list_head)=16                         bytes
    OFFSET(page.flags)=0                       bytes
    LENGTH(zone.free_area)=11                  elements of an array (excerpts: bytes of a function)
    NUMBER(NR_FREE_PAGES)=0                    decimal, may be negative; some architectures write 0x...
    CONFIG_X86_PAE=y

A SYMBOL of an array that is really a pointer holds the pointer's value (VMCOREINFO_SYMBOL_ARRAY: mem_section
on x86-64, seen): only names of variables are addresses that kallsyms would give, too.

The text comes out of untrusted memory: lines that do not have one of these shapes are skipped and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gdb_p2m.symbols.base import Symbol
from gdb_p2m.units import VirtualAddress

MAX_TEXT = 1 << 20
"""Bytes that are looked at; the kernel's text is a page, an excerpt's a few."""
MAX_LINE = 1024
"""Characters of a line: KSYM_NAME_LEN is 512."""

_LINE = re.compile(r"(SYMBOL|SIZE|OFFSET|LENGTH|NUMBER)\(([^()=]+)\)=(.*)|([A-Za-z][\w.-]*)=(.*)", re.ASCII)
_PRINTABLE = re.compile(r"[ -~]*")
_HEX = re.compile(r"(?:0x)?([0-9a-f]{1,16})", re.IGNORECASE)
_COUNT = re.compile(r"[0-9]{1,20}")
_NUMBER = re.compile(r"-?[0-9]{1,20}|0x[0-9a-f]{1,16}", re.IGNORECASE)
_BUILD_ID = re.compile(r"(?:[0-9a-f]{2}){1,64}")


@dataclass
class VmcoreInfo:
    """One such text, parsed: a SymbolSource and a TypeSource.

    values: the lines without a form of their own (OSRELEASE, PAGESIZE, CONFIG_..., CRASHTIME).
    symbols: virtual addresses. sizes, offsets: bytes. lengths: elements. numbers: as written.
    malformed: lines that were skipped: not of these forms, out of range, or a second, different value of
    a name (the first one stays).
    """

    kind: str = "VMCOREINFO note"
    detail: str = ""
    values: dict[str, str] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    malformed: int = 0

    @classmethod
    def parse(cls, text: bytes | str, kind: str = "VMCOREINFO note", detail: str = "") -> VmcoreInfo:
        """Read a text, up to MAX_TEXT bytes of it. Raises nothing: what is not understood is counted."""
        info = cls(kind, detail)
        whole = text.encode("utf-8", "replace") if isinstance(text, str) else bytes(text)
        for line in whole[:MAX_TEXT].rstrip(b"\0").decode("latin-1").split("\n"):
            if line and not info._add(line):
                info.malformed += 1
        if len(whole) > MAX_TEXT:
            info.malformed += 1
        return info

    def _add(self, line: str) -> bool:
        """Take over one line; False when it is malformed or contradicts an earlier one."""
        if len(line) > MAX_LINE or not _PRINTABLE.fullmatch(line):
            return False
        match = _LINE.fullmatch(line)
        if match is None:
            return False
        form, name, text, key, value = match.groups()
        if form is None:
            return bool(self.values.setdefault(key, value) == value)
        number = _parse(form, text)
        return number is not None and self._table(form).setdefault(name, number) == number

    def _table(self, form: str) -> dict[str, int]:
        return {
            "SYMBOL": self.symbols,
            "SIZE": self.sizes,
            "OFFSET": self.offsets,
            "LENGTH": self.lengths,
            "NUMBER": self.numbers,
        }[form]

    # -- SymbolSource -----------------------------------------------------------------------------------

    @property
    def build_id(self) -> str | None:
        """BUILD-ID (5.9 on) in lower case hex, or None."""
        found = self.values.get("BUILD-ID", "").lower()
        return found if _BUILD_ID.fullmatch(found) else None

    @property
    def release(self) -> str | None:
        """OSRELEASE, or None."""
        return self.values.get("OSRELEASE") or None

    def symbol(self, name: str) -> Symbol | None:
        """SYMBOL(name)."""
        address = self.symbols.get(name)
        if address is None:
            return None
        source = f"{self.kind}, {self.detail}" if self.detail else self.kind
        return Symbol(name, VirtualAddress(address), source)

    def names(self) -> Iterable[str]:
        """The names of all SYMBOL lines."""
        return list(self.symbols)

    def nearest(self, address: int) -> tuple[str, int] | None:
        """(name, 0) for exactly this address: a source of so few names cannot tell what lies between."""
        return next(((name, 0) for name, at in self.symbols.items() if at == address), None)

    def kallsyms_hints(self) -> dict[str, int]:
        """Virtual addresses of the kallsyms tables (6.0 on), for Kallsyms' `hints`."""
        return {name: at for name, at in self.symbols.items() if name.startswith("kallsyms_")}

    # -- TypeSource -------------------------------------------------------------------------------------

    def offset(self, path: str) -> int | None:
        """OFFSET(struct.member), bytes."""
        return self.offsets.get(path)

    def size(self, struct: str) -> int | None:
        """SIZE(struct), bytes."""
        return self.sizes.get(struct)

    def number(self, name: str) -> int | None:
        """NUMBER(name)."""
        return self.numbers.get(name)

    def length(self, name: str) -> int | None:
        """LENGTH(name)."""
        return self.lengths.get(name)

    # -- writing ----------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """The lines of this text, without line ends, in the kernel's order of forms."""
        for key, value in self.values.items():
            yield f"{key}={value}"
        for name, address in self.symbols.items():
            yield f"SYMBOL({name})={address:x}"
        for form in ("SIZE", "OFFSET", "LENGTH", "NUMBER"):
            for name, number in self._table(form).items():
                yield f"{form}({name})={number}"

    def render(self) -> str:
        """The whole text, a line each; `parse(render())` gives the same content."""
        return "".join(f"{line}\n" for line in self.lines())


def _parse(form: str, text: str) -> int | None:
    """The value of one line, or None when it is not a number of this form or exceeds 64 bits."""
    if form == "SYMBOL":
        match = _HEX.fullmatch(text)
        return int(match[1], 16) if match else None
    if not (_NUMBER if form == "NUMBER" else _COUNT).fullmatch(text):
        return None
    value = int(text, 16) if text[:2] in ("0x", "0X") else int(text)
    return value if -(1 << 63) <= value < 1 << 64 else None
