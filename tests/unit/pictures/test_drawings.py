"""Golden drawings: what was looked at and found good stays so. `python -m pytest --co` lists them; to draw them
again run this file as a program, and look at the difference."""

from __future__ import annotations

import pytest

from gdb_p2m.pictures.model import Options
from gdb_p2m.pictures.registry import picture_of
from gdb_p2m.render.picture_text import picture_text
from support.pictures import GOLDEN, NAMES, view_of

WIDE = ("linux-6.1-dom0-400M", "linux-6.12-dom0-odd-5G", "linux-3.16-tree", "xen-riscv-sv39x4")
CASES = (
    [(name, None, 80, False) for name in NAMES]
    + [(name, None, 120, False) for name in WIDE]
    + [
        ("linux-6.1-dom0-400M", "list-list", 80, False),
        ("linux-6.12-dom0-odd-5G", "list-list", 120, False),
        ("linux-3.16-tree", "list-list", 120, False),
        ("linux-3.16-tree", None, 100, True),
        ("linux-6.1-dom0-400M", None, 80, True),
    ]
)


def name_of(case: tuple[str, str | None, int, bool]) -> str:
    name, view, width, ascii_only = case
    return "-".join([name, *([view] if view else []), str(width), *(["ascii"] if ascii_only else [])])


def drawn(case: tuple[str, str | None, int, bool]) -> str:
    name, view, width, ascii_only = case
    return picture_text(picture_of(view_of(name, view), Options()), width, ascii_only) + "\n"


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_drawing_is_the_one_that_was_looked_at(case: tuple[str, str | None, int, bool]) -> None:
    path = GOLDEN / f"{name_of(case)}.txt"
    assert drawn(case) == path.read_text(), f"draw again with: python {__file__}"


def test_golden_drawings_have_no_leftovers() -> None:
    assert {p.name for p in GOLDEN.iterdir()} == {f"{name_of(case)}.txt" for case in CASES}


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        (GOLDEN / f"{name_of(case)}.txt").write_text(drawn(case))
