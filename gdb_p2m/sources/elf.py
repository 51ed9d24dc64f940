"""ELF cores whose PT_LOADs carry machine addresses: QEMU's dump-guest-memory, /proc/vmcore, excerpts.

Reads are slices of the mapped file. The layout of the notes: QEMU target/i386/arch_dump.c
(QEMUCPUState, use its size field), Xen public/elfnote.h; seen in dumps of QEMU 7.2.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from bisect import bisect_right
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotUnderstood, Unreadable
from gdb_p2m.sources.base import CpuState, Extent, Note, Source, SourceInfo, merge_extents
from gdb_p2m.units import PAGE_SIZE

QEMU_CR3_OFFSET = 416
QEMU_RIP_OFFSET = 136
XEN_ELFNOTE_CRASH_REGS = 0x1000002
XEN_ELFNOTE_CRASH_INFO = 0x1000001
EXCERPT_NOTE = "GDB-P2M"
MAX_NOTE_BYTES = 64 << 20
MACHINES = {62: "x86-64", 3: "i386", 243: "RISC-V 64", 183: "AArch64"}


class ElfSource(Source):
    """One ELF core file, mapped. `segments` are (machine start, machine end, file offset), sorted."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        super().__init__()
        self._path = path
        self._file = file
        size = os.fstat(file.fileno()).st_size
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        self._bytes = np.frombuffer(self._map, dtype=np.uint8) if self._map else np.zeros(0, np.uint8)
        self._view = memoryview(self._map) if self._map else memoryview(b"")
        self.info = SourceInfo("ELF vmcore", "unknown", path, "unknown")
        self.segments = self._load(size)
        self._starts = [s[0] for s in self.segments]
        self._extents = merge_extents(Extent(s, e) for s, e, _ in self.segments)

    def _load(self, size: int) -> list[tuple[int, int, int]]:
        from elftools.common.exceptions import ELFError
        from elftools.construct import ConstructError
        from elftools.elf.elffile import ELFFile

        try:
            elf = ELFFile(self._file)
            if elf["e_type"] != "ET_CORE":
                raise NotUnderstood(
                    f"{self._path}: an ELF file of type {elf['e_type']}, not a core dump",
                    hint="give the dump first; a kernel file goes to --kernel, a Xen file to --xen",
                )
            machine = elf.header["e_machine"]
            if elf["e_ehsize"] == 64 and elf["e_phentsize"] != 56:
                raise NotUnderstood(f"{self._path}: program headers of {elf['e_phentsize']} bytes, not 56")
            headers = [h.header for h in elf.iter_segments()]
        except (ELFError, ConstructError, ValueError, KeyError, UnicodeDecodeError, OverflowError) as e:
            raise NotUnderstood(
                f"{self._path}: the ELF headers cannot be read ({e or type(e).__name__})",
                hint="is the file truncated? compare its size with the original",
            ) from None
        self.info.machine = {"EM_X86_64": "x86-64", "EM_386": "i386", "EM_RISCV": "riscv64"}.get(
            machine, str(machine)
        )
        segments = self._collect(headers, size)
        self._classify()
        return segments

    def _collect(self, headers: list[Any], size: int) -> list[tuple[int, int, int]]:
        """PT_LOADs as segments, PT_NOTEs into info; contradictions into info.problems."""
        segments: list[tuple[int, int, int]] = []
        problems = self.info.problems
        for i, h in enumerate(headers):
            offset, filesz = int(h["p_offset"]), int(h["p_filesz"])
            if h["p_type"] == "PT_NOTE":
                self._notes(offset, filesz, size)
            if h["p_type"] != "PT_LOAD" or filesz == 0:
                continue
            held = max(0, min(filesz, size - offset))
            start = int(h["p_paddr"])
            if held < filesz:
                problems.append(
                    (start, f"segment {i} ends at file offset {offset + filesz:#x}, past the file's end {size:#x}")
                )
            if start + held > 1 << 64:
                problems.append((start, f"segment {i} wraps past 2^64"))
                continue
            if held:
                segments.append((start, start + held, offset))
        segments.sort()
        for (s1, e1, o1), (s2, e2, o2) in pairwise(segments):
            if s2 < e1 and not self._same_bytes(s1, o1, s2, o2, min(e1, e2)):
                problems.append((s2, f"segments at {s1:#x} and {s2:#x} overlap up to {min(e1, e2):#x} and differ"))
        return segments

    def _same_bytes(self, s1: int, o1: int, s2: int, o2: int, end: int) -> bool:
        """Whether the overlap of two segments holds the same bytes (then it does no harm)."""
        a, n = o1 + (s2 - s1), end - s2
        return a == o2 or bool(np.array_equal(self._bytes[a : a + n], self._bytes[o2 : o2 + n]))

    def _notes(self, offset: int, length: int, size: int) -> None:
        end = min(offset + length, size, offset + MAX_NOTE_BYTES)
        if offset + length > size:
            self.info.problems.append((offset, "the note segment goes past the file's end"))
        while offset + 12 <= end:
            namesz, descsz, kind = struct.unpack_from("<III", self._view, offset)
            name_at = offset + 12
            desc_at = name_at + ((namesz + 3) & ~3)
            if desc_at + descsz > end:
                self.info.problems.append((offset, f"note at file offset {offset:#x} goes past its segment"))
                return
            name = bytes(self._view[name_at : name_at + namesz]).rstrip(b"\0").decode("latin-1")
            self.info.notes.append(Note(name, kind, bytes(self._view[desc_at : desc_at + descsz])))
            offset = desc_at + ((descsz + 3) & ~3)

    def _classify(self) -> None:
        """Writer and CPU states, from the notes."""
        info = self.info
        names = {n.name for n in info.notes}
        cpus = [n for n in info.notes if n.name == "QEMU" and n.type == 0]
        for note in cpus:
            declared = struct.unpack_from("<I", note.desc, 4)[0] if len(note.desc) >= 8 else 0
            if min(declared, len(note.desc)) >= QEMU_CR3_OFFSET + 8:
                cr3 = struct.unpack_from("<Q", note.desc, QEMU_CR3_OFFSET)[0]
                rip = struct.unpack_from("<Q", note.desc, QEMU_RIP_OFFSET)[0]
                info.cpus.append(CpuState(len(info.cpus), {"cr3": cr3, "rip": rip}))
        for note in info.notes:
            if note.name == "Xen" and note.type == XEN_ELFNOTE_CRASH_REGS and len(note.desc) >= 32:
                cr3 = struct.unpack_from("<4Q", note.desc)[2]
                info.cpus.append(CpuState(len(info.cpus), {"cr3": cr3}))
        if EXCERPT_NOTE in names:
            self._excerpt()
        elif cpus:
            info.writer = "QEMU dump-guest-memory (QEMU CPU notes)"
        elif any(n.name == "Xen" and n.type == XEN_ELFNOTE_CRASH_INFO for n in info.notes):
            info.writer = "Xen kexec crash dump (Xen CRASH_INFO note)"
        elif "CORE" in names:
            info.writer = "unknown (CORE notes only)"

    def _excerpt(self) -> None:
        """Our own note: what the whole dump held (docs/formats.md)."""
        self.info.writer = f"gdb-p2m excerpt (note {EXCERPT_NOTE})"
        text = next(n.desc for n in self.info.notes if n.name == EXCERPT_NOTE)
        try:
            ranges = json.loads(text.rstrip(b"\0"))["extents"]
            self.info.original = merge_extents(Extent(int(a), int(b)) for a, b in ranges)
        except (ValueError, KeyError, TypeError):
            self.info.problems.append((0, f"the {EXCERPT_NOTE} note cannot be read"))
        self.info.loses.append("everything but the pages that the P2M verbs touch (an excerpt)")

    def extents(self) -> tuple[Extent, ...]:
        return self._extents

    def _read(self, address: int, size: int) -> bytes | memoryview:
        i = bisect_right(self._starts, address) - 1
        if i >= 0 and address + size <= self.segments[i][1]:
            offset = self.segments[i][2] + address - self.segments[i][0]
            return self._view[offset : offset + size]
        return self._read_across(address, size)

    def _read_across(self, address: int, size: int) -> bytes:
        """A read that crosses segments, or starts in an earlier one that overlaps the last."""
        parts = []
        end = address + size
        while address < end:
            for s, e, o in reversed(self.segments[: bisect_right(self._starts, address)]):
                if address < e:
                    stop = min(e, end)
                    parts.append(bytes(self._view[o + address - s : o + stop - s]))
                    address = stop
                    break
            else:
                raise Unreadable(address, self.missing_reason(address))
        return b"".join(parts)

    def strided_u64(self, extent: Extent, offset: int) -> npt.NDArray[np.uint64]:
        i = bisect_right(self._starts, extent.start) - 1
        if i < 0 or extent.end > self.segments[i][1] or extent.start % PAGE_SIZE:
            return super().strided_u64(extent, offset)
        at = self.segments[i][2] + extent.start - self.segments[i][0]
        count = (extent.end - extent.start) // PAGE_SIZE
        self.counters.pages += count
        self.counters.requests += 1
        whole = self._bytes[at : at + count * PAGE_SIZE].reshape(count, PAGE_SIZE)
        return np.ascontiguousarray(whole[:, offset : offset + 8]).view(np.uint64)[:, 0]

    def close(self) -> None:
        self._bytes = np.zeros(0, np.uint8)
        self._view = memoryview(b"")
        self._file.close()
