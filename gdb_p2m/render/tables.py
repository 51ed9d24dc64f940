"""Tables by tabulate, folded to a terminal's width and coloured where a person looks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gdb_p2m.commands.base import Table

NARROWEST = 16
"""Characters that a folded column keeps; numbers are never folded."""
_GAP, _HEAD = 2, 2
"""What tabulate puts between columns, and adds to a heading."""
_RESET = "\x1b[0m"
_STYLES = {
    "passed": "32", "agrees": "32", "noted": "36", "failed": "1;31", "could not check": "33", "not applicable": "2",
    "mfn": "34", "ram_rw": "34", "identity": "32", "missing": "2", "invalid": "2", "foreign": "35",
    "mmio_direct_io": "32", "map_foreign_rw": "35", "map_foreign_ro": "35", "unreadable": "33", "corrupt": "1;31",
}  # fmt: skip
"""Words that have a colour when they are a whole cell: SGR parameters of ECMA-48."""
_SEVERITY = re.compile(r"^(ERROR|WARNING|NOTE)(?= )", re.MULTILINE)
_SEVERITIES = {"ERROR": "1;31", "WARNING": "1;33", "NOTE": "1;36"}


def table_text(table: Table, rows: Sequence[Sequence[str]], width: int | None, colour: bool) -> str:
    """The table without its title. width: columns of the terminal, None for no limit."""
    import tabulate

    align = {"l": "left", "r": "right"}
    columns = [align[a] for a in table.align] if table.align else None
    limits = _limits(table, rows, width)
    shown = [[_coloured(cell) for cell in row] for row in rows] if colour else rows
    body = tabulate.tabulate(
        shown,
        headers=list(table.headers),
        tablefmt="simple",
        colalign=columns if rows else None,
        disable_numparse=True,
        maxcolwidths=limits,
    )
    return "\n".join(line.rstrip() for line in body.splitlines())


def style_text(text: str) -> str:
    """A paragraph with its severities coloured."""
    return _SEVERITY.sub(lambda m: f"\x1b[{_SEVERITIES[m[1]]}m{m[1]}{_RESET}", text)


def _coloured(cell: str) -> str:
    style = _STYLES.get(cell.lower())
    return cell if style is None else f"\x1b[{style}m{cell}{_RESET}"


def _limits(table: Table, rows: Sequence[Sequence[str]], width: int | None) -> list[int | None] | None:
    """Width of each column that must be folded; None where all fits, or where folding would not help."""
    if width is None or not rows:
        return None
    count = max(len(row) for row in rows)
    texts = [[row[i] for row in rows if i < len(row)] for i in range(count)]
    natural = [max((len(line) for cell in column for line in cell.split("\n")), default=0) for column in texts]
    heads = [len(h) + _HEAD for h in table.headers] + [0] * (count - len(table.headers))
    natural = [max(n, h) for n, h in zip(natural, heads, strict=False)]
    # What has spaces can be folded at them; numbers and names stay whole.
    soft = [any(" " in cell for cell in column) for column in texts]
    least = [max(NARROWEST, h, _longest_word(column)) for column, h in zip(texts, heads, strict=False)]
    limits: list[int | None] = [None] * count
    excess = sum(natural) + _GAP * (count - 1) - width
    for i in sorted(range(count), key=lambda i: -natural[i]):
        if excess <= 0:
            break
        if soft[i] and natural[i] > least[i]:
            kept = max(least[i], natural[i] - excess)
            excess -= natural[i] - kept
            limits[i] = kept
    return limits if any(x is not None for x in limits) else None


def _longest_word(column: Sequence[str]) -> int:
    return max((len(word) for cell in column for word in cell.split()), default=0)

