"""Where the kernel's kallsyms tables lie in an image, found by their shape and proved before use.

`scripts/kallsyms.c` of the kernel writes these tables into .rodata, each aligned to a word (since 7.0 to
four bytes, a081b5789255):

    num_syms      u32 (a whole word before 4.20, 80ffbaa5b1bd)
    names         per symbol: length, then that many token codes; the length is one byte, or ULEB128 in
                  two bytes since 6.1 (73bbb94466fd, names up to 511 characters)
    markers       offset in `names` of every 256th symbol; u32 (a whole word before 4.20)
    token_table   256 zero-terminated strings
    token_index   256 u16: where each string starts
    addresses     a word per symbol, or
    offsets       s32 per symbol (since 4.6, 2213e9a66bb8) and, before 7.0, the word `relative_base`

The last one comes first before 6.4 (404bad70fcf7 changed the order). Between `markers` and `token_table`
(6.2, 6.3 and later 6.1.y) or at the end (6.4 on) lies `seqs_of_names` (60443c88f3a8), which we do not need.

A character that occurs in any name stands for itself in the token table, and all of a to z do: that row
of 26 strings is the needle. Everything else is placed relative to it and must agree with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotUnderstood

U8Array = npt.NDArray[np.uint8]
I64Array = npt.NDArray[np.int64]

TOKENS = 256
MARKER_EVERY = 256
NAME_LIMIT = 512
"""KSYM_NAME_LEN since 6.1 (128 before): one type letter and at most 511 characters."""
MAX_RECORD = 2 + NAME_LIMIT
MAX_TOKEN = 255
"""More than any kernel has (about 30); a length then fits a byte."""

_LETTERS = b"".join(bytes([letter, 0]) for letter in b"abcdefghijklmnopqrstuvwxyz")
_SEARCH_STEP = 1 << 20
_MAX_HITS = 4096
_MAX_COUNTS = 512
_MAX_MARKERS = 1 << 16
_MARKER_WINDOWS = (64 << 10, 1 << 20, 16 << 20)


@dataclass(frozen=True, slots=True)
class TokenTable:
    """The 256 strings. Positions are byte offsets in the image; `end` is the first byte after the index."""

    start: int
    index: int
    end: int
    tokens: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class NameTable:
    """Names, still compressed: symbol i is `codes[starts[i] : starts[i] + lengths[i]]`.

    num_syms_at, names_at, markers_at: byte offsets in the image.
    """

    num_syms_at: int
    names_at: int
    markers_at: int
    codes: U8Array
    starts: I64Array
    lengths: I64Array

    @property
    def count(self) -> int:
        """Number of symbols."""
        return len(self.starts)


def align(position: int, word: int) -> int:
    """The next multiple of `word` at or after `position`."""
    return -(-position // word) * word


def _hits(view: memoryview) -> Iterator[int]:
    """Offsets of the letters' row in the image.

    The row is 52 bytes long, so one of its aligned words is the first of four aligned words: looking at
    every fourth for "letter, 0" four times is enough. Character set tables look like that too.
    """
    words = np.frombuffer(view, "<u8", len(view) // 32 * 4)[::4]
    step, last, rest = _SEARCH_STEP // 32, -1, _MAX_HITS
    for begin in range(0, len(words), step):
        part = words[begin : begin + step].copy()
        even = (part & np.uint64(0xFFE0_FFE0_FFE0_FFE0)) == np.uint64(0x0060_0060_0060_0060)
        odd = (part & np.uint64(0xE0FF_E0FF_E0FF_E0FF)) == np.uint64(0x6000_6000_6000_6000)
        places = np.flatnonzero(even | odd)[:rest].tolist()
        rest -= len(places)
        for i in places:
            near = max((begin + i) * 32 - len(_LETTERS), 0)
            at = bytes(view[near : near + 3 * len(_LETTERS)]).find(_LETTERS)
            if at >= 0 and near + at > last:
                last = near + at
                yield last


def _index_places(view: memoryview, end: int) -> list[int]:
    """Where the token index may start when the token table ends at `end`: the alignments in use."""
    places = {align(end, alignment) for alignment in (8, 4)}
    return [at for at in sorted(places, reverse=True) if at + 2 * TOKENS <= len(view)]


def _token_table(view: memoryview, start: int) -> TokenTable | None:
    """The token table that starts at `start`, if its 256 strings and its index agree."""
    window = np.frombuffer(view[start : start + 0x10000], np.uint8)
    ends = np.flatnonzero(window == 0)[:TOKENS]
    if len(ends) < TOKENS:
        return None
    tokens = tuple(bytes(window[: ends[-1]]).split(b"\0"))
    letters_stay = all(tokens[letter] == bytes([letter]) for letter in _LETTERS[::2])
    if not letters_stay or max(map(len, tokens)) > MAX_TOKEN:
        return None
    end = start + int(ends[-1]) + 1
    for index_at in _index_places(view, end):
        index = np.frombuffer(view, "<u2", TOKENS, index_at)
        if index[0] == 0 and np.array_equal(index[1:], ends[:-1] + 1) and not any(view[end:index_at]):
            return TokenTable(start, index_at, index_at + 2 * TOKENS, tokens)
    return None


def token_tables(view: memoryview) -> list[TokenTable]:
    """All token tables in the image whose index agrees with them (a real kernel has one)."""
    found: dict[int, TokenTable] = {}
    rest = TOKENS - ord("a")
    for letters in _hits(view):
        window = np.frombuffer(view[letters : letters + 0x10000], np.uint8)
        ends = np.flatnonzero(window == 0)[:rest]
        if len(ends) < rest:
            continue
        for index_at in _index_places(view, letters + int(ends[-1]) + 1):
            start = letters - int(np.frombuffer(view, "<u2", TOKENS, index_at)[ord("a")])
            if 0 <= start < letters and start not in found and (table := _token_table(view, start)):
                found[start] = table
    return list(found.values())


def hinted_token_table(view: memoryview, hints: Mapping[str, int]) -> TokenTable | None:
    """The token table at the offset that VMCOREINFO names (kallsyms_token_table), or None."""
    start = hints.get("kallsyms_token_table", -1)
    return _token_table(view, start) if 0 <= start < len(view) else None


def _marker_runs(view: memoryview, start: int, end: int, width: int) -> list[tuple[int, I64Array]]:
    """Runs in view[start:end] that could be markers, longest first: 0, then steps of 256 records each."""
    start = align(max(start, 0), 8)
    values = np.frombuffer(view, f"<u{width}", max(end - start, 0) // width, start)
    if len(values) < 2:
        return []
    step = values[1:] - values[:-1]  # wraps on a decrease, which the upper limit refuses
    good = (step >= 2 * MARKER_EVERY) & (step <= MAX_RECORD * MARKER_EVERY)
    runs: list[tuple[int, int]] = []
    for begin in np.flatnonzero(good & (values[:-1] == 0))[:_MAX_HITS].tolist():
        ahead = good[begin : begin + _MAX_MARKERS]
        steps = len(ahead) if ahead.all() else int(ahead.argmin())
        runs.append((steps + 1, begin))
    runs.sort(key=lambda run: (-run[0], -run[1]))
    return [(start + i * width, values[i : i + n].astype(np.int64)) for n, i in runs[:16]]


def _lockstep(codes: U8Array, markers: I64Array, count: int) -> tuple[I64Array, I64Array, I64Array]:
    """(start of codes, number of codes, end of record) of every symbol, all groups of 256 in step.

    The caller checks that each group ends where the next marker says.
    """
    groups = len(markers)
    starts = np.empty((MARKER_EVERY, groups), np.int64)
    ends = np.empty((MARKER_EVERY, groups), np.int64)
    position = markers.copy()
    for step in range(MARKER_EVERY):
        length = codes.take(position, mode="clip").astype(np.int64)
        start = position + 1
        if (length >= 0x80).any():
            long = length >= 0x80
            high = codes.take(start, mode="clip").astype(np.int64)
            length = np.where(long, (length & 0x7F) | (high << 7), length)
            start = start + long
        position = start + length
        starts[step] = start
        ends[step] = position
    flat_starts, flat_ends = starts.T.ravel()[:count], ends.T.ravel()[:count]
    return flat_starts, flat_ends - flat_starts, ends[-1]


def _walk(codes: U8Array, position: int, records: int) -> int:
    """Where `records` records from `position` on end; len(codes) when they run past it."""
    data = codes[position : position + records * MAX_RECORD].tobytes()
    at = 0
    for _ in range(records):
        if at + 1 >= len(data):
            return len(codes)
        at += 1 + data[at] if data[at] < 0x80 else 2 + ((data[at] & 0x7F) | (data[at + 1] << 7))
    return position + at


def _name_table(
    view: memoryview, num_at: int, names_at: int, markers_at: int, markers: I64Array, count: int, word: int
) -> NameTable | None:
    """The names between `names_at` and `markers_at`, if every record and every marker agrees."""
    codes = np.frombuffer(view, np.uint8, markers_at - names_at, names_at)
    if markers[-1] >= len(codes) or _walk(codes, 0, MARKER_EVERY) != markers[1]:
        return None
    starts, lengths, group_ends = _lockstep(codes, markers, count)
    end = int(starts[-1] + lengths[-1])
    if not np.array_equal(group_ends[:-1], markers[1:]) or int(lengths.min()) < 1:
        return None
    if not 0 <= len(codes) - end < word or np.any(codes[end:]):
        return None
    return NameTable(num_at, names_at, markers_at, codes, starts, lengths)


def _name_tables_before(
    view: memoryview, markers_at: int, markers: I64Array, word: int
) -> Iterator[NameTable]:
    """Name tables that end at the markers, preceded by their count: a word, or u32 alone (7.0 on, Xen)."""
    groups, last = len(markers), int(markers[-1])
    low = max(align(markers_at - last - MAX_RECORD * MARKER_EVERY - 2 * word, word), 0)
    high = markers_at - last - 2
    if high <= low:
        return
    counts = np.frombuffer(view, "<u4", (high - low) // 4, low)
    plausible = (counts > (groups - 1) * MARKER_EVERY) & (counts <= groups * MARKER_EVERY)
    for i in np.flatnonzero(plausible)[:_MAX_COUNTS].tolist():
        num_at, count = low + i * 4, int(counts[i])
        names_at = num_at + 4
        if word == 8 and num_at % 8 == 0 and not any(view[names_at : names_at + 4]):
            names_at += 4
        table = _name_table(view, num_at, names_at, markers_at, markers, count, word)
        if table is not None:
            yield table


def name_table(view: memoryview, tokens: TokenTable, hints: Mapping[str, int], word: int) -> NameTable:
    """The names that belong to a token table: before it, ended by the markers; or where VMCOREINFO says.

    Raises NotUnderstood when no arrangement of markers, names and count agrees, or when two do.
    """
    by_place: dict[tuple[int, int], NameTable] = {}
    for window in _MARKER_WINDOWS:
        for width in (8, 4) if word == 8 else (4,):
            for at, markers in _marker_runs(view, tokens.start - window, tokens.start, width):
                for table in _name_tables_before(view, at, markers, word):
                    # the upper half of a first word marker of 0 and the second one also look like markers
                    by_place.setdefault((table.names_at, table.count), table)
        if by_place:
            break
    found = list(by_place.values())
    if not found and (hinted := _hinted_name_table(view, hints, word)):
        found.append(hinted)
    if len(found) != 1:
        raise NotUnderstood(
            f"kallsyms: token table at image offset {tokens.start:#x}, but {len(found) or 'no'} tables of "
            "names before it agree with their markers and count"
        )
    return found[0]


def _hinted_name_table(view: memoryview, hints: Mapping[str, int], word: int) -> NameTable | None:
    """The names at the offsets that VMCOREINFO gives (kallsyms_names, kallsyms_num_syms), if they agree."""
    names_at, num_at = hints.get("kallsyms_names", -1), hints.get("kallsyms_num_syms", -1)
    if not (0 <= names_at < len(view) and 0 <= num_at <= len(view) - 4):
        return None
    count = int(np.frombuffer(view, "<u4", 1, num_at)[0])
    groups = -(-count // MARKER_EVERY)
    end = min(names_at + _MARKER_WINDOWS[-1], len(view))
    for width in sorted({4, word}):
        for at, run in _marker_runs(view, names_at, end, width):
            if len(run) < groups or groups < 2:
                continue
            table = _name_table(view, num_at, names_at, at, run[:groups], count, word)
            if table is not None:
                return table
    return None
