"""Types (and variables) from the debug information of a vmlinux or xen-syms, through pyelftools.

A Xen has some 20 MB of it, and a Python reader needs a minute for all. So nothing is read ahead: compile
units are looked at one after the other, those that probably define our structures first, and only until
what was asked for is found; a name that is not among the strings of the debug information is nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.symbols.base import Symbol
from gdb_p2m.symbols.elf_image import ElfImage
from gdb_p2m.units import VirtualAddress

if TYPE_CHECKING:
    from elftools.dwarf.compileunit import CompileUnit
    from elftools.dwarf.die import DIE

LIKELY_UNITS = ("p2m.c", "mm.c", "domain.c")
"""Ends of the names of the units that define page_info, p2m_domain, md_t and domain."""
MAX_UNITS = 20_000
MAX_ENTRIES = 5_000_000
"""Top-level entries looked at in one file: bounds the time that a hostile file can take."""
MAX_DEPTH = 32
"""Typedefs, qualifiers and anonymous members on the way to a member."""
STRUCTS = ("DW_TAG_structure_type", "DW_TAG_union_type", "DW_TAG_class_type")
_TRANSPARENT = ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_atomic_type")
_WORDS = {
    "DW_TAG_pointer_type": "pointer",
    "DW_TAG_structure_type": "struct",
    "DW_TAG_union_type": "union",
    "DW_TAG_enumeration_type": "enum",
    "DW_TAG_array_type": "array",
    "DW_TAG_base_type": "number",
}
_OP_ADDR, _OP_PLUS_UCONST = 0x03, 0x23

P = ParamSpec("P")
R = TypeVar("R")


def _damage_named(method: Callable[P, R]) -> Callable[P, R]:
    """What pyelftools raises on damaged debug information becomes one NotUnderstood."""

    @wraps(method)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        from elftools.common.exceptions import DWARFError, ELFError
        from elftools.construct import ConstructError

        try:
            return method(*args, **kwargs)
        except (
            DWARFError,
            ELFError,
            ConstructError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            AssertionError,
            EOFError,
            NotImplementedError,
            RecursionError,
        ) as e:
            raise NotUnderstood(
                f"{getattr(args[0], 'detail', 'debug information')}: the debug information cannot be read "
                f"({e or type(e).__name__})",
                hint="is the file complete? compare its size with the original",
            ) from None

    return inner


class DwarfTypes:
    """The debug information of one file: a TypeSource, and a SymbolSource for variables.

    Raises NotUnderstood when it is damaged.
    """

    kind = "DWARF"
    release = None

    def __init__(self, elf: ElfImage) -> None:
        self.detail = elf.path
        self.build_id = elf.build_id()
        self._elf = elf
        self._units: list[CompileUnit] | None = None
        self._next_unit = 0
        self._seen = 0
        self._types: dict[str, DIE] = {}
        self._enumerators: dict[str, int] = {}
        self._variables: dict[str, int] = {}
        self._text: tuple[bytes, ...] | None = None

    # -- TypeSource ---------------------------------------------------------------------------------------

    @_damage_named
    def offset(self, path: str) -> int | None:
        """Offset of `struct.member[.member]` in bytes, through embedded and anonymous structs.

        None when there is no such struct or member, and for paths that lead through a pointer.
        """
        found = self._member(path)
        return None if found is None else found[0]

    @_damage_named
    def size(self, struct: str) -> int | None:
        """sizeof(struct or typedef) in bytes, or None."""
        die = self._type(struct)
        return None if die is None else _size_of(die)

    @_damage_named
    def member_size(self, path: str) -> int | None:
        """sizeof a member in bytes, or None."""
        found = self._member(path)
        return None if found is None or found[1] is None else _size_of(_plain(found[1]))

    @_damage_named
    def number(self, name: str) -> int | None:
        """Value of an enumerator, or None."""
        return self._search(name, self._enumerators)

    @_damage_named
    def member_kind(self, path: str) -> str | None:
        """What a member is: "pointer", "struct", "union", "enum", "array", "number"; None when it is not there."""
        found = self._member(path)
        return None if found is None or found[1] is None else _WORDS.get(str(_plain(found[1]).tag), "other")

    # -- SymbolSource -------------------------------------------------------------------------------------

    @_damage_named
    def symbol(self, name: str) -> Symbol | None:
        """A variable with a fixed address, or None."""
        address = self._search(name, self._variables)
        return None if address is None else Symbol(name, VirtualAddress(address), f"{self.kind}, {self.detail}")

    def names(self) -> Iterable[str]:
        """The variables that were met so far: listing all would read everything."""
        return sorted(self._variables)

    def nearest(self, address: int) -> tuple[str, int] | None:
        """None: the symbol table knows better."""
        return None

    # -- searching ----------------------------------------------------------------------------------------

    def _type(self, name: str) -> DIE | None:
        die = self._search(name, self._types)
        return None if die is None else _plain(die)

    def _search(self, name: str, index: dict[str, R]) -> R | None:
        """Read further units until `name` is in `index`."""
        if name not in index and self._mentioned(name):
            for _ in self._read_units():
                if name in index:
                    break
        return index.get(name)

    def _mentioned(self, name: str) -> bool:
        """Whether the name is among the strings: if not, no unit needs to be read to say that it is absent."""
        if self._text is None:
            info = self._dwarf()
            sections = (info.debug_str_sec, info.debug_line_str_sec, info.debug_info_sec)
            self._text = tuple(s.stream.getvalue() for s in sections if s is not None)
        needle = name.encode() + b"\0"
        return any(needle in text for text in self._text)

    def _dwarf(self) -> Any:
        """pyelftools' view of the sections."""
        if not hasattr(self, "_info"):
            from elftools.elf.elffile import ELFFile

            data = self._elf.data
            file = ELFFile(BytesIO(data) if isinstance(data, bytes) else cast("IO[bytes]", data))
            self._info = file.get_dwarf_info(relocate_dwarf_sections=False, follow_links=False)
            if self._info.debug_info_sec is None:
                raise NotUnderstood(f"{self.detail}: no .debug_info")
        return self._info

    def _read_units(self) -> Iterator[None]:
        """Index one more unit a step, likely ones first."""
        if self._units is None:
            units: list[tuple[int, int, CompileUnit]] = []
            for unit in self._dwarf().iter_CUs():
                units.append((_likeliness(unit), len(units), unit))
                if len(units) > MAX_UNITS:
                    raise NotUnderstood(f"{self.detail}: more than {MAX_UNITS} compile units")
            self._units = [u for _, _, u in sorted(units, key=lambda u: u[:2])]
        while self._next_unit < len(self._units):
            unit = self._units[self._next_unit]
            self._next_unit += 1
            self._index(unit)
            yield

    def _index(self, unit: CompileUnit) -> None:
        """Names of structs, enumerators and variables at the top of one unit. The first definition of a name stays."""
        for die in unit.get_top_DIE().iter_children():
            self._seen += 1
            if self._seen > MAX_ENTRIES:
                raise NotUnderstood(f"{self.detail}: more than {MAX_ENTRIES:,} entries of debug information")
            tag = die.tag
            if tag == "DW_TAG_variable":
                self._add_variable(die)
            elif tag == "DW_TAG_enumeration_type":
                self._add_enum(die)
            elif tag in STRUCTS or tag == "DW_TAG_typedef":
                name = _name(die)
                if name and "DW_AT_declaration" not in die.attributes:
                    # A struct tag and a typedef may share a name: the struct is the more certain one.
                    if tag in STRUCTS:
                        known = self._types.get(name)
                        if known is None or known.tag not in STRUCTS:
                            self._types[name] = die
                    else:
                        self._types.setdefault(name, die)

    def _add_enum(self, die: DIE) -> None:
        name = _name(die)
        if name and "DW_AT_declaration" not in die.attributes:
            self._types.setdefault(name, die)
        for child in die.iter_children():
            if child.tag == "DW_TAG_enumerator" and (key := _name(child)):
                self._enumerators.setdefault(key, int(child.attributes["DW_AT_const_value"].value))

    def _add_variable(self, die: DIE) -> None:
        where = die.attributes.get("DW_AT_location")
        if where is None or not isinstance(where.value, list) or where.value[:1] != [_OP_ADDR]:
            return
        name = _name(die)
        if not name and "DW_AT_specification" in die.attributes:
            name = _name(die.get_DIE_from_attribute("DW_AT_specification"))
        if name and len(where.value) in (5, 9):
            self._variables.setdefault(name, int.from_bytes(bytes(where.value[1:]), "little"))

    # -- members ------------------------------------------------------------------------------------------

    def _member(self, path: str) -> tuple[int, DIE | None] | None:
        """(offset, type of the member) of a path, or None."""
        struct, *members = path.split(".")
        die = self._type(struct)
        total = 0
        kind: DIE | None = die
        for member in members:
            if kind is None or _plain(kind).tag not in STRUCTS:
                return None
            found = _find_member(_plain(kind), member, MAX_DEPTH)
            if found is None:
                return None
            total += found[0]
            kind = found[1]
        return None if die is None or not members else (total, kind)


def _name(die: DIE) -> str:
    attribute = die.attributes.get("DW_AT_name")
    return attribute.value.decode("latin-1") if attribute is not None else ""


def _likeliness(unit: CompileUnit) -> int:
    """Rank of a unit by its file name: small first."""
    name = _name(unit.get_top_DIE())
    base = name.rsplit("/", 1)[-1]
    return LIKELY_UNITS.index(base) if base in LIKELY_UNITS else len(LIKELY_UNITS)


def _plain(die: DIE) -> DIE:
    """The type behind typedefs and qualifiers. Raises NotUnderstood on a loop."""
    for _ in range(MAX_DEPTH):
        if die.tag not in _TRANSPARENT or "DW_AT_type" not in die.attributes:
            return die
        die = die.get_DIE_from_attribute("DW_AT_type")
    raise NotUnderstood("debug information: typedefs without end")


def _size_of(die: DIE) -> int | None:
    size = die.attributes.get("DW_AT_byte_size")
    return None if size is None else int(size.value)


def _find_member(struct: DIE, name: str, depth: int) -> tuple[int, DIE | None] | None:
    """(offset, type) of a member of this name, also inside anonymous structs and unions."""
    if not depth:
        raise NotUnderstood("debug information: anonymous members without end")
    for child in struct.iter_children():
        if child.tag != "DW_TAG_member":
            continue
        own = _name(child)
        if own and own != name:
            continue
        kind = child.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in child.attributes else None
        if own == name:
            return _place(child), kind
        if kind is not None and _plain(kind).tag in STRUCTS:
            inner = _find_member(_plain(kind), name, depth - 1)
            if inner is not None:
                return _place(child) + inner[0], inner[1]
    return None


def _place(member: DIE) -> int:
    """Byte offset of a member in its struct; members of unions have none: 0. Bit-fields: of their first byte."""
    where = member.attributes.get("DW_AT_data_member_location")
    if where is None:
        bits = member.attributes.get("DW_AT_data_bit_offset")
        return 0 if bits is None else int(bits.value) // 8
    if isinstance(where.value, int):
        return where.value
    # DWARF 2: an expression, DW_OP_plus_uconst with a LEB128 number.
    if where.value[:1] != [_OP_PLUS_UCONST]:
        raise NotUnderstood("debug information: a member's place is an expression that is not understood")
    value = 0
    for shift, byte in enumerate(where.value[1:]):
        value |= (byte & 0x7F) << 7 * shift
    return value
