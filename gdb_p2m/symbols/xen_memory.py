"""The names of an x86 Xen: the file that the user gave, its VMCOREINFO_XEN text, and the symbol table in its own memory."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from gdb_p2m.errors import NotUnderstood, P2mError, Unreadable, Untranslatable
from gdb_p2m.layout.xen_x86 import XEN_VIRT_END, XEN_VIRT_IMAGE
from gdb_p2m.sources.base import contiguous_groups
from gdb_p2m.spaces.radix import Status
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.symbols.table import SymbolTable
from gdb_p2m.symbols.vmcoreinfo import VmcoreInfo
from gdb_p2m.symbols.xen_file import XenFile, open_xen_file
from gdb_p2m.symbols.xen_symbols import XenSymbols
from gdb_p2m.units import MIB, PAGE_SHIFT, PAGE_SIZE, VirtualAddress

XEN_NOTE = "VMCOREINFO_XEN"
LARGE_PAGE = 2 * MIB
MAX_IMAGE = 32 * MIB
"""Xen's image has 4 MiB (seen: 4.14 to 4.20); bounds the copy that the tables are searched in."""


class XenNames(SymbolTable):
    """Every source of names and types of one Xen, in order of trust. doubt: why the file is not proved to be it."""

    def __init__(self) -> None:
        super().__init__()
        self.file: XenFile | None = None
        self.doubt = ""
        self.hint = "give the hypervisor with --xen xen-syms"

    def type_fact(self, kind: str, name: str) -> tuple[int, str] | None:
        """(value, who says so) of SIZE(name) or OFFSET(name): debug information first, then the texts."""
        if self.file is not None and self.file.dwarf is not None:
            value = self.file.dwarf.size(name) if kind == "SIZE" else self.file.dwarf.offset(name)
            if value is not None:
                return value, f"DWARF, {self.file.path}"
        for source in self.sources:
            if isinstance(source, VmcoreInfo):
                value = source.size(name) if kind == "SIZE" else source.offset(name)
                if value is not None:
                    return value, f"{source.kind}, {source.detail}"
        return None


def xen_names(space: VirtualSpace, xen_path: str | None) -> XenNames:
    """All that is known. Raises what open_xen_file raises, NotUnderstood when the file is another Xen."""
    names = XenNames()
    if xen_path is not None:
        names.file = open_xen_file(xen_path)
        names.doubt = _proved(space, names.file)
        names.add(names.file.symtab)
    note = next((n.desc for n in space.source.info.notes if n.name == XEN_NOTE), None)
    if note is not None:
        names.add(VmcoreInfo.parse(note, f"{XEN_NOTE} note", space.source.info.path))
    try:
        names.add(memory_symbols(space))
    except P2mError as e:
        names.notes.append(f"Xen's symbols in memory: {e.message}")
    text = _memory_text(space, names)
    if text is not None:
        names.add(text)
    return names


def _proved(space: VirtualSpace, file: XenFile) -> str:
    """"" when memory holds the file's build id where the file has it, else why that is not known."""
    if file.note_address is None:
        return f"{file.path} has no build id: that it is the Xen in memory is not proved"
    held = b""
    try:
        held = space.read(file.note_address, len(file.note))
    except (Untranslatable, Unreadable) as e:
        if isinstance(e, Unreadable) or e.unreadable:
            return f"Xen's build id cannot be read from memory ({e.message}): that {file.path} belongs to it is not proved"
    if held != file.note:
        raise NotUnderstood(
            f"{file.path}: another Xen: memory does not hold its build id {file.build_id} at {file.note_address:#x}",
            hint="give the xen-syms of the Xen that ran, or none: its symbols are then taken from its memory",
        )
    return ""


def memory_symbols(space: VirtualSpace) -> XenSymbols:
    """The symbol table in Xen's image. Raises NotUnderstood when the image is not mapped, not there or has none."""
    large = space.slots(XEN_VIRT_IMAGE, min(XEN_VIRT_END, XEN_VIRT_IMAGE + MAX_IMAGE), "L2")
    unmapped = np.flatnonzero(large.status != Status.OK)
    length = (int(unmapped[0]) if len(unmapped) else len(large.status)) * LARGE_PAGE
    if not length:
        raise NotUnderstood(f"Xen's image is not mapped at {XEN_VIRT_IMAGE:#x}, or its page table is not in the dump")
    pages = space.slots(XEN_VIRT_IMAGE, XEN_VIRT_IMAGE + length, "L1")
    frames = np.where(pages.status == Status.OK, pages.frame, -1)
    image = np.zeros(length, dtype=np.uint8)
    any_read = False
    for first, count in contiguous_groups(frames):
        if frames[first] < 0:
            continue
        with suppress(Unreadable):
            data = space.source.read(int(frames[first]) << PAGE_SHIFT, count * PAGE_SIZE)
            image[first * PAGE_SIZE : (first + count) * PAGE_SIZE] = np.frombuffer(data, dtype=np.uint8)
            any_read = True
    if not any_read:
        raise NotUnderstood("Xen's image is mapped but not in the dump")
    return XenSymbols(image.data, VirtualAddress(XEN_VIRT_IMAGE))


def _memory_text(space: VirtualSpace, names: SymbolTable) -> VmcoreInfo | None:
    """The VMCOREINFO_XEN text in Xen's memory: written when a crash kernel is loaded (common/kexec.c), else empty."""
    data, size = names.symbol("vmcoreinfo_data"), names.symbol("vmcoreinfo_size")
    if data is None or size is None:
        return None
    try:
        length = min(space.read_word(size.address), PAGE_SIZE)
        raw = space.read(data.address, length + 64) if length else b""
    except (Untranslatable, Unreadable):
        return None
    at = raw.find(b"PAGESIZE=")  # after the head of the note
    if at < 0:
        return None
    return VmcoreInfo.parse(raw[at : at + length], f"{XEN_NOTE} in memory", f"virtual address {data.address + at:#x}")
