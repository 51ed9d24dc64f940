"""The xen-syms that the user names with --xen: symbols, build id, debug information."""

from __future__ import annotations

from dataclasses import dataclass, field

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.symbols.dwarf import DwarfTypes
from gdb_p2m.symbols.elf_image import MAX_NOTES, ElfImage
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
    """(bytes, link address) of the GNU build-id note: in a note segment, or in a section that a segment loads."""
    for segment in elf.segments:
        if segment.type == "PT_NOTE" and segment.address and segment.file_size <= MAX_NOTES:
            note, at = _find_note(elf.bytes_of(segment))
            if note:
                return note, segment.address + at
    for section in elf.sections:
        if section.type != "SHT_NOTE" or section.size > MAX_NOTES:
            continue
        note, at = _find_note(elf.bytes_of(section))
        for segment in elf.segments:
            inside = section.offset + at - segment.offset
            if note and segment.type == "PT_LOAD" and 0 <= inside < segment.file_size:
                return note, segment.address + inside
    return b"", None


def _find_note(data: bytes) -> tuple[bytes, int]:
    """(bytes of the GNU build-id note with its header, offset), or (b"", 0)."""
    at = 0
    while at + 12 <= len(data):
        name_size, desc_size, kind = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (0, 4, 8))
        desc_at = at + 12 + (name_size + 3 & ~3)
        end = desc_at + desc_size
        if end > len(data) or not name_size:
            break
        if kind == NT_GNU_BUILD_ID and data[at + 12 : at + 16] == b"GNU\0" and desc_size:
            return data[at:end], at
        at = end + 3 & ~3
    return b"", 0
