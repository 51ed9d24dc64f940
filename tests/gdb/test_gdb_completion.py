"""Completion as GDB asks for it: words are broken where GDB breaks them."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.gdb_process import Gdb
from support.places import DOM0

pytestmark = pytest.mark.gdb

LINES = {
    "p2m lo": ["p2m lookup"],
    "p2m map --fo": ["p2m map --fold", "p2m map --format"],
    "p2m map --format=j": ["p2m map --format=json"],
    "p2m map --format j": ["p2m map --format json"],
    "p2m map --kind ide": ["p2m map --kind identity"],
    "p2m map --view list-": ["p2m map --view list-list"],
    "p2m check lin-001": ["p2m check lin-001"],
    "p2m symbols xen_p2m_a": ["p2m symbols xen_p2m_addr"],
    "p2m symbols p2m_top_mfn xen_p2m_a": ["p2m symbols p2m_top_mfn xen_p2m_addr"],
    "p2m lookup 1": [],
    "p2m close ": [],
}


def test_lines_are_completed(gdb: Gdb) -> None:
    commands = [c for line in LINES for c in (f"echo == {line}\\n", f"complete {line}")]
    ran = gdb(f"p2m open {DOM0.path}", *commands)
    found: dict[str, list[str]] = {}
    for line in ran.out.splitlines():
        if line.startswith("== "):
            found[line[3:]] = current = []
        else:
            current.append(line)
    assert {k.strip(): v for k, v in found.items()} == {k.strip(): v for k, v in LINES.items()}
    assert not ran.err


def test_file_names_after_open_and_options(gdb: Gdb, tmp_path: Path) -> None:
    (tmp_path / "the-dump.core").touch()
    (tmp_path / "the-kernel").touch()
    lines = ["p2m open the-d", "p2m open the-dump.core --kernel the-k", "p2m map --xen=the-k", "p2m map -o the-k"]
    ran = gdb(*(f"complete {line}" for line in lines), cwd=tmp_path)
    assert ran.out.splitlines() == [
        "p2m open the-dump.core",
        "p2m open the-dump.core --kernel the-kernel",
        "p2m map --xen=the-kernel",
        "p2m map -o the-kernel",
    ]


def test_symbols_without_a_machine_are_none_and_no_error(gdb: Gdb) -> None:
    ran = gdb("complete p2m symbols xen_")
    assert ran.out == "" and ran.err == ""
