"""Completion from the verbs' own parsers."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdb_p2m.cli import build_parser
from gdb_p2m.commands.registry import BY_NAME
from gdb_p2m.gdbui.completion import complete, words
from gdb_p2m.rules.catalogue import CATALOGUE
from gdb_p2m.views.registry import VIEW_NAMES

SYMBOLS = ["p2m_identity", "p2m_missing", "xen_p2m_addr"]


def completed(verb: str, text: str) -> list[str]:
    """Candidates for a verb's arguments."""
    return complete(build_parser(BY_NAME[verb], f"p2m {verb}", False), text, lambda: SYMBOLS)


def test_words_of_a_line() -> None:
    assert words("") == ([], "")
    assert words("a b") == (["a"], "b")
    assert words("a b ") == (["a", "b"], "")


@pytest.mark.parametrize(
    ("verb", "text", "expected"),
    [
        ("map", "--fo", ["--fold", "--format"]),
        ("map", "--range 0..1 --fol", ["--fold"]),
        ("map", "--format ", ["text", "json", "csv"]),
        ("map", "--format j", ["json"]),
        ("map", "--format=c", ["--format=csv"]),
        ("lookup", "--format c", []),
        ("map", "--kind ide", ["identity"]),
        ("map", "--range ", []),
        ("map", "--no-such=", []),
        ("lookup", "0x10", []),
        ("symbols", "p2m_", ["p2m_identity", "p2m_missing"]),
        ("symbols", "p2m_identity xen", ["xen_p2m_addr"]),
        ("symbols", "--domain 0 xen", ["xen_p2m_addr"]),
        ("check", "LIN-00", [r.id for r in CATALOGUE if r.id.startswith("LIN-00")]),
        ("check", "fl", ["FLL", *(r.id for r in CATALOGUE if r.id.startswith("FLL"))]),
        ("rules", "M2P-001", ["M2P-001"]),
        ("map", "--view ", list(VIEW_NAMES)),
        ("start-info", "x", []),
    ],
)
def test_candidates(verb: str, text: str, expected: list[str]) -> None:
    assert completed(verb, text) == expected


def test_every_option_of_every_verb_can_be_completed() -> None:
    for verb in BY_NAME:
        options = completed(verb, "-")
        assert {"--help", "--format", "--output", "-o"} <= set(options)


@pytest.mark.parametrize("text", ["--kernel {}/s", "--kernel={}/s", "-o {}/s", "--xen {}/s", "-o x --kernel {}/s"])
def test_files_after_options_that_take_one(tmp_path: Path, text: str) -> None:
    for name in ("some.core", "some dump", ".some", "other"):
        (tmp_path / name).touch()
    (tmp_path / "subdir").mkdir()
    line = text.format(tmp_path)
    lead = "--kernel=" if "=" in text else ""
    assert completed("map", line) == [f"{lead}{tmp_path}/some.core", f"{lead}{tmp_path}/subdir/"]


def test_a_lone_directory_is_opened_at_once_and_hidden_files_on_demand(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "a.core").touch()
    (tmp_path / ".hidden").touch()
    assert completed("excerpt", f"{tmp_path}/de") == [f"{tmp_path}/deep/a.core", f"{tmp_path}/deep/er/"]
    assert completed("excerpt", f"{tmp_path}/.h") == [f"{tmp_path}/.hidden"]
    assert completed("excerpt", f"{tmp_path}/none/x") == []
    assert completed("excerpt", "out ") == []
