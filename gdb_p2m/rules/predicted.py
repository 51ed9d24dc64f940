"""What a documented algorithm would have built, compared with the P2M that is there.

Who makes the prediction is of no concern here: it comes as stretches of kinds. Frames are Xen's choice, so only
whether a PFN has a frame, is identity, missing or foreign is compared. Differences are explained by evidence in
this memory (the M2P, the kernel's own counters), or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gdb_p2m.errors import P2mError
from gdb_p2m.layout.e820 import SECTION_PAGES
from gdb_p2m.mapping import Kind, Mapping, own_frames
from gdb_p2m.rules.base import CannotCheck, RuleContext
from gdb_p2m.structures.e820 import E820Map, read_e820
from gdb_p2m.units import PAGE_SIZE, FrameArray, KindArray
from gdb_p2m.views.leaves import Backing, BackingArray

MAX_DIFFERENCES = 1000
"""Differences that are listed and explained; the rest only counts, so that reports stay bounded."""


@dataclass(frozen=True)
class Stretches:
    """Kinds of PFNs 0..limit-1 as maximal stretches: `start` rising from 0, `kind` values of Kind."""

    limit: int
    start: FrameArray
    kind: KindArray

    @classmethod
    def of(cls, mapping: Mapping) -> Stretches:
        """The kinds of a Linux view, whatever the frames."""
        return cls.folded(mapping.limit, mapping.start, mapping.kind)

    @classmethod
    def folded(cls, limit: int, start: FrameArray, kind: KindArray) -> Stretches:
        """Neighbours of one kind become one stretch."""
        first = np.concatenate(([True], kind[1:] != kind[:-1]))
        return cls(limit, start[first], kind[first])

    def at(self, pfns: FrameArray) -> KindArray:
        """Kinds of PFNs below the limit."""
        return self.kind[np.searchsorted(self.start, pfns, side="right") - 1]


@dataclass(frozen=True)
class Prediction:
    """source: where it comes from, in words. facts: what it starts from, for the report. kinds: the P2M.

    backing: which leaf slots are private or shared; None where that is not predicted. assumed: what the source
    leaves open, and what was taken for it.
    """

    source: str
    facts: dict[str, int | str]
    kinds: Stretches
    backing: BackingArray | None = None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """PFNs start..start+count-1. explained: why, "" when nothing in this memory explains it."""

    start: int
    count: int
    expected: Kind
    found: Kind
    explained: str

    @property
    def end(self) -> int:
        """First PFN after it."""
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class StorageDifference:
    """Leaf slots that cover PFNs start..start+count-1 are backed otherwise than predicted. explained: see Difference."""

    start: int
    count: int
    slots: int
    expected: Backing
    found: Backing
    explained: str


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Per listed difference: frames whose M2P entry agrees, M2P entries that name a PFN of it; None: not known."""

    agree: FrameArray | None
    named: FrameArray | None


class Comparison:
    """A prediction against the guest's own view. Raises CannotCheck where the view cannot be made."""

    def __init__(self, ctx: RuleContext, prediction: Prediction) -> None:
        self.ctx = ctx
        self.prediction = prediction

    @cached_property
    def _pairs(self) -> tuple[FrameArray, FrameArray, KindArray, KindArray]:
        """start, count, expected, found: maximal stretches on which neither changes."""
        want, got = self.prediction.kinds, Stretches.of(self.ctx.mapping)
        limit = min(want.limit, got.limit)
        start = np.unique(np.concatenate((want.start, got.start)))
        start = start[start < limit]
        count = np.diff(np.concatenate((start, [limit])))
        return start, count, want.at(start), got.at(start)

    @property
    def compared(self) -> int:
        """PFNs that could be compared."""
        _, count, _, found = self._pairs
        return int(count[found != Kind.UNREADABLE].sum())

    @property
    def unread(self) -> int:
        """PFNs of which it is not known what they are."""
        _, count, _, found = self._pairs
        return int(count[found == Kind.UNREADABLE].sum())

    @property
    def differing(self) -> int:
        """PFNs that are not as predicted."""
        return int(self._pairs[1][self._differ].sum())

    @property
    def stretches(self) -> int:
        """Differences, also those not listed."""
        return len(self._differ)

    @cached_property
    def _differ(self) -> FrameArray:
        _, _, expected, found = self._pairs
        return np.flatnonzero((expected != found) & (found != Kind.UNREADABLE))

    @cached_property
    def differences(self) -> tuple[Difference, ...]:
        """The first MAX_DIFFERENCES, each with its explanation."""
        start, count, expected, found = (column[self._differ[:MAX_DIFFERENCES]] for column in self._pairs)
        rows = zip(start.tolist(), count.tolist(), expected.tolist(), found.tolist(), strict=True)
        bare = [Difference(s, c, Kind(e), Kind(f), "") for s, c, e, f in rows]
        if not bare:
            return ()
        evidence = _Evidence(self._agreeing(bare), self._named(bare))
        return tuple(
            Difference(d.start, d.count, d.expected, d.found, self._explain(i, d, bare, evidence))
            for i, d in enumerate(bare)
        )

    # -- explanations ---------------------------------------------------------------------------------------

    def _explain(self, i: int, d: Difference, listed: list[Difference], evidence: _Evidence) -> str:
        if (other := self._other_size) and Kind.MFN in (d.expected, d.found):
            return other
        if d.found is Kind.FOREIGN:
            return "frames of another domain are mapped here, as the entries say (FOREIGN_FRAME_BIT)"
        if d.expected is Kind.MFN and d.found is Kind.MISSING:
            return self._given_back(None if evidence.named is None else int(evidence.named[i]), listed)
        by_map = self._by_own_map(d) or self._cut_off(d)
        agreed = evidence.agree is not None and int(evidence.agree[i]) == d.count
        if by_map or not (agreed or d.found is Kind.MISSING):
            return by_map
        if d.expected is Kind.MISSING and d.found is Kind.MFN:
            return f"populated after boot: the M2P agrees for all of them{self._balloon(listed)}"
        section = _in_whole_sections(i, listed) if d.expected is Kind.IDENTITY else ""
        if section and d.found is Kind.MFN:
            return f"memory added after boot, {section}; the M2P agrees for all of them"
        if section and d.found is Kind.MISSING:
            return f"room for memory added after boot, {section} (hot-added, or unpopulated pages for foreign frames)"
        return ""

    def _given_back(self, named: int | None, listed: list[Difference]) -> str:
        """A PFN without its frame: Xen has it back when no frame of the machine is this PFN's any more."""
        counted = self._balloon(listed)
        if named == 0:
            return f"given back to Xen: no entry of the M2P names these PFNs{counted}"
        # Frames of other domains name PFNs of theirs, so that entries which name them prove nothing.
        return f"given back to Xen{counted}" if self._driver_change == _shown(listed) else ""

    @cached_property
    def _other_size(self) -> str:
        """Words for a prediction that starts from another initial size than this domain had."""
        assumed = self.prediction.facts["nr_pages"]
        try:
            began = self.ctx.start_info.number("nr_pages")
        except CannotCheck:
            return ""
        return "" if began == assumed else f"this domain began with {began:,} pages, not with {assumed:,}"

    @cached_property
    def _own_map(self) -> E820Map | None:
        try:
            return read_e820(self.ctx.guest)
        except P2mError:
            return None

    def _by_own_map(self, d: Difference) -> str:
        """A prediction from a file may start from another memory map than this kernel did."""
        if self._own_map is None:
            return ""
        ram = self._own_map.ram_pages(d.start, d.end)
        if d.expected is Kind.IDENTITY and ram == d.count:
            return f"this kernel's own memory map ({self._own_map.name}) has RAM here"
        if d.found is Kind.IDENTITY and not ram:
            return f"this kernel's own memory map ({self._own_map.name}) has no RAM here"
        return ""

    def _cut_off(self, d: Difference) -> str:
        """RAM that the domain may not have is cut out of the kernel's map, so that it looks like a hole there.

        Past the builder's list it is identity all the same; in the list's last page it is what the list says
        (seen: 5 PFNs of a dom0 with dom0_mem=401001K,max:401001K).
        """
        if self._own_map is None or (d.expected, d.found) != (Kind.IDENTITY, Kind.MISSING):
            return ""
        began, per = int(self.prediction.facts["nr_pages"]), self.ctx.guest.width.per_page
        ends = {r.end // PAGE_SIZE for r in self._own_map.ranges if r.is_ram}
        if d.start in ends and began <= d.start and d.end <= -(-began // per) * per:
            return (
                f"RAM that this domain may not have: {self._own_map.name} leaves it out, but it is no hole, and the "
                "last page of the domain builder's list says missing"
            )
        return ""

    def _agreeing(self, differences: list[Difference]) -> FrameArray | None:
        """For each difference how many of its frames the M2P assigns to their PFN."""
        starts = np.array([d.start for d in differences], dtype=np.int64)
        ends = np.array([d.end for d in differences], dtype=np.int64)
        total = np.zeros(len(differences), dtype=np.int64)
        m = self.ctx.mapping
        hit = np.zeros(len(m), dtype=bool)
        for d in differences:
            if d.found is Kind.MFN:
                hit[np.searchsorted(m.start, d.start, side="right") - 1 : np.searchsorted(m.start, d.end)] = True
        runs = Mapping(m.view, m.limit, m.start[hit], m.count[hit], m.kind[hit], m.frame[hit])
        try:
            for pfns, mfns in own_frames(runs):
                values, ok = self.ctx.m2p.lookup(mfns)
                good = pfns[ok & (values == pfns.astype(np.uint64))]
                which = np.searchsorted(starts, good, side="right") - 1
                inside = (which >= 0) & (good < ends[which])
                total += np.bincount(which[inside], minlength=len(total))
        except P2mError:
            return None
        return total

    def _named(self, differences: list[Difference]) -> FrameArray | None:
        """For each difference how many M2P entries name one of its PFNs; None when some cannot be read."""
        starts = np.array([d.start for d in differences], dtype=np.uint64)
        ends = np.array([d.end for d in differences], dtype=np.uint64)
        total = np.zeros(len(differences), dtype=np.int64)
        try:
            pieces = self.ctx.m2p.pieces()
            if not pieces or self.ctx.m2p.unread:
                return None
        except P2mError:
            return None
        for _, words in pieces:
            for a in range(0, len(words), 1 << 20):
                part = words[a : a + (1 << 20)]
                part = part[(part >= starts[0]) & (part < ends[-1])]
                which = np.searchsorted(starts, part, side="right") - 1
                inside = part < ends[which]
                total += np.bincount(which[inside], minlength=len(total))
        return total

    @cached_property
    def _driver_change(self) -> int | None:
        """Pages that the balloon driver counts above (or, negative, below) what the domain began with."""
        guest = self.ctx.guest
        try:
            began = self.ctx.start_info.number("nr_pages")
            released = guest.variable("xen_released_pages") if guest.has("xen_released_pages") else 0
            # struct balloon_stats begins with current_pages, an unsigned long (include/xen/balloon.h).
            current = guest.space.read_named("balloon_stats", guest.names.require("balloon_stats").address)
        except (P2mError, CannotCheck):
            return None
        return current - (began - released) if current else None

    def _balloon(self, listed: list[Difference]) -> str:
        """What the balloon driver counts, beside what the P2M shows."""
        change = self._driver_change
        if change is None:
            return ""
        same = " the same:" if change == _shown(listed) else ""
        return f"; the balloon driver counts{same} {abs(change):,} pages {'in' if change >= 0 else 'out'}"

    # -- storage --------------------------------------------------------------------------------------------

    @cached_property
    def _slots(self) -> tuple[BackingArray, BackingArray]:
        """Predicted and found backing of the leaf slots that both know, none when storage is not predicted."""
        none = np.zeros(0, dtype=np.uint8)
        if self.prediction.backing is None:
            return none, none
        found, _ = self.ctx.own.leaf_slots()
        n = min(len(found), len(self.prediction.backing))
        return self.prediction.backing[:n], found[:n]

    @property
    def slots_compared(self) -> int:
        """Leaf slots whose backing is predicted and could be read."""
        return int(np.count_nonzero(self._slots[1] != Backing.UNREADABLE))

    @property
    def slots_differing(self) -> int:
        """Leaf slots that are not backed as predicted."""
        want, got = self._slots
        return int(np.count_nonzero((want != got) & (got != Backing.UNREADABLE)))

    @cached_property
    def storage(self) -> tuple[StorageDifference, ...]:
        """Stretches of leaf slots that are backed otherwise, the first MAX_DIFFERENCES."""
        want, got = self._slots
        if not len(want):
            return ()
        edges = np.flatnonzero((want[1:] != want[:-1]) | (got[1:] != got[:-1])) + 1
        start = np.concatenate(([0], edges))
        count = np.diff(np.concatenate((start, [len(want)])))
        differ = np.flatnonzero((want[start] != got[start]) & (got[start] != Backing.UNREADABLE))[:MAX_DIFFERENCES]
        per = self.ctx.guest.width.per_page
        return tuple(
            StorageDifference(
                s * per, c * per, c, w := Backing(int(want[s])), g := Backing(int(got[s])), self._why(s, c, w, g)
            )
            for s, c in zip(start[differ].tolist(), count[differ].tolist(), strict=True)
        )

    def _why(self, slot: int, count: int, expected: Backing, found: Backing) -> str:
        """A shared page became private when an entry was written: the P2M says so itself where it differs, too."""
        per = self.ctx.guest.width.per_page
        a, b = slot * per, (slot + count) * per
        if found is not Backing.PRIVATE or expected is Backing.PRIVATE:
            return ""
        written = any(d.start < b and a < d.end for d in self.differences)
        return "entries were written here, as PRE-001 shows" if written else ""


def _shown(differences: list[Difference]) -> int:
    """Frames that the P2M has above (negative: below) the prediction."""
    return sum(d.count * ((d.found is Kind.MFN) - (d.expected is Kind.MFN)) for d in differences)


def _in_whole_sections(i: int, differences: list[Difference]) -> str:
    """Words for an area that was added in whole memory sections: neighbours that all should be identity."""
    a = b = i
    while a and differences[a - 1].end == differences[a].start and differences[a - 1].expected is Kind.IDENTITY:
        a -= 1
    while b + 1 < len(differences) and differences[b + 1].start == differences[b].end:
        if differences[b + 1].expected is not Kind.IDENTITY:
            break
        b += 1
    start, end = differences[a].start, differences[b].end
    if start % SECTION_PAGES or end % SECTION_PAGES:
        return ""
    return f"in whole sections of 128 MiB (PFNs {start:#x}..{end - 1:#x})"
