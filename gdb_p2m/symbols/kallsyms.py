"""Names and addresses of a running kernel, from the kallsyms tables in its own memory.

Every address given out comes from tables that agree with each other (kallsyms_tables,
kallsyms_addresses) and with anchors: `_stext` or `_text` lies in the image, `linux_banner`, where the
kernel lists it, points at the text "Linux version", and tables that list themselves are where they say.
When any of this fails the answer is NotUnderstood, never an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.symbols import elf_notes
from gdb_p2m.symbols.base import Symbol, choose
from gdb_p2m.symbols.kallsyms_addresses import (
    FROM_ORIGIN,
    PLACE_RELATIVE,
    AddressTable,
    address_tables,
    the_address_table,
)
from gdb_p2m.symbols.kallsyms_tables import (
    NAME_LIMIT,
    TOKENS,
    I64Array,
    NameTable,
    TokenTable,
    U8Array,
    hinted_token_table,
    name_table,
    token_tables,
)
from gdb_p2m.units import PAGE_SIZE, U64Array, VirtualAddress

_BANNER = b"Linux version "
_LOWEST_KERNEL = {8: 1 << 63, 4: 1 << 30}
"""Kernels live in the upper half, on 32-bit machines above PAGE_OFFSET (1 GiB at the least, mostly 3)."""


@dataclass(frozen=True, slots=True)
class _Tables:
    tokens: TokenTable
    names: NameTable
    addresses: AddressTable


class Kallsyms:
    """All symbols of a kernel image: a SymbolSource of kind "kallsyms".

    image: the kernel's mapped virtual range (any contiguous bytes; they are not copied and must not
    change), with holes filled with zeros. base: virtual address of image[0], a multiple of 8.
    hints: virtual addresses by VMCOREINFO name (kallsyms_names, ...); tried first, proved like
    everything else, and without effect when they do not fit. word: 8, or 4 for 32-bit kernels.
    detail: where the image comes from, when that is not the kernel's memory.

    Raises NotUnderstood when the image holds no tables or they contradict each other.
    """

    kind: str = "kallsyms"

    def __init__(
        self,
        image: bytes | bytearray | memoryview | U8Array,
        base: VirtualAddress,
        hints: Mapping[str, int] | None = None,
        *,
        word: int = 8,
        detail: str | None = None,
    ) -> None:
        self._view = memoryview(cast(bytes, image)).cast("B")
        if base % 8 or base < _LOWEST_KERNEL[word] or base + len(self._view) > 1 << 64:
            raise NotUnderstood(f"{self.kind}: an image at {base:#x} is not a kernel at its virtual address")
        self._base = base
        self._word = word
        tables = self._locate(hints or {})
        self._tokens, self._names, self._address_table = tables.tokens, tables.names, tables.addresses
        self.detail = detail or f"kernel memory at {base + self._names.names_at:#x}"
        self.release: str | None = None
        longest = int(self._text_lengths.max())
        if longest > NAME_LIMIT:
            raise NotUnderstood(f"{self.kind}: a name of {longest} characters, the limit is {NAME_LIMIT}")
        self._check_anchors()
        self.build_id: str | None = self._find_build_id()

    # -- questions ------------------------------------------------------------------------------------

    def symbol(self, name: str) -> Symbol | None:
        """The symbol of exactly this name. Of several, the lowest; `source` then says how many there are."""
        return choose(name, self.addresses(name), f"{self.kind}, {self.detail}")

    def symbols(self, names: Iterable[str]) -> dict[str, Symbol]:
        """The symbols of those names that exist."""
        return {name: found for name in names if (found := self.symbol(name)) is not None}

    def addresses(self, name: str) -> list[int]:
        """All different addresses of symbols of exactly this name, ascending; static names may repeat."""
        return sorted({int(self._address_table.addresses[i]) for i in self._find(name)})

    def names(self) -> Iterator[str]:
        """All names in order of their addresses."""
        return iter(self.all()[0])

    def all(self) -> tuple[list[str], U64Array]:
        """(names, addresses) of all symbols, ascending by address."""
        return self._all_names, self._address_table.addresses

    def nearest(self, address: int) -> tuple[str, int] | None:
        """(name, offset) of the last symbol at or below `address`; the first of those that share its address.

        None below the kernel, above it, and between the per-CPU offsets and the kernel.
        """
        addresses = self._address_table.addresses
        if not int(addresses[0]) <= address <= max(int(addresses[-1]), self._base + len(self._view) - 1):
            return None
        i = int(np.searchsorted(addresses, np.uint64(address), "right")) - 1
        start = int(addresses[i])
        after_percpu = i + 1 < len(addresses) and int(addresses[i + 1]) - start > (1 << 30)
        if after_percpu and address != start:
            return None
        i = int(np.searchsorted(addresses, np.uint64(start), "left"))
        return self._text(i)[1:].decode("utf-8", "backslashreplace"), address - start

    def __len__(self) -> int:
        return self._names.count

    @property
    def encoding(self) -> str:
        """How this kernel stores addresses, in words (see kallsyms_addresses)."""
        return self._address_table.encoding

    def locations(self) -> dict[str, int]:
        """Virtual addresses of the tables by the kernel's names for them."""
        at = {
            "kallsyms_num_syms": self._names.num_syms_at,
            "kallsyms_names": self._names.names_at,
            "kallsyms_markers": self._names.markers_at,
            "kallsyms_token_table": self._tokens.start,
            "kallsyms_token_index": self._tokens.index,
        }
        table = "kallsyms_addresses" if self.encoding == "absolute" else "kallsyms_offsets"
        return {name: self._base + offset for name, offset in {**at, table: self._address_table.at}.items()}

    # -- finding and proving ----------------------------------------------------------------------------

    def _locate(self, hints: Mapping[str, int]) -> _Tables:
        """The tables, by the hints if these hold, else by search. Raises NotUnderstood."""
        view, word = self._view, self._word
        offsets = {name: address - self._base for name, address in hints.items()}
        hinted = hinted_token_table(view, offsets)
        candidates = [hinted] if hinted else token_tables(view)
        if len(candidates) != 1:
            raise NotUnderstood(
                f"kallsyms: {len(candidates) or 'no'} token tables in {self._range()}",
                hint="pass the kernel's vmlinux, vmlinuz or System.map with --kernel",
            )
        tokens = candidates[0]
        names = name_table(view, tokens, offsets, word)
        fitting = address_tables(view, self._base, names, tokens, offsets, word, self._origin())
        return _Tables(tokens, names, the_address_table(fitting, names.count))

    def _origin(self) -> int | None:
        """What offsets count from when the tables do not say (Xen)."""
        return None

    def _range(self) -> str:
        return f"{self._base:#x}..{self._base + len(self._view) - 1:#x}"

    def _check_anchors(self) -> None:
        """Prove the addresses by symbols whose place or content we know; learn the release."""
        self._check_start(("_stext", "_text"), ("start_kernel",))
        for name, address in self.locations().items():  # 7.2 lists its own tables (seen)
            if (listed := self.addresses(name)) and listed != [address]:
                raise NotUnderstood(f"kallsyms: {name} found at {address:#x}, but listed at {listed[0]:#x}")
        for address in self.addresses("linux_banner"):
            text = self._bytes_at(address, 256)
            if not any(text):
                continue  # a hole, or beyond the image: says nothing
            if not text.startswith(_BANNER):
                found = f"linux_banner at {address:#x} reads {text[:16]!r}, not {_BANNER!r}"
                raise NotUnderstood(f"kallsyms: {found}")
            if m := re.match(rb"[!-~]{1,64}(?= )", text[len(_BANNER) :]):
                self.release = m[0].decode("ascii")

    def _check_start(self, starts: tuple[str, ...], entries: tuple[str, ...]) -> None:
        """Prove that this is the expected program and that its addresses are not shifted.

        starts: names of the start of its code. One lies in the image, on a page boundary unless it is the
        `_stext` of an old kernel, which came after the entry code.
        entries: functions one of which this program has and others have not.
        """
        end = self._base + len(self._view)
        inside = [(n, a) for n in starts for a in self.addresses(n) if self._base <= a < end]
        if not inside or not any(self.addresses(entry) for entry in entries):
            raise NotUnderstood(
                f"{self.kind}: {len(self)} names decoded, but no {' or '.join(entries)}, or no "
                f"{' or '.join(starts)} in {self._range()}"
            )
        strict = self.encoding in (PLACE_RELATIVE, FROM_ORIGIN)
        for name, address in inside:
            if address % PAGE_SIZE and (strict or name == "_text"):
                raise NotUnderstood(f"{self.kind}: {name} at {address:#x} is not on a page boundary")

    def _find_build_id(self) -> str | None:
        """The GNU build id in the kernel's own notes (between __start_notes and __stop_notes)."""
        return self._notes_build_id("__start_notes", "__stop_notes")

    def _notes_build_id(self, first: str, end: str) -> str | None:
        """The GNU build id among the notes between two symbols, or None."""
        start, stop = self.addresses(first), self.addresses(end)
        if len(start) != 1 or len(stop) != 1 or not 0 < stop[0] - start[0] < 0x10000:
            return None
        return elf_notes.build_id(elf_notes.notes(self._bytes_at(start[0], stop[0] - start[0])))

    def _bytes_at(self, address: int, size: int) -> bytes:
        """The part of [address, address + size) that the image holds."""
        start = address - self._base
        return bytes(self._view[start : start + size]) if start >= 0 else b""

    # -- names ----------------------------------------------------------------------------------------

    @cached_property
    def _end_codes(self) -> tuple[U8Array, U8Array]:
        """First and last code of every name."""
        names = self._names
        return names.codes[names.starts], names.codes[names.starts + names.lengths - 1]

    @cached_property
    def _heads(self) -> I64Array:
        """Positions of the first of two length bytes, where a name has two."""
        names = self._names
        begins = np.concatenate(([0], (names.starts + names.lengths)[:-1]))
        heads: I64Array = begins[names.starts - begins == 2]
        return heads

    @cached_property
    def _text_lengths(self) -> npt.NDArray[np.int32]:
        """Length of every name as text, its type letter included."""
        sizes = bytes(len(token) for token in self._tokens.tokens)
        spans = np.frombuffer(bytearray(self._names.codes.tobytes().translate(sizes)), np.uint8)
        spans[self._names.starts - 1] = 0
        spans[self._heads] = 0
        end = int(self._names.starts[-1] + self._names.lengths[-1])
        return np.add.reduceat(spans[:end], self._names.starts, dtype=np.int32)

    def _text(self, i: int) -> bytes:
        """Type letter and name of symbol i."""
        start = int(self._names.starts[i])
        codes = self._names.codes[start : start + int(self._names.lengths[i])].tobytes()
        return b"".join(map(self._tokens.tokens.__getitem__, codes))

    def _find(self, name: str) -> list[int]:
        """Indices of the symbols of this name: of those of its length, first and last code."""
        wanted, tokens = name.encode("utf-8", "surrogatepass"), self._tokens.tokens
        first = np.array([bool(token) and wanted.startswith(token[1:]) for token in tokens])
        last = np.array([wanted.endswith(token) or token[1:] == wanted for token in tokens])
        firsts, lasts = self._end_codes
        candidates = np.flatnonzero(self._text_lengths == len(wanted) + 1)
        candidates = candidates[first[firsts[candidates]] & last[lasts[candidates]]]
        return [i for i in candidates.tolist() if self._text(i)[1:] == wanted]

    @cached_property
    def _all_names(self) -> list[str]:
        """Every name: each code replaced by its text, the byte before each name by a newline, all at once."""
        names, texts = self._names, [*self._tokens.tokens, b"\n", b""]
        ends = names.starts + names.lengths
        codes = names.codes[: int(ends[-1])].astype(np.uint16)
        codes[names.starts - 1] = TOKENS
        codes[self._heads] = TOKENS + 1
        sizes = np.array([len(text) for text in texts], np.int32)
        spans = sizes[codes]
        total = int(spans.sum(dtype=np.int64))
        # position in the joined texts = where the code's text starts + how far we are into it
        shift = (np.cumsum(sizes) - sizes)[codes] - (np.cumsum(spans) - spans)
        where = np.repeat(shift, spans) + np.arange(total, dtype=np.int64)
        text = np.frombuffer(b"".join(texts), np.uint8)[where].tobytes()
        return [line[1:] for line in text.decode("utf-8", "backslashreplace").split("\n")[1:]]
