"""Every `(gdb)` line in a console block of the documentation is run, page by page, and prints what the page says."""

from __future__ import annotations

from itertools import groupby

import pytest

from support.examples import examples, matches
from support.gdb_process import Gdb
from support.places import ROOT

pytestmark = pytest.mark.gdb

BY_PAGE = {page: list(lines) for page, lines in groupby(examples("(gdb) "), key=lambda e: e[0].partition(":")[0])}


def test_there_are_examples_in_gdb_md() -> None:
    assert len(BY_PAGE["gdb.md"]) >= 8


@pytest.mark.parametrize("page", BY_PAGE)
def test_gdb_prints_what_the_page_says(gdb: Gdb, page: str) -> None:
    commands = [c for _, command, _ in BY_PAGE[page] for c in (command, "python gdb.flush(); print(MARK)")]
    # Errors go where the output goes, in order.
    merge = "python import os; os.dup2(1, 2); MARK = '== end'"
    shown = gdb(merge, *commands, cwd=ROOT).out.split("== end\n")
    for (where, command, expected), got in zip(BY_PAGE[page], shown, strict=False):
        assert matches(expected, got) if expected else got == "", f"{where}: {command} printed\n{got}"
