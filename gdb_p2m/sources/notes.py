"""ELF notes of dumps of every format: CPU states, who wrote the dump, what Xen left at its crash.

Facts: QEMU target/i386/arch_dump.c (QEMUCPUState, use its size field), Xen public/elfnote.h (XEN_ELFNOTE_CRASH_*)
and xen/include/xen/kexec.h (crash_xen_info_t); seen in dumps of QEMU 7.2 and of Xen 4.17 and 4.20.
"""

from __future__ import annotations

import json
import struct

import numpy as np

from gdb_p2m.sources.base import CoreTable, CpuState, Extent, Note, SourceInfo, XenCrash, merge_extents

QEMU_CR3_OFFSET = 416
QEMU_RIP_OFFSET = 136
XEN_ELFNOTE_CRASH_REGS = 0x1000002
XEN_ELFNOTE_CRASH_INFO = 0x1000001
CRASH_INFO_COMMON = struct.Struct("<8Q")
"""major, minor, extra version, changeset, compiler, compile date, compile time, tainted."""
CRASH_INFO_72, CRASH_INFO_80 = 72, 80
VMCOREINFO_XEN = "VMCOREINFO_XEN"
EXCERPT_NOTE = "GDB-P2M"
EXCERPT_CORE_TABLE = 2
"""Note type: .xen_p2m of the original, as little-endian u64 triples (first PFN, first MFN, count)."""
EXCERPT_GUEST = 3
"""Note type: VMCOREINFO text of one of several kernels, after a line KERNEL_MARK=hex (spaces.pv_roots.kernel_mark)."""
MAX_NOTES = 1 << 16
MAX_CORE_RUNS = 1 << 24
MAX_CORE_PAGES = 1 << 27
"""512 GiB of one domain: what a note may claim before it is believed."""


def add_notes(info: SourceInfo, blob: bytes | memoryview, where: str, at: int = 0) -> None:
    """Append the notes of `blob` to info; what does not fit into it becomes a problem. at: its file offset."""
    position, end = 0, len(blob)
    while position + 12 <= end:
        namesz, descsz, kind = struct.unpack_from("<III", blob, position)
        name_at = position + 12
        desc_at = name_at + ((namesz + 3) & ~3)
        if desc_at + descsz > end:
            info.problems.append((at + position, f"note at file offset {at + position:#x} goes past its {where}"))
            return
        if len(info.notes) >= MAX_NOTES:
            info.problems.append((at + position, f"more than {MAX_NOTES:,} notes"))
            return
        name = bytes(blob[name_at : name_at + namesz]).rstrip(b"\0").decode("latin-1")
        info.notes.append(Note(name, kind, bytes(blob[desc_at : desc_at + descsz])))
        position = desc_at + ((descsz + 3) & ~3)


def describe_notes(info: SourceInfo) -> None:
    """Writer, CPU states, Xen's crash record, and what an excerpt says of its original."""
    qemu = [n for n in info.notes if n.name == "QEMU" and n.type == 0]
    for note in qemu:
        declared = struct.unpack_from("<I", note.desc, 4)[0] if len(note.desc) >= 8 else 0
        if min(declared, len(note.desc)) >= QEMU_CR3_OFFSET + 8:
            cr3 = struct.unpack_from("<Q", note.desc, QEMU_CR3_OFFSET)[0]
            rip = struct.unpack_from("<Q", note.desc, QEMU_RIP_OFFSET)[0]
            info.cpus.append(CpuState(len(info.cpus), {"cr3": cr3, "rip": rip}))
    for note in info.notes:
        if note.name == "Xen" and note.type == XEN_ELFNOTE_CRASH_REGS:
            if len(note.desc) >= 32:
                cr3 = struct.unpack_from("<4Q", note.desc)[2]
                info.cpus.append(CpuState(len(info.cpus), {"cr3": cr3}))
            else:
                info.problems.append((0, f"a Xen CRASH_REGS note has {len(note.desc)} bytes instead of 32"))
        elif note.name == "Xen" and note.type == XEN_ELFNOTE_CRASH_INFO and info.xen_crash is None:
            info.xen_crash = crash_info(note.desc, info)
    names = {n.name for n in info.notes}
    if EXCERPT_NOTE in names:
        _excerpt(info)
    elif qemu:
        info.writer = "QEMU dump-guest-memory (QEMU CPU notes)"
    elif info.xen_crash is not None:
        info.writer = "Xen kexec crash dump (Xen CRASH_INFO note)"
    elif "CORE" in names:
        info.writer = "unknown (CORE notes only)"


def crash_info(desc: bytes, info: SourceInfo) -> XenCrash | None:
    """XEN_ELFNOTE_CRASH_INFO, by its size: two forms are known, both begin alike. None when it is too short."""
    if len(desc) < CRASH_INFO_COMMON.size:
        info.problems.append((0, f"the Xen CRASH_INFO note has {len(desc)} bytes, less than any known version's"))
        return None
    major, minor, extra, changeset, compiler, date, time, tainted = CRASH_INFO_COMMON.unpack_from(desc)
    start = lists = None
    if len(desc) == CRASH_INFO_80:
        start, lists = struct.unpack_from("<2Q", desc, 64)
    elif len(desc) == CRASH_INFO_72:
        (lists,) = struct.unpack_from("<Q", desc, 64)
    else:
        info.loses.append(
            f"dom0's frame list list: the Xen CRASH_INFO note has {len(desc)} bytes, an unknown version (72 and 80 are known)"
        )
    return XenCrash(major, minor, extra, changeset, compiler, date, time, tainted, start, lists)


def _excerpt(info: SourceInfo) -> None:
    """Our own notes: what the whole dump held (docs/formats.md)."""
    info.writer = f"gdb-p2m excerpt (note {EXCERPT_NOTE})"
    for note in info.notes:
        if note.name == EXCERPT_NOTE and note.type == EXCERPT_CORE_TABLE:
            info.core_table = _core_table(note.desc, info)
        elif note.name == EXCERPT_NOTE and note.type != EXCERPT_GUEST:
            try:
                ranges = json.loads(note.desc.rstrip(b"\0"))["extents"]
                extents = [Extent(int(a), int(b)) for a, b in ranges]
                if any(not 0 <= e.start <= e.end <= 1 << 64 for e in extents):
                    raise ValueError("no memory lies there")
                info.original = merge_extents(extents)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                info.problems.append((0, f"the {EXCERPT_NOTE} note cannot be read"))
    info.loses.append("everything but the pages that the P2M verbs touch (an excerpt)")


def core_table_note(table: CoreTable) -> Note:
    """The note that carries a core's .xen_p2m into an excerpt."""
    breaks = np.flatnonzero((np.diff(table.pfn) != 1) | (np.diff(table.mfn) != 1)) + 1
    first = np.concatenate(([0], breaks)) if len(table.pfn) else breaks
    count = np.diff(np.concatenate((first, [len(table.pfn)])))
    runs = np.stack((table.pfn[first], table.mfn[first], count), axis=1).astype("<u8")
    return Note(EXCERPT_NOTE, EXCERPT_CORE_TABLE, runs.tobytes())


def _core_table(desc: bytes, info: SourceInfo) -> CoreTable | None:
    """The table back from its note."""
    if len(desc) % 24 or len(desc) // 24 > MAX_CORE_RUNS:
        info.problems.append((0, f"the {EXCERPT_NOTE} note of .xen_p2m has {len(desc)} bytes"))
        return None
    raw = np.frombuffer(desc, dtype="<u8").reshape(-1, 3)
    limit = np.uint64(1 << 40)
    if (raw >= limit).any() or int(raw[:, 2].sum()) > MAX_CORE_PAGES:
        info.problems.append((0, f"the {EXCERPT_NOTE} note of .xen_p2m holds numbers that are no frames"))
        return None
    runs = raw.astype(np.int64)
    ramp = np.arange(int(runs[:, 2].sum()), dtype=np.int64) - np.repeat(np.cumsum(runs[:, 2]) - runs[:, 2], runs[:, 2])
    pfn = np.repeat(runs[:, 0], runs[:, 2]) + ramp
    mfn = np.repeat(runs[:, 1], runs[:, 2]) + ramp
    return CoreTable(pfn, mfn, None, None, len(pfn))
