"""SymbolTable: every source of names of one kernel, asked in order of trust."""

from __future__ import annotations

from collections.abc import Iterable

from gdb_p2m.errors import NotFound
from gdb_p2m.symbols.base import Symbol, SymbolSource, TypeSource


class SymbolTable:
    """Sources in order of trust: what the user named first, then notes, then what memory holds.

    notes: sentences about sources that were tried and did not serve, for `symbols` and errors.
    hint: what to try when a name is not known.
    """

    def __init__(self, sources: Iterable[SymbolSource] = (), notes: Iterable[str] = ()) -> None:
        self.sources: list[SymbolSource] = list(sources)
        self.notes: list[str] = list(notes)
        self.hint = "give the kernel with --kernel vmlinux, System.map or vmlinuz"
        self._found: dict[str, Symbol | None] = {}

    def add(self, source: SymbolSource) -> None:
        """One more source, asked after all others."""
        self.sources.append(source)
        self._found.clear()

    def symbol(self, name: str) -> Symbol | None:
        """The first source's symbol of exactly this name, or None."""
        if name not in self._found:
            hits = (s.symbol(name) for s in self.sources)
            self._found[name] = next((h for h in hits if h is not None), None)
        return self._found[name]

    def require(self, name: str) -> Symbol:
        """Like `symbol`; raises NotFound that names the symbol and the sources that were asked."""
        found = self.symbol(name)
        if found is None:
            asked = ", ".join(f"{s.kind} ({s.detail})" for s in self.sources) or "no source of symbols"
            raise NotFound(
                f"symbol {name} is not known (asked: {asked})",
                hint=self.hint,
            )
        return found

    def first(self, names: Iterable[str]) -> Symbol | None:
        """The first of `names` that is known."""
        return next((s for n in names if (s := self.symbol(n)) is not None), None)

    def offset(self, path: str) -> int | None:
        """OFFSET(path) of the first source that knows types and has it."""
        return self._type_answer("offset", path)

    def size(self, struct: str) -> int | None:
        """SIZE(struct), likewise."""
        return self._type_answer("size", struct)

    def number(self, name: str) -> int | None:
        """NUMBER(name), likewise."""
        return self._type_answer("number", name)

    def length(self, name: str) -> int | None:
        """LENGTH(name): bytes of a function (excerpts note them), or elements of an array."""
        return self._type_answer("length", name)

    def _type_answer(self, question: str, name: str) -> int | None:
        for source in self.sources:
            if hasattr(source, question):
                types: TypeSource = source  # type: ignore[assignment]
                answer: int | None = getattr(types, question)(name)
                if answer is not None:
                    return answer
        return None

    @property
    def release(self) -> str | None:
        """Kernel release of the first source that knows it."""
        return next((s.release for s in self.sources if s.release), None)

    @property
    def build_id(self) -> str | None:
        """Build id of the first source that knows one."""
        return next((s.build_id for s in self.sources if s.build_id), None)

    def names(self) -> Iterable[str]:
        """All names of all sources, without duplicates, sorted."""
        return sorted({n for s in self.sources for n in s.names()})

    def nearest(self, address: int) -> tuple[str, int] | None:
        """(name, offset) of the last symbol at or below `address`, best over all sources."""
        best: tuple[str, int] | None = None
        for source in self.sources:
            hit = source.nearest(address)
            if hit is not None and (best is None or hit[1] < best[1]):
                best = hit
        return best
