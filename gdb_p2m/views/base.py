"""What a view is: a whole map, and the story of one frame with every entry that was read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotSupported, Unreadable
from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.sources.base import Source
from gdb_p2m.spaces.radix import Step
from gdb_p2m.spaces.words import words_of
from gdb_p2m.units import PAGE_SHIFT, FrameArray
from gdb_p2m.views.leaves import overwritten


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One thing read on the way: `where` names it (variable, table[index]), `address` is machine.

    address and raw are None for steps that read nothing (arithmetic, a limit).
    """

    where: str
    index: int | None
    address: int | None
    raw: int | None
    meaning: str


@dataclass
class Trace:
    """All steps of one view for one frame number, also when it ends early.

    kind/frame: the answer. read_at: machine address of the entry that decided, and what it is.
    """

    view: str
    number: int
    steps: list[TraceStep] = field(default_factory=list)
    kind: Kind = Kind.UNREADABLE
    frame: int | None = None
    read_at: int | None = None
    read_what: str = ""
    reason: str = ""
    order: int | None = None

    def step(self, where: str, index: int | None, address: int | None, raw: int | None, meaning: str) -> None:
        """Append a step."""
        self.steps.append(TraceStep(where, index, address, raw, meaning))

    def decide(
        self, kind: Kind, frame: int | None, address: int | None, what: str, reason: str = ""
    ) -> Trace:
        """Set the answer; returns self so that a trace can end with `return t.decide(...)`."""
        self.kind, self.frame, self.read_at, self.read_what = kind, frame, address, what
        self.reason = reason
        return self

    def page_table(self, steps: tuple[Step, ...], notes: dict[int, str] | None = None) -> None:
        """Page-table steps; notes: extra meaning by machine frame that an entry leads to."""
        for s in steps:
            note = (notes or {}).get(s.pte.frame, "")
            lead = s.pte.pointee.value if not s.pte.problem else s.pte.problem
            text = f"{lead}, frame {s.pte.frame:#x} [{s.pte.flags}]" + (f" = {note}" if note else "")
            self.step(f"{s.level.name}", s.index, s.address, s.pte.raw, text)


def shared_answer(
    t: Trace, source: Source, width: EntryWidth, name: str, kind: Kind, entry: int, decided: tuple[int | None, str]
) -> Trace:
    """The end of a trace that leads to shared leaf `name`: what its slot at machine address `entry` says.

    decided: where the page was settled (address and words). A slot that does not hold INVALID is corrupt.
    """
    index = t.number % width.per_page
    try:
        raw = int.from_bytes(source.read(entry, width.bytes), "little")
    except Unreadable as e:
        t.step("entry", index, entry, None, f"{e.reason}; the page is {name}")
        return t.decide(kind, None, *decided)
    if raw != width.invalid:
        reason = f"{name}[{index}] is {raw:#x}, not INVALID_P2M_ENTRY: the shared page was overwritten"
        t.step("entry", index, entry, raw, reason)
        return t.decide(Kind.CORRUPT, None, entry, "P2M entry", reason)
    page, ok = source.read_pages(np.array([entry >> PAGE_SHIFT], dtype=np.int64))
    if ok[0] and overwritten(words_of(page, width)[0], width)[index]:
        reason = f"so many other entries of {name} were overwritten that none of the page is believed"
        t.step("entry", index, entry, raw, reason)
        return t.decide(Kind.CORRUPT, None, entry, "P2M entry", reason)
    t.step("entry", index, entry, raw, f"INVALID_P2M_ENTRY, in the page {name}: {kind.word}")
    return t.decide(kind, None, *decided)


@dataclass(frozen=True, slots=True)
class StorageCount:
    """One line of `stats`: how many slots/pages are stored in which way. unit: what is counted."""

    what: str
    count: int
    unit: str
    pfns: int


@dataclass(frozen=True, slots=True)
class Storage:
    """How a view stores its P2M: shared pages and their use, the memory it takes, what sharing saves.

    shared: (name, machine frame, slots that lead to it). bytes_used/bytes_saved: memory.
    """

    lines: tuple[StorageCount, ...]
    shared: tuple[tuple[str, int, int], ...]
    bytes_used: int
    bytes_saved: int
    notes: tuple[str, ...] = ()


class View(ABC):
    """One way to see the P2M of one domain. `name` is what --view takes; `limit`: numbers it covers."""

    name: str
    limit: int

    @abstractmethod
    def mapping(self) -> Mapping:
        """The whole P2M as maximal runs. The result is kept: asking twice costs nothing."""

    @abstractmethod
    def trace(self, number: int) -> Trace:
        """Every step for one PFN/GFN below `limit`."""

    @abstractmethod
    def storage(self) -> Storage:
        """How it is stored, for `stats`."""

    def leaf_slots(self) -> tuple[npt.NDArray[np.uint8], FrameArray]:
        """x86 views: leaves.Backing and MFN (-1: none) of every stretch of P2M_PER_PAGE PFNs."""
        raise NotSupported(f"view {self.name} has no leaf slots")
