"""Tables on terminals: folded to the width at spaces, coloured for people only."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from gdb_p2m.commands.base import Report
from gdb_p2m.render.text import to_text
from support.places import DOM0

ANSI = re.compile(r"\x1b\[[0-9;]*m")
ADDRESS = "0xffff888004a00000"


def report() -> Report:
    made = Report({})
    made.table(["name", "address", "meaning"], [["magic", ADDRESS, "what it is, in many words " * 6], ["x", "-", "failed"]])
    made.text("ERROR LIN-004: the shared page tables map the shared pages only\nand more")
    return made


@pytest.mark.parametrize("width", [60, 72, 100])
def test_a_table_is_folded_at_spaces_and_numbers_stay_whole(width: int) -> None:
    text = to_text(report(), width).split("\n\n")[0]
    assert max(map(len, text.splitlines())) <= width
    assert ADDRESS in text and " ".join(text.split()).count("many") == 6


def test_a_table_that_cannot_be_narrow_enough_keeps_its_numbers() -> None:
    assert ADDRESS in to_text(report(), 20)


def test_without_a_width_nothing_is_folded() -> None:
    assert len(to_text(report()).splitlines()[2]) > 150


def test_colour_changes_no_character_and_no_column() -> None:
    plain, coloured = to_text(report(), 80), to_text(report(), 80, colour=True)
    assert "\x1b" not in plain and ANSI.sub("", coloured) == plain
    assert "\x1b[1;31mERROR\x1b[0m LIN-004" in coloured and "\x1b[1;31mfailed\x1b[0m" in coloured


def seen(**environment: str) -> str:
    """What a person sees of `check` on a terminal of 90 columns."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "gdb_p2m.cli", "check", str(DOM0.path), "LIN"]
    keep = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env={**keep, "COLUMNS": "90", "TERM": "xterm", **environment}
    ) as child:
        os.close(slave)
        parts = []
        try:
            while data := os.read(master, 65536):
                parts.append(data)
        except OSError:
            pass  # the other end is closed
        os.close(master)
    assert child.returncode == 0
    return b"".join(parts).decode().replace("\r", "")


def test_a_person_sees_colours_unless_they_want_none() -> None:
    coloured = seen()
    assert "\x1b[32mpassed\x1b[0m" in coloured
    table = [line for line in ANSI.sub("", coloured).splitlines() if line.startswith(("rule", "LIN"))]
    assert table and max(map(len, table)) <= 90
    for wish in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert seen(**wish) == ANSI.sub("", coloured)
