"""ELF cores whose PT_LOADs carry machine addresses: QEMU's dump-guest-memory, /proc/vmcore, makedumpfile -E, excerpts.

Reads are slices of the mapped file. Segments may overlap (QEMU's `-p` writes one for each stretch of the guest's
page tables, thousands of them over the same memory); where they do, they are cut into stretches that do not.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotSupported, NotUnderstood, Unreadable
from gdb_p2m.sources.base import Extent, Mask, Pages, Source, SourceInfo, frames_below, merge_extents
from gdb_p2m.sources.content import Content
from gdb_p2m.sources.flattened import FlattenedContent
from gdb_p2m.sources.notes import add_notes, describe_notes
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray

MAX_NOTE_BYTES = 64 << 20
MAX_NOTE_SEGMENTS = 16
MAX_SEGMENTS = 1 << 22
MAX_COMPARED = 1 << 30
"""Bytes of overlapping segments that are compared at opening."""
MAX_PROBLEMS = 64
SCATTERED = 64
"""Stretches of frames in one request from which on they are read without the mapping."""
MACHINES = {62: "x86-64", 3: "i386", 243: "riscv64", 183: "aarch64"}
TYPES = {0: "none", 1: "relocatable", 2: "executable", 3: "shared object"}
ET_CORE, PT_LOAD, PT_NOTE, PN_XNUM = 4, 1, 4, 0xFFFF
PHDR_64 = np.dtype(
    [(n, "<u4") for n in ("type", "flags")]
    + [(n, "<u8") for n in ("offset", "vaddr", "paddr", "filesz", "memsz", "align")]
)
PHDR_32 = np.dtype([(n, "<u4") for n in ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")])
Columns = dict[str, npt.NDArray[np.int64]]
FAR = (1 << 63) - 1
"""Addresses and offsets from here on are no memory: nothing has 8 EiB."""


@dataclass(frozen=True, slots=True)
class ElfHeader:
    """What the file header says. wide: ELFCLASS64."""

    wide: bool
    type: int
    machine: str
    phoff: int
    phnum: int
    shoff: int
    shnum: int
    shstrndx: int


def read_elf_header(content: Content) -> ElfHeader:
    """The file header. Raises NotUnderstood, NotSupported."""
    try:
        ident = bytes(content.read(0, 16))
        if ident[4] not in (1, 2) or ident[5] not in (1, 2):
            raise NotUnderstood(f"class {ident[4]}, data encoding {ident[5]}")
        if ident[5] == 2:
            raise NotSupported(f"{content.path}: a big-endian ELF file; x86 and RISC-V are little-endian")
        wide = ident[4] == 2
        code = "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH"
        fields = struct.unpack(code, content.read(16, struct.calcsize(code)))
        kind, machine, _, _, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx = fields
        if phnum and phentsize != (56 if wide else 32):
            raise NotUnderstood(f"program headers of {phentsize} bytes")
        if shnum and shentsize != (64 if wide else 40):
            raise NotUnderstood(f"section headers of {shentsize} bytes")
        if phnum == PN_XNUM and shoff:
            # More than e_phnum can say: the count is in sh_info of section 0 (ELF gABI, PN_XNUM).
            at = shoff + (44 if wide else 28)
            (phnum,) = struct.unpack("<I", content.read(at, 4))
    except (NotUnderstood, struct.error) as e:
        why = e.message if isinstance(e, NotUnderstood) else str(e)
        raise NotUnderstood(
            f"{content.path}: the ELF headers cannot be read ({why})",
            hint="is the file truncated? compare its size with the original",
        ) from None
    return ElfHeader(wide, kind, MACHINES.get(machine, f"ELF {machine}"), phoff, phnum, shoff, shnum, shstrndx)


class ElfSource(Source):
    """One ELF core file. `segments` are (machine start, machine end, file offset), sorted, without overlaps."""

    def __init__(self, content: Content, path: str) -> None:
        super().__init__()
        self._path = path
        self._content = content
        packed = "flattened " if isinstance(content, FlattenedContent) else ""
        self.info = SourceInfo(f"{packed}ELF vmcore", "unknown", path, "unknown")
        self.info.problems += content.problems
        self._left_out: tuple[Extent, ...] = ()
        self.segments = self._load()
        self._starts = [s[0] for s in self.segments]
        self._extents = merge_extents(Extent(s, e) for s, e, _ in self.segments)

    def _load(self) -> list[tuple[int, int, int]]:
        header = read_elf_header(self._content)
        if header.type != ET_CORE:
            raise NotUnderstood(
                f"{self._path}: an ELF file of type {TYPES.get(header.type, header.type)}, not a core dump",
                hint="give the dump first; a kernel file goes to --kernel, a Xen file to --xen",
            )
        self.info.machine = header.machine
        if header.phnum > MAX_SEGMENTS:
            raise NotUnderstood(f"{self._path}: {header.phnum:,} program headers")
        try:
            table = self._content.array(header.phoff, header.phnum, PHDR_64 if header.wide else PHDR_32)
        except NotUnderstood as e:
            raise NotUnderstood(f"{self._path}: the ELF headers cannot be read ({e.message})", hint=e.hint) from None
        for note in table[table["type"] == PT_NOTE][:MAX_NOTE_SEGMENTS]:
            self._notes(int(note["offset"]), int(note["filesz"]))
        describe_notes(self.info)
        return self._collect(table)

    def _notes(self, offset: int, length: int) -> None:
        held = max(0, min(length, self._content.size - offset))
        if held < length:
            self.info.problems.append((offset, "the note segment goes past the file's end"))
        blob = self._content.read(offset, min(held, MAX_NOTE_BYTES // MAX_NOTE_SEGMENTS)) if held else b""
        add_notes(self.info, blob, "segment", offset)

    def _collect(self, table: npt.NDArray[np.void]) -> list[tuple[int, int, int]]:
        """PT_LOADs as stretches without overlaps; contradictions into info.problems."""
        number = np.flatnonzero(table["type"] == PT_LOAD)
        loads = table[number]
        wraps = (loads["paddr"].astype(np.uint64) >= FAR) | (loads["filesz"].astype(np.uint64) >= FAR)
        wraps |= loads["paddr"].astype(np.uint64) + loads["filesz"] >= FAR
        for i, load in zip(number[wraps][:MAX_PROBLEMS].tolist(), loads[wraps], strict=False):
            self.info.problems.append((int(load["paddr"]), f"segment {i} wraps past 2^64"))
        number, loads = number[~wraps], loads[~wraps]
        size = np.uint64(self._content.size)
        room = np.where(loads["offset"] < size, size - loads["offset"], 0).astype(np.uint64)
        held = np.minimum(loads["filesz"], room)
        short = held < loads["filesz"]
        for i, load in zip(number[short][:MAX_PROBLEMS].tolist(), loads[short], strict=False):
            end = int(load["offset"]) + int(load["filesz"])
            text = f"segment {i} ends at file offset {end:#x}, past the file's end {self._content.size:#x}"
            self.info.problems.append((int(load["paddr"]), text))
        self._left_out = self._filtered(loads)
        self._of_page_tables(loads)
        there = held > 0
        columns = {
            "start": loads["paddr"][there].astype(np.int64),
            "end": (loads["paddr"] + held)[there].astype(np.int64),
            "offset": loads["offset"][there].astype(np.int64),
        }
        by = np.lexsort((columns["end"], columns["start"]))
        return self._without_overlaps({name: column[by] for name, column in columns.items()})

    def _filtered(self, loads: npt.NDArray[np.void]) -> tuple[Extent, ...]:
        """Memory that the headers name and the file leaves out: makedumpfile -E ends segments early.

        QEMU's headers without bytes are devices and memory that it does not dump: not the machine's RAM.
        """
        if self.info.writer.startswith(("QEMU", "gdb-p2m")):
            return ()
        cut = loads[loads["memsz"] > loads["filesz"]]
        pairs = [(int(c["paddr"]) + int(c["filesz"]), int(c["paddr"]) + int(c["memsz"])) for c in cut]
        left_out = merge_extents(Extent(a, b) for a, b in pairs if b < FAR)
        if left_out:
            whole = [Extent(int(c["paddr"]), int(c["paddr"]) + int(c["memsz"])) for c in loads]
            self.info.original = merge_extents(e for e in whole if e.end < FAR)
            pages = sum(e.end - e.start for e in left_out) // PAGE_SIZE
            self.info.writer = f"makedumpfile -E or alike (segments with less in the file than in memory); {self.info.writer}"
            self.info.loses.append(f"{pages:,} pages that the writer left out: filtered, or zero; the format does not say which")
        return left_out

    def _of_page_tables(self, loads: npt.NDArray[np.void]) -> None:
        """QEMU's `-p` gives virtual addresses, and only memory that a CPU's page tables map.

        Without it the virtual addresses are the machine addresses (seen: 7.2).
        """
        if self.info.writer.startswith("QEMU") and ((loads["vaddr"] != 0) & (loads["vaddr"] != loads["paddr"])).any():
            self.info.writer = self.info.writer.replace("dump-guest-memory", "dump-guest-memory -p", 1)
            self.info.loses.append("memory that the page tables of the CPUs did not map when the dump was made")

    def _without_overlaps(self, c: Columns) -> list[tuple[int, int, int]]:
        """The earliest segment wins; later ones are cut to what is new in them."""
        if not len(c["start"]):
            return []
        reach = np.maximum.accumulate(c["end"])
        covered = np.concatenate(([np.int64(-1)], reach[:-1]))
        first = np.maximum(c["start"], covered)
        keep = first < c["end"]
        pieces = list(
            zip(
                first[keep].tolist(),
                c["end"][keep].tolist(),
                (c["offset"] + first - c["start"])[keep].tolist(),
                strict=True,
            )
        )
        overlap = np.flatnonzero(c["start"] < covered)
        if len(overlap):
            self._compare(c, overlap, covered, pieces)
        return pieces

    def _compare(
        self, c: Columns, overlap: npt.NDArray[np.int64], covered: npt.NDArray[np.int64], pieces: list[tuple[int, int, int]]
    ) -> None:
        """A problem for each overlap whose bytes differ. The same place in the file needs no look."""
        starts = [p[0] for p in pieces]
        left = MAX_COMPARED
        for i in overlap.tolist():
            start, end, offset = int(c["start"][i]), int(min(c["end"][i], covered[i])), int(c["offset"][i])
            at = start
            for s, e, o in pieces[bisect_right(starts, start) - 1 :]:
                if at >= end:
                    break
                n = min(e, end) - at
                mine, other = offset + at - start, o + at - s
                if mine != other and left > 0:
                    left -= n
                    if not np.array_equal(self._content.bytes_at(mine, n), self._content.bytes_at(other, n)):
                        text = f"segments at {s:#x} and {start:#x} overlap up to {at + n:#x} and differ"
                        self.info.problems.append((start, text))
                        break
                at += n
            if left <= 0 or len(self.info.problems) >= MAX_PROBLEMS:
                return

    def extents(self) -> tuple[Extent, ...]:
        return self._extents

    def frames_below(self, frames: FrameArray) -> FrameArray:
        if not self._left_out:
            return super().frames_below(frames)
        starts = np.array([-(-e.start // PAGE_SIZE) for e in self._extents], dtype=np.int64)
        ends = np.array([e.end // PAGE_SIZE for e in self._extents], dtype=np.int64)
        return frames_below(frames, starts, np.maximum(starts, ends))

    def missing_reason(self, address: int) -> str:
        if any(e.start <= address < e.end for e in self._left_out):
            return "left out by the dump's writer (filtered, or zero: the format does not say which)"
        return super().missing_reason(address)

    def _read(self, address: int, size: int) -> bytes | memoryview:
        i = bisect_right(self._starts, address) - 1
        if i >= 0 and address + size <= self.segments[i][1]:
            return self._content.read(self.segments[i][2] + address - self.segments[i][0], size)
        parts = []
        end = address + size
        while address < end:
            if i < 0 or i >= len(self.segments) or not self.segments[i][0] <= address < self.segments[i][1]:
                raise Unreadable(address, self.missing_reason(address))
            start, stop, offset = self.segments[i]
            parts.append(self._content.read(offset + address - start, min(stop, end) - address))
            address = min(stop, end)
            i += 1
        return b"".join(parts)

    def _fill_all(self, out: Pages, ok: Mask, mfns: FrameArray, groups: list[tuple[int, int]]) -> None:
        """Many scattered pages of a mapped file are read, not looked at through the mapping: see read_into."""
        if len(groups) < SCATTERED or self._content.whole is None:
            super()._fill_all(out, ok, mfns, groups)
            return
        starts, ends, offsets = np.minimum(np.array(self.segments, dtype=np.uint64), FAR).T.astype(np.int64)
        firsts, counts = np.array(groups, dtype=np.int64).T
        address = mfns[firsts] << PAGE_SHIFT
        i = np.searchsorted(starts, address, "right") - 1
        whole = ok[firsts] & (i >= 0) & (address + (counts << PAGE_SHIFT) <= ends[i])
        at = offsets[i] + address - starts[i]
        for first, count, offset in zip(firsts[whole].tolist(), counts[whole].tolist(), at[whole].tolist(), strict=True):
            self._content.read_into(offset, out[first : first + count])
        self.counters.requests += int(np.count_nonzero(whole))
        self.counters.pages += int(counts[whole].sum())
        super()._fill_all(out, ok, mfns, [g for g, done in zip(groups, whole.tolist(), strict=True) if not done])

    def strided_u64(self, extent: Extent, offset: int) -> npt.NDArray[np.uint64]:
        i = bisect_right(self._starts, extent.start) - 1
        whole = self._content.whole
        if whole is None or i < 0 or extent.end > self.segments[i][1] or extent.start % PAGE_SIZE:
            return super().strided_u64(extent, offset)
        at = self.segments[i][2] + extent.start - self.segments[i][0]
        count = (extent.end - extent.start) // PAGE_SIZE
        self.counters.pages += count
        self.counters.requests += 1
        pages = whole[at : at + count * PAGE_SIZE].reshape(count, PAGE_SIZE)
        with self._content.in_order(at, count * PAGE_SIZE):
            return np.ascontiguousarray(pages[:, offset : offset + 8]).view(np.uint64)[:, 0]

    def close(self) -> None:
        self._content.close()
