"""Static variables of a kernel whose symbol table names functions only (no CONFIG_KALLSYMS_ALL), from its code.

Which function loads which variable is documented by the kernel's source (arch/x86/xen/p2m.c); that gives a few
candidates. Which of them it is, memory decides: p2m_missing leads to a page of INVALID entries, p2m_top_mfn to a
page of frames, xen_p2m_addr to a list that Xen's M2P agrees with. No candidate, or several: the name stays unknown,
with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from gdb_p2m.code.flow import Function, Use
from gdb_p2m.code.functions import Code
from gdb_p2m.errors import P2mError
from gdb_p2m.layout.code import LINUX_CODE, STACK_CHECK
from gdb_p2m.layout.pagetables import I386_PAE
from gdb_p2m.layout.x86_pv import KERNEL_IMAGE_LIMIT, WIDTH_32, WIDTH_64
from gdb_p2m.spaces.pv_roots import kernel_text
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.symbols.base import Symbol
from gdb_p2m.symbols.code_checks import Checks
from gdb_p2m.symbols.table import SymbolTable
from gdb_p2m.units import VirtualAddress

READ = "get_phys_to_machine"
WRITE = "__set_phys_to_machine"
ALLOC = ("xen_alloc_p2m_entry", "alloc_p2m", "set_phys_to_machine")
BUILD = "xen_build_mfn_list_list"
PUBLISH = "xen_setup_mfn_list_list"
SUSPEND = ("xen_pv_pre_suspend", "xen_arch_pre_suspend")
Check = Callable[[Checks, int], bool]
"""(what is known, value of the candidate, or its address for objects) -> whether it is the one."""


@dataclass(frozen=True)
class Recipe:
    """name: the variable. functions: those that use it, the surest first. what: the test in words.

    use: "load" for variables (the check gets the value), "address" for objects (it gets the address).
    """

    name: str
    functions: tuple[str, ...]
    what: str
    check: Check
    use: Use = "load"


LINEAR = (
    Recipe("xen_p2m_addr", (WRITE, READ), "leads to a list of frames that M2P agrees with", Checks.is_list),
    Recipe("xen_p2m_size", (WRITE,), "is the size of that list", Checks.is_size),
    Recipe("xen_max_p2m_pfn", (READ,), "is a capacity, not below xen_p2m_size", Checks.is_capacity),
)
TREE = (Recipe("p2m_top", (READ, WRITE), "leads to a tree of frames that M2P agrees with", Checks.is_tree),)
SHARED = (
    Recipe("p2m_identity", (READ,), "leads to a page of INVALID entries", Checks.is_blank),
    Recipe("p2m_missing", (WRITE,), "leads to another page of INVALID entries", Checks.is_other_blank),
    Recipe("p2m_mid_missing_mfn", (BUILD, *ALLOC), "leads to a page of p2m_missing's frame", Checks.is_mid_missing_mfn),
    Recipe("p2m_top_mfn", (PUBLISH, BUILD, *ALLOC), "leads to a page of frames of middle pages", Checks.is_top_mfn),
    Recipe("p2m_top_mfn_p", (BUILD, *ALLOC), "leads to pointers to the same pages", Checks.is_top_mfn_p),
    Recipe("HYPERVISOR_shared_info", (PUBLISH,), "leads to a page that names p2m_top_mfn", Checks.is_shared_info),
    Recipe("xen_start_info", (PUBLISH, BUILD, *SUSPEND), "leads to a page with Xen's magic", Checks.is_start_info),
    Recipe("init_top_pgt", (PUBLISH,), "is a page table that links to itself in slot 258", Checks.is_root, "address"),
)
ONLY_LINEAR = (
    Recipe("p2m_missing_pte", (*ALLOC, BUILD), "leads to a page table of p2m_missing", Checks.is_missing_pte),
    Recipe("p2m_identity_pte", (*ALLOC, BUILD), "leads to a page table of p2m_identity", Checks.is_identity_pte),
    Recipe("xen_p2m_last_pfn", (PUBLISH,), "is shared_info.max_pfn", Checks.is_last_pfn),
)
ONLY_TREE = (
    Recipe("p2m_mid_missing", (*ALLOC, BUILD), "leads to a page of pointers to p2m_missing", Checks.is_mid_missing),
    Recipe("p2m_mid_identity", (*ALLOC, BUILD), "leads to a page of pointers to p2m_identity", Checks.is_mid_identity),
)
NAMES = tuple(r.name for r in (*LINEAR, *TREE, *SHARED, *ONLY_LINEAR, *ONLY_TREE))


def linux_code(space: VirtualSpace) -> Code:
    """The kernel's code in `space`."""
    text = kernel_text(space.shape)
    arch = "i386" if space.shape is I386_PAE else "x86-64"
    return Code(arch, space.read, text, min(text + KERNEL_IMAGE_LIMIT, 1 << 64))


def read_named_function(code: Code, table: SymbolTable, name: str) -> Function:
    """The function called `name`. Raises NotFound when no source has the name."""
    start = table.require(name).address
    stop = table.symbol(STACK_CHECK)
    return code.function(start, table, table.length(name), frozenset() if stop is None else frozenset({stop.address}))


def lacks_variables(table: SymbolTable) -> bool:
    """Whether code may tell what the other sources do not: functions are named and the P2M's variables are not."""
    if table.symbol(READ) is None:
        return False
    roots = [n for n in ("xen_p2m_addr", "p2m_top") if table.symbol(n) is not None]
    return not roots or table.symbol("p2m_missing") is None


@dataclass
class DisassemblySource:
    """The SymbolSource. `table` holds the other sources (and this one); code is read on the first question."""

    space: VirtualSpace
    table: SymbolTable
    kind: str = "disassembly"
    build_id: str | None = None
    release: str | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    _busy: bool = False

    @property
    def detail(self) -> str:
        """Which functions were read."""
        known = [c.name for c in LINUX_CODE if self.table.symbol(c.name) is not None]
        return f"the kernel's code in memory: {', '.join(known)}"

    def symbol(self, name: str) -> Symbol | None:
        """A variable that code and memory agree on."""
        if name not in NAMES or self._busy:
            return None
        return self._found.get(name)

    def names(self) -> Iterable[str]:
        """What was found."""
        return list(self._found)

    def nearest(self, address: int) -> tuple[str, int] | None:
        """Exact addresses only."""
        return next(((n, 0) for n, s in self._found.items() if s.address == address), None) if not self._busy else None

    @cached_property
    def _found(self) -> dict[str, Symbol]:
        self._busy = True
        try:
            return self._search()
        finally:
            self._busy = False
            self.table.notes += [f"disassembly: {name} is not known: {why}" for name, why in self.reasons.items()]

    def _search(self) -> dict[str, Symbol]:
        width = WIDTH_32 if self.space.shape is I386_PAE else WIDTH_64
        checks = Checks(self.space, width)
        functions: dict[str, Function | None] = {}
        found: dict[str, Symbol] = {}
        self._try(LINEAR, checks, functions, found)
        linear = checks.values.get("xen_p2m_addr") is not None
        if not linear:
            self._try(TREE, checks, functions, found)
            if "p2m_top" in checks.values:
                for r in LINEAR:
                    self.reasons.pop(r.name, None)
        else:
            self.reasons.pop("p2m_top", None)
        if linear or "p2m_top" in checks.values:
            self._try((*SHARED, *(ONLY_LINEAR if linear else ONLY_TREE)), checks, functions, found)
        return found

    def _try(
        self,
        recipes: tuple[Recipe, ...],
        checks: Checks,
        functions: dict[str, Function | None],
        found: dict[str, Symbol],
    ) -> None:
        for recipe in recipes:
            # Not of the table: it would remember that this source, which is busy, has no answer.
            others = (s.symbol(recipe.name) for s in self.table.sources if s is not self)
            known = next((s for s in others if s is not None), None)
            if known is None:
                known = self._one(recipe, checks, functions)
                if known is None:
                    continue
                found[recipe.name] = known
            checks.note(recipe.name, known.address, recipe.use == "address")

    def _one(self, recipe: Recipe, checks: Checks, functions: dict[str, Function | None]) -> Symbol | None:
        """The first function that has exactly one candidate that passes."""
        reason = f"none of {', '.join(recipe.functions)} is named"
        for name in recipe.functions:
            if name not in functions:
                functions[name] = self._read(name)
            function = functions[name]
            if function is None:
                continue
            size = checks.width.bytes if recipe.use == "load" else 0
            addresses = [r.address for r in function.references(recipe.use) if r.size == size]
            passed = [a for a in addresses if checks.passes(recipe.check, a, recipe.use == "address")]
            if len(passed) == 1:
                self.reasons.pop(recipe.name, None)
                return Symbol(recipe.name, VirtualAddress(passed[0]), f"disassembly of {name}")
            if passed:
                reason = f"{len(passed)} of the variables that {name} uses pass: ambiguous ({recipe.what})"
                break
            reason = f"none of the {len(addresses)} addresses that {name} uses {recipe.what}"
        self.reasons[recipe.name] = reason
        return None

    def _read(self, name: str) -> Function | None:
        try:
            return read_named_function(linux_code(self.space), self.table, name)
        except P2mError:
            return None
