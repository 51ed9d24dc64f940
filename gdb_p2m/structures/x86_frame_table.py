"""Xen's frame table on x86-64: struct page_info of every machine frame, through any page table that has Xen's slots.

It lies at FRAMETABLE_VIRT in every 64-bit PV guest's page table and in Xen's own (asm/config.h), by compressed
frame index (PDX), which is the frame number where Xen found no hole to leave out; `prove` says when it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gdb_p2m.errors import NotFound, NotUnderstood
from gdb_p2m.layout import xen_x86 as layout
from gdb_p2m.mapping import MAX_RUNS
from gdb_p2m.sources.base import Mask, Source
from gdb_p2m.spaces.radix import Status
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.units import MIB, PAGE_SHIFT, PAGE_SIZE, FrameArray, MachineAddress, Mfn

MAX_FRAMES = 1 << 32
"""16 TiB of machine memory: more needs a larger page_info (CONFIG_BIGMEM)."""
WORDS = layout.PAGE_INFO_SIZE // 8
PER_PAGE = PAGE_SIZE // layout.PAGE_INFO_SIZE
COUNT, TYPE, DOMAIN = (at // 8 for at in (layout.PAGE_INFO_COUNT, layout.PAGE_INFO_TYPE, layout.PAGE_INFO_DOMAIN))
LARGE_PAGE = 2 * MIB
CHUNK = 64
"""Large pages of the table per step: 128 MiB of it, the records of 16 GiB."""
SAMPLES = 64
MAX_OWNERS = 1 << 16
ALL_ONES = (1 << 64) - 1
MAX_ROOTS = 1 << 20
NO_OWNER = 0
NOT_KNOWN = -1
ABSENT_PAGE, LOST_PAGE = -1, -2
Words = np.ndarray[tuple[int, int], np.dtype[np.uint64]]


@dataclass(frozen=True, slots=True)
class X86PageInfo:
    """One record. address: machine. raw: its four words. owner: frame of the owner's struct domain, 0 for none.

    state_shift: which bits of count_info are PGC_state, as the whole table shows.
    """

    mfn: Mfn
    address: MachineAddress
    raw: tuple[int, int, int, int]
    state_shift: int

    @property
    def count_info(self) -> int:
        """count_info."""
        return self.raw[COUNT]

    @property
    def type_info(self) -> int:
        """u.inuse.type_info."""
        return self.raw[TYPE]

    @property
    def absent(self) -> bool:
        """All ones: the table ends before this frame, which has no memory."""
        return all(word == ALL_ONES for word in self.raw)

    @property
    def state(self) -> str:
        """PGC_state in a word: inuse, offlining, offlined, free."""
        return layout.PGC_STATES[self.count_info >> self.state_shift & 3]

    @property
    def flags(self) -> list[str]:
        """Names of the bits that are set in count_info, with the state where it is not inuse."""
        found = [name for name, bit in layout.PGC_FLAGS[self.state_shift] if self.count_info >> bit & 1]
        if self.state == "free" and "PGC_allocated" in found:
            found[found.index("PGC_allocated")] = "PGC_need_scrub"  # the same bit, on free pages
        return found if self.state == "inuse" else [*found, f"PGC_state_{self.state}"]

    @property
    def references(self) -> int:
        """The reference count."""
        return self.count_info & layout.PGC_COUNT_MASK

    @property
    def type_name(self) -> str:
        """PGT_... of type_info."""
        return f"PGT_{layout.PGT_NAMES[self.type_info >> layout.PGT_TYPE_SHIFT]}"

    @property
    def type_flags(self) -> list[str]:
        """Names of the other bits that are set in type_info."""
        return [name for name, bit in layout.PGT_FLAGS if self.type_info >> bit & 1]

    @property
    def type_count(self) -> int:
        """How often the frame is used as its type."""
        return self.type_info & layout.PGT_COUNT_MASK

    @property
    def owner(self) -> int:
        """Frame of the owner's struct domain; 0: none, also where the member means something else (free pages)."""
        return int(owners_of(np.array([self.raw], dtype=np.uint64), self.state_shift)[0])


def owners_of(records: Words, state_shift: int) -> FrameArray:
    """Frame of the struct domain that owns each frame: NO_OWNER for free frames and Xen's own, NOT_KNOWN past the end."""
    count = records[:, COUNT]
    owner = (records[:, DOMAIN] & np.uint64(0xFFFF_FFFF)).astype(np.int64)
    state = (count >> np.uint64(state_shift)) & np.uint64(3)
    used = (count & np.uint64(layout.PGC_ALLOCATED | layout.PGC_COUNT_MASK)) != 0
    owner[(state == layout.PGC_STATE_FREE) | ~used] = NO_OWNER
    owner[(count == np.uint64(ALL_ONES)) & (records[:, 0] == np.uint64(ALL_ONES))] = NOT_KNOWN
    return owner


@dataclass
class Census:
    """What one owner's frames are. pages: allocated to it, without heap and extra pages; what tot_pages counts.

    heap: pages of Xen's heap that it shares (shared_info, grant table). other: frames that it no longer has but that
    are still referenced. types: frames by PGT type number.
    """

    pages: int = 0
    heap: int = 0
    other: int = 0
    types: dict[int, int] = field(default_factory=dict)


@dataclass
class Survey:
    """The whole table in one pass: census by owner, owner runs, page-table roots, frames without a readable record.

    start/count/owner: maximal runs of one owner (NO_OWNER too), for frames whose record could be read.
    roots, root_owners: frames typed L4, or L3 and pinned (32-bit guests).
    """

    census: dict[int, Census]
    start: FrameArray
    count: FrameArray
    owner: FrameArray
    roots: FrameArray
    root_owners: FrameArray
    root_types: FrameArray
    free: int
    unread: int


class NoFrameTable(NotFound):
    """No page table in this memory maps Xen's frame table: so it is no memory of a 64-bit Xen, or not all of one."""


class X86FrameTable:
    """The table. end: frames that it can have at most. Raises NotFound when the page table does not lead to it."""

    def __init__(self, space: VirtualSpace, end: int) -> None:
        self.space = space
        self.source = space.source
        self.end = min(end, MAX_FRAMES)
        first = layout.FRAMETABLE_VIRT
        self._large = space.slots(first, first + self.end * layout.PAGE_INFO_SIZE, "L2")
        status = self._large.status
        if not (status == Status.OK).any():
            where = f"(root at machine frame {space.root >> PAGE_SHIFT:#x})"
            if (status == Status.UNREADABLE).any():
                raise NotFound(f"Xen's frame table, at {first:#x}, is not in the dump {where}")
            raise NoFrameTable(f"Xen's frame table is not mapped at {first:#x} {where}")
        if not any(_held(self.source, frames).any() for _, frames in self._page_frames()):
            raise NotFound("Xen's frame table is mapped, but none of its pages is in the dump")

    def _page_frames(self) -> Iterator[tuple[int, FrameArray]]:
        """(number of the first page, machine frame of each page) of the mapped parts of the table.

        ABSENT_PAGE: there are no such frames (Xen maps no records for holes); LOST_PAGE: that cannot be read.
        """
        there = np.flatnonzero(self._large.status == Status.OK)
        for group in np.split(there, np.flatnonzero(np.diff(there // CHUNK)) + 1):
            if not len(group):
                continue
            start, stop = int(group[0]), int(group[-1]) + 1
            base = layout.FRAMETABLE_VIRT
            last = min(stop * LARGE_PAGE, -(-self.end // PER_PAGE) * PAGE_SIZE)
            part = self.space.slots(base + start * LARGE_PAGE, base + last, "L1")
            absent = np.where(part.status == Status.ABSENT, ABSENT_PAGE, LOST_PAGE)
            yield start * LARGE_PAGE // PAGE_SIZE, np.where(part.status == Status.OK, part.frame, absent)

    @cached_property
    def state_shift(self) -> int:
        """Where PGC_state lies in count_info: by the frames that nothing but this state marks (see the layout).

        A sample of the table settles it; only when no free frame is in it the rest is looked at.
        """
        pages = np.unique(np.linspace(0, max(self.end // PER_PAGE - 1, 0), SAMPLES).astype(np.int64))
        records, ok = self.records((pages[:, None] * PER_PAGE + np.arange(PER_PAGE)).reshape(-1))
        hits = _free_marks(records[ok])
        if not any(hits):
            for _, piece, good, _ in self._pieces():
                hits = [a + b for a, b in zip(hits, _free_marks(piece[good]), strict=True)]
        return layout.PGC_STATE_SHIFTS[hits.index(max(hits))]

    def _pieces(self) -> Iterator[tuple[int, Words, Mask, int]]:
        """(first frame, records, which could be read, how many are lost) of the whole table, in steps of megabytes.

        Raises NotUnderstood when page tables map the same pages over and over: more than the memory holds.
        """
        room = sum(e.end - e.start for e in self.source.extents()) >> PAGE_SHIFT
        for number, frames in self._page_frames():
            for part, pages, ok in self.source.iter_pages(frames):
                records = np.ascontiguousarray(pages).view("<u8").reshape(-1, WORDS)
                first = (number + part.start) * PER_PAGE
                n = min(len(records), self.end - first)
                good = ok & (frames[part] >= 0)
                room -= int(np.count_nonzero(good))
                if room < 0:
                    raise NotUnderstood("the frame table maps more pages than the memory has: its page tables are damaged")
                lost = int(np.count_nonzero(~good & (frames[part] != ABSENT_PAGE))) * PER_PAGE
                yield first, records[:n], np.repeat(good, PER_PAGE)[:n], lost

    def records(self, mfns: FrameArray) -> tuple[Words, Mask]:
        """The records of many frames and which could be read. Cost: a read per distinct page of the table."""
        out = np.zeros((len(mfns), WORDS), dtype=np.uint64)
        ok = np.zeros(len(mfns), dtype=bool)
        inside = np.flatnonzero((mfns >= 0) & (mfns < self.end))
        unique, which = np.unique(mfns[inside] // PER_PAGE, return_inverse=True)
        pages = np.uint64(layout.FRAMETABLE_VIRT) + unique.astype(np.uint64) * np.uint64(PAGE_SIZE)
        frames = self.space.translate_many(pages).frame
        order = np.argsort(which, kind="stable")
        edges = np.searchsorted(which[order], np.arange(len(unique) + 1))
        for part, data, good in self.source.iter_pages(frames):
            rows = order[edges[part.start] : edges[part.stop]]
            words = np.ascontiguousarray(data).view("<u8").reshape(-1, WORDS)
            local = which[rows] - part.start
            out[inside[rows]] = words[local * PER_PAGE + mfns[inside[rows]] % PER_PAGE]
            ok[inside[rows]] = (good & (frames[part] >= 0))[local]
        return out, ok

    def owners(self, mfns: FrameArray) -> tuple[FrameArray, Mask]:
        """owners_of many frames, and which could be read."""
        records, ok = self.records(mfns)
        return owners_of(records, self.state_shift), ok

    def read(self, mfn: int) -> X86PageInfo:
        """One record. Raises NotUnderstood (past the table), Untranslatable or Unreadable."""
        if not 0 <= mfn < self.end:
            raise NotUnderstood(f"frame {mfn:#x} has no page_info: the machine's frames end at {self.end - 1:#x}")
        address = self.space.translate(layout.FRAMETABLE_VIRT + mfn * layout.PAGE_INFO_SIZE)
        words = np.frombuffer(self.source.read(address, layout.PAGE_INFO_SIZE), dtype="<u8").tolist()
        return X86PageInfo(Mfn(mfn), address, (words[0], words[1], words[2], words[3]), self.state_shift)

    @cached_property
    def survey(self) -> Survey:
        """Everything that needs the whole table."""
        found = _survey(self._pieces(), self.state_shift)
        found.unread += int(np.count_nonzero(self._large.status == Status.UNREADABLE)) * LARGE_PAGE // layout.PAGE_INFO_SIZE
        return found


def _held(source: Source, frames: FrameArray) -> Mask:
    """Which frames lie in the source's extents."""
    extents = source.extents()
    starts = np.array([-(-e.start >> PAGE_SHIFT) for e in extents], dtype=np.int64)
    ends = np.array([e.end >> PAGE_SHIFT for e in extents], dtype=np.int64)
    if not len(starts):
        return np.zeros(len(frames), dtype=bool)
    i = np.searchsorted(starts, frames, side="right") - 1
    held: Mask = (i >= 0) & (frames < ends[i])
    return held


def _free_marks(records: Words) -> list[int]:
    """For each possible place of PGC_state: frames that it says are free, and nothing else of count_info is set."""
    count = records[:, COUNT]
    found = []
    for shift in layout.PGC_STATE_SHIFTS:
        rest = count & np.uint64(ALL_ONES ^ (layout.PGC_ALLOCATED | 3 << shift))
        found.append(int(np.count_nonzero((rest == 0) & ((count >> np.uint64(shift)) & np.uint64(3) == 3))))
    return found


def _survey(pieces: Iterator[tuple[int, Words, Mask, int]], shift: int) -> Survey:
    census: dict[int, Census] = {}
    runs: list[tuple[FrameArray, FrameArray, FrameArray]] = []
    roots: list[tuple[FrameArray, FrameArray, FrameArray]] = []
    free = unread = held = total = 0
    for first, records, ok, lost in pieces:
        owner = owners_of(records, shift)
        owner[~ok] = NOT_KNOWN
        unread += lost
        state = (records[:, COUNT] >> np.uint64(shift)) & np.uint64(3)
        free += int(np.count_nonzero(ok & (owner != NOT_KNOWN) & (state == layout.PGC_STATE_FREE)))
        _count(census, records, owner, shift)
        edges = np.concatenate(([0], np.flatnonzero(np.diff(owner)) + 1, [len(owner)]))
        total += len(edges)
        if total > MAX_RUNS or len(census) > MAX_OWNERS:
            raise NotUnderstood("the frame table names more owners than a machine has: it is none, or was overwritten")
        runs.append((first + edges[:-1], np.diff(edges), owner[edges[:-1]]))
        kind = records[:, TYPE] >> np.uint64(layout.PGT_TYPE_SHIFT)
        pinned = (records[:, TYPE] & np.uint64(layout.PGT_PINNED)) != 0
        hit = np.flatnonzero((owner > 0) & ((kind == layout.PGT_L4) | ((kind == layout.PGT_L3) & pinned)))
        held += len(hit)
        if held <= MAX_ROOTS:
            roots.append((first + hit, owner[hit], kind[hit].astype(np.int64)))
    if not runs:
        raise NotFound("Xen's frame table has no page")
    start, count, own = (np.concatenate(c) for c in zip(*runs, strict=True))
    known = own != NOT_KNOWN
    where, whose, types = (np.concatenate(c) for c in zip(*roots, strict=True))
    return Survey(census, start[known], count[known], own[known], where, whose, types, free, unread)


def _count(census: dict[int, Census], records: Words, owner: FrameArray, shift: int) -> None:
    """Add one piece. Cost: a sort per piece, a step per distinct (owner, use)."""
    here = np.flatnonzero(owner > 0)
    count, kind = records[here, COUNT], records[here, TYPE] >> np.uint64(layout.PGT_TYPE_SHIFT)
    extra_bit = next(bit for name, bit in layout.PGC_FLAGS[shift] if name == "PGC_extra")
    heap = (count & np.uint64(layout.PGC_XEN_HEAP)) != 0
    mine = ((count & np.uint64(layout.PGC_ALLOCATED)) != 0) & ((count >> np.uint64(extra_bit)) & np.uint64(1) == 0)
    use = np.where(heap, 1, np.where(mine, 0, 2))
    keys, totals = np.unique(owner[here] * 32 + use * 8 + kind.astype(np.int64), return_counts=True)
    for key, n in zip(keys.tolist(), totals.tolist(), strict=True):
        c = census.setdefault(key // 32, Census())
        name = ("pages", "heap", "other")[key // 8 % 4]
        setattr(c, name, getattr(c, name) + n)
        if name == "pages":
            c.types[key % 8] = c.types.get(key % 8, 0) + n


def unreadable_part(table: X86FrameTable) -> str:
    """What the survey could not see, for messages; "" for nothing."""
    lost = table.survey.unread
    return f"the records of {lost:,} frames are not in the dump" if lost else ""


__all__ = ["NOT_KNOWN", "NO_OWNER", "Census", "NoFrameTable", "Survey", "X86FrameTable", "X86PageInfo", "owners_of"]
