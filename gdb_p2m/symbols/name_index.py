"""Exact-name search in a table of text, over arrays: the common part of symtab and System.map.

A name is found by comparing its first and last eight bytes with those of all names at once, then in full.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from gdb_p2m.units import U64Array

I64Array = npt.NDArray[np.int64]
_KEY = 8


class NameIndex:
    """Names and their addresses, in any order.

    text: holds all names, each followed by `end` (one byte that occurs in no name).
    starts: offset in `text` of each name; the caller has checked that they lie in it.
    addresses: virtual addresses, parallel to `starts`.
    """

    def __init__(self, text: bytes, starts: I64Array, addresses: U64Array, end: bytes) -> None:
        self._text = text + end * _KEY
        self._starts = starts
        self._end = end
        self.addresses = addresses

    def __len__(self) -> int:
        return len(self._starts)

    @cached_property
    def _windows(self) -> npt.NDArray[np.uint8]:
        data = np.frombuffer(self._text, np.uint8)
        return np.lib.stride_tricks.sliding_window_view(data, _KEY)

    @cached_property
    def _keys(self) -> U64Array:
        """First eight bytes of every name (and what follows it, when it is shorter)."""
        return self._window_at(self._starts)

    def _window_at(self, offsets: I64Array) -> U64Array:
        rows = self._windows[np.minimum(offsets, len(self._windows) - 1)]
        words: U64Array = np.ascontiguousarray(rows).view(np.uint64)[:, 0]
        return words

    def find(self, name: str) -> list[int]:
        """Indices of the entries of exactly this name."""
        wanted = name.encode("utf-8", "surrogatepass") + self._end
        if wanted.count(self._end) > 1:
            return []
        first = wanted[:_KEY]
        mask = np.uint64((1 << (8 * len(first))) - 1)
        hits = np.flatnonzero((self._keys & mask) == np.uint64(int.from_bytes(first, "little")))
        if len(wanted) > _KEY:
            last = np.uint64(int.from_bytes(wanted[-_KEY:], "little"))
            hits = hits[self._window_at(self._starts[hits] + len(wanted) - _KEY) == last]
        return [i for i in hits.tolist() if self._text.startswith(wanted, int(self._starts[i]))]

    def find_addresses(self, name: str) -> list[int]:
        """The different addresses of exactly this name, ascending."""
        return sorted({int(self.addresses[i]) for i in self.find(name)})

    def name(self, i: int) -> str:
        """The name of entry i."""
        start = int(self._starts[i])
        return self._text[start : self._text.index(self._end, start)].decode("utf-8", "backslashreplace")

    @cached_property
    def _order(self) -> I64Array:
        order: I64Array = np.argsort(self.addresses, kind="stable")
        return order

    @cached_property
    def _sorted(self) -> U64Array:
        return self.addresses[self._order]

    def nearest(self, address: int) -> tuple[str, int] | None:
        """(name, offset) of the last name at or below `address`, of several the first; None outside all.

        Names more than 1 GiB apart belong to different things (per-CPU offsets, the kernel): between them
        there is no nearest name.
        """
        table = self._sorted
        if not len(table) or not int(table[0]) <= address <= int(table[-1]):
            return None
        i = int(np.searchsorted(table, np.uint64(address), "right")) - 1
        start = int(table[i])
        if i + 1 < len(table) and int(table[i + 1]) - start > 1 << 30 and address != start:
            return None
        return self.name(int(self._order[np.searchsorted(table, np.uint64(start))])), address - start
