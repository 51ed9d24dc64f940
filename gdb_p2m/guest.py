"""LinuxGuest: one Linux x86 PV kernel in machine memory: its page table, names and variables."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from gdb_p2m.errors import NotFound, P2mError, Untranslatable
from gdb_p2m.layout.names import ALL_NAMES, ROOT_NAMES
from gdb_p2m.layout.pagetables import I386_PAE
from gdb_p2m.layout.x86_pv import WIDTH_32, WIDTH_64, EntryWidth
from gdb_p2m.sources.base import Source
from gdb_p2m.spaces.pv_roots import Root, kernel_mark
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.symbols.base import SymbolSource
from gdb_p2m.symbols.discover import discover
from gdb_p2m.symbols.table import SymbolTable
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, Mfn

FORMS = {n.name: n.form for n in ALL_NAMES}


@dataclass(frozen=True, slots=True)
class Inferred:
    """What stands in for a name that is not known (structures.inferred): never more than the evidence gives.

    value: of a variable, where that is inferred. frame: of the page that a pointer leads to; -2: no slot of the list
    leads to such a page. read_at: machine address.
    """

    evidence: str
    value: int | None = None
    frame: Mfn | None = None
    read_at: int | None = None


@dataclass
class LinuxGuest:
    """A PV guest. `space` uses the kernel's own page table when its symbol is known.

    id: the domain id, None when nothing in memory says it. root: the L4 (32-bit: L3) in use and its
    evidence. inferred: by name, what is known without the name.
    """

    source: Source
    space: VirtualSpace
    names: SymbolTable
    root: Root
    width: EntryWidth = WIDTH_64
    id: int | None = None
    id_evidence: str = ""
    inferred: dict[str, Inferred] = field(default_factory=dict)
    _pointers: dict[str, int] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Word of the `domains` verb."""
        return "pv"

    def has(self, name: str) -> bool:
        """Whether symbol `name` is known, or what it stands for is inferred."""
        return self.names.symbol(name) is not None or name in self.inferred

    def variable(self, name: str) -> int:
        """Value of kernel variable `name` (a pointer or an unsigned long).

        Raises NotFound when the symbol is not known, NotUnderstood when it cannot be read.
        """
        if name in self.inferred and (value := self.inferred[name].value) is not None:
            return value
        if name not in self._pointers:
            address = self.names.require(name).address
            size = 4 if FORMS.get(name) == "word" else self.width.bytes
            self._pointers[name] = self.space.read_named(name, address, size)
        return self._pointers[name]

    def frame_of(self, address: int) -> Mfn:
        """Machine frame behind kernel virtual `address`. Raises Untranslatable."""
        return Mfn(self.space.translate(address) >> PAGE_SHIFT)

    def page_of(self, name: str) -> Mfn:
        """Machine frame that pointer variable `name` points to.

        Raises NotFound (no such symbol), NotUnderstood (unreadable), Untranslatable (points nowhere).
        """
        if name in self.inferred and (frame := self.inferred[name].frame) is not None and frame >= 0:
            return frame
        pointer = self.variable(name)
        try:
            return self.frame_of(pointer)
        except Untranslatable as e:
            raise Untranslatable(
                f"{name} = {pointer:#x} points nowhere: {e.message}", steps=e.steps, unreadable=e.unreadable
            ) from None


def open_guest(source: Source, root: Root, kernel_file: SymbolSource | None = None) -> LinuxGuest:
    """The guest below `root`, on its kernel's own page table if that can be found.

    Its word size is that of the root's page table: a 32-bit guest has an L3 of four entries.
    """
    space = VirtualSpace(source, root.shape, root.address)
    names = discover(space, kernel_file)
    better = _kernel_root(source, space, names, root)
    if better is not None:
        root = better
        space = VirtualSpace(source, root.shape, root.address)
    width = WIDTH_32 if root.shape is I386_PAE else WIDTH_64
    guest = LinuxGuest(source, space, names, root, width)
    if source.info.core_table is not None and guest.has("HYPERVISOR_shared_info"):
        # A domain core has the shared_info page, and only this guest's page table knows its frame.
        with suppress(P2mError):
            source.place_shared_info(guest.page_of("HYPERVISOR_shared_info"))
    return guest


def _kernel_root(source: Source, space: VirtualSpace, names: SymbolTable, root: Root) -> Root | None:
    """The kernel's own root table: every kernel mapping is in it, which is not so for processes.

    It must lead to the same kernel as `root`; symbols of another kernel point anywhere.
    """
    symbol = names.first(n.name for n in ROOT_NAMES)
    if symbol is None:
        return None
    try:
        mfn = Mfn(space.translate(symbol.address) >> PAGE_SHIFT)
    except Untranslatable:
        names.notes.append(f"{symbol.name} at {symbol.address:#x} is not mapped by {root.evidence}")
        return None
    found = Root(mfn, f"{symbol.name} ({symbol.source}), found through {root.evidence}", root.shape)
    mark = kernel_mark(source, found)
    if mfn == root.mfn or (mark is not None and mark == kernel_mark(source, root)):
        return found
    held = source.holds(mfn << PAGE_SHIFT, PAGE_SIZE)
    why = "leads to another kernel or is not set up yet" if held else "is not in the dump"
    names.notes.append(f"{symbol.name} at machine frame {mfn:#x} {why}: the page table of {root.evidence} is used")
    return None


def require_p2m(guest: LinuxGuest) -> None:
    """Raise NotFound when no name of any P2M is known for this guest."""
    if not any(guest.has(n) for n in ("xen_p2m_addr", "p2m_top")):
        tried = "; ".join(guest.names.notes) or "the sources of symbols name neither xen_p2m_addr nor p2m_top"
        raise NotFound(
            f"a PV kernel is mapped by the {guest.root.table} at frame {guest.root.mfn:#x}, "
            f"but its P2M is not known: {tried}",
            hint="give its symbols with --kernel vmlinux, System.map or vmlinuz",
        )
