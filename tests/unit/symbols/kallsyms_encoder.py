"""Writes kallsyms tables as kernels of several versions do: the tests' own side of the format.

It shares nothing with gdb_p2m.symbols: tokens are chosen from the names' own fragments, and each table is
laid down by the order of the kernel version at hand.
"""

from __future__ import annotations

import random
import re
import struct
from collections import Counter
from dataclasses import dataclass, replace

BASE64 = 0xFFFFFFFF81000000
BASE32 = 0xC1000000
XEN_ORIGIN = 0xFFFF82D040000000
XEN_BASE = XEN_ORIGIN + 0x200000
BANNER = b"Linux version 6.6.6-test-amd64 (builder@example) (gcc) #1 SMP\n\0"
BUILD_ID = bytes(range(0x40, 0x54))


@dataclass(frozen=True)
class Variant:
    """One kernel's way to write the tables.

    first: addresses before everything else (before 6.4), not last. encoding: "absolute", "relative",
    "percpu", "place", "origin" (Xen). wide: count and markers are whole words (before 4.20). seqs: where
    seqs_of_names lies ("", "middle", "end"). tight: tables aligned to four bytes, not a word (7.0 on, Xen).
    """

    name: str
    first: bool
    encoding: str
    wide: bool = False
    seqs: str = ""
    tight: bool = False
    word: int = 8
    long_names: bool = False

    @property
    def base(self) -> int:
        """Virtual address of the image."""
        if self.encoding == "origin":
            return XEN_BASE
        return BASE64 if self.word == 8 else BASE32


VARIANTS = (
    Variant("3.16", first=True, encoding="absolute", wide=True),
    Variant("4.9", first=True, encoding="percpu", wide=True),
    Variant("5.10", first=True, encoding="percpu"),
    Variant("6.1", first=True, encoding="percpu", long_names=True),
    Variant("6.2", first=True, encoding="percpu", seqs="middle", long_names=True),
    Variant("6.2 up", first=True, encoding="relative", seqs="middle", long_names=True),
    Variant("6.6", first=False, encoding="percpu", seqs="end", long_names=True),
    Variant("6.6 absolute", first=False, encoding="absolute", seqs="end", long_names=True),
    Variant("6.15", first=False, encoding="relative", seqs="end", long_names=True),
    Variant("7.0", first=False, encoding="place", seqs="end", tight=True, long_names=True),
    Variant("3.16 i386", first=True, encoding="absolute", wide=True, word=4),
    Variant("5.4 i386", first=True, encoding="relative", word=4),
    Variant("6.6 i386", first=False, encoding="relative", seqs="end", word=4, long_names=True),
    Variant("7.0 i386 relocatable", first=False, encoding="place", seqs="end", tight=True, word=4),
    Variant("7.0 i386 fixed", first=False, encoding="absolute", seqs="end", tight=True, word=4),
)
XEN = Variant("xen 4.17", first=True, encoding="origin", tight=True)


@dataclass
class Encoded:
    """An image, where its tables lie (image offsets by the kernel's names) and what it must decode to."""

    image: bytearray
    variant: Variant
    at: dict[str, int]
    symbols: list[tuple[int, str]]


def make_names(rng: random.Random, count: int, long_names: bool) -> list[str]:
    """Names as kernels have them: fragments and tails, some of them repeated, all letters in use."""
    fragments = ["xen_", "p2m_", "get_", "set_", "page", "init", "__", "start", "mfn", "_show", ".cold"]
    capitals = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    names = ["the_quick_brown_fox", "jumps_over", "a_lazy_dog_0123456789"]
    while len(names) < count:
        kind = rng.random()
        if kind < 0.03:
            names.append(rng.choice(names))
        elif kind < 0.05 and long_names:
            names.append("_R" + "".join(rng.choices(capitals, k=rng.randint(150, 500))))
        else:
            tail = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789_", k=rng.randint(1, 12)))
            names.append("".join(rng.choices(fragments, k=rng.randint(0, 5))) + tail)
    return names


def _tokens(texts: list[str]) -> list[bytes]:
    """256 token texts: characters in use stand for themselves, other codes for frequent fragments."""
    used = set("".join(texts).encode())
    counts: Counter[str] = Counter()
    for text in texts:
        for size in (2, 3, 4, 6):
            counts.update(text[i : i + size] for i in range(0, len(text) - size + 1, 2))
    fragments = iter([t.encode() for t, _ in counts.most_common(256)])
    return [bytes([code]) if code in used else next(fragments, b"") for code in range(256)]


def _compress(texts: list[str], tokens: list[bytes]) -> list[bytes]:
    codes = {token: code for code, token in enumerate(tokens) if token}
    longest_first = sorted(codes, key=len, reverse=True)
    pattern = re.compile(b"|".join(map(re.escape, longest_first)))
    return [bytes(codes[m[0]] for m in pattern.finditer(text.encode())) for text in texts]


class _Writer:
    """Appends tables to the image, each aligned as the variant says."""

    def __init__(self, image: bytearray, variant: Variant) -> None:
        self.image, self.variant, self.at = image, variant, dict[str, int]()

    def table(self, name: str, data: bytes) -> None:
        alignment = 4 if self.variant.tight else self.variant.word
        self.image += bytes(-len(self.image) % alignment)
        self.at["kallsyms_" + name] = len(self.image)
        self.image += data

    def words(self, name: str, values: list[int], size: int) -> None:
        self.table(name, b"".join((v & ((1 << 8 * size) - 1)).to_bytes(size, "little") for v in values))


def _address_tables(out: _Writer, variant: Variant, addresses: list[int]) -> None:
    """The table of addresses (and relative_base). Per-CPU symbols are those below the base."""
    base = variant.base
    if variant.encoding == "absolute":
        out.words("offsets" if variant.tight else "addresses", addresses, variant.word)
    elif variant.encoding == "origin":
        out.words("offsets", [a - XEN_ORIGIN for a in addresses], 4)
    elif variant.encoding == "place":
        out.image += bytes(-len(out.image) % 4)
        here = base + len(out.image)
        out.words("offsets", [a - here - 4 * i for i, a in enumerate(addresses)], 4)
    else:
        low = base if variant.encoding == "percpu" else addresses[0]
        values = [a if a < base else low - 1 - a for a in addresses] if variant.encoding == "percpu" else [
            a - low for a in addresses
        ]
        out.words("offsets", values, 4)
        out.words("relative_base", [low], variant.word)


def encode(symbols: list[tuple[int, str, str]], variant: Variant, rng: random.Random) -> Encoded:
    """An image with the tables of `symbols` (address, type letter, name), in order of their addresses.

    Before the tables: noise that looks a bit like them, the banner and the notes, with symbols of their own.
    """
    image = bytearray(rng.randbytes(0x3000))
    image[0x800:0x900] = b"".join(struct.pack("<H", c if c < 0x80 else 0) for c in range(0x80))
    base = variant.base
    image[0x1000 : 0x1000 + len(BANNER)] = BANNER
    note = struct.pack("<III", 4, len(BUILD_ID), 3) + b"GNU\0" + BUILD_ID
    image[0x1100 : 0x1100 + len(note)] = note
    symbols = [
        *symbols,
        (base, "T", "_stext"),
        (base + 0x1100, "D", "__start_notes"),
        (base + 0x1100 + len(note), "D", "__stop_notes"),
        (base + 0x1100, "R", "__note_gnu_build_id_start"),
        (base + 0x1100 + len(note), "R", "__note_gnu_build_id_end"),
    ]
    if variant.encoding == "origin":
        symbols += [(base + 0x20, "T", "__start_xen")]
    else:
        symbols += [(base, "T", "_text"), (base + 0x20, "T", "start_kernel")]
        symbols += [(base + 0x1000, "D", "linux_banner")]
    symbols.sort(key=lambda s: s[0])
    out = _Writer(image, variant)
    addresses = [address for address, _, _ in symbols]
    texts = [kind + name for _, kind, name in symbols]
    if variant.first:
        _address_tables(out, variant, addresses)
    _name_tables(out, variant, texts)
    if not variant.first:
        _address_tables(out, variant, addresses)
    if variant.seqs == "end":
        out.table("seqs_of_names", rng.randbytes(3 * len(texts)))
    image += bytes(rng.randrange(64)) + rng.randbytes(0x400)
    return Encoded(image, variant, out.at, [(address, name) for address, _, name in symbols])


def _name_tables(out: _Writer, variant: Variant, texts: list[str]) -> None:
    tokens = _tokens(texts)
    count_size = variant.word if variant.wide else 4
    out.words("num_syms", [len(texts)], count_size)
    markers, names = [], bytearray()
    for i, codes in enumerate(_compress(texts, tokens)):
        if i % 256 == 0:
            markers.append(len(names))
        assert len(codes) < 0x80 or variant.long_names
        head = [len(codes)] if len(codes) < 0x80 else [len(codes) & 0x7F | 0x80, len(codes) >> 7]
        names += bytes(head) + codes
    out.table("names", bytes(names))
    out.words("markers", markers, count_size)
    if variant.seqs == "middle":
        out.table("seqs_of_names", random.Random(1).randbytes(3 * len(texts)))
    out.table("token_table", b"".join(token + b"\0" for token in tokens))
    index, position = [], 0
    for token in tokens:
        index.append(position)
        position += len(token) + 1
    out.words("token_index", index, 2)


def kernel(variant: Variant, seed: int, count: int = 700) -> Encoded:
    """A made kernel (or Xen) of about `count` symbols; equal seeds give equal kernels."""
    rng = random.Random(seed)
    names = make_names(rng, count, variant.long_names)
    percpu = variant.word == 8 and variant.encoding in ("absolute", "percpu")
    low = sorted(rng.randrange(0x30000) for _ in range(rng.randrange(40))) if percpu else []
    high = sorted(variant.base + rng.randrange(0x4000) for _ in range(len(names) - len(low)))
    if variant.encoding == "origin":
        names = [f"common/{n[:3]}.c#{n}" if rng.random() < 0.5 else n for n in names]
    symbols = [(a, rng.choice("tTdDbBrRA"), n) for a, n in zip(low + high, names, strict=True)]
    return encode(symbols, variant, rng)


def without(variant: Variant, **changes: object) -> Variant:
    """The variant with some properties changed."""
    return replace(variant, **changes)  # type: ignore[arg-type]
