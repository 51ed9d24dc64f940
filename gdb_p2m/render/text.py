"""Reports as text for people. Tables by tabulate; nothing from a dump is printed unescaped."""

from __future__ import annotations

from gdb_p2m.commands.base import Block, Cell, Report, Table


def to_text(report: Report) -> str:
    """All blocks, separated by empty lines."""
    return "\n\n".join(_block(b) for b in report.blocks) + "\n"


def _block(block: Block) -> str:
    if not isinstance(block, Table):
        return printable(block.text)
    import tabulate

    align = {"l": "left", "r": "right"}
    columns = [align[a] for a in block.align] if block.align else None
    rows = [[_cell(c) for c in row] for row in block.rows]
    body = tabulate.tabulate(
        rows,
        headers=list(block.headers),
        tablefmt="simple",
        colalign=columns if rows else None,
        disable_numparse=True,
    )
    lines = "\n".join(line.rstrip() for line in body.splitlines())
    return f"{printable(block.title)}\n{lines}" if block.title else lines


def _cell(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:,}" if isinstance(cell, int) else printable(cell)


def printable(text: str) -> str:
    """`text` without control characters: a dump must not be able to steer the user's terminal."""
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() or ch == "\n" else f"\\x{ord(ch):02x}" for ch in text)
