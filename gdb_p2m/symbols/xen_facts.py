"""Sizes, offsets and enumerators of Xen, each with the sentence that says where it comes from.

Asked in order: debug information of the given xen-syms, the VMCOREINFO_XEN note, Xen's code (which shows two
of them), the declared layout of the era that the evidence shows. What a source says completely (a struct of which it knows members) it also
says by leaving a member out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gdb_p2m.errors import NotFound
from gdb_p2m.layout.xen_riscv import (
    DECLARED_TYPES,
    MD_T,
    PTE_T,
    TYPES,
    DeclaredLayout,
    MetadataFormat,
    ModeForm,
    declared_layout,
)
from gdb_p2m.symbols.base import SymbolSource, TypeSource
from gdb_p2m.symbols.dwarf import DwarfTypes
from gdb_p2m.symbols.xen_code import CodeFacts

OPTIONAL = frozenset({"page_info.u.md.used_entries", "p2m_domain.mode", "domain.tot_pages"})
"""Members that some eras do not have: a source that knows the struct proves their absence."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One answer. value None: known to be absent. source: a sentence for people."""

    kind: str
    name: str
    value: int | None
    source: str


class XenFacts:
    """Type facts of one Xen.

    names: every source of symbols (their presence is evidence of the era); those that also know types are
    asked for sizes, offsets and numbers.
    """

    def __init__(self, names: Iterable[SymbolSource], dwarf: DwarfTypes | None = None) -> None:
        self._names = list(names)
        self._dwarf = dwarf
        noted = [s for s in self._names if hasattr(s, "offset")]
        self._types: list[TypeSource] = [*([dwarf] if dwarf else []), *noted]  # type: ignore[list-item]
        self._known: dict[tuple[str, str], Fact] = {}
        self._code: dict[tuple[str, str], int] = {}
        self._metadata_declared = False
        self.mode_form, self.mode_evidence = self._mode()
        self.metadata, self.metadata_evidence = self._metadata()

    @property
    def guessed(self) -> bool:
        """Whether the size of struct page_info is nothing but declared: code may tell it (`learn`)."""
        return self._dwarf is None and all(source.size("page_info") is None for source in self._types)

    def learn(self, code: CodeFacts) -> None:
        """What Xen's code showed; it stands above what is declared, and below every source of types."""
        told = {("SIZE", "page_info"): code.page_info_size, ("OFFSET", "page_info.v.md.pg"): code.md_pg_offset}
        self._code = {key: value for key, value in told.items() if value is not None}
        self._known.clear()
        if code.slot_bytes in (MD_T.slot_bytes, PTE_T.slot_bytes) and self._metadata_declared:
            self.metadata = MD_T if code.slot_bytes == MD_T.slot_bytes else PTE_T
            self.metadata_evidence = f"disassembly of p2m_get_type: slots of {code.slot_bytes} bytes"

    @property
    def declared(self) -> DeclaredLayout:
        """What is used where no source of types answers."""
        return declared_layout(self.mode_form)

    def size(self, struct: str) -> int:
        """Size of a struct in bytes. Raises NotFound."""
        return self._required(self.fact("SIZE", struct))

    def offset(self, path: str) -> int:
        """Offset of `struct.member[.member]` in bytes. Raises NotFound."""
        return self._required(self.fact("OFFSET", path))

    def maybe_offset(self, path: str) -> int | None:
        """The offset, or None where this Xen does not have the member."""
        return self.fact("OFFSET", path).value

    def member_size(self, path: str, declared: int) -> int:
        """Bytes of an integer member: by debug information (1, 2, 4, 8), else as declared."""
        size = self._dwarf.member_size(path) if self._dwarf is not None else None
        return size if size in (1, 2, 4, 8) else declared

    def number(self, name: str) -> int:
        """An enumerator. Raises NotFound."""
        return self._required(self.fact("NUMBER", name))

    def all(self) -> list[Fact]:
        """Every fact that decoding needs, in the order of layout.xen_riscv.TYPES."""
        return [self.fact(t.kind, t.path) for t in TYPES]

    def fact(self, kind: str, name: str) -> Fact:
        """One fact with its provenance."""
        key = kind, name
        if key not in self._known:
            self._known[key] = self._find(kind, name)
        return self._known[key]

    def _find(self, kind: str, name: str) -> Fact:
        for source in self._types:
            value = _ask(source, kind, name)
            if value is not None:
                return Fact(kind, name, value, _title(source))
            if _knows_struct(source, kind, name):
                if source is self._dwarf or name in OPTIONAL:
                    return Fact(kind, name, None, f"{_title(source)}: no such member")
            elif kind == "SIZE" and source is self._dwarf:
                return Fact(kind, name, None, f"{_title(source)}: no such struct")
        return self._declared(kind, name)

    def _declared(self, kind: str, name: str) -> Fact:
        if (told := self._code.get((kind, name))) is not None:
            return Fact(kind, name, told, "disassembly of p2m_get_type")
        declared = self.declared
        value = {"SIZE": declared.sizes, "OFFSET": declared.offsets, "NUMBER": DECLARED_TYPES}[kind].get(name)
        if kind == "SIZE" and name == "md_t":
            value = 4 if self.metadata is MD_T else None
            return Fact(kind, name, value, self.metadata_evidence)
        source = "declared: asm/p2m.h" if kind == "NUMBER" else f"{declared.source}; {self.mode_evidence}"
        return Fact(kind, name, value, source if value is not None else f"not in the {declared.source}")

    def _required(self, fact: Fact) -> int:
        if fact.value is None:
            raise NotFound(
                f"{fact.kind}({fact.name}) of Xen is not known ({fact.source})",
                hint="give the matching xen-syms, with debug information, with --xen",
            )
        return fact.value

    # -- which era ----------------------------------------------------------------------------------------

    def _has_symbol(self, *names: str) -> str | None:
        """The first source that knows one of these symbols, in words."""
        for name in names:
            for source in self._names:
                if source.symbol(name) is not None:
                    return f"symbol {name} ({source.kind})"
        return None

    def _mode(self) -> tuple[ModeForm, str]:
        """Where a P2M's mode is stored: by the types of the member, by its neighbour, by symbols."""
        if self._dwarf is not None and (kind := self._dwarf.member_kind("p2m_domain.mode")):
            form: ModeForm = "pointer" if kind == "pointer" else "embedded"
            return form, f"DWARF says that p2m_domain.mode is a {kind}"
        for source in self._types:
            if source.offset("p2m_domain.mode.mode") is not None:
                return "embedded", f"{_title(source)} names p2m_domain.mode.mode, an embedded struct"
            mode, after = source.offset("p2m_domain.mode"), source.offset("p2m_domain.domain")
            if mode is not None and after is not None and after > mode:
                form = "pointer" if after - mode == 8 else "embedded"
                return form, f"{_title(source)}: p2m_domain.mode takes {after - mode} bytes"
            if mode is not None:
                return "pointer", f"{_title(source)} names p2m_domain.mode, and no member of it"
        if self._has_symbol("gstage_mode") and (where := self._has_symbol("gstage_root_level")):
            return "globals", where
        if where := self._has_symbol("gstage_modes"):
            return "pointer", where
        if where := self._has_symbol("max_gstage_mode"):
            return "embedded", f"{where} without gstage_modes"
        return "pointer", "nothing shows the era: the newest known layout is assumed"

    def _metadata(self) -> tuple[MetadataFormat, str]:
        """The slot format of metadata pages."""
        if self._dwarf is not None:
            if (size := self._dwarf.size("md_t")) is not None:
                return _md_t(size), f"DWARF has struct md_t of {size} bytes"
            if self._dwarf.size("page_info") is not None:
                return PTE_T, "DWARF has no struct md_t"
        for source in self._types:
            if (size := source.size("md_t")) is not None:
                return _md_t(size), f"SIZE(md_t)={size} ({_title(source)})"
            if source.offset("page_info.u.md.used_entries") is not None:
                return MD_T, f"{_title(source)} has page_info.u.md.used_entries, which came after struct md_t"
        for source in self._types:
            if source.offset("page_info.v.md.pg") is not None:
                return PTE_T, f"{_title(source)} has page_info.v.md.pg and no SIZE(md_t)"
        declared = declared_layout(self.mode_form)
        self._metadata_declared = True
        return declared.metadata, f"{declared.source}: {self.mode_evidence}"


def _md_t(size: int) -> MetadataFormat:
    """md_t of the size that debug information gives (an enum bit-field: 4 with every compiler seen)."""
    return MetadataFormat("md_t", size, MD_T.mask, MD_T.evidence_of)


def _ask(source: TypeSource, kind: str, name: str) -> int | None:
    ask: dict[str, Callable[[str], int | None]] = {
        "SIZE": source.size,
        "OFFSET": source.offset,
        "NUMBER": source.number,
    }
    value = ask[kind](name)
    if value is None and kind == "OFFSET" and name.startswith("gstage_mode_desc."):
        # An embedded struct may be named by its place in p2m_domain only.
        inner = source.offset("p2m_domain.mode." + name.partition(".")[2])
        base = source.offset("p2m_domain.mode.mode")
        return None if inner is None or base is None else inner - base
    if value is None and kind == "OFFSET" and name == "p2m_domain.mode":
        return source.offset("p2m_domain.mode.mode")
    return value


def _knows_struct(source: TypeSource, kind: str, name: str) -> bool:
    """Whether a source that lacks OFFSET(struct.member) knows the struct."""
    return kind == "OFFSET" and source.size(name.partition(".")[0]) is not None


def _title(source: TypeSource) -> str:
    kind, detail = getattr(source, "kind", "types"), getattr(source, "detail", "")
    return f"{kind}, {detail}" if detail else str(kind)
