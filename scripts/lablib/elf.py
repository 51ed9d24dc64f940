"""The few things of ELF files that a lab reads. System V ABI: "Object Files" and "Dynamic Linking"."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError

# Elf64_Ehdr: magic, class, data, version; type, machine, version, entry, phoff, shoff, flags; ehsize,
# phentsize, phnum, shentsize, shnum, shstrndx.
EHDR = struct.Struct("<4sBBB9xHHIQQQIHHHHHH")
EHDR_PHOFF, EHDR_SHOFF, EHDR_PHNUM, EHDR_SHNUM = 8, 9, 13, 15  # indexes in what unpack returns
PHDR = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr: type, flags, offset, vaddr, paddr, filesz, memsz, align
SHDR = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr: name, type, flags, addr, offset, size, link, info, align, entsize
DYN = struct.Struct("<qQ")  # Elf64_Dyn: tag, value
ET_CORE, EM_X86_64, PT_LOAD, PT_DYNAMIC, PT_NOTE, SHT_NOBITS = 4, 62, 1, 2, 4, 8
DT_NULL, DT_NEEDED, DT_STRTAB, DT_SONAME = 0, 1, 5, 14


@dataclass(frozen=True)
class Linkage:
    """What a program or a library tells the dynamic linker. soname: empty when it has none."""

    soname: str
    needed: tuple[str, ...]


def linkage(file: Path) -> Linkage | None:
    """The linkage of a 64-bit ELF file; None when it is no ELF file or is not linked dynamically."""
    data = file.read_bytes()
    if len(data) < EHDR.size or data[:5] != b"\x7fELF\x02":
        return None
    fields = EHDR.unpack_from(data)
    table = data[fields[EHDR_PHOFF] :][: fields[EHDR_PHNUM] * PHDR.size]
    segments = list(PHDR.iter_unpack(table))
    dynamic = [segment for segment in segments if segment[0] == PT_DYNAMIC]
    if not dynamic:
        return None
    _, _, at, _, _, size, _, _ = dynamic[0]
    tags: list[tuple[int, int]] = []
    for tag, value in DYN.iter_unpack(data[at : at + size // DYN.size * DYN.size]):
        if tag == DT_NULL:
            break
        tags.append((tag, value))
    strings = _file_offset(segments, dict(tags)[DT_STRTAB])

    def text(offset: int) -> str:
        return data[strings + offset : data.index(b"\0", strings + offset)].decode()

    names = {tag: text(value) for tag, value in tags if tag == DT_SONAME}
    return Linkage(names.get(DT_SONAME, ""), tuple(text(value) for tag, value in tags if tag == DT_NEEDED))


def _file_offset(segments: list[tuple[int, ...]], address: int) -> int:
    """Where the byte of an address is in the file."""
    for kind, _, offset, start, _, size, _, _ in segments:
        if kind == PT_LOAD and start <= address < start + size:
            return offset + address - start
    raise LabError(f"an ELF file's address {address:#x} is in none of its segments")


def check_core(file: Path, memory: int = 0) -> None:
    """Raise LabError unless the file is an x86-64 ELF core that ends where its segments and sections end.

    memory: how many bytes its segments must hold at least (a domain's core has sections and no segments).
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        header = stream.read(EHDR.size)
        if len(header) < EHDR.size or header[:5] != b"\x7fELF\x02":
            raise LabError(f"the dump is no 64-bit ELF file: it begins with {header[:8].hex()}")
        fields = EHDR.unpack(header)
        kind, machine = fields[4:6]
        if (kind, machine) != (ET_CORE, EM_X86_64):
            raise LabError(f"the dump is no x86-64 core: ELF type {kind}, machine {machine}")
        stream.seek(fields[EHDR_PHOFF])
        programs = stream.read(fields[EHDR_PHNUM] * PHDR.size)
        stream.seek(fields[EHDR_SHOFF])
        sections = stream.read(fields[EHDR_SHNUM] * SHDR.size)
    segments = list(PHDR.iter_unpack(programs[: len(programs) // PHDR.size * PHDR.size]))
    held = sum(segment[5] for segment in segments if segment[0] == PT_LOAD)
    ends = [segment[2] + segment[5] for segment in segments]
    whole = sections[: len(sections) // SHDR.size * SHDR.size]
    ends += [section[4] + section[5] for section in SHDR.iter_unpack(whole) if section[1] != SHT_NOBITS]
    end = max(ends, default=0)
    if held < memory or end > size or not ends:
        raise LabError(
            f"the dump is not whole: it has {size} bytes, its parts end at {end}, its segments hold {held} bytes, "
            f"the machine's memory is {memory}"
        )
