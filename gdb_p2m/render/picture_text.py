"""A picture as text: columns of boxes with lines between them, like the drawing in Linux' arch/x86/xen/p2m.c.

Columns that do not fit beside each other go into bands one below the other; a slot whose box is elsewhere ends in a
letter that stands before that box' title.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from gdb_p2m.pictures.model import Box, Picture, Row
from gdb_p2m.render.picture_lines import Canvas, Gutter, Wire

MIN_WIDTH = 40
MARK = 5
"""Columns that `─►(a)` needs beside a box."""


@dataclass(frozen=True)
class Style:
    """detail: whether rows say more than they must. air: blanks between the lines and the boxes beside them."""

    detail: bool
    air: int
    ascii_only: bool = False


@dataclass
class Placed:
    """A box with its text. y: line of its top border; ports: row index -> line."""

    box: Box
    lines: list[str]
    ports: dict[int, int]
    y: int = 0

    @property
    def height(self) -> int:
        """Lines, with both borders."""
        return len(self.lines)


@dataclass
class Band:
    """Columns that are drawn side by side."""

    columns: list[int]
    placed: list[list[Placed]] = field(default_factory=list)


def picture_text(picture: Picture, width: int, ascii_only: bool = False) -> str:
    """The drawing in at most `width` columns (never less than 40); no line has trailing blanks."""
    width = max(width, MIN_WIDTH)
    for style in (Style(True, 3), Style(False, 3), Style(False, 1)):
        layout = Layout(picture, width, replace(style, ascii_only=ascii_only))
        if len(layout.bands) == 1:
            break
    parts = [picture.title, "\n".join(_wrap(picture.heading, width)), *layout.draw()]
    notes = [*(f"folded: {f}" for f in picture.folded), *picture.remarks]
    parts.append("\n".join(_wrap(notes, width)))
    text = "\n\n".join(p for p in parts if p)
    return to_ascii(text) if ascii_only else text


class Layout:
    """Decides which columns go side by side, and where their boxes are."""

    def __init__(self, picture: Picture, width: int, style: Style) -> None:
        self.picture = picture
        self.width = width
        self.style = style
        self.columns = [c for c in range(len(picture.columns)) if picture.column(c)]
        self.home = {b.id: b.column for b in picture.boxes}
        self.sources = list(_links(picture))
        self.letters: dict[str, str] = {}
        self._measure()
        if self.letters:
            self._measure()

    def _measure(self) -> None:
        """Widths, bands and letters; letters make titles longer, so this is done again when there are any."""
        self.natural = {c: self._width_of(c) for c in self.columns}
        self.bands = self._split()
        self.letters = self._letters()

    def _width_of(self, column: int) -> int:
        """Width of a column's boxes, borders included."""
        widest = max(len(line) for b in self.picture.column(column) for line in self._content(b))
        return min(widest + 4, self.width - MARK)

    def _content(self, box: Box) -> list[str]:
        title = f"({self.letters[box.id]}) {box.title}" if box.id in self.letters else box.title
        label = max((len(r.label) for r in box.rows), default=0)
        lines = [title, *box.notes, *(self._row_text(r, label) + self._inner_mark(box, r) for r in box.rows)]
        return [line.replace("…", "...") if self.style.ascii_only else line for line in lines]

    def _row_text(self, row: Row, label: int) -> str:
        """Labels are aligned so that values stand below each other."""
        shown = [row.text, row.detail if self.style.detail else ""]
        return f"{row.label.ljust(label)} {'  '.join(part for part in shown if part)}".rstrip()

    def _inner_mark(self, box: Box, row: Row) -> str:
        """` ►(a)` in the row where lines of other slots leave no room for it behind the box."""
        if row.to not in self.letters or self._neighbours(box.column, self.home[row.to]) or self._ends_band(box.column):
            return ""
        return f" ►({self.letters[row.to]})"

    def _ends_band(self, column: int) -> bool:
        return any(band.columns[-1] == column for band in self.bands)

    def _split(self) -> list[Band]:
        bands: list[Band] = []
        used = 0
        for column in self.columns:
            need = self.natural[column]
            gutter = self._gutter_width(column)
            mark = 0 if column == self.columns[-1] else MARK
            if bands and used + gutter + need + mark <= self.width:
                bands[-1].columns.append(column)
                used += gutter + need
            else:
                bands.append(Band([column]))
                used = need
        return bands

    def _gutter_width(self, column: int) -> int:
        """Between this column and the one before: a lane for each box that is led to."""
        targets = {t for b, _, t in self.sources if b.column == column - 1 and self.home[t] == column}
        return self.style.air + 1 + max(1, len(targets))

    def _letters(self) -> dict[str, str]:
        """Letters for boxes that some slot leads to across columns that are not neighbours in a band."""
        letters: dict[str, str] = {}
        for box, _, target in self.sources:
            if not self._neighbours(box.column, self.home[target]) and target not in letters:
                letters[target] = _letter(len(letters))
        return letters

    def _neighbours(self, a: int, b: int) -> bool:
        for band in self.bands:
            if a in band.columns and b in band.columns:
                return band.columns.index(b) == band.columns.index(a) + 1
        return False

    def draw(self) -> list[str]:
        """The bands as text."""
        return [self._draw_band(band) for band in self.bands]

    def _draw_band(self, band: Band) -> str:
        canvas = Canvas()
        x = 0
        left: list[Placed] = []
        for i, column in enumerate(band.columns):
            boxes = [self._place(b, self.natural[column]) for b in self.picture.column(column)]
            if i:
                x += self._draw_gutter(canvas, left, boxes, x, self._gutter_width(column))
            else:
                _stack(boxes)
            canvas.put(x, 0, self.picture.columns[column][: self.natural[column]])
            for placed in boxes:
                for dy, line in enumerate(placed.lines):
                    canvas.put(x, placed.y + dy, line)
            x += self.natural[column]
            left = boxes
            for placed in boxes:
                self._marks(canvas, placed, x)
        return canvas.text()

    def _marks(self, canvas: Canvas, placed: Placed, x: int) -> None:
        """`─►(a)` behind slots whose box is elsewhere."""
        for index, dy in placed.ports.items():
            target = placed.box.rows[index].to
            assert target is not None
            if not self._neighbours(placed.box.column, self.home[target]) and self._ends_band(placed.box.column):
                canvas.put(x, placed.y + dy, f"►({self.letters[target]})")

    def _draw_gutter(self, canvas: Canvas, left: list[Placed], boxes: list[Placed], x: int, width: int) -> int:
        """Place the boxes right of a gutter near what leads to them, and draw the wires."""
        ids = {p.box.id for p in boxes}
        ports: dict[str, list[int]] = {}
        for placed in left:
            for index, dy in placed.ports.items():
                target = placed.box.rows[index].to
                if target in ids:
                    ports.setdefault(target, []).append(placed.y + dy)
        _stack(boxes, ports)
        wires = [Wire(p.box.id, tuple(ports[p.box.id]), p.y) for p in boxes if p.box.id in ports]
        Gutter(x, width, wires, self.style.air // 2).draw(canvas)
        return width

    def _place(self, box: Box, width: int) -> Placed:
        """A box as lines of exactly `width` characters."""
        inner = width - 4
        title, *rest = [_cut(line, inner) for line in self._content(box)]
        notes, rows = rest[: len(box.notes)], rest[len(box.notes) :]
        lines = [f"┌ {title} ".ljust(width - 1, "─") + "┐"]
        lines += [f"│ {note.ljust(inner)} │" for note in notes]
        if notes and rows:
            lines.append("├" + "╌" * (width - 2) + "┤")
        ports = {}
        for i, (row, text) in enumerate(zip(box.rows, rows, strict=True)):
            if row.to is not None:
                ports[i] = len(lines)
            leaves = row.to is not None and not self._inner_mark(box, row)
            lines.append(f"│ {text.ljust(inner)} {'├' if leaves else '│'}")
        bottom = "╘" + "═" * (width - 2) + "╛" if box.pages > 1 else "└" + "─" * (width - 2) + "┘"
        lines.append(bottom)
        return Placed(box, lines, ports)


def _stack(boxes: list[Placed], ports: dict[str, list[int]] | None = None) -> None:
    """Give every box a line: below the one before, and not above the first slot that leads to it."""
    taken = {y for ys in (ports or {}).values() for y in ys}
    free = 1
    for placed in boxes:
        own = (ports or {}).get(placed.box.id, [])
        y = max(free, min(own, default=free))
        # The arrow's line must not be that of a slot that leads elsewhere: two wires would become one.
        while y in taken and y not in own:
            y += 1
        placed.y = y
        free = y + placed.height + 1


def _links(picture: Picture) -> Iterator[tuple[Box, int, str]]:
    for box in picture.boxes:
        for i, row in enumerate(box.rows):
            if row.to is not None:
                yield box, i, row.to


def _letter(n: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    return chr(97 + n) if n < 26 else _letter(n // 26 - 1) + chr(97 + n % 26)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _wrap(lines: tuple[str, ...] | list[str], width: int) -> list[str]:
    import textwrap

    return [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="  ")]


ASCII = str.maketrans(
    {"─": "-", "│": "|", "├": "+", "┤": "+", "┬": "+", "┴": "+", "┼": "+", "►": ">", "╌": "-", "═": "=", "…": "~"}
    | {"┌": "/", "┐": "\\", "└": "\\", "┘": "/", "╘": "\\", "╛": "/", "╭": "+", "╮": "+", "╰": "+", "╯": "+"}
)


def to_ascii(text: str) -> str:
    """The same drawing with the characters that the kernel's comment uses."""
    return text.translate(ASCII).encode("ascii", "replace").decode()
