"""The one protocol of all sources: machine memory that can be read, and what is known about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import Unreadable
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray, MachineAddress

Pages = npt.NDArray[np.uint8]
"""Shape (n, 4096)."""
Mask = npt.NDArray[np.bool_]

BATCH_PAGES = 2048
"""Pages per step of iter_pages: 8 MiB, which stays in the last-level cache while it is looked at."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Machine memory from `start` to `end` (exclusive), bytes."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class CpuState:
    """One CPU's note: `cr3` (machine address of the page table it had loaded) when the format has it."""

    index: int
    registers: dict[str, int]

    @property
    def cr3(self) -> int | None:
        """CR3, or None when the format does not carry it."""
        return self.registers.get("cr3")


@dataclass(frozen=True, slots=True)
class Note:
    """An ELF note: name without NUL, type, descriptor."""

    name: str
    type: int
    desc: bytes


@dataclass(frozen=True)
class CoreTable:
    """`.xen_p2m` of `xl dump-core`: PFN and MFN of each page of the domain, sorted by PFN, without doubles.

    index: position of each pair in the section, offset: file offset of the section (None in excerpts, which
    keep the pairs only). entries: elements of the section, with padding.
    """

    pfn: FrameArray
    mfn: FrameArray
    index: FrameArray | None
    offset: int | None
    entries: int


@dataclass(frozen=True, slots=True)
class XenCrash:
    """XEN_ELFNOTE_CRASH_INFO: what Xen left about itself. The texts are given as machine addresses.

    xen_phys_start: machine address (None: the note has none). frame_list_list: MFN of dom0's, as noted: 0 or all
    ones when there is none.
    """

    major: int
    minor: int
    extra_version: int
    changeset: int
    compiler: int
    compile_date: int
    compile_time: int
    tainted: int
    xen_phys_start: int | None = None
    frame_list_list: int | None = None


@dataclass
class SourceInfo:
    """What `identify` says of a source.

    format: "ELF vmcore"...; writer: who wrote it, with the evidence; loses: what the format does not
    hold, one sentence each. problems: contradictions found while opening (rule DMP-001), as
    (machine or file position, message). original: for excerpts and filtered ELF dumps, what the whole dump
    held. core_table: for cores of one domain. xen_crash: for dumps of a crashed Xen.
    """

    format: str
    writer: str
    path: str
    machine: str
    cpus: list[CpuState] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    loses: list[str] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    live: bool = False
    original: tuple[Extent, ...] | None = None
    core_table: CoreTable | None = None
    xen_crash: XenCrash | None = None


@dataclass
class ReadCounters:
    """How much was asked of a source: `pages` served, `requests` made to the backend."""

    pages: int = 0
    requests: int = 0


def merge_extents(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Sorted, with touching and overlapping extents joined."""
    merged: list[Extent] = []
    for e in sorted(extents, key=lambda e: (e.start, e.end)):
        if e.end <= e.start:
            continue
        if merged and e.start <= merged[-1].end:
            merged[-1] = Extent(merged[-1].start, max(merged[-1].end, e.end))
        else:
            merged.append(e)
    return tuple(merged)


def contiguous_groups(mfns: FrameArray) -> Iterator[tuple[int, int]]:
    """(first index, count) of each stretch of consecutive frames in `mfns`."""
    if not len(mfns):
        return
    edges = np.flatnonzero(np.diff(mfns) != 1) + 1
    starts = np.concatenate(([0], edges))
    ends = np.concatenate((edges, [len(mfns)]))
    for a, b in zip(starts.tolist(), ends.tolist(), strict=True):
        yield a, b - a


def frames_below(frames: FrameArray, starts: FrameArray, ends: FrameArray) -> FrameArray:
    """For each of `frames`: how many frames of the sorted stretches starts..ends-1 lie below it."""
    if not len(starts):
        return np.zeros(len(frames), dtype=np.int64)
    before = np.concatenate(([0], np.cumsum(ends - starts)))
    i = np.searchsorted(starts, frames, "right") - 1
    own = np.maximum(i, 0)
    inside = np.minimum(frames, ends[own]) - starts[own]
    held: FrameArray = np.where(i >= 0, before[own] + inside, 0)
    return held


class Source(ABC):
    """Machine memory. Subclasses give `info`, `extents` and `_read`; the rest stands on them."""

    info: SourceInfo

    def __init__(self) -> None:
        self.counters = ReadCounters()
        self._edges: tuple[tuple[Extent, ...], FrameArray, FrameArray] | None = None

    @abstractmethod
    def extents(self) -> tuple[Extent, ...]:
        """What this source holds (or, for a format with filtered pages, could hold), merged and sorted."""

    @abstractmethod
    def _read(self, address: int, size: int) -> bytes | memoryview:
        """Bytes that lie wholly inside the source. Raises Unreadable with the first bad address."""

    def close(self) -> None:  # noqa: B027 - not every source has something to release
        """Release files; reading afterwards is an error of the caller."""

    def missing_reason(self, address: int) -> str:
        """Why `address` cannot be read, for messages."""
        return "not in the dump"

    def place_shared_info(self, mfn: int) -> bool:
        """A core of one domain has its shared_info page without saying where it was: serve it at `mfn`.

        False: there is no such page, or nothing to place.
        """
        return False

    def audit(self) -> list[tuple[int, str]]:
        """Contradictions that are too costly to look for at opening (rule DMP-001), like SourceInfo.problems."""
        return []

    def frames_below(self, frames: FrameArray) -> FrameArray:
        """For each of `frames`: how many frames below it the dump says it holds. Without reading any page.

        An excerpt answers for its original, a format with filtered pages leaves those out.
        """
        extents = self.machine_extents()
        whole = [(-(-e.start // PAGE_SIZE), e.end // PAGE_SIZE) for e in extents]
        starts = np.array([a for a, b in whole if a < b], dtype=np.int64)
        ends = np.array([b for a, b in whole if a < b], dtype=np.int64)
        return frames_below(frames, starts, ends)

    def end(self) -> int:
        """Machine address after the last byte that this source holds; 0 for none."""
        extents = self.extents()
        return extents[-1].end if extents else 0

    def machine_extents(self) -> tuple[Extent, ...]:
        """The machine's memory as the whole dump held it: an excerpt speaks of its original here."""
        return self.extents() if self.info.original is None else self.info.original

    def ram_end(self) -> int:
        """End of the machine's RAM, without the ROM below 4 GiB that QEMU adds (seen at 0xfffc0000)."""
        ends = [e.end for e in self.machine_extents() if not (e.start >= 0xF000_0000 and e.end <= 1 << 32)]
        return max(ends, default=0)

    def holds(self, address: int, size: int = 1) -> bool:
        """Whether the extents cover address..address+size-1 (filtered pages inside still count)."""
        extents = self.extents()
        lo, hi = 0, len(extents)
        while lo < hi:
            mid = (lo + hi) // 2
            if extents[mid].end <= address:
                lo = mid + 1
            else:
                hi = mid
        return lo < len(extents) and extents[lo].start <= address and address + size <= extents[lo].end

    def read(self, address: int, size: int) -> bytes | memoryview:
        """`size` bytes of machine memory. Raises Unreadable."""
        self.counters.requests += 1
        self.counters.pages += ((address + size - 1) >> PAGE_SHIFT) - (address >> PAGE_SHIFT) + 1
        return self._read(address, size)

    def read_pages(self, mfns: FrameArray) -> tuple[Pages, Mask]:
        """Pages `mfns` (shape (n, 4096), possibly a read-only view) and which of them could be read.

        Rows of pages that could not be read hold zeros and False in the mask: look at the mask first.
        """
        ok = self._inside(mfns)
        # Frames outside the source get numbers of their own, so that no group mixes them with others.
        groups = list(contiguous_groups(np.where(ok, mfns, -2 - 2 * np.arange(len(mfns)))))
        if len(groups) == 1:
            view = self._try_run(int(mfns[0]), len(mfns))
            if view is not None:
                return view, ok
        elif len(groups) > len(mfns) // 2 and len(unique := np.unique(mfns)) < len(mfns) // 2:
            pages, readable = self.read_pages(unique)
            which = np.searchsorted(unique, mfns)
            return pages[which], readable[which]
        out = np.zeros((len(mfns), PAGE_SIZE), dtype=np.uint8)
        self._fill_all(out, ok, mfns, groups)
        return out, ok

    def _fill_all(self, out: Pages, ok: Mask, mfns: FrameArray, groups: list[tuple[int, int]]) -> None:
        """Read all stretches (first row, count) of consecutive frames whose `ok` is set."""
        for first, count in groups:
            if ok[first]:
                self._fill(out, ok, mfns, first, count)

    def _inside(self, mfns: FrameArray) -> Mask:
        """Which frames lie wholly in the extents (and may still be filtered out there)."""
        extents = self.extents()
        if self._edges is None or self._edges[0] is not extents:
            starts = np.array([-(-e.start >> PAGE_SHIFT) for e in extents], dtype=np.int64)
            ends = np.array([e.end >> PAGE_SHIFT for e in extents], dtype=np.int64)
            self._edges = (extents, starts, ends)
        _, starts, ends = self._edges
        if not len(starts):
            return np.zeros(len(mfns), dtype=bool)
        i = np.searchsorted(starts, mfns, side="right") - 1
        inside: Mask = (i >= 0) & (mfns < ends[i])
        return inside

    def _try_run(self, mfn: int, count: int) -> Pages | None:
        if mfn < 0:
            return None
        try:
            data = self.read(mfn << PAGE_SHIFT, count << PAGE_SHIFT)
        except Unreadable:
            return None
        return np.frombuffer(data, dtype=np.uint8).reshape(count, PAGE_SIZE)

    def _fill(self, out: Pages, ok: Mask, mfns: FrameArray, first: int, count: int) -> None:
        """Read one stretch of frames, halving it where a part cannot be read."""
        pages = self._try_run(int(mfns[first]), count)
        if pages is not None:
            out[first : first + count] = pages
        elif count == 1:
            ok[first] = False
        else:
            half = count // 2
            self._fill(out, ok, mfns, first, half)
            self._fill(out, ok, mfns, first + half, count - half)

    def iter_pages(self, mfns: FrameArray, batch: int = BATCH_PAGES) -> Iterator[tuple[slice, Pages, Mask]]:
        """read_pages in steps, so that memory stays bounded whatever the length of `mfns`."""
        for a in range(0, len(mfns), batch):
            part = slice(a, min(a + batch, len(mfns)))
            pages, ok = self.read_pages(mfns[part])
            yield part, pages, ok

    def read_u64(self, address: int) -> int:
        """One little-endian 64-bit word. Raises Unreadable."""
        return int.from_bytes(self.read(address, 8), "little")

    def strided_u64(self, extent: Extent, offset: int) -> npt.NDArray[np.uint64]:
        """Word at byte `offset` of every whole page of `extent`: for scans over all of memory.

        Unreadable pages give 0. Subclasses with mapped files do it without copying.
        """
        first = -(-extent.start // PAGE_SIZE)
        last = extent.end // PAGE_SIZE
        frames = np.arange(first, last, dtype=np.int64)
        words = np.zeros(len(frames), dtype=np.uint64)
        for part, pages, _ok in self.iter_pages(frames):
            words[part] = np.ascontiguousarray(pages[:, offset : offset + 8]).view(np.uint64)[:, 0]
        return words


def as_u64(pages: Pages) -> npt.NDArray[np.uint64]:
    """(n, 4096) bytes as (n, 512) little-endian words."""
    return np.ascontiguousarray(pages).view(np.uint64)


def address_of_page(mfn: int) -> MachineAddress:
    """First byte of a frame."""
    return MachineAddress(mfn << PAGE_SHIFT)
