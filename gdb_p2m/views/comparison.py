"""Every view of one domain's P2M against the guest's own, run by run.

The guest's own view says what each PFN is. The frame list list and `.xen_p2m` are maps, too, that leave some kinds out by
design; the M2P and the frame table speak of frames: of those that the guest calls its own, and of those that Xen says are
the domain's. Work and memory follow runs, or batches of frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gdb_p2m.mapping import Kind, Mapping, batches, own_frames
from gdb_p2m.sources.base import Mask
from gdb_p2m.structures.m2p import M2p, meaning
from gdb_p2m.structures.x86_frame_table import X86FrameTable
from gdb_p2m.units import FrameArray
from gdb_p2m.views.base import View
from gdb_p2m.views.leaves import Backing

MAX_LISTED = 10_000
"""Disagreeing runs that are kept; the rest is counted."""
RULES = {"list-list": "FLL-004", "m2p": "M2P-001", "owner": "M2P-002", "owned frames": "M2P-003", "core-table": None}
"""The rule that a disagreement with each view breaks; of `.xen_p2m`, a copy, there is none."""


@dataclass
class Disagreement:
    """A run of PFNs of which one view says something else. says: by view, in words."""

    start: int
    count: int
    view: str
    says: dict[str, str]

    @property
    def rule(self) -> str | None:
        """The rule that it breaks."""
        return RULES[self.view]


@dataclass
class Compared:
    """One view against the guest's own. agree/disagree/unknown: PFNs (of `owned frames`: machine frames).

    reason: why nothing could be compared; "" when it was.
    """

    view: str
    unit: str
    agree: int = 0
    disagree: int = 0
    unknown: int = 0
    reason: str = ""


@dataclass
class Comparison:
    """The result. bad, doubtful: (start, end) of PFNs with a disagreement, or that some view could not be asked about."""

    own: Mapping
    views: list[Compared] = field(default_factory=list)
    found: list[Disagreement] = field(default_factory=list)
    runs: int = 0
    bad: list[FrameArray] = field(default_factory=list)
    doubtful: list[FrameArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        """What the guest's own view cannot tell agrees with nothing."""
        blind = (self.own.kind == Kind.UNREADABLE) | (self.own.kind == Kind.CORRUPT)
        self.doubt(self.own.start[blind], self.own.count[blind])

    def note(self, start: FrameArray, count: FrameArray) -> list[int]:
        """Count disagreeing runs; the indices of those that there is room to keep."""
        self.runs += len(start)
        if len(start):
            self.bad.append(np.stack((start, start + count), axis=1))
        return list(range(min(len(start), max(0, MAX_LISTED - len(self.found)))))

    def doubt(self, start: FrameArray, count: FrameArray) -> None:
        """PFNs that some view could not be asked about."""
        if len(start):
            self.doubtful.append(np.stack((start, start + count), axis=1))

    @property
    def disagreeing(self) -> int:
        """PFNs of which at least one view says something else."""
        return _covered(self.bad)

    @property
    def agreeing(self) -> int:
        """PFNs of which all views that were asked say the same."""
        return self.own.limit - _covered(self.bad + self.doubtful)


def _covered(pieces: list[FrameArray]) -> int:
    """Numbers in the union of (start, end) intervals."""
    if not pieces:
        return 0
    spans = np.concatenate(pieces)
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    ends = np.maximum.accumulate(spans[:, 1])
    before = np.concatenate(([spans[0, 0]], ends[:-1]))
    return int(np.maximum(spans[:, 1] - np.maximum(spans[:, 0], before), 0).sum())


# -- maps of PFNs ---------------------------------------------------------------------------------------------


def compare_map(result: Comparison, other: Mapping, own_view: View, per_page: int) -> None:
    """The frame list list, or `.xen_p2m`, against the guest's own view. per_page: PFNs of a page of entries."""
    own = result.own
    compared = Compared(other.view, "PFNs")
    result.views.append(compared)
    limit = min(own.limit, other.limit)
    page_edges, by_page = _identity_pages(own_view, own.limit, per_page)
    cuts = np.unique(np.concatenate([own.start, other.start, other.start + other.count, page_edges]))
    cuts = cuts[cuts < limit]
    count = np.diff(np.concatenate((cuts, [limit])))
    kinds, frames = _at(own, cuts)
    other_kinds, other_frames = _at(other, cuts)
    same = (kinds == other_kinds) & (frames == other_frames)
    if other.view == "core-table":
        same |= (kinds != Kind.MFN) & (kinds != Kind.CORRUPT) & (other_kinds == Kind.MISSING)
    else:
        identity = by_page[np.searchsorted(page_edges, cuts, side="right") - 1]
        same |= (kinds == Kind.IDENTITY) & (other_kinds == Kind.MISSING) & identity
    unknown = (kinds == Kind.UNREADABLE) | (other_kinds == Kind.UNREADABLE)
    unknown |= (kinds == Kind.CORRUPT) & (other_kinds == Kind.CORRUPT)  # the same nonsense is no agreement
    if other.view == "core-table":
        unknown |= (kinds == Kind.CORRUPT) & (other_kinds == Kind.MISSING)  # it lists frames, and there may be none
    bad = np.flatnonzero(~same & ~unknown)
    compared.unknown = int(count[unknown].sum()) + own.limit - limit
    if limit < own.limit:
        result.doubt(np.array([limit]), np.array([own.limit - limit]))
    compared.disagree = int(count[bad].sum())
    compared.agree = limit - int(count[unknown].sum()) - compared.disagree
    result.doubt(cuts[unknown], count[unknown])
    for i in result.note(cuts[bad], count[bad]):
        at, n = int(cuts[bad[i]]), int(count[bad[i]])
        says = {own.view: _words(own, at, n), other.view: _words(other, at, n)}
        result.found.append(Disagreement(at, n, other.view, says))


def _identity_pages(view: View, limit: int, per: int) -> tuple[FrameArray, Mask]:
    """(edges, whether identity there is stored by page): by design the frame list list reads such PFNs as INVALID.

    What lies past the guest's list is identity without any page.
    """
    backing, frames = view.leaf_slots()
    edges = np.concatenate(([0], np.flatnonzero(np.diff(backing)) + 1))
    by_page = backing[edges] == Backing.IDENTITY
    at = edges.astype(np.int64) * per
    end = len(frames) * per
    if end < limit:
        return np.concatenate((at, [end])), np.concatenate((by_page, [True]))
    return at, by_page


def _at(mapping: Mapping, numbers: FrameArray) -> tuple[FrameArray, FrameArray]:
    """Kind and frame (-1: none) of each of `numbers`."""
    i = np.searchsorted(mapping.start, numbers, side="right") - 1
    frame = mapping.frame[i]
    return mapping.kinds_at(numbers).astype(np.int64), np.where(frame >= 0, frame + numbers - mapping.start[i], -1)


def _words(mapping: Mapping, at: int, count: int) -> str:
    """What a view says of PFNs at..at+count-1, which are one run of it."""
    run = mapping.lookup(at)
    if run is None:
        return "nothing"
    if run.frame is None:
        return run.kind.word
    last = "" if count == 1 else f"..{run.frame + count - 1:#x}"
    return f"{run.kind.word} {run.frame:#x}{last}"


# -- what speaks of frames ------------------------------------------------------------------------------------


def compare_m2p(result: Comparison, m2p: M2p) -> None:
    """M2P[P2M[pfn]] = pfn, for every frame that the guest calls its own."""
    compared = Compared("m2p", "PFNs")
    result.views.append(compared)
    for pfns, mfns in own_frames(result.own):
        values, ok = m2p.lookup(mfns)
        bad = ok & (values != pfns.astype(np.uint64))
        _tally(result, compared, pfns, bad, ok)
        step = (values - pfns.astype(np.uint64)).view(np.int64)
        for a, n in _runs(result, pfns, bad, step):
            raw = int(values[a])
            text = f"M2P[{int(mfns[a]):#x}]: {meaning(raw)}"
            _add(result, pfns, a, n, "m2p", text)


def compare_owner(result: Comparison, table: X86FrameTable, owner: int, name: dict[int, str]) -> None:
    """The frame table names this domain for every frame that the guest calls its own. owner: its struct domain's frame."""
    compared = Compared("owner", "PFNs")
    result.views.append(compared)
    for pfns, mfns in own_frames(result.own):
        owners, ok = table.owners(mfns)
        bad = ok & (owners != owner)
        _tally(result, compared, pfns, bad, ok)
        for a, n in _runs(result, pfns, bad, owners):
            whose = int(owners[a])
            text = name.get(whose, "nobody" if whose <= 0 else f"the struct domain at frame {whose:#x}")
            _add(result, pfns, a, n, "owner", text)


def compare_owned(result: Comparison, table: X86FrameTable, owner: int, m2p: M2p) -> None:
    """The other way round: every frame that Xen says is the domain's is where the M2P says, in the guest's own view.

    Pages that Xen shares with the domain have no PFN and are left out.
    """
    own, survey = result.own, table.survey
    compared = Compared("owned frames", "frames", unknown=survey.unread)
    result.views.append(compared)
    mine = survey.owner == owner
    first = survey.start[mine]
    for mfns, _ in batches(first, survey.count[mine], first):
        values, ok = m2p.lookup(mfns)
        compared.unknown += int(np.count_nonzero(~ok))
        named = ok & (values < np.uint64(own.limit))
        pfns, frames = values[named].astype(np.int64), mfns[named]
        kinds, theirs = _at(own, pfns)
        unknown = kinds == Kind.UNREADABLE
        # A page that is granted out may carry FOREIGN and the frame itself (documented-layout, section 3).
        same = ((kinds == Kind.MFN) | (kinds == Kind.FOREIGN)) & (theirs == frames)
        bad = ~same & ~unknown
        compared.unknown += int(np.count_nonzero(unknown))
        compared.agree += int(np.count_nonzero(same))
        compared.disagree += int(np.count_nonzero(bad))
        for a, n in _runs(result, pfns, bad, frames - pfns):
            last = "" if n == 1 else f"..{int(frames[a]) + n - 1:#x}"
            _add(result, pfns, a, n, "owned frames", f"MFN {int(frames[a]):#x}{last} is the domain's and named so by the M2P")


def _tally(result: Comparison, compared: Compared, pfns: FrameArray, bad: Mask, ok: Mask) -> None:
    compared.disagree += int(np.count_nonzero(bad))
    compared.unknown += int(np.count_nonzero(~ok))
    compared.agree += int(np.count_nonzero(ok & ~bad))
    if not ok.all():
        lost = pfns[~ok]
        edges = np.concatenate(([0], np.flatnonzero(np.diff(lost) != 1) + 1, [len(lost)]))
        result.doubt(lost[edges[:-1]], np.diff(edges))


def _runs(result: Comparison, pfns: FrameArray, bad: Mask, step: FrameArray) -> Iterator[tuple[int, int]]:
    """(index, length) of maximal stretches of bad PFNs that are consecutive and whose `step` is the same."""
    at = np.flatnonzero(bad)
    if not len(at):
        return
    breaks = (np.diff(at) != 1) | (np.diff(pfns[at]) != 1) | (np.diff(step[at]) != 0)
    edges = np.concatenate(([0], np.flatnonzero(breaks) + 1, [len(at)]))
    first, length = at[edges[:-1]], np.diff(edges)
    for i in result.note(pfns[first], length):
        yield int(first[i]), int(length[i])


def _add(result: Comparison, pfns: FrameArray, a: int, n: int, view: str, text: str) -> None:
    at = int(pfns[a])
    own = result.own
    result.found.append(Disagreement(at, n, view, {own.view: _words(own, at, n), view: text}))
