"""Reads a documented structure (layout.StructLayout) into a record that keeps its address."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gdb_p2m.layout.x86_pv import Field, StructLayout
from gdb_p2m.units import MachineAddress, VirtualAddress

Value = int | str


@dataclass(frozen=True, slots=True)
class Record:
    """A structure as read: `values` by field name. virtual is None where no kernel address led to it."""

    layout: StructLayout
    address: MachineAddress
    virtual: VirtualAddress | None
    values: dict[str, Value]

    def number(self, name: str) -> int:
        """The integer field `name`."""
        value = self.values[name]
        assert isinstance(value, int)
        return value

    def text(self, name: str) -> str:
        """The text field `name`, up to its NUL."""
        return str(self.values[name])

    def address_of(self, name: str) -> MachineAddress:
        """Machine address of field `name`."""
        return MachineAddress(self.address + self.layout.field(name).offset)


@lru_cache
def _construct(layout: StructLayout) -> Any:
    """The construct parser of a layout. construct is imported here because it takes 30 ms."""
    import construct as c

    numbers = {"u8": c.Int8ul, "u16": c.Int16ul, "u32": c.Int32ul, "u64": c.Int64ul}

    def parser(field: Field) -> Any:
        if field.kind.startswith("char"):
            return c.Bytes(int(field.kind[4:]))
        return numbers[field.kind]

    return c.Struct(*(f.name / c.Pointer(f.offset, parser(f)) for f in layout.fields))


def parse(layout: StructLayout, data: bytes, address: MachineAddress, virtual: VirtualAddress | None = None) -> Record:
    """`data` (at least layout.size bytes) as a record."""
    parsed = _construct(layout).parse(data)
    values: dict[str, Value] = {}
    for f in layout.fields:
        raw = parsed[f.name]
        values[f.name] = _text(raw) if isinstance(raw, bytes) else int(raw)
    return Record(layout, address, virtual, values)


def _text(raw: bytes) -> str:
    """A C string with everything unprintable escaped: dumps are hostile input."""
    text = raw.split(b"\0", 1)[0].decode("latin-1")
    return "".join(ch if ch.isprintable() and ord(ch) < 127 else f"\\x{ord(ch):02x}" for ch in text)
