"""Guest descriptions: the readable text that a model machine is built from (docs/model.md is the manual).

One statement a line: a keyword and its fields; `#` begins a comment. Errors name the file, line and field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from gdb_p2m.errors import NotUnderstood, UsageError
from gdb_p2m.layout.x86_pv import WIDTH_32, WIDTH_64, EntryWidth
from gdb_p2m.model.eras import ERA_BY_NAME, EraFacts
from gdb_p2m.model.frames import Order
from gdb_p2m.units import MIB, PAGE_SHIFT, PAGE_SIZE, parse_number, parse_size

E820Kind = Literal["ram", "reserved", "acpi", "nvs", "unusable"]
Stage = Literal["initial", "planned", "final"]
Place = Literal["outside", "inside"]
Holes = Literal["remap", "release"]
KERNEL_PFN = 0x1000
"""Kernels are linked at 16 MiB."""
MIN_PAGES = KERNEL_PFN + (2 * MIB >> PAGE_SHIFT)
MAX_PAGES = 1 << 30
"""4 TiB, more than the P2M of any era can hold: keeps typing errors from asking for the moon."""


class DescriptionError(NotUnderstood):
    """A description that makes no sense. line: 1-based, 0 when no single line is to blame; field: the keyword."""

    def __init__(self, source: str, line: int, field_name: str, message: str, hint: str | None = None) -> None:
        where = f"{source}:{line}" if line else source
        super().__init__(f"{where}: {field_name}: {message}", hint=hint)
        self.line = line
        self.field = field_name


@dataclass(frozen=True, slots=True)
class E820Entry:
    """Bytes start..end-1 of the pseudo-physical memory map."""

    start: int
    end: int
    kind: E820Kind


@dataclass(frozen=True, slots=True)
class ForeignRange:
    """`count` PFNs from `pfn` that map frames of another domain from `mfn` on."""

    pfn: int
    count: int
    mfn: int


@dataclass(frozen=True)
class Description:
    """One guest and its machine. Frame numbers are PFNs unless the name says otherwise.

    e820: sorted, without overlaps. max_pages: None is the era's limit. machine: RAM as (start, end) bytes,
    empty for as much as needed. released: given back to Xen before the P2M takes its final shape;
    ballooned: afterwards. p2m_limit: bytes that the linear area is sized for at least. frame_table: whether
    Xen's frame table is in memory too.
    """

    name: str
    era: EraFacts
    width: EntryWidth = WIDTH_64
    kernel: str = ""
    domain: int = 0
    initdomain: bool = True
    nr_pages: int = 0
    max_pages: int | None = None
    e820: tuple[E820Entry, ...] = ()
    machine: tuple[tuple[int, int], ...] = ()
    order: Order = "contiguous"
    first_mfn: int | None = None
    seed: int = 0
    holes: Holes = "remap"
    remap_to: int | None = None
    released: tuple[tuple[int, int], ...] = ()
    ballooned: tuple[tuple[int, int], ...] = ()
    foreign: tuple[ForeignRange, ...] = ()
    p2m_limit: int = 512 << 30
    initial_list: Place = "outside"
    virt_p2m_4tools: bool = False
    frame_table: bool = False
    stage: Stage = "final"
    command_line: str = ""

    def with_stage(self, stage: Stage) -> Description:
        """The same guest at another stage of its boot. Raises DescriptionError for stages its era lacks."""
        twin = replace(self, stage=stage)
        _check_whole(twin, {})
        return twin


@dataclass
class _Parsing:
    """What has been read so far: values by field of Description, the line of each keyword."""

    source: str
    values: dict[str, object] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    line: int = 0

    def fail(self, keyword: str, message: str, hint: str | None = None) -> DescriptionError:
        """An error at the current line."""
        return DescriptionError(self.source, self.line, keyword, message, hint)

    def append(self, name: str, value: object) -> None:
        """One more element of a tuple field."""
        self.values[name] = (*self.values.get(name, ()), value)  # type: ignore[misc]


Handler = Callable[[_Parsing, str, list[str]], None]


def _number(p: _Parsing, keyword: str, text: str) -> int:
    try:
        return parse_number(text)
    except UsageError as e:
        raise p.fail(keyword, e.message, e.hint) from None


def _size(p: _Parsing, keyword: str, text: str) -> int:
    try:
        return parse_size(text)
    except UsageError as e:
        raise p.fail(keyword, e.message, e.hint) from None


def _word(p: _Parsing, keyword: str, args: list[str], choices: tuple[str, ...]) -> str:
    if len(args) != 1 or args[0] not in choices:
        raise p.fail(keyword, f"{' '.join(args) or 'nothing'!r} is none of: {', '.join(choices)}")
    return args[0]


def _one(p: _Parsing, keyword: str, args: list[str]) -> str:
    if len(args) != 1:
        raise p.fail(keyword, f"takes one value, not {len(args)}")
    return args[0]


def _bytes_range(p: _Parsing, keyword: str, text: str) -> tuple[int, int]:
    """`FIRST-LAST` (both included, as consoles print an E820) or `START+SIZE`, in bytes."""
    for sign in "+-":
        left, found, right = text.partition(sign)
        if found:
            start, second = _size(p, keyword, left), _size(p, keyword, right)
            end = start + second if sign == "+" else second + 1
            if end <= start:
                raise p.fail(keyword, f"empty range {text!r}")
            return start, end
    raise p.fail(keyword, f"not a range: {text!r}", "write FIRST-LAST (both included) or START+SIZE, e.g. 1M+511M")


def _pfn_range(p: _Parsing, keyword: str, text: str) -> tuple[int, int]:
    left, found, right = text.partition("+")
    if not found:
        raise p.fail(keyword, f"not a range of PFNs: {text!r}", "write PFN+COUNT, e.g. 0x2000+512")
    start, count = _number(p, keyword, left), _number(p, keyword, right)
    if not count:
        raise p.fail(keyword, f"empty range {text!r}")
    return start, start + count


def _set(name: str, read: Callable[[_Parsing, str, list[str]], object]) -> Handler:
    def handler(p: _Parsing, keyword: str, args: list[str]) -> None:
        p.values[name] = read(p, keyword, args)

    return handler


def _words(name: str, choices: tuple[str, ...]) -> Handler:
    return _set(name, lambda p, k, a: _word(p, k, a, choices))


def _era(p: _Parsing, keyword: str, args: list[str]) -> None:
    p.values["era"] = ERA_BY_NAME[_word(p, keyword, args, tuple(ERA_BY_NAME))]


def _width(p: _Parsing, keyword: str, args: list[str]) -> None:
    p.values["width"] = WIDTH_64 if _word(p, keyword, args, ("64", "pae")) == "64" else WIDTH_32


def _domain(p: _Parsing, keyword: str, args: list[str]) -> None:
    if not args or (len(args) == 2 and args[1] != "initdomain") or len(args) > 2:
        raise p.fail(keyword, "takes a domain id and perhaps the word initdomain")
    p.values["domain"] = _number(p, keyword, args[0])
    p.values["initdomain"] = len(args) == 2


def _pages(text: str) -> int:
    """Pages of a size as dom0_mem writes it; `3GB` is 3G."""
    return parse_size(text) >> PAGE_SHIFT


def _dom0_mem(p: _Parsing, keyword: str, args: list[str]) -> None:
    """dom0_mem=[min:X,][max:Y,]Z as on Xen's command line."""
    for part in _one(p, keyword, args).split(","):
        name, colon, amount = part.rpartition(":")
        try:
            pages = _pages(amount)
        except UsageError as e:
            raise p.fail(keyword, e.message, e.hint) from None
        if colon and name not in ("min", "max"):
            raise p.fail(keyword, f"{name!r} is neither min nor max")
        if name != "min":
            p.values["max_pages" if name else "nr_pages"] = pages


def _e820(p: _Parsing, keyword: str, args: list[str]) -> None:
    if len(args) != 2:
        raise p.fail(keyword, "takes a range and a type", "e.g. e820 0x100000-0x3ffdffff ram")
    start, end = _bytes_range(p, keyword, args[0])
    kind = _word(p, keyword, args[1:], get_args(E820Kind))
    before: tuple[E820Entry, ...] = p.values.get("e820", ())  # type: ignore[assignment]
    if before and start < before[-1].end:
        raise p.fail(keyword, f"starts at {start:#x}, before the entry above ends ({before[-1].end:#x})")
    p.append("e820", E820Entry(start, end, kind))  # type: ignore[arg-type]


def _machine(p: _Parsing, keyword: str, args: list[str]) -> None:
    start, end = _bytes_range(p, keyword, _one(p, keyword, args))
    before: tuple[tuple[int, int], ...] = p.values.get("machine", ())  # type: ignore[assignment]
    if start % PAGE_SIZE or end % PAGE_SIZE:
        raise p.fail(keyword, "RAM starts and ends on page boundaries")
    if before and start < before[-1][1]:
        raise p.fail(keyword, "overlaps the RAM above")
    p.append("machine", (start, end))


def _frames(p: _Parsing, keyword: str, args: list[str]) -> None:
    """contiguous [at MFN] | reversed | scattered [seed N]"""
    order = _word(p, keyword, args[:1], get_args(Order))
    p.values["order"] = order
    extra = {"contiguous": ("at", "first_mfn"), "scattered": ("seed", "seed")}.get(order)
    if len(args) == 1:
        return
    if extra is None or len(args) != 3 or args[1] != extra[0]:
        raise p.fail(keyword, f"{' '.join(args[1:])!r} after {order}", "contiguous at MFN, or scattered seed N")
    p.values[extra[1]] = _number(p, keyword, args[2])


def _foreign(p: _Parsing, keyword: str, args: list[str]) -> None:
    if len(args) != 3 or args[1] != "mfn":
        raise p.fail(keyword, "takes PFN+COUNT mfn MFN", "e.g. foreign 0x3000+16 mfn 0x8000")
    start, end = _pfn_range(p, keyword, args[0])
    p.append("foreign", ForeignRange(start, end - start, _number(p, keyword, args[2])))


def _p2m_limit(p: _Parsing, keyword: str, args: list[str]) -> int:
    text = _one(p, keyword, args)
    return 0 if text == "none" else _size(p, keyword, text)


def _range_of(name: str) -> Handler:
    def handler(p: _Parsing, keyword: str, args: list[str]) -> None:
        p.append(name, _pfn_range(p, keyword, _one(p, keyword, args)))

    return handler


def _one_number(p: _Parsing, keyword: str, args: list[str]) -> int:
    return _number(p, keyword, _one(p, keyword, args))


KEYWORDS: dict[str, Handler] = {
    "guest": _set("name", _one),
    "era": _era,
    "width": _width,
    "kernel": _set("kernel", _one),
    "domain": _domain,
    "nr_pages": _set("nr_pages", _one_number),
    "max_pages": _set("max_pages", _one_number),
    "dom0_mem": _dom0_mem,
    "e820": _e820,
    "machine": _machine,
    "frames": _frames,
    "holes": _words("holes", get_args(Holes)),
    "remap_to": _set("remap_to", _one_number),
    "released": _range_of("released"),
    "ballooned": _range_of("ballooned"),
    "foreign": _foreign,
    "p2m_limit": _set("p2m_limit", _p2m_limit),
    "initial_list": _words("initial_list", get_args(Place)),
    "virt_p2m_4tools": _set("virt_p2m_4tools", lambda p, k, a: _word(p, k, a, ("yes", "no")) == "yes"),
    "frame_table": _set("frame_table", lambda p, k, a: _word(p, k, a, ("yes", "no")) == "yes"),
    "stage": _words("stage", get_args(Stage)),
    "command_line": _set("command_line", lambda p, k, a: " ".join(a)),
}
REPEATABLE = frozenset({"e820", "machine", "released", "ballooned", "foreign"})


def parse(text: str, name: str) -> Description:
    """The guest that `text` describes; `name` stands for the text in errors (a file name).

    Raises DescriptionError.
    """
    p = _Parsing(name)
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.split("#", 1)[0].split()
        if not words:
            continue
        p.line = number
        keyword = words[0]
        handler = KEYWORDS.get(keyword)
        if handler is None:
            raise p.fail(keyword, "no such keyword", f"keywords: {', '.join(KEYWORDS)}")
        if keyword in p.lines and keyword not in REPEATABLE:
            raise p.fail(keyword, f"given twice, first in line {p.lines[keyword]}")
        p.lines[keyword] = number
        handler(p, keyword, words[1:])
    return _finish(p)


def _finish(p: _Parsing) -> Description:
    era = p.values.get("era", ERA_BY_NAME["linear"])
    assert isinstance(era, EraFacts)
    defaults: dict[str, object] = {"name": p.source, "era": era, "kernel": era.release, "holes": era.holes}
    if not era.linear:
        defaults["initial_list"] = "inside"
    if p.values.get("width") is WIDTH_32:
        defaults |= {"initial_list": "inside", "p2m_limit": 0}
    values = defaults | p.values
    if not values.get("nr_pages"):
        raise DescriptionError(p.source, 0, "nr_pages", "missing", "give nr_pages or dom0_mem")
    if "e820" not in values:
        end = int(values["nr_pages"]) << PAGE_SHIFT  # type: ignore[call-overload]
        values["e820"] = (E820Entry(0, end, "ram"),)
    description = Description(**values)  # type: ignore[arg-type]
    _check_whole(description, p.lines, p.source)
    return description


def _check_whole(d: Description, lines: dict[str, int], source: str = "") -> None:
    """What no single line can tell. Raises DescriptionError."""

    def fail(keyword: str, message: str, hint: str | None = None) -> DescriptionError:
        return DescriptionError(source or d.name, lines.get(keyword, 0), keyword, message, hint)

    if not MIN_PAGES <= d.nr_pages <= MAX_PAGES:
        raise fail("nr_pages", f"{d.nr_pages} pages; a kernel at 16 MiB needs {MIN_PAGES}, the most is {MAX_PAGES}")
    limit = d.width.max_p2m_pfn
    if not d.era.linear and d.nr_pages > limit:
        raise fail("nr_pages", f"{d.nr_pages} pages: a three-level tree ends at {limit}")
    if d.stage == "planned" and not d.era.linear:
        raise fail("stage", f"{d.era.name} has no remap chain, so no stage planned")
    if d.initial_list == "outside" and (not d.era.linear or d.width.bits == 32):
        raise fail("initial_list", "only 64-bit kernels of the linear era put the initial list outside")
    if d.virt_p2m_4tools and not d.era.linear:
        raise fail("virt_p2m_4tools", "needs the linear list")
    if d.frame_table and d.width.bits == 32:
        raise fail("frame_table", "32-bit guests have no slot through which Xen's frame table could be read")
    if d.width.bits == 32 and d.era.linear and d.p2m_limit > 64 << 30:
        raise fail("p2m_limit", "32-bit kernels can be configured for 64G at most")
    if not any(e.kind == "ram" and e.start == 0 for e in d.e820):
        raise fail("e820", "no RAM at 0")
