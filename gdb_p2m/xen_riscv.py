"""Xen on RISC-V in machine memory: its image, names, types and variables; and its domains.

The sibling of guest.py: there a guest keeps its own P2M, here the hypervisor keeps one for each domain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from gdb_p2m.errors import NotFound, NotUnderstood, P2mError, Unreadable, Untranslatable
from gdb_p2m.layout.pagetables import SV39
from gdb_p2m.layout.xen_riscv import MODE_BY_NUMBER, SYMBOL_BY_NAME, GstageMode, hgatp_value
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Source
from gdb_p2m.spaces.xen_image import (
    ADDRESS_MASK,
    DirectMap,
    Image,
    XenSpace,
    build_ids_in_memory,
    images_with_note,
    own_table_shape,
)
from gdb_p2m.symbols.discover import note_text
from gdb_p2m.symbols.table import SymbolTable
from gdb_p2m.symbols.vmcoreinfo import VmcoreInfo
from gdb_p2m.symbols.xen_code import facts_from_code, xen_code
from gdb_p2m.symbols.xen_facts import XenFacts
from gdb_p2m.symbols.xen_file import XenFile, open_xen_file
from gdb_p2m.units import MIB, PAGE_SHIFT, MachineAddress, Mfn, VirtualAddress

XEN_NOTE = "VMCOREINFO_XEN"
XEN_VIRT_SIZE = 16 * MIB
"""Room of the image in the address space (asm/config.h)."""


@dataclass
class XenRiscv:
    """One Xen. space: its virtual addresses. facts: sizes and offsets with their provenance.

    file: the --xen file, None when memory's own note serves. shape_evidence: why Sv39 or Sv48.
    """

    source: Source
    names: SymbolTable
    facts: XenFacts
    space: XenSpace
    file: XenFile | None = None
    shape_evidence: str = ""
    notes: list[str] = field(default_factory=list)
    _values: dict[str, int] = field(default_factory=dict)

    @property
    def image(self) -> Image:
        """Where the image lies."""
        return self.space.image

    @property
    def build_id(self) -> str | None:
        """Build id of the file or of the note."""
        return self.names.build_id

    def has(self, name: str) -> bool:
        """Whether symbol `name` is known."""
        return self.names.symbol(name) is not None

    def variable(self, name: str) -> int:
        """Value of a variable of Xen, of the size that layout.xen_riscv gives it.

        Raises NotFound when the symbol is not known, NotUnderstood when it cannot be read.
        """
        if name not in self._values:
            address = self.names.require(name).address
            known = SYMBOL_BY_NAME.get(name)
            size = known.size if known is not None and known.size else 8
            self._values[name] = self.space.read_named(name, address, size)
        return self._values[name]

    @cached_property
    def ram_frames(self) -> tuple[int, int]:
        """(first frame, last frame + 1) that the frame table covers (asm/mm.h, mfn_valid)."""
        first, end = 0, max((e.end for e in self.source.machine_extents()), default=0) >> PAGE_SHIFT
        if self.has("start_page"):
            first = self.variable("start_page")
        if self.has("max_page"):
            end = self.variable("max_page")
        if not 0 <= first < end < 1 << 44:
            raise NotUnderstood(
                f"Xen's RAM cannot be frames {first:#x}..{end:#x} (start_page, max_page)",
                hint="do the symbols belong to this memory?",
            )
        return first, end

    def set_direct_map(self) -> None:
        """Let the space use the direct map; a note when it is not known."""
        try:
            base = self.variable("directmap_virt_start")
            first, end = self.ram_frames
        except P2mError as e:
            self.notes.append(f"the direct map is not known: {e.message}")
            return
        self.space.direct = DirectMap(base, first << PAGE_SHIFT, end << PAGE_SHIFT)


@dataclass
class RiscvDomain:
    """A domain of Xen on RISC-V. address: virtual, of its struct domain; p2m: virtual, of its p2m_domain.

    mode_number and root_level as stored; `mode` is None when they are not a mode of the specification.
    root: page_info (virtual) of the first root page. root_mfn: its frame, None when the pointer is wrong
    (root_problem says why). max_mapped_gfn/lowest_mapped_gfn/tot_pages: None when the offsets are not known.
    """

    xen: XenRiscv
    id: int
    address: VirtualAddress
    p2m: VirtualAddress
    root: int
    root_mfn: Mfn | None
    root_problem: str
    mode_number: int
    root_level: int
    mode_source: str
    max_mapped_gfn: int | None = None
    lowest_mapped_gfn: int | None = None
    back_pointer: int | None = None
    tot_pages: int | None = None
    id_evidence: str = ""

    @property
    def kind(self) -> str:
        """Word of the `domains` verb."""
        return "riscv"

    @property
    def source(self) -> Source:
        """The machine's memory."""
        return self.xen.source

    @property
    def space(self) -> XenSpace:
        """Xen's virtual addresses."""
        return self.xen.space

    @property
    def names(self) -> SymbolTable:
        """Xen's symbols: a RISC-V guest's own are not needed for its P2M."""
        return self.xen.names

    @property
    def mode(self) -> GstageMode | None:
        """The mode, when number and level agree."""
        mode = MODE_BY_NUMBER.get(self.mode_number)
        return mode if mode is not None and mode.root_level == self.root_level else None

    @property
    def hgatp(self) -> int | None:
        """hgatp for this P2M with VMID 0, None without a root."""
        return None if self.root_mfn is None else hgatp_value(self.mode_number, self.root_mfn)


def open_xen(source: Source, xen_path: str | None = None, progress: Progress = no_progress) -> XenRiscv:
    """Xen in `source`, by the given xen-syms and by the note of the dump.

    Raises NotFound when neither is there or Xen is not in this memory, NotUnderstood when the file belongs
    to another Xen.
    """
    text = note_text(source, XEN_NOTE)
    note = None if text is None else VmcoreInfo.parse(text, f"{XEN_NOTE} note", source.info.path)
    file = None if xen_path is None else open_xen_file(xen_path)
    if note is None and file is None:
        raise NotFound(
            f"{source.info.path}: memory of a RISC-V machine without a {XEN_NOTE} note: nothing names Xen's variables",
            hint="give Xen's symbols with --xen xen-syms",
        )
    _same_build(file, note, source.info.path)
    names = SymbolTable([*([file.symtab] if file else []), *([note] if note else [])])
    names.hint = "give Xen's symbols with --xen xen-syms"
    image = _find_image(source, names, file, note, progress)
    facts = XenFacts(names.sources, file.dwarf if file else None)
    root = names.symbol("stage1_pgtbl_root")
    table = None if root is None else image.machine(root.address)
    xen = XenRiscv(source, names, facts, XenSpace(source, image, SV39, table), file)
    xen.set_direct_map()
    if table is not None:
        base = xen.space.direct.base if xen.space.direct else None
        shape, xen.shape_evidence = own_table_shape(source, image, table, base)
        xen.space.shape = shape
    if facts.guessed:
        facts.learn(facts_from_code(xen_code(image, xen.space), names))
    return xen


def _same_build(file: XenFile | None, note: VmcoreInfo | None, path: str) -> None:
    """Refuse a xen-syms of another build."""
    if file is None or note is None or note.build_id is None or file.build_id in (None, note.build_id):
        return
    raise _wrong_file(file, note.build_id, f"the {XEN_NOTE} note of {path}")


def _wrong_file(file: XenFile, other: str, where: str) -> NotUnderstood:
    return NotUnderstood(
        f"{file.path} has build id {file.build_id}, but {where} has {other}: these are not the symbols of this Xen",
        hint="give the xen-syms that was built together with the running Xen",
    )


def _find_image(
    source: Source, names: SymbolTable, file: XenFile | None, note: VmcoreInfo | None, progress: Progress
) -> Image:
    start = names.require("_start").address
    end_symbol = names.symbol("_end")
    end = VirtualAddress(end_symbol.address if end_symbol else start + XEN_VIRT_SIZE)
    if not start < end <= start + (1 << 30):
        raise NotUnderstood(f"Xen's image cannot lie at {start:#x}..{end:#x} (_start, _end)")
    noted = None if note is None else note.number("phys_offset")
    if noted is not None:
        image = Image(start, end, noted & ADDRESS_MASK, f"NUMBER(phys_offset) of the {XEN_NOTE} note")
        _confirm(source, names, image, file)
        return image
    if file is None:
        raise NotFound(
            f"the {XEN_NOTE} note of {source.info.path} has no NUMBER(phys_offset): Xen's image is not found without it",
            hint="give Xen's symbols with --xen xen-syms: its build id is searched for",
        )
    return _search(source, names, file, start, end, progress)


def _confirm(source: Source, names: SymbolTable, image: Image, file: XenFile | None) -> None:
    """The image at the noted place must say the same: its variable phys_offset, and the file's build id."""
    stored = _stored_phys_offset(source, names, image)
    if stored is not None and stored != image.phys_offset:
        raise NotUnderstood(
            f"the {XEN_NOTE} note says phys_offset {image.phys_offset:#x}, but the variable there holds {stored:#x}",
            hint="the note does not belong to this memory",
        )
    if file is not None and file.note_address is not None:
        at = image.machine(file.note_address)
        try:
            found = bytes(source.read(at, len(file.note)))
        except Unreadable:
            return
        if found != file.note:
            other = found[16:].hex() if found[12:16] == b"GNU\0" else "no build-id note"
            raise _wrong_file(file, other, f"memory at {at:#x}")


def _stored_phys_offset(source: Source, names: SymbolTable, image: Image) -> int | None:
    symbol = names.symbol("phys_offset")
    if symbol is None:
        return None
    try:
        return source.read_u64(image.machine(symbol.address))
    except Unreadable:
        return None


def _search(
    source: Source, names: SymbolTable, file: XenFile, start: VirtualAddress, end: VirtualAddress, progress: Progress
) -> Image:
    """By the build id, on 2 MiB steps; the variable phys_offset tells the running image from copies of it."""
    if file.note_address is None or file.build_id is None:
        raise NotUnderstood(
            f"{file.path} has no build id: the running Xen cannot be found or told from another",
            hint=f"give a dump with a {XEN_NOTE} note, or a xen-syms linked with --build-id",
        )
    copies: list[str] = []
    found: list[Image] = []
    for load in images_with_note(source, file.note, file.note_address - start, progress):
        evidence = f"build id {file.build_id} at machine address {load + file.note_address - start:#x}"
        image = Image(start, end, (load - start) & ADDRESS_MASK, evidence)
        stored = _stored_phys_offset(source, names, image)
        if stored in (None, image.phys_offset):
            found.append(image)
        else:
            copies.append(f"{load:#x} (phys_offset there is {stored:#x})")
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(f"{i.machine(start):#x}" for i in found)
        raise NotUnderstood(
            f"build id {file.build_id} lies at several places and nothing tells which is the running Xen: {places}"
        )
    if copies:
        raise NotUnderstood(f"Xen's image is in memory but has not started: at {', '.join(copies)}")
    raise _not_there(source, file, progress)


def _not_there(source: Source, file: XenFile, progress: Progress) -> P2mError:
    others = build_ids_in_memory(source, progress)
    if not others:
        return NotFound(
            f"{source.info.path}: build id {file.build_id} of {file.path} is not in this memory, and no other build id is",
            hint="is this a dump of the machine that ran this Xen?",
        )
    listed = "; ".join(f"{text} at {at:#x}" for at, text in others)
    return NotUnderstood(
        f"{file.path} has build id {file.build_id}, which is not in {source.info.path}; memory holds: {listed}",
        hint="give the xen-syms that was built together with the running Xen",
    )


def machine_text(xen: XenRiscv, address: int) -> str:
    """A virtual address of Xen with its machine address, for messages."""
    try:
        return f"{address:#x} (machine {xen.space.translate(address):#x})"
    except Untranslatable:
        return f"{address:#x} (not mapped)"


def at_machine(xen: XenRiscv, address: int) -> MachineAddress | None:
    """Machine address of a virtual address, None where nothing is mapped."""
    try:
        return xen.space.translate(address)
    except Untranslatable:
        return None


def over_source(xen: XenRiscv, source: Source) -> XenRiscv:
    """The same Xen, reading through another source of the same memory. What was found stays found."""
    root = xen.space.root if xen.space.has_table else None
    twin = XenRiscv(
        source, xen.names, xen.facts, XenSpace(source, xen.image, xen.space.shape, root), xen.file, xen.shape_evidence
    )
    twin.set_direct_map()
    return twin
