"""A picture as data: columns of boxes (pages), rows of slots in them, and which box a slot leads to.

Renderers turn it into text or SVG; nothing here knows of characters, colours or widths. Numbers in it were read
from this memory by a view. What a picture leaves out it says: rows carry how many they stand for, and `folded`
has a line for the reader.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gdb_p2m.mapping import Kind

DEFAULT_BOXES = 5
"""Pages of one column that are opened; the others are folded into rows that say how many they are."""
DEFAULT_ROWS = 10
"""Rows of one page; the rest is folded in the middle."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much is drawn. boxes: per column; rows: per page; at: frame numbers whose pages are opened in any case."""

    boxes: int = DEFAULT_BOXES
    rows: int = DEFAULT_ROWS
    at: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """Slots first..last of a page. label: how they are numbered (slots of the page, or frame numbers).

    text: what they hold; detail: more, shown where there is room. kind: of the frame numbers below, when they
    are of one kind. to: id of the box that they lead to. numbers: first and last frame number (PFN, GFN).
    mfn: the machine frame that the first slot leads to. slots: how many there are in truth, which is more than
    last - first + 1 when rows of several pages were folded.
    """

    label: str
    text: str = ""
    detail: str = ""
    kind: Kind | None = None
    to: str | None = None
    numbers: tuple[int, int] | None = None
    mfn: int | None = None
    slots: int = 1
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """One page, or a stack of `pages` alike. column: 0 is the root's. title: its name in the kernel's words.

    mfn: machine frame (of the first page of a stack), last_mfn: of the last when frames are consecutive.
    shared_by: slots that lead to it, for a shared page; None for a page of its own. notes: lines under the title.
    """

    id: str
    column: int
    title: str
    mfn: int | None = None
    last_mfn: int | None = None
    pages: int = 1
    shared_by: int | None = None
    notes: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    numbers: tuple[int, int] | None = None
    kind: Kind | None = None


@dataclass(frozen=True)
class Picture:
    """The whole drawing. heading: the variables that lead into it. columns: names of the levels.

    word: PFN or GFN. folded: what was left out, a sentence each. unused: shared pages that no slot leads to.
    """

    view: str
    domain: int | None
    word: str
    title: str
    columns: tuple[str, ...]
    boxes: tuple[Box, ...]
    heading: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def column(self, index: int) -> list[Box]:
        """The boxes of one column, in order."""
        return [b for b in self.boxes if b.column == index]

    def json(self) -> dict[str, Any]:
        """The picture as in the schema of `draw`."""
        return {
            "schema": "gdb-p2m/draw/1",
            "view": self.view,
            "domain": self.domain,
            "title": self.title,
            "heading": list(self.heading),
            "columns": list(self.columns),
            "boxes": [_box_json(b) for b in self.boxes],
            "folded": list(self.folded),
            "remarks": list(self.remarks),
        }


@dataclass
class Sheet:
    """A picture in the making: boxes get ids, sentences about what was folded are collected once each."""

    boxes: list[Box] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    _ids: set[str] = field(default_factory=set)

    def new_id(self, wish: str) -> str:
        """`wish`, or with a number behind it when it is taken."""
        name, n = wish, 1
        while name in self._ids:
            n += 1
            name = f"{wish}-{n}"
        self._ids.add(name)
        return name

    def add(self, box: Box) -> str:
        """Append a box whose id came from `new_id`; returns the id."""
        self.boxes.append(box)
        return box.id

    def say_folded(self, sentence: str) -> None:
        """Note once what was left out."""
        if sentence not in self.folded:
            self.folded.append(sentence)

    def remark(self, sentences: Iterable[str]) -> None:
        """Append remarks."""
        self.remarks.extend(s for s in sentences if s not in self.remarks)


def span_label(first: int, last: int) -> str:
    """Slots as people write them: `7` or `7..12`."""
    return str(first) if first == last else f"{first}..{last}"


def hex_span(first: int, last: int) -> str:
    """Frames: `0x7` or `0x7..0x12`."""
    return f"{first:#x}" if first == last else f"{first:#x}..{last:#x}"


def from_slots(count: int) -> str:
    """How many slots lead to a shared page."""
    return f"from {count:,} slot" + ("" if count == 1 else "s")


def _box_json(b: Box) -> dict[str, Any]:
    return {
        "id": b.id,
        "column": b.column,
        "title": b.title,
        "mfn": b.mfn,
        "last_mfn": b.last_mfn,
        "pages": b.pages,
        "shared_by": b.shared_by,
        "notes": list(b.notes),
        "numbers": None if b.numbers is None else list(b.numbers),
        "kind": None if b.kind is None else b.kind.word,
        "rows": [_row_json(r) for r in b.rows],
    }


def _row_json(r: Row) -> dict[str, Any]:
    return {
        "label": r.label,
        "text": r.text,
        "detail": r.detail,
        "kind": None if r.kind is None else r.kind.word,
        "to": r.to,
        "numbers": None if r.numbers is None else list(r.numbers),
        "mfn": r.mfn,
        "slots": r.slots,
        "folded": r.folded,
    }
