"""Xen on RISC-V as a machine: its image, its own page table, frame table, domain list, and the domains' P2Ms.

Follows xen/arch/riscv: setup_mm() for the address space (asm/config.h for its slots), calc_phys_offset(),
struct page_info; only what a P2M's reader touches is there.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.pagetables import SV39
from gdb_p2m.layout.xen_riscv import MODES, PGC_ALLOCATED, PGC_STATE_FREE, PGC_XEN_HEAP, SYMBOLS, TYPE_NAMES
from gdb_p2m.model.elf import CoreNote, Segment, write_core
from gdb_p2m.model.memory import Memory
from gdb_p2m.model.riscv import RiscvDescription, RiscvDomainDescription
from gdb_p2m.model.riscv_p2m import P2m
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE

EM_RISCV = 243
PRSTATUS_RISCV = 376
IMAGE_SIZE = 0xCBF00
WORD = (1 << 64) - 1
TEXT_NOTE = 0x4F990
"""Offset of the build-id note in the image (where 4.23-unstable has it)."""
VARIABLES = 0x52000
MODE_TABLE = 0x40640
ROOT_TABLE = 0xA5000
_LEAF = pt.RISCV_V | pt.RISCV_R | pt.RISCV_W | pt.RISCV_A | pt.RISCV_D
DIRECTMAP_SLOT, FRAMETABLE_SLOT = 200, 195
LIST_HEAD_NEXT, LIST_HEAD_PREV = 0, 8


class OwnTable:
    """Xen's own page table (Sv39 or Sv48) below `root`, a frame of the image."""

    def __init__(self, xen: RiscvXen, root: int) -> None:
        self.xen = xen
        self.root = root

    def map(self, virtual: int, machine: int, level: int) -> None:
        """One page of 4 KiB (level 0), 2 MiB (1) or 1 GiB (2)."""
        levels = self.xen.description.tables.levels
        frame = self.root
        for depth, lv in enumerate(levels):
            index = virtual >> lv.shift & lv.entries - 1
            words = self.xen.memory.words(frame)
            if len(levels) - 1 - depth == level:
                words[index] = machine >> PAGE_SHIFT << pt.RISCV_PPN_SHIFT | _LEAF
                return
            if not int(words[index]) & pt.RISCV_V:
                child = self.xen.take()
                self.xen.memory.page(child)
                words[index] = child << pt.RISCV_PPN_SHIFT | pt.RISCV_V
            frame = int(words[index]) >> pt.RISCV_PPN_SHIFT & (1 << 44) - 1


@dataclass
class RiscvDomainModel:
    """A built domain. address: virtual, of its struct domain; p2m_at: virtual, of its p2m_domain."""

    id: int
    address: int
    p2m_at: int
    p2m: P2m


@dataclass
class RiscvXen:
    """The machine. symbols: link addresses; variables: values by name (written into the image)."""

    description: RiscvDescription
    memory: Memory = field(default_factory=Memory)
    domains: list[RiscvDomainModel] = field(default_factory=list)
    symbols: dict[str, int] = field(default_factory=dict)
    broken: str = ""
    _next: int = 0
    _infos: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        d = self.description
        sv39 = d.tables is SV39
        self.link = 0xFFFF_FFFF_C000_0000 if sv39 else 0xFFFF_FF80_0000_0000
        self.phys_offset = (d.load - self.link) & WORD
        self.first = d.ram_start >> PAGE_SHIFT
        self.end = (d.ram_start + d.ram_size) >> PAGE_SHIFT
        self._next = self.end
        slot_shift = d.tables.levels[0].shift
        mask = ~((1 << slot_shift) - 1)
        self.direct_base = (DIRECTMAP_SLOT << slot_shift) - (d.ram_start & mask)
        offsets = d.layout.offsets
        self.info_size = d.layout.sizes["page_info"]
        self.frame_base = (FRAMETABLE_SLOT << slot_shift) - self.first * self.info_size
        self.count_at, self.v_at = offsets["page_info.count_info"], offsets["page_info.v.md.pg"]
        self.used_at = offsets.get("page_info.u.md.used_entries")
        self.list_at = offsets["page_info.list"]
        self._table_frames = self.take(-(-(self.end - self.first) * self.info_size // PAGE_SIZE))
        self.table = OwnTable(self, self.machine_of(self.link + ROOT_TABLE) >> PAGE_SHIFT)

    # -- addresses ----------------------------------------------------------------------------------------

    def machine_of(self, link: int) -> int:
        """Machine address of an address of the image."""
        return (link + self.phys_offset) & WORD

    def direct(self, machine: int) -> int:
        """Virtual address in the direct map."""
        return machine + self.direct_base

    def take(self, count: int = 1, align: int = 1) -> int:
        """First of `count` frames from the top of RAM down, never given twice."""
        self._next = (self._next - count) // align * align
        if self._next << PAGE_SHIFT < self.description.load + (1 << 20):
            raise ValueError(f"{self.description.name}: RAM is used up")
        return self._next

    # -- page_info ----------------------------------------------------------------------------------------

    def info_virtual(self, mfn: int) -> int:
        """Xen's pointer to the page_info of a frame."""
        return self.frame_base + mfn * self.info_size

    def info_machine(self, mfn: int) -> int:
        """Machine address of the page_info of a frame."""
        return (self._table_frames << PAGE_SHIFT) + (mfn - self.first) * self.info_size

    def set_info(self, mfn: int, offset: int, value: int) -> None:
        """A word of a page_info; frames that are no RAM have none and are passed over."""
        if self.first <= mfn < self.end:
            self.memory.write_word(self.info_machine(mfn) + offset, value & WORD)

    def get_info(self, mfn: int, offset: int) -> int:
        """A word of a page_info."""
        return self.memory.read_word(self.info_machine(mfn) + offset)

    def set_metadata(self, table: int, md: int) -> None:
        """v.md.pg."""
        self.set_info(table, self.v_at, self.info_virtual(md) if md else 0)

    def add_used(self, table: int, change: int) -> None:
        """u.md.used_entries."""
        if self.used_at is not None:
            self.set_info(table, self.used_at, self.get_info(table, self.used_at) + change)

    def used(self, table: int) -> int | None:
        """u.md.used_entries, None where the layout does not count."""
        return None if self.used_at is None else self.get_info(table, self.used_at)

    # -- the image ----------------------------------------------------------------------------------------

    @property
    def build_id(self) -> str:
        """A build id that depends on the description's name and layout alone."""
        d = self.description
        return hashlib.sha1(f"{d.name} {d.layout.name} {d.mode.name}".encode()).hexdigest()

    @property
    def build_id_note(self) -> bytes:
        """The GNU build-id note in the image."""
        return b"\4\0\0\0\24\0\0\0\3\0\0\0GNU\0" + bytes.fromhex(self.build_id)

    def variable(self, name: str, value: int, size: int = 8) -> None:
        """A variable of the image."""
        if name not in self.symbols:
            self.symbols[name] = self.link + VARIABLES + 8 * len(self.symbols)
        self.memory.write_word(self.machine_of(self.symbols[name]), value & (1 << 8 * size) - 1, size)

    def notes(self) -> list[CoreNote]:
        """The CPU's note as QEMU writes it, and VMCOREINFO_XEN."""
        return [CoreNote("CORE", 1, bytes(PRSTATUS_RISCV)), CoreNote("VMCOREINFO_XEN", 0, self.vmcoreinfo().encode())]

    def vmcoreinfo(self) -> str:
        """The text of the note."""
        layout = self.description.layout
        lines = ["PAGESIZE=4096", f"BUILD-ID={self.build_id}", f"NUMBER(phys_offset)={self.phys_offset}"]
        lines += [f"SYMBOL({name})={at:x}" for name, at in self.symbols.items()]
        lines += [f"SIZE({name})={size}" for name, size in layout.sizes.items()]
        for path, offset in layout.offsets.items():
            if layout.mode == "embedded" and path == "p2m_domain.mode":
                for member in ("mode", "paging_levels"):
                    inner = layout.offsets[f"gstage_mode_desc.{member}"]
                    lines.append(f"OFFSET(p2m_domain.mode.{member})={offset + inner}")
            else:
                lines.append(f"OFFSET({path})={offset}")
        lines += [f"NUMBER({name})={value}" for value, name in enumerate(TYPE_NAMES)]
        return "\n".join(lines) + "\n"

    def segments(self) -> list[Segment]:
        """RAM as PT_LOADs."""
        return [Segment(self.first << PAGE_SHIFT, self.end << PAGE_SHIFT)]

    def write_elf(self, path: str | os.PathLike[str], *, notes: bool = True) -> None:
        """An ELF core. notes: False gives what QEMU dumps, without VMCOREINFO_XEN. Raises OSError."""
        chosen = self.notes() if notes else self.notes()[:1]
        write_core(path, self.memory, self.segments(), chosen, machine=EM_RISCV)


def build_riscv(d: RiscvDescription) -> RiscvXen:
    """The machine that a description asks for. Raises ValueError when its RAM is too small."""
    xen = RiscvXen(d)
    _image(xen)
    _address_space(xen)
    for domain in d.domains:
        xen.domains.append(_domain(xen, domain))
    heads = [m.address for m in xen.domains]
    xen.variable("domain_list", heads[0] if heads else 0)
    next_at = d.layout.offsets["domain.next_in_list"]
    for model, after in zip(xen.domains, [*heads[1:], 0], strict=True):
        xen.memory.write_word(model.address - xen.direct_base + next_at, after)
        relink(xen, model)
        write_limits(xen, model)
    return xen


def _image(xen: RiscvXen) -> None:
    """Symbols, variables and the build id."""
    d = xen.description
    xen.symbols["_start"], xen.symbols["_end"] = xen.link, xen.link + IMAGE_SIZE
    xen.symbols["stage1_pgtbl_root"] = xen.link + ROOT_TABLE
    xen.memory.write(xen.machine_of(xen.link + TEXT_NOTE), xen.build_id_note)
    xen.memory.page(xen.table.root)
    xen.variable("phys_offset", xen.phys_offset)
    xen.variable("start_page", xen.first)
    xen.variable("max_page", xen.end)
    xen.variable("directmap_virt_start", xen.direct_base)
    xen.variable("frametable_virt_start", xen.frame_base)
    if d.layout.mode == "globals":
        xen.variable("gstage_mode", d.mode.number, 1)
        xen.variable("gstage_root_level", d.mode.root_level, 4)
        return
    at = xen.machine_of(xen.link + MODE_TABLE)
    for i, mode in enumerate((None, *MODES)):
        if mode is not None:
            xen.memory.write(at + 16 * i, mode_desc(mode.number, mode.root_level, mode.name[:4]))
    if d.layout.mode == "pointer":
        xen.symbols["gstage_modes"] = xen.link + MODE_TABLE
        xen.variable("max_gstage_mode", xen.link + MODE_TABLE + 16 * MODES.index(d.mode) + 16)
    else:
        xen.symbols["max_gstage_mode"] = xen.link + MODE_TABLE + 16 * (MODES.index(d.mode) + 1)


def mode_desc(number: int, level: int, name: str) -> bytes:
    """struct gstage_mode_desc { u8 mode; u32 paging_levels; char name[8] }."""
    return number.to_bytes(4, "little") + level.to_bytes(4, "little") + name.lower().encode().ljust(8, b"\0")


def _address_space(xen: RiscvXen) -> None:
    """Image in 4 KiB pages, direct map in the largest pages that fit, frame table in 4 KiB pages."""
    for at in range(0, IMAGE_SIZE, PAGE_SIZE):
        xen.table.map(xen.link + at, xen.machine_of(xen.link + at), 0)
    at, end = xen.first << PAGE_SHIFT, xen.end << PAGE_SHIFT
    while at < end:
        level = next(lv for lv in (2, 1, 0) if not at & ((1 << 12 + 9 * lv) - 1) and at + (1 << 12 + 9 * lv) <= end)
        xen.table.map(xen.direct(at), at, level)
        at += 1 << 12 + 9 * level
    first = xen.info_virtual(xen.first)
    for i in range(-(-(xen.end - xen.first) * xen.info_size // PAGE_SIZE)):
        xen.table.map((first & -PAGE_SIZE) + i * PAGE_SIZE, (xen._table_frames + i) << PAGE_SHIFT, 0)


def _domain(xen: RiscvXen, description: RiscvDomainDescription) -> RiscvDomainModel:
    """struct domain in a page of Xen's heap, and the P2M with everything that the description does to it."""
    layout = xen.description.layout
    page = xen.take()
    xen.set_info(page, xen.count_at, PGC_XEN_HEAP | PGC_ALLOCATED | 1)
    address = xen.direct(page << PAGE_SHIFT)
    xen.memory.write_word((page << PAGE_SHIFT) + layout.offsets["domain.domain_id"], description.id, 2)
    p2m = P2m(xen.memory, xen, xen.description.mode, layout.metadata, xen.description.svade)
    model = RiscvDomainModel(description.id, address, address + layout.offsets["domain.arch.p2m"], p2m)
    for step in description.steps:
        if step.what == "map":
            p2m.map(step.gfn, step.count, step.mfn, step.type, step.level)
            _own(xen, model, step.type, step.mfn, step.count)
        elif step.what == "unmap":
            p2m.unmap(step.gfn, step.count)
        else:
            p2m.empty_table(step.gfn)
    member(xen, model, "root", xen.info_virtual(p2m.root_mfn))
    member(xen, model, "domain", address)
    write_mode(xen, model, xen.description.mode.number, xen.description.mode.root_level)
    return model


def _own(xen: RiscvXen, model: RiscvDomainModel, kind: str, mfn: int, count: int) -> None:
    """RAM of a domain is allocated to it. Only the first 4096 frames of a mapping: it is for looking at."""
    if kind == "p2m_ram_rw":
        for frame in range(mfn, mfn + min(count, 4096)):
            xen.set_info(frame, xen.count_at, PGC_ALLOCATED | 1)
            xen.set_info(frame, xen.v_at, model.address)


def free_frame(xen: RiscvXen) -> int:
    """A frame that is marked free on the heap."""
    mfn = xen.take()
    xen.set_info(mfn, xen.count_at, PGC_STATE_FREE)
    return mfn


def member_at(xen: RiscvXen, model: RiscvDomainModel, name: str) -> int:
    """Machine address of a member of p2m_domain."""
    return model.p2m_at - xen.direct_base + xen.description.layout.offsets[f"p2m_domain.{name}"]


def member(xen: RiscvXen, model: RiscvDomainModel, name: str, value: int) -> None:
    """Write a member of p2m_domain."""
    xen.memory.write_word(member_at(xen, model, name), value & WORD)


def write_mode(xen: RiscvXen, model: RiscvDomainModel, number: int, level: int) -> None:
    """The mode as the layout keeps it. A pair that Xen's table lacks is put into a copy of an entry."""
    layout = xen.description.layout
    if layout.mode == "globals":
        xen.variable("gstage_mode", number, 1)
        xen.variable("gstage_root_level", level, 4)
    elif layout.mode == "embedded":
        xen.memory.write(member_at(xen, model, "mode"), mode_desc(number, level, "sv"))
    else:
        known = next((i for i, m in enumerate(MODES) if (m.number, m.root_level) == (number, level)), None)
        at = xen.link + MODE_TABLE + (16 * (known + 1) if known is not None else 16 * 8)
        if known is None:
            xen.memory.write(xen.machine_of(at), mode_desc(number, level, "sv"))
        member(xen, model, "mode", at)


def write_limits(xen: RiscvXen, model: RiscvDomainModel) -> None:
    """lowest_mapped_gfn and max_mapped_gfn."""
    member(xen, model, "lowest_mapped_gfn", model.p2m.lowest)
    member(xen, model, "max_mapped_gfn", model.p2m.highest)


def relink(xen: RiscvXen, model: RiscvDomainModel) -> None:
    """p2m->pages as a circular list through page_info.list."""
    head = model.p2m_at + xen.description.layout.offsets["p2m_domain.pages"]
    nodes = [head, *(xen.info_virtual(mfn) + xen.list_at for mfn in model.p2m.pages)]
    for before, node, after in zip([nodes[-1], *nodes], nodes, [*nodes[1:], head], strict=False):
        at = node - xen.direct_base if node == head else xen.info_machine(_mfn_of(xen, node)) + xen.list_at
        xen.memory.write_word(at + LIST_HEAD_NEXT, after)
        xen.memory.write_word(at + LIST_HEAD_PREV, before)


def _mfn_of(xen: RiscvXen, node: int) -> int:
    return (node - xen.list_at - xen.frame_base) // xen.info_size


def symbol_names() -> tuple[str, ...]:
    """Every symbol that a reader may ask for."""
    return tuple(s.name for s in SYMBOLS)
