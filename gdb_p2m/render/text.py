"""Reports as text for people. Nothing from a dump is printed unescaped."""

from __future__ import annotations

import shutil
import textwrap

from gdb_p2m.commands.base import Block, Cell, Prose, Report, Text
from gdb_p2m.render.tables import style_text, table_text

MIN_WIDTH, MAX_WIDTH = 40, 100
"""Prose is folded to the terminal, within what can be read with ease."""


def to_text(report: Report, columns: int | None = None, colour: bool = False) -> str:
    """All blocks, separated by empty lines.

    columns: what prose and tables are folded to; by default prose to the terminal's, tables not at all. colour: with ANSI sequences.
    """
    return "\n\n".join(_block(b, columns, colour) for b in report.blocks) + "\n"


def _block(block: Block, width: int | None, colour: bool) -> str:
    if isinstance(block, Prose):
        return _prose(block, terminal_width(width))
    if isinstance(block, Text):
        return style_text(printable(block.text)) if colour else printable(block.text)
    rows = [[_cell(c) for c in row] for row in block.rows]
    lines = table_text(block, rows, width, colour)
    return f"{printable(block.title)}\n{lines}" if block.title else lines


def terminal_width(columns: int | None = None) -> int:
    """Columns to fold prose to: as given, else COLUMNS or the terminal's, 100 where there is none (pipes, files)."""
    if columns is None:
        columns = shutil.get_terminal_size((MAX_WIDTH, 24)).columns
    return max(MIN_WIDTH, min(columns, MAX_WIDTH))


def _prose(block: Prose, width: int) -> str:
    """Title, underlined, and its paragraphs; marked ones stand close together."""
    out = textwrap.wrap(printable(block.title), width)
    out.append("-" * max(map(len, out)))
    marked = first = True
    for mark, text in block.items:
        if not first and not (mark and marked):
            out.append("")
        hang = max((len(m) + 1 for m, _ in block.items if m), default=0) if mark else 0
        lines = textwrap.wrap(
            printable(text),
            width,
            initial_indent=mark.rjust(hang - 1) + " " if mark else "",
            subsequent_indent=" " * hang,
            break_on_hyphens=False,
        )
        out += lines
        marked, first = bool(mark), False
    return "\n".join(out)


def _cell(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:,}" if isinstance(cell, int) else printable(cell)


def printable(text: str) -> str:
    """`text` without control characters: a dump must not be able to steer the user's terminal."""
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() or ch == "\n" else f"\\x{ord(ch):02x}" for ch in text)
