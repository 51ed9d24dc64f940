"""What the entries of leaves are, as rows: one row a stretch of one kind, with its first and last entry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.pictures.model import Row, hex_span, span_label

ENTRY_WORDS = {
    Kind.IDENTITY: "IDENTITY|PFN",
    Kind.MISSING: "~0 (INVALID)",
    Kind.UNREADABLE: "not in the dump",
    Kind.CORRUPT: "makes no sense",
}


def kind_stretches(part: Mapping) -> list[tuple[int, int, Kind, int, int]]:
    """(first, last, kind, first frame or -1, last frame or -1) of neighbouring runs of one kind."""
    if not len(part):
        return []
    new = np.flatnonzero(part.kind[1:] != part.kind[:-1]) + 1
    heads = np.concatenate(([0], new)).tolist()
    tails = [*(i - 1 for i in heads[1:]), len(part) - 1]
    found = []
    for a, b in zip(heads, tails, strict=True):
        first, last = int(part.start[a]), int(part.start[b] + part.count[b]) - 1
        kind = Kind(int(part.kind[a]))
        low, high = (int(part.frame[a]), int(part.frame[b] + part.count[b]) - 1) if kind.has_frame else (-1, -1)
        found.append((first, last, kind, low, high))
    return found


def entry_text(kind: Kind, low: int, high: int, runs: int) -> str:
    """Entries of one kind: the first and the last; `..` when the frames between are consecutive."""
    if not kind.has_frame:
        return ENTRY_WORDS.get(kind, kind.word)
    flag = "FOREIGN|" if kind is Kind.FOREIGN else ""
    if runs == 1:
        return flag + hex_span(low, high)
    return f"{flag}{low:#x} … {high:#x}"


def entry_rows(mapping: Mapping, first: int, end: int, limit: int, by_slot: bool) -> tuple[list[Row], int]:
    """(rows, how many stretches were folded) of PFNs first..end-1, at most `limit` and one that says what is left out.

    by_slot: numbered by slot of the page that begins at `first`, else by PFN (a stack of pages).
    """
    part = mapping.clip(first, end)
    found = kind_stretches(part)
    kept = found if len(found) <= limit else [*found[: limit - limit // 2], *found[len(found) - limit // 2 :]]
    rows = [_row(part, s, first, by_slot) for s in kept]
    left = len(found) - len(kept)
    if left:
        middle = found[limit - limit // 2 : len(found) - limit // 2]
        at = (middle[0][0], middle[-1][1])
        label = span_label(at[0] - first, at[1] - first) if by_slot else hex_span(*at)
        rows.insert(
            limit - limit // 2,
            Row(label, f"… {left} more changes of kind", numbers=at, slots=at[1] - at[0] + 1, folded=True),
        )
    return rows, left


def _row(part: Mapping, stretch: tuple[int, int, Kind, int, int], base: int, by_slot: bool) -> Row:
    first, last, kind, low, high = stretch
    runs = int(np.count_nonzero((part.start >= first) & (part.start <= last)))
    label = span_label(first - base, last - base) if by_slot else hex_span(first, last)
    detail = f"{kind.word}, {runs} runs" if runs > 1 else kind.word
    return Row(
        label,
        entry_text(kind, low, high, runs),
        detail,
        kind,
        numbers=(first, last),
        mfn=low if low >= 0 else None,
        slots=last - first + 1,
    )


def first_and_last(rows: list[Row]) -> list[Row]:
    """A stack of pages of one kind: its first entry and its last; without frames all entries are said to be alike."""
    if len(rows) != 1 or rows[0].kind is None or rows[0].numbers is None:
        return rows
    row = rows[0]
    a, b = rows[0].numbers
    if not rows[0].kind.has_frame:
        return [replace(row, label="all")]
    low, high = row.text.replace(" … ", "..").removeprefix("FOREIGN|").split("..")
    flag = "FOREIGN|" if row.kind is Kind.FOREIGN else ""
    return [
        replace(row, label="first", text=flag + low, detail=f"PFN {a:#x}", numbers=(a, a), slots=1),
        replace(row, label="last", text=flag + high, detail=f"PFN {b:#x}", numbers=(b, b), slots=1, mfn=int(high, 16)),
    ]
