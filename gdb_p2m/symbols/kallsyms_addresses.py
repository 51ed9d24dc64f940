"""The address half of kallsyms: which of the encodings a kernel used, settled by what fits.

Encodings of symbol i, `rel` being relative_base (kernel/kallsyms.c, kallsyms_sym_address):

    absolute          addresses[i], a word each              before 4.6, and without BASE_RELATIVE
    relative          rel + u32 offsets[i]                   4.6 on (2213e9a66bb8); x86-64 again since 6.15
    relative, percpu  offsets[i] >= 0: that value itself;    4.6 to 6.14 on x86-64 SMP
                      < 0: rel - 1 - offsets[i]
    place-relative    address of offsets[i] + s32 offsets[i]  7.0 on (a081b5789255)

Xen's tables come from the same program's descendant (xen/tools/symbols.c) and hold u32 offsets from its link
origin, XEN_VIRT_START, which is in none of them.

The kernel sorts the table by address, most of it lies inside the kernel, and a kernel has exactly one
encoding: every other reading breaks one of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.symbols.kallsyms_tables import NameTable, TokenTable, align
from gdb_p2m.units import U64Array

PLACE_RELATIVE = "place-relative"
FROM_ORIGIN = "from the image's origin"
KERNEL_SPAN = 1 << 30
"""KERNEL_IMAGE_SIZE of x86-64 is at most 1 GiB."""


@dataclass(frozen=True, slots=True)
class AddressTable:
    """Addresses of all symbols, ascending. at: byte offset of the table in the image; encoding: in words."""

    at: int
    encoding: str
    addresses: U64Array


@dataclass(frozen=True, slots=True)
class _Place:
    """A stretch of the image that could be the table; base_at is None when there is no relative_base."""

    at: int
    base_at: int | None
    entry: int


def _xen_places(names: NameTable, word: int) -> Iterator[_Place]:
    """The same for xen/tools/symbols.c: just before the count."""
    yield _Place(names.num_syms_at - 4 * names.count, None, 4)
    yield _Place(names.num_syms_at - word * names.count, None, word)


def _places(names: NameTable, tokens: TokenTable, hints: Mapping[str, int], word: int) -> Iterator[_Place]:
    """Where a table of `names.count` entries may lie, by the orders of scripts/kallsyms.c."""
    count = names.count
    size = align(4 * count, word)
    before, after = names.num_syms_at, align(tokens.end, word)
    yield _Place(after, align(after + 4 * count, word), 4)
    yield _Place(before - word - size, before - word, 4)
    yield _Place(after, None, word)
    yield _Place(before - word * count, None, word)
    yield _Place(align(tokens.end, 4), None, 4)
    if (at := hints.get("kallsyms_offsets")) is not None:
        yield _Place(at, hints.get("kallsyms_relative_base"), 4)
    if (at := hints.get("kallsyms_addresses")) is not None:
        yield _Place(at, None, word)


def _readings(
    view: memoryview, base: int, place: _Place, count: int, word: int, origin: int | None
) -> Iterator[tuple[str, U64Array]]:
    """Every way to read the place, as (encoding, addresses); wraps modulo 2^64 like the kernel."""
    if place.at < 0 or place.at + place.entry * count > len(view):
        return
    if place.base_at is not None and not 0 <= place.base_at <= len(view) - word:
        return
    mask = np.uint64((1 << (8 * word)) - 1)
    if place.entry == word and place.base_at is None:
        yield "absolute", np.frombuffer(view, f"<u{word}", count, place.at).astype(np.uint64)
    if place.entry != 4:
        return
    offsets = np.frombuffer(view, "<i4", count, place.at)
    if origin is not None:
        yield FROM_ORIGIN, np.uint64(origin) + offsets.view(np.uint32)
        return
    signed = offsets.astype(np.int64).view(np.uint64)
    if place.base_at is None:
        here = np.uint64(base + place.at) + np.arange(0, 4 * count, 4, dtype=np.uint64)
        yield PLACE_RELATIVE, (here + signed) & mask
        return
    relative_base = np.frombuffer(view, f"<u{word}", 1, place.base_at).astype(np.uint64)
    yield "relative", (relative_base + offsets.view(np.uint32)) & mask
    below = relative_base - np.uint64(1) - signed
    yield "relative, percpu absolute", np.where(offsets >= 0, signed, below) & mask


def _fits(addresses: U64Array, base: int, size: int) -> bool:
    """Ascending, mostly different, mostly inside the image, next to nothing (vsyscalls) far above it.

    A table of zeros (a hole in the image) would be ascending, too; in real kernels 9 of 10 addresses differ.
    """
    if np.any(addresses[1:] < addresses[:-1]) or 2 * np.count_nonzero(np.diff(addresses)) < len(addresses):
        return False
    top = (1 << 64) - 1
    limits = np.array([base, min(base + size, top), min(base + KERNEL_SPAN, top)], np.uint64)
    first, last, far = np.searchsorted(addresses, limits)
    return bool(2 * (last - first) >= len(addresses) and 64 * (len(addresses) - far) <= len(addresses))


def address_tables(
    view: memoryview,
    base: int,
    names: NameTable,
    tokens: TokenTable,
    hints: Mapping[str, int],
    word: int,
    origin: int | None = None,
) -> list[AddressTable]:
    """All readings that fit, different ones only (a real kernel has one).

    hints: offsets in the image of the tables, by VMCOREINFO's names. origin: what Xen's offsets count from.
    """
    found: list[AddressTable] = []
    based: set[int] = set()
    places = _places(names, tokens, hints, word) if origin is None else _xen_places(names, word)
    for place in places:
        for encoding, addresses in _readings(view, base, place, names.count, word, origin):
            if not _fits(addresses, base, len(view)):
                continue
            if not any(np.array_equal(addresses, other.addresses) for other in found):
                found.append(AddressTable(place.at, encoding, addresses))
                if place.base_at is not None:
                    based.add(place.at)
    # A word after the offsets that points into the kernel is relative_base, never chance; but ascending
    # offsets from it ascend from any other place too.
    return [table for table in found if table.encoding != PLACE_RELATIVE or table.at not in based]


def the_address_table(tables: list[AddressTable], count: int) -> AddressTable:
    """The only element. Raises NotUnderstood for none or several."""
    if len(tables) == 1:
        return tables[0]
    if not tables:
        raise NotUnderstood(f"kallsyms: {count} names found, but no table of addresses that fits them")
    words = ", ".join(f"{table.encoding} at offset {table.at:#x}" for table in tables)
    raise NotUnderstood(f"kallsyms: {count} names, {len(tables)} tables could be their addresses: {words}")
