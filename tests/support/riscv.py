"""Xen on RISC-V for tests: model machines as sources, opened and decoded; truth tables of real machines."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gdb_p2m.mapping import Mapping
from gdb_p2m.model.elf import CoreNote
from gdb_p2m.model.riscv import RiscvDescription, parse_riscv
from gdb_p2m.model.riscv_p2m import truth_runs
from gdb_p2m.model.riscv_xen import TEXT_NOTE, RiscvXen, build_riscv
from gdb_p2m.rules.base import Result, run_rule
from gdb_p2m.rules.gst import GST_RULES
from gdb_p2m.rules.gst_context import GstContext
from gdb_p2m.sources.base import Extent, Note, Source, SourceInfo
from gdb_p2m.target import Target
from gdb_p2m.views.gstage import GstageView
from gdb_p2m.views.registry import Views
from gdb_p2m.xen_riscv import RiscvDomain
from support.kernels import _elf_maker as elf_maker
from support.places import ROOT

Run = tuple[int, int, str, int | None, int | None]
"""(first GFN, count, kind, first MFN, order)."""
MODELS = ROOT / "fixtures" / "models"
SHARED_REAL = ROOT.parent / "shared" / "real"


class ModelSource(Source):
    """A model's memory, read without a file; holes: frames that this source does not have."""

    def __init__(self, xen: RiscvXen, *, notes: bool = True, holes: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.xen = xen
        self.holes = holes
        self.info = SourceInfo("memory", "model", "model", "riscv64")
        chosen: list[CoreNote] = xen.notes() if notes else xen.notes()[:1]
        self.info.notes = [Note(n.name, n.type, n.desc) for n in chosen]
        frames = sorted({xen.first, xen.end, *holes, *(h + 1 for h in holes)})
        self._extents = tuple(
            Extent(a << 12, b << 12) for a, b in zip(frames, frames[1:], strict=False) if a not in holes
        )

    def extents(self) -> tuple[Extent, ...]:
        return self._extents

    def _read(self, address: int, size: int) -> bytes:
        if not self.holds(address, size):
            from gdb_p2m.errors import Unreadable

            raise Unreadable(address, self.missing_reason(address))
        return self.xen.memory.read(address, size)


@dataclass
class Machine:
    """A model machine, opened by the program through its note."""

    xen: RiscvXen
    holes: frozenset[int] = frozenset()

    @cached_property
    def target(self) -> Target:
        """The target over the model's memory as it is now."""
        return Target(ModelSource(self.xen, holes=self.holes))

    def domain(self, index: int = 0) -> RiscvDomain:
        """The domain at this position of the description."""
        wanted = self.xen.domains[index].id
        return next(d for d in self.target.domain_list.domains if d.id == wanted)

    def view(self, index: int = 0) -> GstageView:
        """A fresh view of it."""
        return GstageView(self.domain(index))

    def truth(self, index: int = 0) -> list[Run]:
        """What the model knows to be mapped."""
        return list(truth_runs(self.xen.domains[index].p2m))

    def check(self, index: int = 0) -> dict[str, Result]:
        """Every GST rule on it, by id."""
        domain = self.domain(index)
        context = GstContext(self.target, domain, Views(domain))
        return {rule.id: run_rule(rule, context) for rule in GST_RULES}


def runs_of(mapping: Mapping) -> list[Run]:
    """A mapping as plain tuples."""
    return [(r.start, r.count, r.kind.word, r.frame, r.order) for r in mapping]


def model(name: str) -> Machine:
    """A fresh machine of fixtures/models/NAME.model."""
    return built(parse_riscv((MODELS / f"{name}.model").read_text(), name))


def built(description: RiscvDescription | str) -> Machine:
    """A fresh machine of a description or its text."""
    if isinstance(description, str):
        description = parse_riscv(description)
    return Machine(build_riscv(description))


def truth_csv(path: Path) -> dict[int, list[Run]]:
    """The truth beside a real excerpt: runs by domain."""
    found: dict[int, list[Run]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            run = int(row["start_gfn"], 0), int(row["count"]), row["type"], int(row["first_mfn"], 0), int(row["order"])
            found.setdefault(int(row["domain"]), []).append(run)
    return found


def syms_bytes(xen: RiscvXen, *, build_id: str | None = None) -> bytes:
    """A xen-syms of the model without debug information: symbols and the build-id note, at their link addresses."""
    note = xen.build_id_note if build_id is None else xen.build_id_note[:16] + bytes.fromhex(build_id)
    elf = elf_maker.Elf(segments=[(1, xen.link + 0x1000, b"\x13\0\0\0" * 4), (4, xen.link + TEXT_NOTE, note)])
    names = {"_stext": xen.link + 0x1000, **xen.symbols}
    elf.symbols = [(name, address, 0x11, 1) for name, address in names.items()]
    return elf.bytes()
