"""`p2m diff FILE`: the open dump against another, in GDB as in the shell."""

from __future__ import annotations

import pytest

from support.command_line import run_cli
from support.gdb_process import Gdb
from support.places import DOM0, FIXTURES

pytestmark = pytest.mark.gdb
KEXEC = FIXTURES / "linux-6.1-dom0-600M-kexec.core.zst"


def test_the_open_dump_is_compared_with_the_file(gdb: Gdb) -> None:
    ran = gdb(f"p2m open {DOM0.path}", f"p2m diff {KEXEC} --json", "echo \\n", "output $_p2m_status")
    shell = run_cli("diff", DOM0.path, KEXEC, "--json")
    assert ran.out == shell.out + "\n1" and shell.code == 1 and not ran.err


def test_equal_dumps_set_the_status_to_0_and_the_open_dump_stays_open(gdb: Gdb) -> None:
    ran = gdb(f"p2m open {DOM0.path}", f"p2m diff {DOM0.path}", "output $_p2m_status", "echo \\n", "p2m lookup 0x100")
    assert "No difference was found." in ran.out and "\n0\n" in ran.out and "0x30100" in ran.out


def test_errors_about_the_file_are_one_message(gdb: Gdb) -> None:
    ran = gdb(f"p2m open {DOM0.path}", "p2m diff /no/such/file", "output $_p2m_status")
    assert "/no/such/file: cannot be opened" in ran.err and ran.out == "3"


def test_the_file_is_completed(gdb: Gdb) -> None:
    ran = gdb(f"p2m open {DOM0.path}", f"complete p2m diff {FIXTURES}/linux-6.1-dom0-600M")
    assert "linux-6.1-dom0-600M-kexec.core.zst" in ran.out
