"""System.map and other `nm` listings: a line `address type name` per symbol.

The kernel's System.map (`nm -n`, 16 or 8 hexadecimal digits), Xen's xen-syms.map (with 0x), a saved
/proc/kallsyms (module symbols, which carry a tab and the module's name, are left out).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.symbols.base import Symbol, choose
from gdb_p2m.symbols.name_index import I64Array, NameIndex
from gdb_p2m.units import MIB, U64Array

MAX_SIZE = 64 * MIB
"""Real ones take 5 to 15 MiB."""
ANCHORS = ("_stext", "_text")
"""Names that every Linux kernel and (the first) every Xen has and hardly any other program."""

_SHAPE = re.compile(rb"(0x)?([0-9a-fA-F]{16}|[0-9a-fA-F]{8}) [A-Za-z?] [!-~]")
_PLACEHOLDER = re.compile(rb"f{16} B The real System\.map is in the (\S+) package")


def is_system_map(head: bytes) -> bool:
    """Whether the first bytes of a file are those of such a listing."""
    return _SHAPE.match(head) is not None


class SystemMap:
    """A SymbolSource of kind "System.map"."""

    kind = "System.map"
    build_id: str | None = None
    release: str | None = None

    def __init__(self, data: bytes, path: str) -> None:
        """Raises NotUnderstood when `data` is no listing of a kernel, or hides its addresses."""
        self.detail = path
        if len(data) > MAX_SIZE:
            raise NotUnderstood(f"{path}: {len(data)} bytes, more than any System.map (limit {MAX_SIZE})")
        if m := _PLACEHOLDER.match(data):
            raise NotUnderstood(
                f"{path}: a placeholder; the real file is in the package {m[1].decode('latin-1')}",
                hint="pass that package's System.map or vmlinux, or the vmlinuz beside this file",
            )
        self._index = _parse(data.replace(b"\r\n", b"\n"), path)
        if not self._index.addresses.any():
            raise NotUnderstood(
                f"{path}: all addresses are 0: saved from /proc/kallsyms without the permission to see them",
                hint="save it as root with kernel.kptr_restrict=0, or pass vmlinux or vmlinuz",
            )
        if not any(self._index.find(name) for name in ANCHORS):
            raise NotUnderstood(
                f"{path}: a listing of {len(self._index)} symbols, but not of a kernel: it has no _stext",
                hint="pass the System.map, vmlinux or vmlinuz of the kernel in the dump",
            )

    def symbol(self, name: str) -> Symbol | None:
        """The symbol of exactly this name. Of several, the lowest; `source` then says how many there are."""
        return choose(name, self.addresses(name), f"{self.kind}, {self.detail}")

    def addresses(self, name: str) -> list[int]:
        """All different addresses of this name, ascending."""
        return self._index.find_addresses(name)

    def names(self) -> Iterator[str]:
        """All names in the file's order."""
        return (self._index.name(i) for i in range(len(self._index)))

    def nearest(self, address: int) -> tuple[str, int] | None:
        """(name, offset) of the last symbol at or below `address`, None outside the kernel."""
        return self._index.nearest(address)

    def __len__(self) -> int:
        return len(self._index)


def _parse(data: bytes, path: str) -> NameIndex:
    """All lines of the first line's shape. The last line counts only when it is complete (ends in a newline).

    Raises NotUnderstood when fewer than nine of ten lines have that shape.
    """
    first = _SHAPE.match(data)
    if first is None:
        raise NotUnderstood(f"{path}: not a System.map: it starts with {data[:20]!r}")
    prefix, digits = len(first[1] or b""), len(first[2])
    name_at = prefix + digits + 3
    chars = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(chars == ord("\n"))
    begins = np.concatenate(([0], ends[:-1] + 1))[: len(ends)]
    long = ends - begins > name_at
    values, good = _hex_columns(chars, begins[long] + prefix, digits)
    begins = begins[long]
    good &= (chars[begins + prefix + digits] == ord(" ")) & (chars[begins + name_at - 1] == ord(" "))
    if 10 * int(good.sum()) < 9 * len(ends) or not good.any():
        raise NotUnderstood(
            f"{path}: {int(good.sum())} of {len(ends)} lines have the form of a System.map",
            hint="is it the file that you meant, and is it complete?",
        )
    begins, values = begins[good], values[good]
    kept = ~_has_module(chars, ends, begins)
    return NameIndex(data, begins[kept] + name_at, values[kept], b"\n")


def _hex_columns(
    chars: npt.NDArray[np.uint8], at: I64Array, digits: int
) -> tuple[U64Array, npt.NDArray[np.bool_]]:
    """(value, whether all are digits) of `digits` hexadecimal characters at each position."""
    nibble = np.full(256, 255, np.uint8)
    for value, both in enumerate(zip(b"0123456789abcdef", b"0123456789ABCDEF", strict=True)):
        nibble[list(both)] = value
    values = np.zeros(len(at), np.uint64)
    good = np.ones(len(at), np.bool_)
    for column in range(digits):
        digit = nibble[chars[at + column]]
        good &= digit != 255
        values = (values << np.uint64(4)) | digit
    return values, good


def _has_module(chars: npt.NDArray[np.uint8], ends: I64Array, begins: I64Array) -> npt.NDArray[np.bool_]:
    """Which lines contain a tab."""
    tabs = np.flatnonzero(chars == ord("\t"))
    if not len(tabs):
        return np.zeros(len(begins), np.bool_)
    line_end = ends[np.searchsorted(ends, begins)]
    marked: npt.NDArray[np.bool_] = np.searchsorted(tabs, line_end) > np.searchsorted(tabs, begins)
    return marked
