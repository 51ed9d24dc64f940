"""Writes small ELF files: segments, notes, a symbol table."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
PT_LOAD, PT_NOTE = 1, 4
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOTE = 1, 2, 3, 7


def note(name: bytes, kind: int, desc: bytes) -> bytes:
    """One note, padded to four bytes."""
    name += b"\0"
    pad = lambda data: data + bytes(-len(data) % 4)  # noqa: E731
    return struct.pack("<III", len(name), len(desc), kind) + pad(name) + pad(desc)


@dataclass
class Elf:
    """What goes into the file.

    segments: (type, virtual address, bytes). symbols: (name, address, info, section index).
    """

    bits: int = 64
    type: int = ET_EXEC
    segments: list[tuple[int, int, bytes]] = field(default_factory=list)
    symbols: list[tuple[str, int, int, int]] | None = None
    notes: bytes = b""
    sections: list[tuple[str, int, bytes]] = field(default_factory=list)
    big_endian: bool = False

    def symbol_tables(self) -> tuple[bytes, bytes]:
        """(.symtab, .strtab); a name that ends another one shares its bytes, as linkers do it."""
        strings, entries = b"\0", b""
        for name, address, info, index in self.symbols or []:
            text = name.encode() + b"\0"
            at = strings.find(text)
            if at < 0:
                at = len(strings)
                strings += text
            if self.bits == 64:
                entries += struct.pack("<IBBHQQ", at, info, 0, index, address, 0)
            else:
                entries += struct.pack("<IIIBBH", at, address, 0, info, 0, index)
        return entries, strings

    def bytes(self) -> bytes:
        """The file."""
        wide = self.bits == 64
        header_size, segment_size = (64, 56) if wide else (52, 32)
        body = bytearray(header_size + segment_size * (len(self.segments) + bool(self.notes)))
        headers = b""
        parts = [*self.segments, *([(PT_NOTE, 0, self.notes)] if self.notes else [])]
        for kind, address, data in parts:
            body += bytes(-len(body) % 16)
            fields = (len(body), address, address, len(data), len(data))
            if wide:
                headers += struct.pack("<IIQQQQQQ", kind, 5, *fields, 16)
            else:
                headers += struct.pack("<IIIIIIII", kind, *fields, 5, 16)
            body += data
        sections, section_at = self._sections(body)
        ident = b"\x7fELF" + bytes([2 if wide else 1, 2 if self.big_endian else 1, 1]) + bytes(9)
        machine = 62 if wide else 3
        form = "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH"
        count = len(sections)
        rest = (header_size, segment_size, len(parts), 64 if wide else 40, count, max(count - 1, 0))
        head = struct.pack(form, self.type, machine, 1, 0, header_size, section_at if count else 0, 0, *rest)
        body[:header_size] = ident + head
        body[header_size : header_size + len(headers)] = headers
        return bytes(body) + b"".join(sections)

    def _sections(self, body: bytearray) -> tuple[list[bytes], int]:
        """(section headers, their file offset); appends the sections' bytes to `body`."""
        wanted = list(self.sections)
        if self.symbols is not None:
            table, strings = self.symbol_tables()
            wanted += [(".symtab", SHT_SYMTAB, table), (".strtab", SHT_STRTAB, strings)]
        if not wanted:
            return [], 0
        names = b"\0" + b"".join(n.encode() + b"\0" for n, _, _ in wanted) + b".shstrtab\0"
        wanted.append((".shstrtab", SHT_STRTAB, names))
        headers = [bytes(64 if self.bits == 64 else 40)]
        for i, (name, kind, data) in enumerate(wanted, 1):
            body += bytes(-len(body) % 8)
            at = names.index(b"\0" + name.encode() + b"\0") + 1
            link = i + 1 if kind == SHT_SYMTAB else 0
            entry = (24 if self.bits == 64 else 16) if kind == SHT_SYMTAB else 0
            form = "<IIQQQQIIQQ" if self.bits == 64 else "<IIIIIIIIII"
            headers.append(struct.pack(form, at, kind, 0, 0, len(body), len(data), link, 0, 8, entry))
            body += data
        body += bytes(-len(body) % 8)
        return headers, len(body)
