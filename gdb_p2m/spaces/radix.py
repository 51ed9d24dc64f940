"""The one page-table walker: single addresses with every step kept, and whole ranges in bulk.

It reads machine memory only and never trusts a table: every table must lie in the source, depth is
bounded by the shape, so cycles and nonsense end in an Untranslatable or a status, never in a loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from gdb_p2m.errors import Unreadable, Untranslatable
from gdb_p2m.layout.pagetables import Level, PageTableShape
from gdb_p2m.sources.base import Mask, Source, as_u64
from gdb_p2m.spaces.entries import Pointee, Pte, PteArray, decode, decode_array
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray, MachineAddress, U64Array

ENTRY_BYTES = 8
"""All shapes that we read (x86-64, PAE, RISC-V) have 8-byte entries."""


@dataclass(frozen=True, slots=True)
class Step:
    """One entry looked at: in the table at machine address `table`, slot `index`, at `address`."""

    level: Level
    table: MachineAddress
    index: int
    address: MachineAddress
    pte: Pte


@dataclass(frozen=True, slots=True)
class Walk:
    """A finished walk: the machine address, the size of the page that maps it, and all steps.

    writable: on x86 only when every level allows it, on RISC-V the leaf decides.
    """

    address: MachineAddress
    page_size: int
    steps: tuple[Step, ...]
    writable: bool

    @property
    def frame(self) -> int:
        """The 4 KiB machine frame of the result."""
        return self.address >> PAGE_SHIFT


class Status(IntEnum):
    """Why a bulk slot has its value."""

    OK = 0
    ABSENT = 1
    UNREADABLE = 2
    MALFORMED = 3


def canonical(shape: PageTableShape, address: int) -> bool:
    """Whether `address` can be translated by `shape` at all (sign- or zero-extended)."""
    top = address >> (shape.va_bits - 1 if shape.signed else shape.va_bits)
    ones = (1 << (64 - shape.va_bits + 1)) - 1
    return top == 0 or (shape.signed and top == ones)


def walk(source: Source, shape: PageTableShape, root: MachineAddress, address: int) -> Walk:
    """Translate `address`. Raises Untranslatable with all steps taken, also the failing one."""
    if not canonical(shape, address):
        raise Untranslatable(f"address {address:#x} is not canonical for {shape.name}")
    steps: list[Step] = []
    table = root
    for level in shape.levels:
        last = level is shape.levels[-1]
        index = (address >> level.shift) & (level.entries - 1)
        at = MachineAddress(table + index * ENTRY_BYTES)
        try:
            raw = source.read_u64(at)
        except Unreadable as e:
            raise Untranslatable(
                f"address {address:#x}: the {level.name} table at machine address {table:#x} "
                f"cannot be read ({e.reason})",
                steps=tuple(steps),
                unreadable=True,
            ) from None
        pte = decode(shape.entry_format, raw, level, last)
        steps.append(Step(level, table, index, at, pte))
        if pte.pointee is Pointee.LEAF:
            size = 1 << level.shift
            writable = pte.writable and (
                shape.entry_format == "riscv" or all(s.pte.writable for s in steps if s.level.has_rw)
            )
            found = MachineAddress((pte.frame << PAGE_SHIFT) + (address & (size - 1)))
            return Walk(found, size, tuple(steps), writable)
        if pte.pointee is not Pointee.TABLE:
            why = pte.problem or "not present"
            raise Untranslatable(
                f"address {address:#x}: {level.name}[{index}] at machine address {at:#x} "
                f"= {raw:#x}: {why}",
                steps=tuple(steps),
            )
        table = MachineAddress(pte.frame << PAGE_SHIFT)
    raise AssertionError("the last level is always a leaf, absent or malformed")


@dataclass(frozen=True, slots=True)
class Slots:
    """Consecutive entries of one level, for a virtual range, in order.

    raw: the entries; where a level above already decided, the entry of that level.
    status: Status per slot (UNREADABLE/ABSENT/MALFORMED also when a level above was).
    frame: MFN that the slot leads to, -1 unless OK. writable: AND over the levels (x86).
    table: MFN of the table page that holds the slot, -1 where there is none.
    large: True where a larger page above this level covers the slot.
    """

    level: Level
    first: int
    raw: U64Array
    status: np.ndarray[tuple[int], np.dtype[np.uint8]]
    frame: FrameArray
    writable: np.ndarray[tuple[int], np.dtype[np.bool_]]
    table: FrameArray
    large: np.ndarray[tuple[int], np.dtype[np.bool_]]


def canonical_pieces(shape: PageTableShape, start: int, end: int) -> list[tuple[int, int]]:
    """The parts of start..end-1 that `shape` can translate: at most the lower and the upper half."""
    if shape.signed:
        half = 1 << (shape.va_bits - 1)
        halves = [(0, half), ((1 << 64) - half, 1 << 64)]
    else:
        halves = [(0, 1 << shape.va_bits)]
    cut = [(max(start, a), min(end, b)) for a, b in halves]
    return [(a, b) for a, b in cut if a < b]


def slots(
    source: Source, shape: PageTableShape, root: MachineAddress, start: int, end: int, level: Level
) -> Slots:
    """All entries of `level` that translate start..end-1 (page-aligned to that level's span or not).

    Addresses that are not canonical for `shape` are MALFORMED, as they are for `walk`.
    Cost: one page read per table (not per slot); arrays have one element per slot of `level`.
    """
    span = 1 << level.shift
    begin = start >> level.shift
    count = max(0, (end - 1 >> level.shift) - begin + 1)
    out = _empty_slots(level, start & ~(span - 1), count)
    out.status[:] = Status.MALFORMED
    for a, b in canonical_pieces(shape, start, end):
        at = (a >> level.shift) - begin
        part = slice(at, at + (b - 1 >> level.shift) - (a >> level.shift) + 1)
        _fill_slots(source, shape, root, a & (1 << shape.va_bits) - 1, _part_of(out, part))
    return out


def _part_of(whole: Slots, part: slice) -> Slots:
    """Views on consecutive slots, so that filling them fills the whole."""
    w = whole
    return Slots(
        w.level,
        w.first,
        w.raw[part],
        w.status[part],
        w.frame[part],
        w.writable[part],
        w.table[part],
        w.large[part],
    )


def _fill_slots(
    source: Source, shape: PageTableShape, root: MachineAddress, start: int, out: Slots
) -> None:
    """Fill `out`, whose first slot translates `start` (without the sign extension)."""
    level = out.level
    target = shape.levels.index(level)
    first, count = start >> level.shift, len(out.status)
    out.status[:] = Status.ABSENT
    # (depth, table, writable so far, number of its first slot counted in entries of its level)
    stack: list[tuple[int, int, bool, int]] = [(0, root, True, 0)]
    while stack:
        depth, table, writable, prefix = stack.pop()
        here = shape.levels[depth]
        shift = here.shift - level.shift  # slots of `level` per entry here: 1 << shift
        lo = max(first >> shift, prefix)
        hi = min((first + count - 1) >> shift, prefix + here.entries - 1)
        address = table + (lo - prefix) * ENTRY_BYTES
        raw = _table_entries(source, address, hi - lo + 1)
        a = max((lo << shift) - first, 0)
        b = min(((hi + 1) << shift) - first, count)
        if raw is None:
            out.status[a:b] = Status.UNREADABLE
            continue
        dec = decode_array(shape.entry_format, raw, here, here is shape.levels[-1])
        if depth == target:
            _fill_target(out, slice(a, b), dec, address, writable or not here.has_rw)
            continue
        for i in range(len(raw)):
            a = max(((lo + i) << shift) - first, 0)
            b = min(((lo + i + 1) << shift) - first, count)
            may_write = writable and (bool(dec.writable[i]) or not here.has_rw)
            if dec.table[i]:
                below = shape.levels[depth + 1]
                child = (lo + i) << below.bits
                allowed = may_write if shape.entry_format == "x86" else True
                stack.append((depth + 1, int(dec.frame[i]) << PAGE_SHIFT, allowed, child))
            elif dec.leaf[i]:
                _fill_large(out, a, b, int(raw[i]), int(dec.frame[i]), (lo + i) << shift, first, level)
                out.writable[a:b] = may_write
            else:
                out.raw[a:b] = raw[i]
                out.status[a:b] = Status.MALFORMED if dec.present[i] else Status.ABSENT


def _fill_target(out: Slots, part: slice, dec: PteArray, address: int, writable: bool) -> None:
    """Slots whose own entries were read, the first at machine `address`."""
    count = len(dec.raw)
    out.raw[part] = dec.raw
    out.table[part] = (address + np.arange(count) * ENTRY_BYTES) >> PAGE_SHIFT
    ok = dec.leaf | dec.table
    out.status[part] = np.where(ok, Status.OK, np.where(dec.present, Status.MALFORMED, Status.ABSENT))
    out.frame[part] = np.where(ok, dec.frame, -1)
    out.writable[part] = dec.writable & writable


def _empty_slots(level: Level, first: int, count: int) -> Slots:
    none = np.full(count, -1, dtype=np.int64)
    return Slots(
        level,
        first,
        np.zeros(count, dtype=np.uint64),
        np.full(count, Status.ABSENT, dtype=np.uint8),
        none,
        np.zeros(count, dtype=bool),
        none.copy(),
        np.zeros(count, dtype=bool),
    )


def _fill_large(
    out: Slots, a: int, b: int, raw: int, frame: int, first_slot: int, first: int, level: Level
) -> None:
    """Slots a..b-1 are covered by one larger page that starts at slot `first_slot`."""
    step = 1 << (level.shift - PAGE_SHIFT)
    skipped = a + first - first_slot
    out.raw[a:b] = raw
    out.status[a:b] = Status.OK
    out.frame[a:b] = frame + (skipped + np.arange(b - a)) * step
    out.large[a:b] = True


def _table_entries(source: Source, address: int, count: int) -> U64Array | None:
    """`count` entries from machine `address` on (roots may be longer than a page)."""
    try:
        data = source.read(address, count * ENTRY_BYTES)
    except Unreadable:
        return None
    return np.frombuffer(data, dtype="<u8")


def table_page(source: Source, mfn: int) -> U64Array:
    """The 512 entries of the table (or any page of words) at frame `mfn`. Raises Unreadable."""
    data = source.read(mfn << PAGE_SHIFT, PAGE_SIZE)
    return np.frombuffer(data, dtype="<u8")


def distinct_pages(
    source: Source, mfns: FrameArray
) -> Iterator[tuple[FrameArray, U64Array, np.ndarray[tuple[int], np.dtype[np.bool_]]]]:
    """Batches of (frames, (n, 512) words, ok) of distinct frames, in rising order of frame."""
    unique = np.unique(mfns)
    for part, pages, ok in source.iter_pages(unique):
        yield unique[part], as_u64(pages), ok


@dataclass(frozen=True, slots=True)
class Translations:
    """Many addresses translated: `frame` is the 4 KiB machine frame, -1 unless `status` is OK."""

    frame: FrameArray
    status: np.ndarray[tuple[int], np.dtype[np.uint8]]


def translate_many(
    source: Source, shape: PageTableShape, root: MachineAddress, addresses: U64Array
) -> Translations:
    """Frames of any addresses, in any order, level by level: the twin of `walk` for many.

    Cost: each table is read once (twice if the addresses are not sorted and its uses lie in several
    batches), some array operations per address; memory is bounded by the number of addresses.
    """
    status = np.where(_canonical_mask(shape, addresses), Status.OK, Status.MALFORMED).astype(np.uint8)
    frame = np.full(len(addresses), -1, dtype=np.int64)
    todo = np.flatnonzero(status == Status.OK)
    table = np.full(len(todo), root, dtype=np.int64)
    for level in shape.levels:
        if not len(todo):
            break
        mask = np.uint64(level.entries - 1)
        index = ((addresses[todo] >> np.uint64(level.shift)) & mask).astype(np.int64)
        raw, ok = _gather(source, table + index * ENTRY_BYTES)
        dec = decode_array(shape.entry_format, raw, level, level is shape.levels[-1])
        leaf, down = ok & dec.leaf, ok & dec.table
        inside = (np.uint64(1) << np.uint64(level.shift - PAGE_SHIFT)) - np.uint64(1)
        offset = ((addresses[todo] >> np.uint64(PAGE_SHIFT)) & inside).astype(np.int64)
        frame[todo[leaf]] = (dec.frame + offset)[leaf]
        bad = np.where(dec.present, Status.MALFORMED, Status.ABSENT).astype(np.uint8)
        bad[~ok] = Status.UNREADABLE
        over = ~leaf & ~down
        status[todo[over]] = bad[over]
        todo, table = todo[down], dec.frame[down] << PAGE_SHIFT
    return Translations(frame, status)


def _canonical_mask(shape: PageTableShape, addresses: U64Array) -> Mask:
    """`canonical` of many addresses."""
    top = addresses >> np.uint64(shape.va_bits - 1 if shape.signed else shape.va_bits)
    ones = np.uint64((1 << (64 - shape.va_bits + 1)) - 1 if shape.signed else 0)
    return np.asarray((top == 0) | (top == ones))


def _gather(source: Source, at: FrameArray) -> tuple[U64Array, Mask]:
    """The words at machine addresses `at` (8-byte aligned) and which of them could be read."""
    raw = np.zeros(len(at), dtype=np.uint64)
    readable = np.zeros(len(at), dtype=bool)
    page = at >> PAGE_SHIFT
    # Neighbours mostly share their table: sort the few changes, not all addresses.
    heads = np.concatenate(([0], np.flatnonzero(np.diff(page)) + 1))
    unique, of_head = np.unique(page[heads], return_inverse=True)
    which = np.repeat(of_head, np.diff(np.concatenate((heads, [len(at)]))))
    for part, pages, ok in source.iter_pages(unique):
        whole = len(unique) == part.stop - part.start
        here = slice(None) if whole else np.flatnonzero((which >= part.start) & (which < part.stop))
        row = which[here] - part.start
        raw[here] = as_u64(pages)[row, (at[here] & (PAGE_SIZE - 1)) // ENTRY_BYTES]
        readable[here] = ok[row]
    return raw, readable
