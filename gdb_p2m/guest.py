"""LinuxGuest: one Linux x86 PV kernel in machine memory: its page table, names and variables."""

from __future__ import annotations

from dataclasses import dataclass, field

from gdb_p2m.errors import NotFound, Untranslatable
from gdb_p2m.layout.names import ALL_NAMES, ROOT_NAMES
from gdb_p2m.layout.pagetables import X86_64_4LEVEL
from gdb_p2m.layout.x86_pv import WIDTH_64, EntryWidth
from gdb_p2m.sources.base import Source
from gdb_p2m.spaces.pv_roots import Root
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.symbols.base import SymbolSource
from gdb_p2m.symbols.discover import discover
from gdb_p2m.symbols.table import SymbolTable
from gdb_p2m.units import PAGE_SHIFT, MachineAddress, Mfn

FORMS = {n.name: n.form for n in ALL_NAMES}


@dataclass
class LinuxGuest:
    """A PV guest. `space` uses the kernel's own page table when its symbol is known.

    id: the domain id, None when nothing in memory says it. root: the L4 in use and its evidence.
    """

    source: Source
    space: VirtualSpace
    names: SymbolTable
    root: Root
    width: EntryWidth = WIDTH_64
    id: int | None = None
    id_evidence: str = ""
    _pointers: dict[str, int] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Word of the `domains` verb."""
        return "pv"

    def has(self, name: str) -> bool:
        """Whether symbol `name` is known."""
        return self.names.symbol(name) is not None

    def variable(self, name: str) -> int:
        """Value of kernel variable `name` (a pointer or an unsigned long).

        Raises NotFound when the symbol is not known, NotUnderstood when it cannot be read.
        """
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
        pointer = self.variable(name)
        try:
            return self.frame_of(pointer)
        except Untranslatable as e:
            raise Untranslatable(
                f"{name} = {pointer:#x} points nowhere: {e.message}", steps=e.steps, unreadable=e.unreadable
            ) from None


def open_guest(source: Source, root: Root, kernel_file: SymbolSource | None = None) -> LinuxGuest:
    """The 64-bit guest below `root`, on its kernel's own page table if that can be found."""
    space = VirtualSpace(source, X86_64_4LEVEL, MachineAddress(root.mfn << PAGE_SHIFT))
    names = discover(space, kernel_file)
    kernel_root = names.first(n.name for n in ROOT_NAMES)
    if kernel_root is not None:
        try:
            mfn = Mfn(space.translate(kernel_root.address) >> PAGE_SHIFT)
        except Untranslatable:
            names.notes.append(f"{kernel_root.name} at {kernel_root.address:#x} is not mapped by {root.evidence}")
        else:
            root = Root(mfn, f"{kernel_root.name} ({kernel_root.source}), found through {root.evidence}")
            space = VirtualSpace(source, X86_64_4LEVEL, MachineAddress(mfn << PAGE_SHIFT))
    return LinuxGuest(source, space, names, root)


def require_p2m(guest: LinuxGuest) -> None:
    """Raise NotFound when no name of any P2M is known for this guest."""
    if not any(guest.has(n) for n in ("xen_p2m_addr", "p2m_top")):
        tried = "; ".join(guest.names.notes) or "the sources of symbols name neither xen_p2m_addr nor p2m_top"
        raise NotFound(
            f"a PV kernel is mapped at L4 frame {guest.root.mfn:#x}, but its P2M is not known: {tried}",
            hint="give its symbols with --kernel vmlinux, System.map or vmlinuz",
        )
