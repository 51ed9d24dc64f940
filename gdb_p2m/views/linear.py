"""View `linear`: the virtually mapped list xen_p2m_addr[] (Linux 3.19 on).

For each PFN the question is which frame backs `xen_p2m_addr + 8*pfn`: the page p2m_missing, the page
p2m_identity, or a page of entries. The answer comes from page-table entries, so 2^27 PFNs cost as
many page reads as there are distinct tables and private list pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gdb_p2m.errors import NotFound, P2mError, Unreadable, Untranslatable
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.spaces.entries import decode_array
from gdb_p2m.spaces.radix import Slots, Status, table_page
from gdb_p2m.structures.p2m_list import p2m_list
from gdb_p2m.structures.stage import is_virtual_area
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray, Mfn, U64Array
from gdb_p2m.views.base import Storage, StorageCount, Trace, View, shared_answer
from gdb_p2m.views.entry_runs import classify_entry
from gdb_p2m.views.leaves import Backing, BackingArray, add_leaves, dirty_slots, leaf_builder

NOT_YET = Mfn(-2)
"""Frame of a shared page that does not exist yet; equal to no frame of a list page."""


@dataclass(frozen=True)
class ListPages:
    """The list as page-table facts, one element per list page (512 PFNs, or 1024 on PAE).

    pmds: the raw slots one level up. frame: MFN, -1 where none. status: radix.Status.
    writable: whether the list can be written through this mapping. pte_table: frame of the page table
    that holds the page's entry, -1 where there is none.
    """

    pmds: Slots
    frame: FrameArray
    status: np.ndarray[tuple[int], np.dtype[np.uint8]]
    writable: np.ndarray[tuple[int], np.dtype[np.bool_]]
    pte_table: FrameArray
    raw: U64Array


class LinearView(View):
    """The guest's linear list. Raises NotFound when a name that it cannot do without is not known."""

    name = "linear"

    def __init__(self, guest: LinuxGuest, progress: Progress = no_progress) -> None:
        self.guest = guest
        self.width = guest.width
        self.progress = progress
        self.place = p2m_list(guest)
        self.base, self.size, self.max_pfn = self.place.base, self.place.size, self.place.max_pfn
        self.limit = max(self.width.max_p2m_pfn, self.size)

    @cached_property
    def missing_frame(self) -> Mfn:
        """Machine frame of the page p2m_missing, NOT_YET before the kernel has made it."""
        return self._shared_leaf("p2m_missing")

    @cached_property
    def identity_frame(self) -> Mfn:
        """Machine frame of the page p2m_identity, likewise."""
        return self._shared_leaf("p2m_identity")

    def _shared_leaf(self, name: str) -> Mfn:
        """The builder's list knows no shared pages: while it is in use their pointers are NULL."""
        if name in self.guest.inferred:
            return self.guest.inferred[name].frame or NOT_YET
        if not self.guest.variable(name) and not is_virtual_area(self.base, self.width.bits):
            return NOT_YET
        return self.guest.page_of(name)

    def optional_frame(self, name: str) -> Mfn | None:
        """Machine frame of a shared page that may be unknown (p2m_missing_pte, ...)."""
        try:
            return self.guest.page_of(name)
        except P2mError:
            return None

    @cached_property
    def pages(self) -> ListPages:
        """What backs every page of the list."""
        end = self.base + -(-self.size // self.width.per_page) * PAGE_SIZE
        pmds = self.guest.space.slots(self.base, end, "L2")
        total = (end - self.base) // PAGE_SIZE
        skip = (self.base >> PAGE_SHIFT) & 511
        n = len(pmds.status) * 512
        frame = np.full(n, -1, dtype=np.int64)
        status = np.repeat(pmds.status, 512)
        writable = np.zeros(n, dtype=bool)
        raw = np.zeros(n, dtype=np.uint64)
        table = np.full(n, -1, dtype=np.int64)
        known: dict[int, tuple[U64Array, FrameArray, np.ndarray, np.ndarray] | None] = {}
        level = self.guest.space.shape.levels[-1]
        is_table = (pmds.status == Status.OK) & ~pmds.large & ((pmds.raw & np.uint64(0x80)) == 0)
        for i in np.flatnonzero(pmds.status == Status.OK).tolist():
            part = slice(i * 512, i * 512 + 512)
            mfn = int(pmds.frame[i])
            if not is_table[i]:
                frame[part] = mfn + np.arange(512)
                writable[part] = pmds.writable[i]
                raw[part] = pmds.raw[i]
                continue
            table[part] = mfn
            if mfn not in known:
                try:
                    entries = table_page(self.guest.source, mfn)
                except Unreadable:
                    known[mfn] = None
                else:
                    dec = decode_array("x86", entries, level, True)
                    known[mfn] = (entries, np.where(dec.leaf, dec.frame, -1), dec.leaf, dec.writable)
            here = known[mfn]
            if here is None:
                status[part] = Status.UNREADABLE
                continue
            raw[part], frame[part] = here[0], here[1]
            status[part] = np.where(here[2], Status.OK, Status.ABSENT)
            writable[part] = here[3] & pmds.writable[i]
        cut = slice(skip, skip + total)
        return ListPages(pmds, frame[cut], status[cut], writable[cut], table[cut], raw[cut])

    @cached_property
    def backing(self) -> BackingArray:
        """Backing of every list page: what the kernel's own page check would find."""
        p = self.pages
        backing = np.full(len(p.frame), Backing.PRIVATE, dtype=np.uint8)
        backing[p.frame == self.missing_frame] = Backing.MISSING
        backing[p.frame == self.identity_frame] = Backing.IDENTITY
        backing[(p.status == Status.ABSENT) | (p.status == Status.MALFORMED)] = Backing.CORRUPT
        backing[p.status == Status.UNREADABLE] = Backing.UNREADABLE
        return backing

    def leaf_slots(self) -> tuple[BackingArray, FrameArray]:
        return self.backing, self.pages.frame

    @cached_property
    def _mapping(self) -> Mapping:
        builder = leaf_builder(self.name, self.limit, self.guest.source, self.width)
        leaves = ((Backing.MISSING, self.missing_frame), (Backing.IDENTITY, self.identity_frame))
        shared = {b: f for b, f in leaves if f != NOT_YET}
        dirty = dirty_slots(self.guest.source, self.width, shared)
        add_leaves(builder, self.guest.source, self.width, self.backing, self.pages.frame, 0, self.progress, dirty)
        end = len(self.backing) * self.width.per_page
        if self.size < end:
            # The builder's list ends inside a page; what follows there is not part of it.
            part = builder.build().clip(0, self.size)
            builder = leaf_builder(self.name, self.limit, self.guest.source, self.width)
            builder.add_runs(part.start, part.count, part.kind, part.frame)
            end = self.size
        # Past the list: room for extra memory is missing, beyond the capacity all is identity
        # (get_phys_to_machine; documented-layout: "Rules of the kernel's own readers").
        extra = max(min(self.max_pfn, self.limit), end)
        builder.add(end, extra - end, Kind.MISSING)
        builder.add(extra, self.limit - extra, Kind.IDENTITY)
        return builder.build()

    def mapping(self) -> Mapping:
        return self._mapping

    def trace(self, number: int) -> Trace:
        t = Trace(self.name, number)
        for name, address, value, meaning in self.place.read:
            t.step(name, None, address, value, meaning)
        if number >= self.size:
            return self._past_the_list(t, number)
        va = self.base + number * self.width.bytes
        try:
            found = self.guest.space.walk(va)
        except Untranslatable as e:
            t.page_table(e.steps)  # type: ignore[arg-type]
            kind = Kind.UNREADABLE if e.unreadable else Kind.CORRUPT
            end = t.steps[-1]
            return t.decide(kind, None, end.address, end.where, e.message)
        t.page_table(found.steps, self._frame_names)
        last = t.steps[-1]
        for frame, name, kind in (
            (self.missing_frame, "p2m_missing", Kind.MISSING),
            (self.identity_frame, "p2m_identity", Kind.IDENTITY),
        ):
            if found.frame == frame:
                decided = (last.address, f"{last.where} entry: maps {name}")
                return shared_answer(t, self.guest.source, self.width, name, kind, found.address, decided)
        return self._entry(t, number, found.address)

    def _past_the_list(self, t: Trace, number: int) -> Trace:
        kind = Kind.MISSING if number < self.max_pfn else Kind.IDENTITY
        room = "" if self.max_pfn >> 62 else f"; xen_max_p2m_pfn is {self.max_pfn:#x}"
        text = f"PFN {number:#x} lies past the list's {self.size:#x} entries{room}"
        t.step("limit", None, None, None, text)
        return t.decide(kind, None, None, "past the end of the list")

    def _entry(self, t: Trace, number: int, address: int) -> Trace:
        try:
            raw = int.from_bytes(self.guest.source.read(address, self.width.bytes), "little")
        except Unreadable as e:
            t.step("entry", number % self.width.per_page, address, None, e.reason)
            return t.decide(Kind.UNREADABLE, None, address, "P2M entry", e.message)
        kind, frame, reason = classify_entry(raw, number, self.width)
        shown = f"{kind.word}" + (f", MFN {frame:#x}" if frame is not None else "")
        t.step("entry", number % self.width.per_page, address, raw, reason or shown)
        return t.decide(kind, frame, address, "P2M entry", reason)

    @cached_property
    def _frame_names(self) -> dict[int, str]:
        names = ("p2m_missing", "p2m_identity", "p2m_missing_pte", "p2m_identity_pte")
        how = {n: " (inferred)" if n in self.guest.inferred else "" for n in names}
        return {f: n + how[n] for n in names if (f := self.optional_frame(n)) is not None}

    def storage(self) -> Storage:
        per = self.width.per_page
        backing, p = self.backing, self.pages
        counts = {b: int(np.count_nonzero(backing == b)) for b in Backing}
        lines = [
            StorageCount("private pages of the list", counts[Backing.PRIVATE], "pages", counts[Backing.PRIVATE] * per),
            StorageCount("slots that map p2m_missing", counts[Backing.MISSING], "PTEs", counts[Backing.MISSING] * per),
            StorageCount(
                "slots that map p2m_identity", counts[Backing.IDENTITY], "PTEs", counts[Backing.IDENTITY] * per
            ),
        ]
        for bad in (Backing.UNREADABLE, Backing.CORRUPT):
            if counts[bad]:
                lines.append(StorageCount(f"slots {bad.name.lower()}", counts[bad], "PTEs", counts[bad] * per))
        shared = []
        pmd_frames = p.pmds.frame[p.pmds.status == Status.OK]
        for name in ("p2m_missing_pte", "p2m_identity_pte"):
            frame = self.optional_frame(name)
            if frame is not None:
                shared.append((name, int(frame), int(np.count_nonzero(pmd_frames == frame))))
        leaves = (
            ("p2m_missing", self.missing_frame, counts[Backing.MISSING]),
            ("p2m_identity", self.identity_frame, counts[Backing.IDENTITY]),
        )
        made = [(name, int(frame), slots) for name, frame, slots in leaves if frame != NOT_YET]
        shared += made
        tables = np.unique(p.pte_table[p.pte_table >= 0])
        pages = counts[Backing.PRIVATE] + len(made) + len(tables)
        whole = len(backing) + len(p.pmds.status)
        return Storage(
            tuple(lines), tuple(shared), pages * PAGE_SIZE, max(0, whole - pages) * PAGE_SIZE, self._notes(len(tables))
        )

    def _notes(self, tables: int) -> tuple[str, ...]:
        return (
            f"xen_p2m_size {self.size:#x}, list at {self.base:#x}..{self.base + self.size * self.width.bytes - 1:#x}",
            f"{tables} page-table pages map the list",
        )


def linear_view(guest: LinuxGuest, progress: Progress = no_progress) -> LinearView:
    """The view, or NotFound that says which names are missing and why that matters."""
    needed = ("xen_p2m_addr", "xen_p2m_size", "p2m_missing", "p2m_identity")
    lacking = [n for n in needed if not guest.has(n)]
    if lacking:
        raise NotFound(
            f"the linear list cannot be read: symbol {', '.join(lacking)} is not known",
            hint="p2m_missing and p2m_identity tell holes from identity; give --kernel vmlinux or System.map",
        )
    return LinearView(guest, progress)
