"""Which sources of names a guest kernel has, in order of trust, and how each was found.

1. the file that the user gave (--kernel), after its build id was compared with the memory's;
2. a VMCOREINFO note of the dump that names our symbols (excerpts carry one);
3. the kallsyms tables in the kernel's own memory;
4. the kernel's VMCOREINFO text in memory (types and a few symbols);
5. when all these name functions but not the P2M's variables: the kernel's code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotUnderstood, P2mError, Unreadable, Untranslatable
from gdb_p2m.layout.pagetables import I386_PAE
from gdb_p2m.layout.x86_pv import KERNEL_IMAGE_LIMIT
from gdb_p2m.sources.base import Source, contiguous_groups
from gdb_p2m.sources.notes import EXCERPT_GUEST, EXCERPT_NOTE
from gdb_p2m.spaces.pv_roots import Root, kernel_mark, kernel_text
from gdb_p2m.spaces.radix import Status
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.symbols.table import SymbolTable
from gdb_p2m.symbols.vmcoreinfo import VmcoreInfo
from gdb_p2m.units import MIB, PAGE_SHIFT, PAGE_SIZE, Mfn, VirtualAddress

if TYPE_CHECKING:
    from gdb_p2m.symbols.base import SymbolSource

VMCOREINFO_NOTE = "VMCOREINFO"
MAX_IMAGE = 256 * MIB
"""Far more than any kernel image (40 MiB seen); bounds the copy that kallsyms are searched in."""
MAX_IMAGE_PAE = 64 * MIB
"""32-bit kernels run within their map of low memory: nothing unmapped ends the image."""
LARGE_PAGE = 2 * MIB


def note_text(source: Source, name: str) -> bytes | None:
    """The text of the first note called `name` ("VMCOREINFO", "VMCOREINFO_XEN"), or None."""
    return next((n.desc for n in source.info.notes if n.name == name), None)


def vmcoreinfo_note(source: Source) -> VmcoreInfo | None:
    """The guest kernel's VMCOREINFO note, parsed, when it is there."""
    text = note_text(source, VMCOREINFO_NOTE)
    return None if text is None else VmcoreInfo.parse(text, "VMCOREINFO note", source.info.path)


def guest_note(space: VirtualSpace) -> VmcoreInfo | None:
    """The note of this kernel among those of an excerpt of several; None when there are no such notes."""
    source = space.source
    notes = [n for n in source.info.notes if n.name == EXCERPT_NOTE and n.type == EXCERPT_GUEST]
    if not notes:
        return None
    mark = kernel_mark(source, Root(Mfn(space.root >> PAGE_SHIFT), "", space.shape))
    for note in notes:
        found = VmcoreInfo.parse(note.desc, "VMCOREINFO note", source.info.path)
        if mark is not None and found.values.get("KERNEL_MARK") == f"{mark:x}":
            return found
    return VmcoreInfo(detail=source.info.path)  # another guest's names would lead anywhere


def kernel_image(space: VirtualSpace, constants_only: bool) -> memoryview:
    """The kernel's mapped memory from its text on (`kernel_text`) to the first 2 MiB that is unmapped.

    constants_only: only pages that are neither writable nor executable, and only up to the last of
    them; that is where kallsyms lie once the kernel has protected its constants, and a fifth of the
    image. Everything else is zeros. Raises NotUnderstood when nothing of the kind is mapped.
    """
    text = kernel_text(space.shape)
    longest = MAX_IMAGE_PAE if space.shape is I386_PAE else min(MAX_IMAGE, KERNEL_IMAGE_LIMIT - 16 * MIB)
    large = space.slots(text, text + longest, "L2")
    unmapped = np.flatnonzero(large.status != Status.OK)
    length = (int(unmapped[0]) if len(unmapped) else len(large.status)) * LARGE_PAGE
    if not length:
        raise NotUnderstood(f"no kernel text is mapped at {text:#x}")
    pages = space.slots(text, text + length, "L1")
    wanted = pages.status == Status.OK
    if constants_only:
        wanted &= ~pages.writable & ((pages.raw >> np.uint64(63)) != 0)
    if not wanted.any():
        raise NotUnderstood("no page of the kernel is read-only and not executable")
    last = int(np.flatnonzero(wanted)[-1]) + 1
    # Zeros from the allocator, not written: holes cost no memory.
    image = np.zeros(last * PAGE_SIZE, dtype=np.uint8)
    frames = np.where(wanted, pages.frame, -1)[:last]
    for first, count in contiguous_groups(frames):
        if wanted[first]:
            _copy(space.source, int(frames[first]), count, image, first * PAGE_SIZE)
    return image.data


def _copy(source: Source, mfn: int, count: int, image: npt.NDArray[np.uint8], at: int) -> None:
    """Copy `count` frames into the image; pages that cannot be read stay zero."""
    try:
        data = source.read(mfn << PAGE_SHIFT, count * PAGE_SIZE)
        image[at : at + count * PAGE_SIZE] = np.frombuffer(data, dtype=np.uint8)
    except Unreadable:
        if count > 1:
            half = count // 2
            _copy(source, mfn, half, image, at)
            _copy(source, mfn + half, count - half, image, at + half * PAGE_SIZE)


def memory_vmcoreinfo(space: VirtualSpace, table: SymbolTable) -> VmcoreInfo | None:
    """The kernel's VMCOREINFO text through its variables vmcoreinfo_data and vmcoreinfo_size."""
    data, size = table.symbol("vmcoreinfo_data"), table.symbol("vmcoreinfo_size")
    if data is None or size is None:
        return None
    try:
        address = space.read_word(data.address)
        length = min(space.read_word(size.address), PAGE_SIZE)
        text = space.read(address, length)
    except (Untranslatable, Unreadable):
        return None
    if b"OSRELEASE=" not in text:
        return None
    return VmcoreInfo.parse(text, "VMCOREINFO in memory", f"virtual address {address:#x}")


def discover(space: VirtualSpace, kernel_file: SymbolSource | None = None) -> SymbolTable:
    """All sources of names of the kernel in `space`."""
    table = SymbolTable()
    if kernel_file is not None:
        table.add(kernel_file)
    note = guest_note(space) or vmcoreinfo_note(space.source)
    if note is not None:
        table.add(note)
    if kernel_file is None and (note is None or not _names_the_p2m(note)):
        _add_kallsyms(space, table)
    text = memory_vmcoreinfo(space, table)
    if text is not None:
        table.add(text)
    _add_disassembly(space, table)
    return table


def _add_disassembly(space: VirtualSpace, table: SymbolTable) -> None:
    """Code tells what a symbol table of functions only does not."""
    from gdb_p2m.symbols.disassembly import DisassemblySource, lacks_variables

    if lacks_variables(table):
        table.add(DisassemblySource(space, table))


def _names_the_p2m(note: VmcoreInfo) -> bool:
    """Whether a note names a P2M (excerpts do, plain kdump notes do not)."""
    return note.symbol("xen_p2m_addr") is not None or note.symbol("p2m_top") is not None


def _add_kallsyms(space: VirtualSpace, table: SymbolTable) -> None:
    try:
        table.add(memory_kallsyms(space))
    except P2mError as e:
        table.notes.append(f"kallsyms in memory: {e.message}")


def memory_kallsyms(space: VirtualSpace) -> SymbolSource:
    """The names in the kernel's own memory. Raises NotUnderstood."""
    from gdb_p2m.symbols.kallsyms import Kallsyms

    base = VirtualAddress(kernel_text(space.shape))
    # Early in boot the constants are not protected yet: then the whole image is searched.
    try:
        return Kallsyms(kernel_image(space, True), base, word=space.word)
    except P2mError:
        return Kallsyms(kernel_image(space, False), base, word=space.word)
