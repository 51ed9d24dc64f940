"""The notes of an ordinary Linux core, for one PV guest: VMCOREINFO and an NT_PRSTATUS for each CPU that ran it.

Tools find a kernel's page table, load address and names through VMCOREINFO. The kernel's own text is taken where it
can be found; what readers of an x86-64 core cannot do without (SYMBOL(swapper_pg_dir), NUMBER(phys_base),
KERNELOFFSET) is added from memory where the text lacks it.
"""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from gdb_p2m.errors import P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.names import ALL_NAMES, ROOT_NAMES
from gdb_p2m.layout.x86_pv import DIRECT_MAP_BASES_64, KERNEL_IMAGE_LIMIT, START_KERNEL_MAP
from gdb_p2m.sources.base import Note
from gdb_p2m.spaces.pv_roots import Root, kernel_mark, kernel_text
from gdb_p2m.structures.pfn_tables import PfnOfFrame
from gdb_p2m.symbols.discover import kernel_image, note_text
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, Mfn

NT_PRSTATUS = 1
PRSTATUS_SIZE, PRSTATUS_REGS = 336, 112
"""struct elf_prstatus of x86-64, and its pr_reg (27 words: struct user_regs_struct)."""
RIP_INDEX = 16
_BANNER = re.compile(rb"Linux version (\d[!-~]{1,63}) \(")


@dataclass
class CoreNotes:
    """The notes, and sentences about where they come from.

    Virtual addresses: direct_map of PFN 0, root_table of the kernel's own page table; None where not known.
    """

    notes: list[Note]
    said: list[str] = field(default_factory=list)
    phys_base: int | None = None
    direct_map: int | None = None
    root_table: int | None = None
    cpus: int = 0


def core_notes(guest: LinuxGuest, pfn_of: PfnOfFrame) -> CoreNotes:
    """VMCOREINFO and CPU notes of the guest; frames are translated by `pfn_of`."""
    out = CoreNotes([])
    root = guest.names.first(n.name for n in ROOT_NAMES)
    out.root_table = None if root is None else root.address
    if guest.width.bits == 64:
        out.phys_base = _phys_base(guest, pfn_of)
        out.direct_map = _direct_map(guest, pfn_of)
        if root is None and out.phys_base is not None:
            out.root_table = _root_table(guest, pfn_of, out.phys_base)
        for note in _cpu_notes(guest, out.said):
            out.notes.append(note)
            out.cpus += 1
    out.notes.append(Note("VMCOREINFO", 0, _vmcoreinfo(guest, out)))
    return out


def _phys_base(guest: LinuxGuest, pfn_of: PfnOfFrame) -> int | None:
    """Pseudo-physical address of the kernel's text minus its offset in the kernel mapping (phys_base)."""
    text = kernel_text(guest.space.shape)
    try:
        pfn = _pfn(guest.frame_of(text), pfn_of)
    except P2mError:
        return None
    return None if pfn is None else (pfn << PAGE_SHIFT) - (text - START_KERNEL_MAP)


def _root_table(guest: LinuxGuest, pfn_of: PfnOfFrame, phys_base: int) -> int | None:
    """Virtual address of the root in use, when it lies in the kernel's image: then it is swapper_pg_dir.

    A process's root does not; the address is proved by translating it back.
    """
    pfn = _pfn(guest.root.mfn, pfn_of)
    if pfn is None:
        return None
    address = START_KERNEL_MAP + (pfn << PAGE_SHIFT) - phys_base
    if not START_KERNEL_MAP <= address < START_KERNEL_MAP + KERNEL_IMAGE_LIMIT:
        return None
    with suppress(P2mError):
        if guest.frame_of(address) == guest.root.mfn:
            return address
    return None


def _direct_map(guest: LinuxGuest, pfn_of: PfnOfFrame) -> int | None:
    """page_offset_base, or a documented base: the one at which the page table's own root is mapped by its PFN."""
    bases = list(DIRECT_MAP_BASES_64)
    if guest.has("page_offset_base"):
        with suppress(P2mError):
            bases.insert(0, guest.variable("page_offset_base"))
    pfn = _pfn(guest.root.mfn, pfn_of)
    if pfn is None:
        return None
    for base in bases:
        try:
            if guest.frame_of(base + (pfn << PAGE_SHIFT)) == guest.root.mfn:
                return base
        except P2mError:
            continue
    return None


def _pfn(mfn: Mfn, pfn_of: PfnOfFrame) -> int | None:
    pfn = int(pfn_of(np.array([mfn], dtype=np.int64))[0])
    return None if pfn < 0 else pfn


def _vmcoreinfo(guest: LinuxGuest, out: CoreNotes) -> bytes:
    text, source = _kernels_own_text(guest)
    lines = [] if text is None else text.decode("latin-1").rstrip("\0\n").split("\n")
    known = {line.split("=", 1)[0] for line in lines}
    added = [line for line in _needed_lines(guest, out) if line.split("=", 1)[0] not in known]
    if text is None:
        out.said.append("VMCOREINFO: made from the names and the page table; the kernel's own text was not found")
        added += [
            f"SYMBOL({n.name})={s.address:x}"
            for n in ALL_NAMES
            if (s := guest.names.symbol(n.name)) is not None
            and f"SYMBOL({n.name})" not in known
            and f"SYMBOL({n.name})={s.address:x}" not in added
        ]
    else:
        what = f", with {', '.join(a.split('=')[0] for a in added)} added" if added else ""
        out.said.append(f"VMCOREINFO: {source}{what}")
    return ("\n".join([*lines, *added]) + "\n").encode("latin-1")


def _kernels_own_text(guest: LinuxGuest) -> tuple[bytes | None, str]:
    """The kernel's VMCOREINFO in its memory, else a note of the dump that a kernel wrote, else nothing."""
    with suppress(P2mError):
        address, size = guest.variable("vmcoreinfo_data"), guest.variable("vmcoreinfo_size")
        text = guest.space.read(address, min(size, PAGE_SIZE))
        if b"OSRELEASE=" in text:
            return text, f"the kernel's own text, in its memory at {address:#x}"
    note = note_text(guest.source, "VMCOREINFO")
    if note is not None and b"NUMBER(phys_base)=" in note:
        return note, "the note of the dump"
    return None, ""


def _needed_lines(guest: LinuxGuest, out: CoreNotes) -> list[str]:
    release = guest.names.release or _release_of_banner(guest)
    lines = [f"OSRELEASE={release}"] if release else []
    if not release:
        out.said.append("VMCOREINFO: the kernel's release is not known; drgn needs OSRELEASE (Program(vmcoreinfo=...))")
    if guest.names.build_id:
        lines.append(f"BUILD-ID={guest.names.build_id}")
    lines.append(f"PAGESIZE={PAGE_SIZE}")
    if out.root_table is not None:
        lines.append(f"SYMBOL(swapper_pg_dir)={out.root_table:x}")
    else:
        out.said.append("VMCOREINFO: swapper_pg_dir is not known; readers cannot walk the kernel's page table")
    if guest.width.bits == 64:
        if out.phys_base is not None:
            lines.append(f"NUMBER(phys_base)={out.phys_base}")
        # PV kernels run where they are linked (layout.x86_pv.START_KERNEL_MAP), with four levels.
        lines += ["KERNELOFFSET=0", "NUMBER(pgtable_l5_enabled)=0"]
    return lines


def _release_of_banner(guest: LinuxGuest) -> str | None:
    """The release in linux_banner, looked for in the kernel's read-only data when no name leads there."""
    with suppress(P2mError):
        found = {m[1] for m in _BANNER.finditer(kernel_image(guest.space, True))}
        if len(found) == 1:
            return found.pop().decode("ascii")
    return None


def _cpu_notes(guest: LinuxGuest, said: list[str]) -> list[Note]:
    """NT_PRSTATUS of every CPU that had a page table of this guest loaded."""
    info = guest.source.info
    raw = [n for n in info.notes if n.name == "CORE" and n.type == NT_PRSTATUS and len(n.desc) == PRSTATUS_SIZE]
    mark = kernel_mark(guest.source, guest.root)
    notes = []
    for cpu in info.cpus:
        if not cpu.cr3 or mark is None:
            continue
        if kernel_mark(guest.source, Root(Mfn(cpu.cr3 >> PAGE_SHIFT), "", guest.space.shape)) != mark:
            continue
        matched = len(raw) == len(info.cpus)
        desc = raw[cpu.index].desc if matched else _prstatus(cpu.registers.get("rip", 0))
        notes.append(Note("CORE", NT_PRSTATUS, desc))
        if not matched:
            said.append(f"CPU {cpu.index}: of the registers only rip is known")
    if not notes:
        notes.append(Note("CORE", NT_PRSTATUS, _prstatus(0)))
        said.append("no CPU ran this guest: one NT_PRSTATUS of zeros stands in")
    return notes


def _prstatus(rip: int) -> bytes:
    desc = bytearray(PRSTATUS_SIZE)
    struct.pack_into("<Q", desc, PRSTATUS_REGS + RIP_INDEX * 8, rip)
    return bytes(desc)
