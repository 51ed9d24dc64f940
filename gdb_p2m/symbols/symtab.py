"""Kernel files that the user names: vmlinux, xen-syms, System.map, vmlinuz, each known by its content.

An ELF file with a symbol table answers from that; one without (a vmlinux out of a vmlinuz) from the
kallsyms tables in it. Which kernel it is, its build id tells; the caller compares that with the memory's.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections.abc import Iterator

import numpy as np

from gdb_p2m.errors import NotUnderstood, P2mError
from gdb_p2m.symbols import vmlinuz
from gdb_p2m.symbols.base import Symbol, SymbolSource, choose
from gdb_p2m.symbols.elf_image import ElfImage, Section, parse_elf
from gdb_p2m.symbols.elf_notes import Note
from gdb_p2m.symbols.name_index import NameIndex
from gdb_p2m.symbols.system_map import ANCHORS, MAX_SIZE, SystemMap, is_system_map
from gdb_p2m.units import MIB, human_size

MAX_PACKED = 256 * MIB
"""Largest compressed file that is read; a vmlinuz has about 15 MiB."""
_WANTED = "pass vmlinux (with or without debug information), vmlinuz or System.map; for Xen, xen-syms"
_HEAD = 0x250

_PLACE = [("info", "u1"), ("other", "u1"), ("section", "<u2")]
_SYMBOL = {
    8: np.dtype([("name", "<u4"), *_PLACE, ("value", "<u8"), ("size", "<u8")]),
    4: np.dtype([("name", "<u4"), ("value", "<u4"), ("size", "<u4"), *_PLACE]),
}
"""Elf64_Sym and Elf32_Sym."""
_STT_SECTION, _STT_FILE, _SHN_UNDEF = 3, 4, 0


class Symtab:
    """The symbol table of a vmlinux or xen-syms: a SymbolSource of kind "symtab".

    has_dwarf: whether the file also carries .debug_info, for whoever wants types.
    """

    kind = "symtab"

    def __init__(self, elf: ElfImage) -> None:
        """Raises NotUnderstood when the file is damaged or not a kernel's."""
        self.detail = elf.path
        self.has_dwarf = any(s.name in (".debug_info", ".zdebug_info") and s.size for s in elf.sections)
        self.build_id = elf.build_id()
        self._index = _read_symbols(elf)
        if not any(self._index.find(name) for name in ANCHORS):
            raise NotUnderstood(
                f"{elf.path}: an ELF file with {len(self._index)} symbols, but not a kernel's: no _stext",
                hint=_WANTED,
            )
        self.release = _release(elf, self._index.find_addresses("linux_banner"))

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


def open_kernel_file(path: str) -> SymbolSource:
    """The symbols in a vmlinux, xen-syms, vmlinuz or System.map, also gzip, xz, zstd or bzip2 compressed.

    Raises P2mError when the file cannot be opened, NotUnderstood when it is no kernel file, damaged or
    truncated, NotSupported for formats that we know and cannot read.
    """
    data = _content(path)
    head = bytes(data[:_HEAD])
    if head.startswith(b"\x7fELF"):
        return _from_elf(parse_elf(data, path))
    if is_system_map(head):
        return SystemMap(bytes(data[: MAX_SIZE + 1]), path)
    raise NotUnderstood(f"{path}: not a kernel file: {_what(head)}", hint=_WANTED)


def open_elf_file(path: str) -> ElfImage:
    """The ELF headers of a vmlinux, vmlinuz or xen-syms, for those who need more than its symbols.

    Raises like open_kernel_file.
    """
    data = _content(path)
    if data[:4] != b"\x7fELF":
        raise NotUnderstood(f"{path}: not an ELF file: {_what(bytes(data[:_HEAD]))}", hint=_WANTED)
    return parse_elf(data, path)


def kernel_xen_notes(kernel: str | bytes) -> list[Note]:
    """The notes called "Xen" of a kernel: its path (vmlinux or vmlinuz) or the bytes of its ELF file.

    Their types are XEN_ELFNOTE_... of Xen's public/elfnote.h, e.g. elf_notes.XEN_ELFNOTE_INIT_P2M.
    Raises what open_kernel_file raises.
    """
    elf = open_elf_file(kernel) if isinstance(kernel, str) else parse_elf(kernel, "kernel in memory")
    return [note for note in elf.notes() if note.name == b"Xen"]


def _content(path: str) -> bytes | mmap.mmap:
    """The ELF file or text in a file: mapped when it lies there as it is, else unpacked."""
    data = _read(path)
    head = bytes(data[:_HEAD])
    if vmlinuz.is_bzimage(head):
        return vmlinuz.unpack_kernel(bytes(data), path)
    method = vmlinuz.compression_of(head)
    return data if method is None else vmlinuz.unpack(bytes(data), method, path)


def _read(path: str) -> bytes | mmap.mmap:
    """The file, mapped. Raises P2mError or NotUnderstood (empty, too large to be what it starts like)."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise P2mError(f"{path}: is a device or pipe, not a file", hint=_WANTED)
            if info.st_size == 0:
                raise NotUnderstood(f"{path}: the file is empty", hint=_WANTED)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except IsADirectoryError:
        raise P2mError(f"{path}: is a directory, not a kernel file", hint=_WANTED) from None
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise P2mError(f"{path}: cannot be opened: {reason}") from None
    if data[:4] != b"\x7fELF" and len(data) > MAX_PACKED:
        raise NotUnderstood(
            f"{path}: {human_size(len(data))}, too large for a vmlinuz or System.map "
            f"(limit {human_size(MAX_PACKED)})",
            hint="a dump goes first on the command line, not to --kernel or --xen",
        )
    return data


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a FIFO without waiting for its writer, so that it can be refused."""
    return os.open(path, flags | os.O_NONBLOCK)


def _what(head: bytes) -> str:
    """What the first bytes of a file that we cannot use look like, in words."""
    if head.startswith(b"MZ"):
        return "an EFI program without a Linux setup header (is it xen.efi? then pass xen-syms)"
    if head.startswith((b"KDUMP   ", b"makedumpfile")):
        return "a dump; it goes first on the command line"
    return f"it starts with {head[:16].hex(' ')}"


def _from_elf(elf: ElfImage) -> SymbolSource:
    """The best source of names in an ELF file: its symbol table, else kallsyms in its contents."""
    if elf.type == "ET_CORE":
        raise NotUnderstood(
            f"{elf.path}: an ELF core, a dump", hint="it goes first on the command line, not to --kernel"
        )
    if elf.type == "ET_REL":
        raise NotUnderstood(f"{elf.path}: an ELF object or kernel module, not a kernel", hint=_WANTED)
    if elf.section(".symtab") is not None:
        return Symtab(elf)
    from gdb_p2m.symbols.kallsyms import Kallsyms

    start, image = elf.memory()
    try:
        found = Kallsyms(image, start, word=elf.word, detail=elf.path)
    except NotUnderstood as e:
        raise NotUnderstood(
            f"{elf.path}: an ELF file without a symbol table, and without kallsyms: {e.message}", hint=_WANTED
        ) from None
    found.build_id = found.build_id or elf.build_id()
    return found


def _read_symbols(elf: ElfImage) -> NameIndex:
    """All defined symbols but sections and file names. Raises NotUnderstood when the tables are damaged."""
    table = elf.section(".symtab")
    dtype = _SYMBOL[elf.word]
    if table is None or not 0 < table.link < len(elf.sections) or table.entry != dtype.itemsize:
        raise NotUnderstood(f"{elf.path}: its .symtab has no string table or entries of an unknown size")
    strings: Section = elf.sections[table.link]
    text = elf.bytes_of(strings)
    raw = elf.bytes_of(table)
    symbols = np.frombuffer(raw, dtype, len(raw) // dtype.itemsize)
    kind = symbols["info"] & 0xF
    good = (symbols["section"] != _SHN_UNDEF) & (kind != _STT_SECTION) & (kind != _STT_FILE)
    outside = symbols["name"] >= len(text)
    if bool(np.any(outside)) or text[-1:] != b"\0":
        raise NotUnderstood(
            f"{elf.path}: {int(outside.sum())} of {len(symbols)} symbols have names outside the string table",
            hint="is the file complete?",
        )
    good &= symbols["name"] != 0
    chosen = symbols[good]
    return NameIndex(text, chosen["name"].astype(np.int64), chosen["value"].astype(np.uint64), b"\0")


def _release(elf: ElfImage, banner: list[int]) -> str | None:
    """The release in the text at linux_banner, when the file holds it."""
    for segment in elf.segments:
        for address in banner:
            at = address - segment.address
            if segment.type == "PT_LOAD" and 0 <= at < segment.file_size:
                text = bytes(elf.data[segment.offset + at : segment.offset + at + 256])
                if m := re.match(rb"Linux version ([!-~]{1,64}) ", text):
                    return m[1].decode("ascii")
    return None
