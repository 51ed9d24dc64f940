"""A drgn Program over a dump that drgn itself cannot read: a PV guest's memory, through our decoders.

    import gdb_p2m.drgn

    prog = gdb_p2m.drgn.program("machine.elf", domain=1)
    prog.load_debug_info(["vmlinux"])

Physical addresses are pseudo-physical (PFN << 12), as the guest's kernel computes them; its page tables appear with
PFNs in place of MFNs, so that helpers which walk them (access_process_vm, virt_to_phys) work. Kernel virtual addresses
are translated by our own walker, from machine memory. Needs the library drgn (`pip install "gdb-p2m[drgn]"`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gdb_p2m.api import Machine, open_dump
from gdb_p2m.commands.base import Context
from gdb_p2m.errors import NotSupported, P2mError, Untranslatable
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Mapping
from gdb_p2m.structures.linux_core_notes import core_notes
from gdb_p2m.structures.pfn_tables import PfnTables, pfn_tables
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    import drgn

CACHED_PAGES = 4096
LOWER_HALF = 1 << 47
UPPER_HALF = (1 << 64) - LOWER_HALF


class GuestMemory:
    """Reads for drgn. Errors become drgn.FaultError, with our reason."""

    def __init__(self, guest: LinuxGuest, mapping: Mapping, tables: PfnTables, fault: type[Exception]) -> None:
        self.guest = guest
        self.mapping = mapping
        self.tables = tables
        self.fault = fault
        self._pages: OrderedDict[int, bytes] = OrderedDict()

    def physical(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """`count` bytes of pseudo-physical memory from `address` on."""
        return self._gather(address, count, self._frame_of_pfn)

    def virtual(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """`count` bytes of the kernel's address space; its page tables look as in `physical`."""
        return self._gather(address, count, self._frame_of_virtual)

    def _gather(self, address: int, count: int, frame_of: Callable[[int], int]) -> bytes:
        parts = []
        end = address + count
        while address < end:
            here = min(end, (address | (PAGE_SIZE - 1)) + 1) - address
            page = self._page(frame_of(address), address)
            parts.append(page[address & (PAGE_SIZE - 1) :][:here])
            address += here
        return b"".join(parts)

    def _frame_of_virtual(self, address: int) -> int:
        try:
            return self.guest.frame_of(address)
        except Untranslatable as e:
            raise self.fault(e.message, address) from None

    def _frame_of_pfn(self, address: int) -> int:
        pfn = address >> PAGE_SHIFT
        run = self.mapping.lookup(pfn)
        if run is None or run.frame is None:
            what = "past the P2M" if run is None else run.kind.word
            raise self.fault(f"PFN {pfn:#x} is {what}: no memory of this guest", address)
        return run.frame

    def _page(self, mfn: int, address: int) -> bytes:
        """The page in machine frame `mfn`; a page table of the guest with PFNs."""
        page = self._pages.get(mfn)
        if page is None:
            frames = np.array([mfn], dtype=np.int64)
            pages, ok = self.guest.source.read_pages(frames)
            if not ok[0]:
                why = self.guest.source.missing_reason(mfn << PAGE_SHIFT)
                raise self.fault(f"machine frame {mfn:#x}: {why}", address)
            page = self.tables.rewrite(frames, pages).tobytes()
            self._pages[mfn] = page
            if len(self._pages) > CACHED_PAGES:
                self._pages.popitem(last=False)
        else:
            self._pages.move_to_end(mfn)
        return page


def program(
    dump: str | Machine,
    *,
    domain: int | None = None,
    kernel: str | None = None,
    xen: str | None = None,
    raw: str | None = None,
) -> drgn.Program:
    """A Program of domain `domain` (dom0 by default) in `dump`: a path, or a Machine that is open.

    The memory is read when drgn asks; a Machine that is given must stay open. Raises NotSupported without drgn,
    for RISC-V domains and for 32-bit guests; otherwise what open_dump and the views raise.
    """
    library = _library()
    machine = dump if isinstance(dump, Machine) else open_dump(dump, kernel=kernel, xen=xen, domain=domain, raw=raw)
    try:
        return _program(library, machine, domain)
    except P2mError:
        if machine is not dump:
            machine.close()
        raise


def _program(library: Any, machine: Machine, domain: int | None) -> drgn.Program:
    context = machine.context if domain is None else Context(machine.target, domain, machine.target.progress)
    guest = context.domain
    if not isinstance(guest, LinuxGuest) or guest.width.bits != 64:
        raise NotSupported(
            "the drgn adapter reads 64-bit x86 PV guests", hint="`export --elf` writes what others can open"
        )
    mapping = context.views.get(None).mapping()
    tables = pfn_tables(guest, mapping)
    info = next(n.desc for n in core_notes(guest, tables.own).notes if n.name == "VMCOREINFO")
    prog = library.Program(library.Platform(library.Architecture.X86_64))
    memory = GuestMemory(guest, mapping, tables, library.FaultError)
    prog.set_linux_kernel_custom(info, False)
    prog.add_memory_segment(0, mapping.limit << PAGE_SHIFT, memory.physical, True)
    prog.add_memory_segment(0, LOWER_HALF, memory.virtual, False)
    prog.add_memory_segment(UPPER_HALF, LOWER_HALF, memory.virtual, False)
    return prog


def _library() -> Any:
    try:
        import drgn
    except ImportError:
        raise NotSupported(
            "the library drgn is not installed", hint='pip install "gdb-p2m[drgn]" (docs/interop.md)'
        ) from None
    if not hasattr(drgn.Program, "set_linux_kernel_custom"):
        raise NotSupported(f"drgn {drgn.__version__} is too old", hint='pip install --upgrade "gdb-p2m[drgn]"')
    return drgn
