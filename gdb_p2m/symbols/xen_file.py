"""The xen-syms that the user names with --xen: symbols, build id, debug information."""

from __future__ import annotations

from dataclasses import dataclass, field

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.symbols.dwarf import DwarfTypes
from gdb_p2m.symbols.elf_image import ElfImage
from gdb_p2m.symbols.elf_notes import NT_GNU_BUILD_ID
from gdb_p2m.symbols.symtab import Symtab, open_elf_file


@dataclass
class XenFile:
    """A xen-syms. note: the bytes of its build-id note; note_address: their link address (None: no note)."""

    path: str
    symtab: Symtab
    dwarf: DwarfTypes | None
    build_id: str | None
    note: bytes = b""
    note_address: int | None = None
    warnings: list[str] = field(default_factory=list)


def open_xen_file(path: str) -> XenFile:
    """The symbols and types of xen-syms.

    Raises P2mError when it cannot be opened, NotUnderstood when it is no xen-syms or damaged.
    """
    elf = open_elf_file(path)
    if elf.section(".symtab") is None:
        raise NotUnderstood(
            f"{path}: an ELF file without a symbol table", hint="pass xen-syms, not the stripped xen image"
        )
    symtab = Symtab(elf)
    if symtab.symbol("domain_list") is None:
        raise NotUnderstood(
            f"{path}: no symbol domain_list: not a Xen", hint="pass xen-syms; a kernel goes to --kernel"
        )
    note, address = _build_id_note(elf)
    dwarf = DwarfTypes(elf) if symtab.has_dwarf else None
    return XenFile(path, symtab, dwarf, symtab.build_id, note, address)


def _build_id_note(elf: ElfImage) -> tuple[bytes, int | None]:
    """(bytes, link address) of the GNU build-id note, found through the segment that loads it."""
    for header in (s for s in elf.sections if s.type == "SHT_NOTE"):
        data = elf.bytes_of(header)
        if len(data) < 20 or data[12:16] != b"GNU\0" or int.from_bytes(data[8:12], "little") != NT_GNU_BUILD_ID:
            continue
        size = 16 + int.from_bytes(data[4:8], "little")
        for segment in elf.segments:
            at = header.offset - segment.offset
            if segment.type == "PT_LOAD" and 0 <= at < segment.file_size:
                return data[:size], segment.address + at
    return b"", None
