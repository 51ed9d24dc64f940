"""A picture as SVG: the same boxes as in text, placed in pixels. The markup is in templates/picture.svg.j2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gdb_p2m.pictures.model import Box, Picture, Row
from gdb_p2m.render.kinds import LOOKS
from gdb_p2m.render.templating import environment
from gdb_p2m.render.text import printable

CHAR = 7.3
"""Width of a character of the 12 pixel monospace font; a little more than most fonts need."""
LINE = 18
TITLE = 24
PAD = 10
GAP = 20
GUTTER = 74
MARGIN = 16
SWATCH = 16


@dataclass
class Line:
    """A row as it is drawn. y: of its middle."""

    row: Row
    y: float
    text: str
    label: str
    kind: str


@dataclass
class Shape:
    """A box as it is drawn."""

    box: Box
    x: float
    y: float
    width: float
    height: float
    lines: list[Line]
    indent: float
    title: str
    notes: list[str]


def picture_svg(picture: Picture, standalone: bool = True) -> str:
    """The picture as an SVG document, or as an element for a page that brings the styles."""
    return environment().get_template("picture.svg.j2").render(**drawing(picture), standalone=standalone)


def drawing(picture: Picture) -> dict[str, Any]:
    """What the template draws: shapes, curves between them, headings of columns, and the size of all."""
    shapes: dict[str, Shape] = {}
    heads: list[dict[str, Any]] = []
    x: float = MARGIN
    top = MARGIN + LINE * (2 + len(picture.heading)) + LINE
    left: list[Shape] = []
    for column, name in enumerate(picture.columns):
        boxes = picture.column(column)
        if not boxes:
            continue
        width = max(_width(b) for b in boxes)
        here = _column(boxes, x, width, top, left)
        heads.append({"x": x, "y": top - 10, "text": name})
        shapes.update((s.box.id, s) for s in here)
        left = here
        x += width + GUTTER
    notes = [*(f"folded: {f}" for f in picture.folded), *picture.remarks]
    bottom = max((s.y + s.height for s in shapes.values()), default=top) + GAP
    width = max(x - GUTTER + MARGIN, max((len(n) for n in notes), default=0) * CHAR + 2 * MARGIN)
    return {
        "title": picture.title,
        "heading": [printable(h) for h in picture.heading],
        "word": picture.word,
        "shapes": list(shapes.values()),
        "heads": heads,
        "curves": _curves(shapes),
        "notes": [{"y": bottom + i * LINE, "text": printable(n)} for i, n in enumerate(notes)],
        "width": round(width),
        "height": round(bottom + len(notes) * LINE + MARGIN),
        "looks": {k.word: v for k, v in LOOKS.items()},
        "margin": MARGIN,
        "line": LINE,
        "title_height": TITLE,
        "pad": PAD,
    }


def _width(box: Box) -> float:
    label = max((len(r.label) for r in box.rows), default=0)
    widest = max([len(box.title) * 1.08, *(len(n) for n in box.notes), *(label + 1 + len(_text(r)) for r in box.rows)])
    return widest * CHAR + 2 * PAD + (SWATCH if any(r.kind is not None for r in box.rows) else 0)


def _text(row: Row) -> str:
    return "  ".join(part for part in (row.text, row.detail) if part)


def _column(boxes: list[Box], x: float, width: float, top: float, left: list[Shape]) -> list[Shape]:
    """Boxes below each other, none above the first slot of the column before that leads to it."""
    ports: dict[str, float] = {}
    for shape in left:
        for line in shape.lines:
            if line.row.to is not None:
                ports.setdefault(line.row.to, line.y)
    found = []
    free = top
    for box in boxes:
        y = max(free, ports.get(box.id, free) - TITLE / 2)
        shape = _shape(box, x, y, width)
        found.append(shape)
        free = y + shape.height + GAP
    return found


def _shape(box: Box, x: float, y: float, width: float) -> Shape:
    label = max((len(r.label) for r in box.rows), default=0)
    at = y + TITLE + LINE * len(box.notes) + (8 if box.notes else 4)
    lines = []
    for row in box.rows:
        kind = "" if row.kind is None else row.kind.word
        lines.append(Line(row, at + LINE / 2, printable(_text(row)), printable(row.label.ljust(label)), kind))
        at += LINE
    indent = SWATCH if any(line.kind for line in lines) else 0
    return Shape(box, x, y, width, at - y + 6, lines, indent, printable(box.title), [printable(n) for n in box.notes])


def _curves(shapes: dict[str, Shape]) -> list[dict[str, Any]]:
    """From a slot to the title of the box that it leads to."""
    curves = []
    for shape in shapes.values():
        for line in shape.lines:
            if line.row.to is None:
                continue
            target = shapes[line.row.to]
            x1, y1, x2, y2 = shape.x + shape.width, line.y, target.x, target.y + TITLE / 2
            bend = max(24.0, (x2 - x1) / 2)
            path = f"M{x1:.1f},{y1:.1f}C{x1 + bend:.1f},{y1:.1f} {x2 - bend:.1f},{y2:.1f} {x2 - 7:.1f},{y2:.1f}"
            curves.append({"d": path, "from": shape.box.id, "to": target.box.id})
    return curves
