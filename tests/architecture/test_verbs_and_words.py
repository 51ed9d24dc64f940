"""Verbs, their help and documentation agree; nothing tracked names the machine that it was written on."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from gdb_p2m.cli import build_parser
from gdb_p2m.commands.registry import BY_NAME, all_verbs
from gdb_p2m.errors import UsageError
from support.command_line import run_cli
from support.places import ROOT

FORBIDDEN = [
    ("a home folder", r"/(?:root|home/\w+)/(?!\.)"),
    (
        "a mirror's host",
        r"https?://(?![\w.-]*\.example\b)[\w.-]*(?:mirror|artifactory|nexus|proxy|localhost:\d)[\w.-]*",
    ),
    ("an address of a private network", r"\b(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+\.\d+\b"),
    ("a note to oneself", r"\b(?:TODO|FIXME|XXX|HACK)\b"),
]
ALLOWED = {
    # (file, what): QEMU's user network, the well-known address of its host
    ("an address of a private network", "10.0.2.2"),
    ("an address of a private network", "10.0.2.15"),
}


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name]


def test_nothing_tracked_names_machines_paths_or_tools() -> None:
    found = []
    for path in tracked():
        if not path.is_file() or path.suffix in (".zst", ".gz", ".png") or path == Path(__file__):
            continue
        text = path.read_text(errors="replace")
        for what, pattern in FORBIDDEN:
            for m in re.finditer(pattern, text):
                if (what, m[0]) not in ALLOWED:
                    line = text.count("\n", 0, m.start()) + 1
                    found.append(f"{path.relative_to(ROOT)}:{line}: {what}: {m[0]}")
    assert not found, "\n".join(found[:40])


def test_large_files_are_not_tracked_by_accident() -> None:
    large = {p.name: p.stat().st_size for p in tracked() if p.is_file() and p.stat().st_size > 1 << 20}
    assert not large


def test_names_of_verbs_are_unique_words() -> None:
    assert len(BY_NAME) == len(all_verbs())
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", v.name) for v in all_verbs())


@pytest.mark.parametrize("verb", all_verbs(), ids=lambda v: v.name)
def test_every_verb_has_help_with_an_example_that_parses(verb) -> None:  # type: ignore[no-untyped-def]
    ran = run_help(verb.name)
    assert f"usage: gdb-p2m {verb.name}" in ran and "example:" in ran and verb.description.split(".")[0][:20] in ran
    for with_dump in (True, False):
        dump = ["dom0.core"] if with_dump and verb.uses == "target" else []
        parser = build_parser(verb, f"gdb-p2m {verb.name}", with_dump)
        args = parser.parse_args([*dump, *shlex.split(verb.example)])
        assert args.format == "text"


def run_help(verb: str) -> str:
    """--help prints to the real stdout and leaves."""
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run_cli(verb, "--help").code == 0
    return out.getvalue()


@pytest.mark.parametrize("verb", all_verbs(), ids=lambda v: v.name)
def test_wrong_options_never_leave_the_process(verb) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        build_parser(verb, f"p2m {verb.name}", False).parse_args(["--no-such-option"])


def test_the_documentation_has_a_chapter_for_every_verb_in_the_order_of_the_registry() -> None:
    """docs/verbs.md: chapters of verbs are in lower case, other chapters begin with a capital."""
    text = (ROOT / "docs" / "verbs.md").read_text()
    chapters = re.findall(r"^## `?([a-z0-9-]+)`?$", text, re.M)
    assert chapters == [v.name for v in all_verbs()]


def test_every_verb_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    used = re.findall(r"^\$ gdb-p2m ([a-z0-9-]+)", text, re.M)
    assert used and set(used) <= {*BY_NAME, "gdbinit"}


def test_every_rule_of_the_catalogue_is_documented() -> None:
    from gdb_p2m.rules.catalogue import CATALOGUE

    pages = "".join(p.read_text() for p in (ROOT / "docs").glob("*.md")) + run_cli("rules").out
    assert not [r.id for r in CATALOGUE if r.id not in pages]
