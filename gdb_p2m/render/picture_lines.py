"""The lines between two columns of boxes in a text picture: wires that join, cross and turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
GLYPHS = {
    UP | DOWN: "│",
    LEFT | RIGHT: "─",
    DOWN | RIGHT: "╭",
    DOWN | LEFT: "╮",
    UP | RIGHT: "╰",
    UP | LEFT: "╯",
    UP | DOWN | RIGHT: "├",
    UP | DOWN | LEFT: "┤",
    DOWN | LEFT | RIGHT: "┬",
    UP | LEFT | RIGHT: "┴",
    UP | DOWN | LEFT | RIGHT: "┼",
}


class Canvas:
    """Characters at places; what is put later covers what was there."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], str] = {}

    def put(self, x: int, y: int, text: str) -> None:
        """Write `text` from (x, y) to the right."""
        for i, ch in enumerate(text):
            self._cells[x + i, y] = ch

    def text(self) -> str:
        """All lines, without blanks at their ends."""
        if not self._cells:
            return ""
        last = max(y for _, y in self._cells)
        lines = []
        for y in range(last + 1):
            row = {x: ch for (x, at), ch in self._cells.items() if at == y}
            lines.append("".join(row.get(x, " ") for x in range(max(row, default=-1) + 1)).rstrip())
        return "\n".join(lines)


@dataclass(frozen=True)
class Wire:
    """From slots on the lines `sources` to the box whose title is on line `target`."""

    id: str
    sources: tuple[int, ...]
    target: int


class Gutter:
    """The space between two columns. Every wire has a lane of its own, so that lines join only when they lead to
    the same box; where two wires cross, the upright one is drawn through."""

    def __init__(self, x: int, width: int, wires: list[Wire], air: int = 1) -> None:
        self.air = air
        self.x = x
        self.width = width
        self.wires = wires

    def _lanes(self) -> dict[str, int]:
        """Lanes from left to right so that wires of neighbours do not cross: those that lead down from right to left."""
        down = [w for w in self.wires if w.target > min(w.sources)]
        level = [w for w in self.wires if w.target <= min(w.sources)]
        order = sorted(level, key=lambda w: w.target) + sorted(down, key=lambda w: -w.target)
        first = self.x + self.air
        return {w.id: first + i for i, w in enumerate(order)}

    def draw(self, canvas: Canvas) -> None:
        """Put the wires on the canvas."""
        cells: dict[tuple[int, int], dict[str, int]] = {}

        def mark(x: int, y: int, wire: str, directions: int) -> None:
            here = cells.setdefault((x, y), {})
            here[wire] = here.get(wire, 0) | directions

        lanes = self._lanes()
        end = self.x + self.width - 1
        for wire in self.wires:
            lane = lanes[wire.id]
            for y in wire.sources:
                self._level(mark, wire.id, self.x, lane, y)
                mark(self.x, y, wire.id, LEFT)
            self._level(mark, wire.id, lane, end, wire.target)
            low, high = min(*wire.sources, wire.target), max(*wire.sources, wire.target)
            for y in range(low, high):
                mark(lane, y, wire.id, DOWN)
                mark(lane, y + 1, wire.id, UP)
        for (x, y), here in cells.items():
            canvas.put(x, y, _glyph(here))
        for wire in self.wires:
            canvas.put(end, wire.target, "►")

    @staticmethod
    def _level(mark: Callable[[int, int, str, int], None], wire: str, a: int, b: int, y: int) -> None:
        """A level line from a to b."""
        for x in range(a, b):
            mark(x, y, wire, RIGHT)
            mark(x + 1, y, wire, LEFT)


def _glyph(here: dict[str, int]) -> str:
    """One wire: its shape. Several: the upright one, as a bridge over the level one."""
    if len(here) == 1:
        (directions,) = here.values()
        return GLYPHS.get(directions, "─")
    for directions in here.values():
        if directions == UP | DOWN:
            return "│"
    return next((GLYPHS[d] for d in here.values() if d in GLYPHS and d != LEFT | RIGHT), "─")
