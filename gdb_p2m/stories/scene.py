"""What one PFN of a Linux guest looks like through its own view: how its fate is stored, and beside what."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gdb_p2m.errors import P2mError, Unreadable
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind, Run
from gdb_p2m.spaces.words import words_of
from gdb_p2m.structures.era import Era, era_of
from gdb_p2m.structures.stage import is_virtual_area
from gdb_p2m.structures.xen_pages import start_info
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, human_size
from gdb_p2m.views.base import Trace, View
from gdb_p2m.views.entry_runs import entry_runs
from gdb_p2m.views.leaves import Backing
from gdb_p2m.views.linear import LinearView
from gdb_p2m.views.tree import TreeView

PTE_FRAME = 0xF_FFFF_FFFF_F000
ENTRY, LEAF, TABLE, PAST, BROKEN = "entry", "shared-leaf", "shared-table", "past-end", ""
SHOWN_RUNS = 8


@dataclass(frozen=True)
class Scene:
    """One PFN, the guest's own view of it and the trace through that view."""

    guest: LinuxGuest
    view: View
    trace: Trace

    @property
    def number(self) -> int:
        """The PFN."""
        return self.trace.number

    @property
    def kind(self) -> Kind:
        """What the guest's own view says."""
        return self.trace.kind

    @cached_property
    def era(self) -> Era:
        """The era of the P2M."""
        return era_of(self.guest)

    @property
    def linear(self) -> bool:
        """Whether the guest has the linear list."""
        return isinstance(self.view, LinearView)

    @property
    def pae(self) -> bool:
        """Whether it is a 32-bit guest."""
        return self.guest.width.bits == 32

    @cached_property
    def initial(self) -> bool:
        """Whether the list in use is still the domain builder's."""
        return isinstance(self.view, LinearView) and not is_virtual_area(self.view.base, self.guest.width.bits)

    @cached_property
    def storage(self) -> str:
        """ENTRY, LEAF (a shared page of INVALID), TABLE (a shared page above it), PAST or BROKEN."""
        if self.kind in (Kind.CORRUPT, Kind.UNREADABLE):
            return BROKEN
        if self.trace.read_what.startswith("past the end"):
            return PAST
        if "p2m_" not in self.trace.read_what:
            return ENTRY
        return TABLE if self._above_is_shared() else LEAF

    def _above_is_shared(self) -> bool:
        """Whether p2m_missing_pte, p2m_identity_pte, p2m_mid_missing or p2m_mid_identity leads here."""
        word = "identity" if self.kind is Kind.IDENTITY else "missing"
        if isinstance(self.view, LinearView):
            table = self.view.optional_frame(f"p2m_{word}_pte")
            led = [s.raw for s in self.trace.steps if s.where == "L2" and s.raw is not None]
            return table is not None and bool(led) and (led[0] & PTE_FRAME) >> PAGE_SHIFT == table
        assert isinstance(self.view, TreeView)
        if self.trace.read_what.startswith("top slot"):
            return True
        row = int(self.view.tree.row[self.number // self.guest.width.mid_span])
        return row >= 0 and int(self.view.leaves.shared_mid[row]) != Backing.PRIVATE

    @property
    def case(self) -> str:
        """In one word: `identity-shared-leaf`, `mfn-entry`, `missing-past-end`, `corrupt`."""
        return f"{self.kind.word}-{self.storage}".rstrip("-")

    @cached_property
    def nr_pages(self) -> int | None:
        """start_info.nr_pages, None when it cannot be read."""
        with suppress(P2mError):
            return start_info(self.guest).number("nr_pages")
        return None

    @cached_property
    def run(self) -> Run | None:
        """The run of alike PFNs that this one belongs to, None past the view's end or when there are too many."""
        with suppress(P2mError):
            mapping = self.view.mapping()
            i = int(np.searchsorted(mapping.start, self.number, side="right")) - 1
            if i >= 0 and self.number < int(mapping.start[i]) + int(mapping.count[i]):
                return mapping.run(i)
        return None

    @cached_property
    def leaf(self) -> list[Run] | None:
        """The runs of the page of entries that holds this PFN's, None when no such page was read."""
        if self.storage != ENTRY or self.trace.read_at is None:
            return None
        at = self.trace.read_at & ~(PAGE_SIZE - 1)
        try:
            data = np.frombuffer(self.guest.source.read(at, PAGE_SIZE), dtype=np.uint8).reshape(1, PAGE_SIZE)
        except Unreadable:
            return None
        first = self.number - self.number % self.guest.width.per_page
        start, count, kind, frame = entry_runs(words_of(data, self.guest.width)[0], first, self.guest.width)
        found = [
            Run(s, c, Kind(k), f if f >= 0 else None, None)
            for s, c, k, f in zip(start.tolist(), count.tolist(), kind.tolist(), frame.tolist(), strict=True)
        ]
        return _joined(found)

    @property
    def leaf_span(self) -> str:
        """Memory that one page of entries speaks of: 2 MiB, 4 MiB on 32-bit."""
        return human_size(self.guest.width.per_page << PAGE_SHIFT)

    @property
    def table_span(self) -> str:
        """Memory that one page-table page of the list (or one middle page of the tree) covers."""
        slots = 512 if self.linear else self.guest.width.per_page
        return human_size(slots * self.guest.width.per_page << PAGE_SHIFT)


def _joined(runs: list[Run]) -> list[Run]:
    """Neighbours of one kind as one, whatever their frames: a page of entries in a few words."""
    out: list[Run] = []
    for run in runs:
        if out and out[-1].kind is run.kind:
            out[-1] = Run(out[-1].start, out[-1].count + run.count, run.kind, out[-1].frame, None)
        else:
            out.append(run)
    return out


def span_text(run: Run) -> str:
    """`PFNs 0x9f..0xff (97)`, or `PFN 0x9f`."""
    if run.count == 1:
        return f"PFN {run.start:#x}"
    return f"PFNs {run.start:#x}..{run.start + run.count - 1:#x} ({run.count:,})"
