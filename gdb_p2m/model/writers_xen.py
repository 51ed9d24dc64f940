"""Writes what Xen's own tools leave: the core of one domain (`xl dump-core`) and a crash dump with Xen's notes.

Facts: Xen docs/misc/dump-core-format.txt, public/elfnote.h, public/arch-x86/xen.h (vcpu_guest_context),
xen/include/xen/kexec.h (crash_xen_info_t).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from gdb_p2m.model.elf import CoreNote
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.pieces import Fate
from gdb_p2m.model.structs import fold_cr3
from gdb_p2m.model.writers import Image, Path, image_of
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray

MAGIC_PV, MAGIC_HVM = 0xF00FEBED, 0xF00FEBEE
CRASH_INFO, CRASH_REGS = 0x1000001, 0x1000002
NONE = (1 << 64) - 1
_SHDR = struct.Struct("<IIQQQQIIQQ")
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
CONTEXT_64, CONTEXT_32 = 5168, 2800
CTRLREG_64, CTRLREG_32 = 4984, 2716
"""Offset of ctrlreg[0] in vcpu_guest_context."""


@dataclass(frozen=True)
class CoreOptions:
    """How to write a core. padding: pairs {~0, ~0} with empty pages at the end, for pages that went away.

    magic, format_version: of the notes. extra_pairs: entries of .xen_p2m beyond the pages (a contradiction).
    """

    padding: int = 0
    magic: int = MAGIC_PV
    format_version: int = 1
    extra_pairs: int = 0
    vcpus: int = 1


def domain_pages(machine: Machine) -> tuple[FrameArray, FrameArray]:
    """PFN and MFN of every page that the P2M gives the guest: no identity, foreign or missing ones."""
    pfns, mfns = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for p in machine.p2m:
        if p.fate is Fate.MFN:
            pfns.append(np.arange(p.start, p.end, dtype=np.int64))
            mfns.append(machine.frames.mfns(p.base, p.base + p.end - p.start))
    return np.concatenate(pfns), np.concatenate(mfns)


def vcpu_context(machine: Machine) -> bytes:
    """vcpu_guest_context with CR3 only."""
    root = machine.tables.root
    if machine.width.bits == 64:
        context = bytearray(CONTEXT_64)
        struct.pack_into("<Q", context, CTRLREG_64 + 3 * 8, root << PAGE_SHIFT)
    else:
        context = bytearray(CONTEXT_32)
        struct.pack_into("<I", context, CTRLREG_32 + 3 * 4, fold_cr3(root, machine.width))
    return bytes(context)


def _note(kind: int, desc: bytes) -> bytes:
    return CoreNote("Xen", kind, desc).pack()


def write_xen_core(path: Path, machine: Machine, options: CoreOptions | None = None) -> None:
    """The guest of `machine` as `xl dump-core` writes it: sections, no program headers. Raises OSError."""
    o = options or CoreOptions()
    pfns, mfns = domain_pages(machine)
    pages = len(pfns) + o.padding
    pairs = np.full((pages + o.extra_pairs, 2), NONE, dtype="<u8")
    pairs[: len(pfns), 0], pairs[: len(pfns), 1] = pfns, mfns
    notes = _note(0x2000000, b"") + _note(0x2000001, struct.pack("<4Q", o.magic, o.vcpus, pages, PAGE_SIZE))
    version = struct.pack("<QQ16s", 4, 17, b".0-model").ljust(1280, b"\0")
    notes += _note(0x2000002, version) + _note(0x2000003, struct.pack("<Q", o.format_version))
    context = vcpu_context(machine)
    strings = b"\0.shstrtab\0.note.Xen\0.xen_prstatus\0.xen_shared_info\0.xen_p2m\0.xen_pages\0"
    info = machine.memory.read(machine.shared_info, PAGE_SIZE)
    # (name, type, content, entry size); .xen_pages is last, aligned to pages.
    parts = [
        (".note.Xen", 7, notes, 0),
        (".xen_prstatus", 1, context * o.vcpus, len(context)),
        (".xen_shared_info", 1, info, PAGE_SIZE),
        (".xen_p2m", 1, pairs.tobytes(), 16),
        (".shstrtab", 3, strings, 0),
    ]
    at = _EHDR.size + _SHDR.size * (2 + len(parts))
    headers = [_SHDR.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)]
    body = []
    for name, kind, content, entry in parts:
        headers.append(_SHDR.pack(strings.index(name.encode() + b"\0"), kind, 0, 0, at, len(content), 0, 0, 1, entry))
        body.append(content)
        at += len(content)
    pages_at = -(-at // PAGE_SIZE) * PAGE_SIZE
    name_at = strings.index(b".xen_pages\0")
    headers.append(_SHDR.pack(name_at, 1, 0, 0, pages_at, pages * PAGE_SIZE, 0, 0, PAGE_SIZE, PAGE_SIZE))
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    em = 62 if machine.width.bits == 64 else 3
    with open(path, "wb") as file:
        file.write(_EHDR.pack(ident, 4, em, 1, 0, 0, 64, 0, 64, 0, 0, 64, len(headers), 5))
        file.write(b"".join(headers) + b"".join(body))
        _put_pages(file, machine, mfns, pages_at)
        file.truncate(pages_at + pages * PAGE_SIZE)


def _put_pages(file: BinaryIO, machine: Machine, mfns: FrameArray, at: int) -> None:
    """The domain's pages in the order of `mfns`. Later contents hide earlier ones, as in Memory.stored."""
    where = np.argsort(mfns)
    for frames, rows in machine.memory.stored():
        place = np.minimum(np.searchsorted(mfns, frames, sorter=where), len(mfns) - 1)
        own = mfns[where[place]] == frames
        for k in np.flatnonzero(own).tolist():
            file.seek(at + int(where[place[k]]) * PAGE_SIZE)
            file.write(rows[k].tobytes())


def crash_notes(machine: Machine, *, size: int = 80, cpus: int = 1) -> list[CoreNote]:
    """CRASH_REGS of every CPU, CRASH_INFO of `size` bytes (72 or 80), VMCOREINFO_XEN, the way Xen's kexec leaves them.

    The texts that CRASH_INFO points to are put into a frame of Xen's.
    """
    frame = machine.xen.take(machine.memory)
    texts = [b".0-model", b"none", b"gcc (model) 12", b"Thu Jan  1 1970", b"00:00:00"]
    address, pointers = frame << PAGE_SHIFT, []
    for text in texts:
        machine.memory.write(address, text + b"\0")
        pointers.append(address)
        address += len(text) + 1
    lists = machine.page("p2m_top_mfn") if machine.shape is not None and "p2m_top_mfn" in machine.shape.shared else NONE
    record = struct.pack("<8Q", 4, 17, *pointers, 0)
    record += struct.pack("<2Q", machine.xen.m2p_first << PAGE_SHIFT, lists) if size == 80 else struct.pack("<Q", lists)
    registers = struct.pack("<4Q", 0x8005_003B, 0, machine.cr3, 0x660)
    names = "\n".join(("PAGESIZE=4096", f"SYMBOL(max_page)={machine.xen.max_frame:x}", "SIZE(page_info)=32", ""))
    return [
        *(CoreNote("Xen", CRASH_REGS, registers) for _ in range(cpus)),
        CoreNote("Xen", CRASH_INFO, record.ljust(size, b"\0")[:size]),
        CoreNote("VMCOREINFO_XEN", 0, names.encode("ascii")),
    ]


def crash_image(machine: Machine, *, size: int = 80, cpus: int = 1) -> Image:
    """The machine as the crash kernel sees it in /proc/vmcore: one note of each CPU, and Xen's."""
    cores = [CoreNote("CORE", 1, bytes(336)) for _ in range(cpus)]
    image = image_of(machine, [*cores, *crash_notes(machine, size=size, cpus=cpus), *machine.notes])
    image.nr_cpus = cpus
    return image
