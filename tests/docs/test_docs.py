"""Every `$ gdb-p2m ...` of the documentation is run, and must print what the page says.

In a ```console block a line that is `...` stands for any number of lines. Commands run in the
checkout's root, so pages can name files below fixtures/.
"""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest

from gdb_p2m.cli import run
from gdb_p2m.errors import P2mError
from support.examples import PAGES, examples, matches
from support.places import ROOT

SHELL = [e for e in examples("$ ") if e[1].startswith("gdb-p2m ")]
"""(page:line, command, expected output)."""


def test_there_are_examples_on_the_main_pages() -> None:
    pages = {where.split(":")[0] for where, _, _ in SHELL}
    assert {"README.md", "tutorial.md", "verbs.md"} <= pages


@pytest.mark.parametrize(("where", "command", "expected"), SHELL, ids=lambda x: str(x)[:60])
def test_the_example_prints_what_the_page_says(
    where: str, command: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    words = [w.replace("OUTDIR", str(tmp_path)) for w in shlex.split(command)][1:]
    out, err = io.StringIO(), io.StringIO()
    try:
        run(words, out, err)
        got = out.getvalue()
    except P2mError as e:
        got = f"gdb-p2m: {e}\n"
    got = got.replace(str(tmp_path), "OUTDIR")
    assert matches(expected, got), f"{where}: {command} printed\n{got}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
