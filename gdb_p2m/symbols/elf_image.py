"""An ELF file as the symbol readers need it: where sections and segments lie, its notes, its memory image."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from io import BytesIO
from typing import IO, TYPE_CHECKING, cast

from gdb_p2m.errors import NotSupported, NotUnderstood
from gdb_p2m.symbols.elf_notes import Note, build_id, notes
from gdb_p2m.units import MIB, VirtualAddress, human_size

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

MAX_IMAGE = 512 * MIB
MAX_SECTIONS = 4096
MAX_SEGMENTS = 512
MAX_NOTES = 1 * MIB
KERNEL_SPAN = 1 << 30
"""A kernel's image lies within 1 GiB (KERNEL_IMAGE_SIZE); per-CPU segments at 0 do not belong to it."""
TRUNCATED = "is the file complete? compare its size with the original"


@dataclass(frozen=True, slots=True)
class Section:
    """One section header: name, type (SHT_...), offset and size in the file, linked section, entry size."""

    name: str
    type: str
    offset: int
    size: int
    link: int
    entry: int


@dataclass(frozen=True, slots=True)
class Segment:
    """One program header: type (PT_...), offset and size in the file, virtual address, size in memory."""

    type: str
    offset: int
    file_size: int
    address: int
    memory_size: int


@dataclass(frozen=True)
class ElfImage:
    """A little-endian ELF file. word: 4 or 8. type: "ET_EXEC", ... data: the whole file."""

    path: str
    data: bytes | mmap.mmap
    word: int
    type: str
    sections: tuple[Section, ...]
    segments: tuple[Segment, ...]

    def section(self, name: str) -> Section | None:
        """The first section of this name that has bytes in the file."""
        return next((s for s in self.sections if s.name == name and s.type != "SHT_NOBITS" and s.size), None)

    def bytes_of(self, part: Section | Segment) -> bytes:
        """Its bytes. Raises NotUnderstood when the file ends before it does."""
        size = part.size if isinstance(part, Section) else part.file_size
        if part.offset + size > len(self.data):
            name = part.name if isinstance(part, Section) else f"{part.type} at {part.address:#x}"
            raise NotUnderstood(
                f"{self.path}: {name} ends at file offset {part.offset + size:#x}, "
                f"but the file has {len(self.data):#x} bytes",
                hint=TRUNCATED,
            )
        return bytes(self.data[part.offset : part.offset + size])

    def notes(self) -> list[Note]:
        """All notes: of the note sections, or of the note segments of a file without sections."""
        parts: list[Section | Segment] = [s for s in self.sections if s.type == "SHT_NOTE"]
        if not parts:
            parts = [s for s in self.segments if s.type == "PT_NOTE"]
        found: list[Note] = []
        for part in parts:
            size = part.size if isinstance(part, Section) else part.file_size
            if size <= MAX_NOTES and part.offset + size <= len(self.data):
                found.extend(notes(self.bytes_of(part)))
        return found

    def build_id(self) -> str | None:
        """GNU build id in hex, or None."""
        return build_id(self.notes())

    def memory(self) -> tuple[VirtualAddress, bytearray]:
        """(address, bytes) of what the PT_LOADs put near the largest one, holes zero-filled.

        Raises NotUnderstood when there is none, when the file is too short, or when it exceeds MAX_IMAGE.
        """
        loads = [s for s in self.segments if s.type == "PT_LOAD" and s.file_size]
        if not loads:
            raise NotUnderstood(f"{self.path}: an ELF file without memory contents (no PT_LOAD)")
        largest = max(loads, key=lambda s: s.file_size)
        loads = [s for s in loads if abs(s.address - largest.address) < KERNEL_SPAN]
        start = min(s.address for s in loads) & -4096
        end = max(s.address + s.file_size for s in loads)
        if end - start > MAX_IMAGE:
            raise NotUnderstood(
                f"{self.path}: its segments span {human_size(end - start)}, more than any kernel "
                f"(limit {human_size(MAX_IMAGE)})"
            )
        image = bytearray(end - start)
        for segment in loads:
            at = segment.address - start
            image[at : at + segment.file_size] = self.bytes_of(segment)
        return VirtualAddress(start), image


def parse_elf(data: bytes | mmap.mmap, path: str) -> ElfImage:
    """The headers of an ELF file. Raises NotUnderstood (damaged, truncated) or NotSupported (big-endian)."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(cast("IO[bytes]", data) if isinstance(data, mmap.mmap) else BytesIO(data))
        if not elf.little_endian:
            raise NotSupported(f"{path}: a big-endian ELF file; Xen runs on little-endian machines only")
        _check_headers(elf, len(data), path)
        return ElfImage(
            path, data, elf.elfclass // 8, str(elf["e_type"]), _sections(elf), _segments(elf)
        )
    except (ELFError, ConstructError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as e:
        raise NotUnderstood(
            f"{path}: the ELF headers cannot be read ({e or type(e).__name__})", hint=TRUNCATED
        ) from None


def _check_headers(elf: ELFFile, size: int, path: str) -> None:
    """Refuse header tables that lie outside the file or are absurdly long, before reading them."""
    for name, at, count, entry, limit in (
        ("section", elf["e_shoff"], elf.num_sections(), elf["e_shentsize"], MAX_SECTIONS),
        ("program", elf["e_phoff"], elf.num_segments(), elf["e_phentsize"], MAX_SEGMENTS),
    ):
        if count > limit:
            raise NotUnderstood(f"{path}: {count} {name} headers, more than any kernel has (limit {limit})")
        if count and at + count * entry > size:
            raise NotUnderstood(
                f"{path}: the {name} headers end at file offset {at + count * entry:#x}, "
                f"but the file has {size:#x} bytes",
                hint=TRUNCATED,
            )


def _sections(elf: ELFFile) -> tuple[Section, ...]:
    return tuple(
        Section(
            section.name,
            str(section["sh_type"]),
            int(section["sh_offset"]),
            int(section["sh_size"]),
            int(section["sh_link"]),
            int(section["sh_entsize"]),
        )
        for section in elf.iter_sections()
    )


def _segments(elf: ELFFile) -> tuple[Segment, ...]:
    headers = [segment.header for segment in elf.iter_segments()]
    return tuple(
        Segment(
            str(h["p_type"]), int(h["p_offset"]), int(h["p_filesz"]), int(h["p_vaddr"]), int(h["p_memsz"])
        )
        for h in headers
    )
