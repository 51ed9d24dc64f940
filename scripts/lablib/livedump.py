"""The machine's memory while the machine goes on: an ELF core whose pages are of different instants.

Live memory is like that, and a reader must cope with it: a table read early may point to a page that has
another use by the time it is read. Only for the registers (the notes) is the machine stopped: milliseconds.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from .elf import EHDR, EHDR_PHNUM, EHDR_PHOFF, EM_X86_64, ET_CORE, PHDR, PT_LOAD, PT_NOTE
from .errors import LabError
from .labs import Lab
from .progress import Progress, size_text
from .qmp import Qmp

_PIECE = 32 << 20  # saved in one go, during which QEMU serves no device: too short for the guest to notice
_BUFFER = 1 << 20
_PAGE = 4096
_RAM = re.compile(r"^\s*([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:ram|rom)\):", re.MULTILINE)


def by_pieces(lab: Lab, file: Path, progress: Progress) -> None:
    """Save the RAM piece by piece with pmemsave and put an ELF header before it."""
    with lab.qmp(timeout=60.0) as qmp:
        notes = _notes(qmp, file.with_suffix(".notes"))
        ranges = ram_ranges(qmp.human("info mtree -f"))
        with file.open("wb") as out:
            out.write(_headers(ranges, notes))
            for start, end in ranges:
                for address in range(start, end, _PIECE):
                    size = min(_PIECE, end - address)
                    piece = file.with_suffix(".piece")
                    qmp.execute("pmemsave", val=address, size=size, filename=str(piece))
                    with piece.open("rb") as saved:
                        shutil.copyfileobj(saved, out, _BUFFER)
                    piece.unlink()
                    progress.moving(f"  {size_text(address)} of {size_text(ranges[-1][1])}")
    progress.clear()


def ram_ranges(mtree: str) -> list[tuple[int, int]]:
    """The machine address ranges [start, end) of RAM and ROM, adjacent ones joined, from `info mtree -f`.

    The view of AS "memory" is what the CPU sees; the ones of single devices repeat parts of it. ROM is taken
    too: the firmware write-protects RAM below 1 MiB.
    """
    views = [view for view in mtree.split("FlatView #") if 'AS "memory"' in view]
    ranges: list[tuple[int, int]] = []
    for match in _RAM.finditer(views[0] if views else ""):
        start, end = int(match[1], 16), int(match[2], 16) + 1
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    if not ranges:
        raise LabError("cannot find the machine's RAM in QEMU's `info mtree -f`")
    return ranges


def _notes(qmp: Qmp, file: Path) -> bytes:
    """The CPU notes as QEMU writes them: those of a dump of one page."""
    qmp.execute("dump-guest-memory", paging=False, protocol=f"file:{file}", begin=0, length=_PAGE)
    data = file.read_bytes()
    file.unlink()
    fields = EHDR.unpack_from(data)
    for index in range(fields[EHDR_PHNUM]):
        kind, _, at, _, _, size, _, _ = PHDR.unpack_from(data, fields[EHDR_PHOFF] + index * PHDR.size)
        if kind == PT_NOTE:
            return data[at : at + size]
    raise LabError("QEMU's dump has no CPU notes")


def _headers(ranges: list[tuple[int, int]], notes: bytes) -> bytes:
    """ELF header, program headers and notes, padded to where the first segment's data begin."""
    count = len(ranges) + 1
    at = EHDR.size + count * PHDR.size
    offset = -(-(at + len(notes)) // _PAGE) * _PAGE
    ident = (b"\x7fELF", 2, 1)  # 64-bit, little-endian
    sizes = (EHDR.size, PHDR.size, count, 0, 0, 0)
    header = EHDR.pack(*ident, 1, ET_CORE, EM_X86_64, 1, 0, EHDR.size, 0, 0, *sizes)
    table = PHDR.pack(PT_NOTE, 0, at, 0, 0, len(notes), len(notes), 0)
    for start, end in ranges:
        table += PHDR.pack(PT_LOAD, 0, offset, 0, start, end - start, end - start, 0)
        offset += end - start
    head = header + table + notes
    return head + bytes(-len(head) % _PAGE)
