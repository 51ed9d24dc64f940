"""Descriptions of Xen on RISC-V: the readable text that a hypervisor with its domains is built from.

One statement a line, `#` begins a comment (docs/riscv.md is the manual):

    xen-riscv two-domains          first statement: the name
    layout    4.22+                4.22+ | 4.22-embedded | series-v5
    mode      sv39x4               sv39x4 | sv48x4 | sv57x4, of all domains
    tables    sv39                 Xen's own page table: sv39 | sv48
    ram       0x80000000+512M
    svade     no                   yes: Xen sets A and D in every leaf
    domain    1
    map       ram_rw 0x80000 40 0x90000 4k     type, GFN, count, MFN, largest mapping: 4k | 2m | 1g (default)
    unmap     0xa0000 5            clears entries; what the metadata holds stays, as in Xen
    table     0xc0000              a leaf table without an entry
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gdb_p2m.errors import NotUnderstood, UsageError
from gdb_p2m.layout.pagetables import SV39, SV48, PageTableShape
from gdb_p2m.layout.xen_riscv import (
    MODES,
    SERIES_V5,
    XEN_4_22_EMBEDDED,
    XEN_4_22_POINTER,
    DeclaredLayout,
    GstageMode,
)
from gdb_p2m.units import GIB, MIB, PAGE_SIZE, parse_number, parse_size

FIRST_WORD = "xen-riscv"
LAYOUTS = {"4.22+": XEN_4_22_POINTER, "4.22-embedded": XEN_4_22_EMBEDDED, "series-v5": SERIES_V5}
MODE_BY_WORD = {m.name.lower(): m for m in MODES}
OWN_TABLES = {"sv39": SV39, "sv48": SV48}
SIZES = {"4k": 0, "2m": 1, "1g": 2}
TYPE_WORDS = ("ram_rw", "mmio_direct_io", "map_foreign_rw", "map_foreign_ro")
MIN_RAM = 8 * MIB
MAX_DOMAIN = 0x7FEF


class RiscvDescriptionError(NotUnderstood):
    """A description that makes no sense; `line` is 1-based, 0 for the whole."""

    def __init__(self, source: str, line: int, message: str, hint: str | None = None) -> None:
        super().__init__(f"{source}:{line}: {message}" if line else f"{source}: {message}", hint=hint)
        self.line = line


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on a P2M, in order. what: "map", "unmap" or "table"; level: of the largest mapping."""

    what: str
    gfn: int
    count: int = 1
    mfn: int = 0
    type: str = ""
    level: int = 2


@dataclass
class RiscvDomainDescription:
    """One domain: its id and what was done to its P2M."""

    id: int
    steps: list[Step] = field(default_factory=list)


@dataclass
class RiscvDescription:
    """A machine with Xen and its domains. ram_start/ram_size: bytes; load: machine address of the image."""

    name: str
    layout: DeclaredLayout = XEN_4_22_POINTER
    mode: GstageMode = MODES[0]
    tables: PageTableShape = SV39
    ram_start: int = 2 * GIB
    ram_size: int = 512 * MIB
    svade: bool = False
    domains: list[RiscvDomainDescription] = field(default_factory=list)

    @property
    def load(self) -> int:
        """Machine address of Xen's image: 2 MiB after the start of RAM, where OpenSBI's next stage is put."""
        return self.ram_start + 2 * MIB


def is_riscv(text: str) -> bool:
    """Whether a description is of this kind: by its first statement."""
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if words:
            return words[0] == FIRST_WORD
    return False


def parse_riscv(text: str, source: str = "description") -> RiscvDescription:
    """Read a description. Raises RiscvDescriptionError with the line."""
    d: RiscvDescription | None = None
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if d is None:
            if words[0] != FIRST_WORD or len(words) != 2:
                raise RiscvDescriptionError(source, number, f"the first statement must be: {FIRST_WORD} NAME")
            d = RiscvDescription(words[1])
            continue
        try:
            _statement(d, words)
        except (UsageError, ValueError) as e:
            raise RiscvDescriptionError(source, number, f"{words[0]}: {e}") from None
    if d is None:
        raise RiscvDescriptionError(source, 0, "nothing is described")
    return d


def _statement(d: RiscvDescription, words: list[str]) -> None:
    keyword, args = words[0], words[1:]
    if keyword in ("map", "unmap", "table"):
        if not d.domains:
            raise ValueError("stands before the first domain")
        d.domains[-1].steps.append(_step(d, keyword, args))
    elif keyword == "domain":
        d.domains.append(RiscvDomainDescription(_domain_id(d, _one(args))))
    elif keyword == "ram":
        start, plus, size = _one(args).partition("+")
        d.ram_start, d.ram_size = parse_number(start), parse_size(size) if plus else 0
        if d.ram_start % (2 * MIB) or d.ram_size % PAGE_SIZE or d.ram_size < MIN_RAM:
            raise ValueError("START+SIZE, START a multiple of 2 MiB, SIZE whole pages and at least 8 MiB")
    else:
        choices: dict[str, tuple[str, dict[str, object]]] = {
            "layout": ("layout", dict(LAYOUTS)),
            "mode": ("mode", dict(MODE_BY_WORD)),
            "tables": ("tables", dict(OWN_TABLES)),
            "svade": ("svade", {"yes": True, "no": False}),
        }
        if keyword not in choices:
            raise ValueError(f"no such statement; there are {', '.join(choices)}, ram, domain, map, unmap, table")
        name, values = choices[keyword]
        word = _one(args)
        if word not in values:
            raise ValueError(f"{word!r} is none of: {', '.join(values)}")
        setattr(d, name, values[word])


def _one(args: list[str]) -> str:
    if len(args) != 1:
        raise ValueError(f"takes one value, not {len(args)}")
    return args[0]


def _domain_id(d: RiscvDescription, text: str) -> int:
    number = parse_number(text)
    if number > MAX_DOMAIN or (d.domains and number <= d.domains[-1].id):
        raise ValueError("ids rise and stay below DOMID_FIRST_RESERVED")
    return number


def _step(d: RiscvDescription, keyword: str, args: list[str]) -> Step:
    limit = d.mode.gfn_limit
    if keyword == "table":
        step = Step("table", parse_number(_one(args)))
    elif keyword == "unmap":
        if len(args) != 2:
            raise ValueError("takes GFN and COUNT")
        step = Step("unmap", parse_number(args[0]), parse_number(args[1]))
    else:
        if len(args) not in (4, 5) or args[0] not in TYPE_WORDS or (len(args) == 5 and args[4] not in SIZES):
            raise ValueError(f"takes TYPE GFN COUNT MFN [4k|2m|1g], TYPE one of {', '.join(TYPE_WORDS)}")
        gfn, count, mfn = (parse_number(a) for a in args[1:4])
        step = Step("map", gfn, count, mfn, "p2m_" + args[0], SIZES[args[4]] if len(args) == 5 else 2)
    if not step.count or step.gfn + step.count > limit:
        raise ValueError(f"GFNs {step.gfn:#x}..{step.gfn + step.count - 1:#x} lie outside 0..{limit - 1:#x}")
    return step
