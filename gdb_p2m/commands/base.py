"""What a verb is, and what it returns."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from gdb_p2m.domain import Domain
from gdb_p2m.errors import UsageError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.target import Target
from gdb_p2m.views.registry import Views

if TYPE_CHECKING:
    from gdb_p2m.xen_riscv import RiscvDomain

Cell = str | int | None


@dataclass
class Table:
    """Rows for people. align: one letter a column, l(eft) or r(ight); default by type."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    align: str = ""


@dataclass
class Text:
    """A paragraph for people."""

    text: str


@dataclass
class Prose:
    """Titled paragraphs for people, folded to the terminal's width.

    items: (mark, text); a mark ("1.", "-") hangs in the margin.
    """

    title: str
    items: Sequence[tuple[str, str]]


Block = Table | Text | Prose


@dataclass
class Report:
    """What a verb found. data: the JSON document; blocks: the same for people, in order.

    extra: format name -> text, for formats that are no plain view of data (csv, sarif, junit).
    made_output: the verb wrote --output itself, so the report belongs on stdout. raw_stdout: the verb
    wrote a file to standard output, which nothing may follow.
    """

    data: dict[str, Any]
    blocks: list[Block] = field(default_factory=list)
    exit_code: int = 0
    extra: dict[str, Callable[[], str]] = field(default_factory=dict)
    made_output: bool = False
    raw_stdout: bool = False

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[Cell]], title: str = "", align: str = "") -> None:
        """Append a table."""
        self.blocks.append(Table(headers, rows, title, align))

    def text(self, text: str) -> None:
        """Append a paragraph."""
        self.blocks.append(Text(text))


class Context:
    """A target as the verbs see it: one domain chosen, its views and its M2P made once."""

    def __init__(self, target: Target | None, domain: int | None = None, progress: Progress = no_progress) -> None:
        self._target = target
        self.domain_number = domain
        self.progress = progress

    @property
    def target(self) -> Target:
        """The open target."""
        assert self._target is not None, "this verb needs a target"
        return self._target

    @cached_property
    def domain(self) -> Domain:
        """The chosen domain."""
        return self.target.domain(self.domain_number)

    @property
    def guest(self) -> LinuxGuest:
        """The chosen domain, for verbs that read what only PV guests have. Raises UsageError."""
        if not isinstance(self.domain, LinuxGuest):
            raise UsageError(
                f"domain {self.domain.id} is a RISC-V domain; this verb reads structures of x86 PV guests",
                hint="RISC-V: identify, domains, symbols, lookup, walk, map, stats, page-info, check, excerpt",
            )
        return self.domain

    @property
    def riscv(self) -> RiscvDomain:
        """The chosen domain, for verbs about Xen on RISC-V. Raises UsageError."""
        from gdb_p2m.xen_riscv import RiscvDomain

        if not isinstance(self.domain, RiscvDomain):
            raise UsageError("this verb reads Xen's structures on RISC-V; this is memory of an x86 machine")
        return self.domain

    @cached_property
    def views(self) -> Views:
        """Its views."""
        return Views(self.domain, self.progress)

    @property
    def word(self) -> str:
        """What the domain's frame numbers are called: PFN, or GFN on RISC-V."""
        return "GFN" if self.domain.kind == "riscv" else "PFN"

    @cached_property
    def m2p(self) -> M2p:
        """Xen's M2P as this domain sees it."""
        return M2p(self.guest)


Configure = Callable[[argparse.ArgumentParser], None]
Run = Callable[[Context, argparse.Namespace], Report]


@dataclass(frozen=True)
class Verb:
    """One verb of both front ends.

    name, summary (one line), description (for --help), example (arguments after the verb and the
    dump). uses: what it needs, "target" or "nothing". damaged_ok: answers even when the dump is known
    to be damaged, because it reports the damage. formats: values of --format. writes_output: --output is
    the file that the verb itself makes, and its report goes to stdout.
    """

    name: str
    summary: str
    description: str
    example: str
    configure: Configure
    run: Run
    uses: Literal["target", "nothing"] = "target"
    damaged_ok: bool = False
    formats: tuple[str, ...] = ("text", "json")
    writes_output: bool = False


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """For verbs without arguments of their own."""


def hexa(value: int | None) -> str:
    """A frame or address for people: 0x30100, or - for none."""
    return "-" if value is None else f"{value:#x}"
