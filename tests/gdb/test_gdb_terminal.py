"""GDB as a person uses it, at a terminal: paging, the tab key, Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time
from collections.abc import Iterator

import pytest

from support.gdb_process import SCRIPT, Gdb
from support.places import DOM0

pytestmark = pytest.mark.gdb
PROMPT = "(gdb) "


class Terminal:
    """An interactive GDB on a pseudo terminal."""

    def __init__(self, gdb: Gdb) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            environment = {**gdb.environment, "TERM": "dumb", "LINES": "50", "COLUMNS": "200"}
            os.execve(gdb.binary, [gdb.binary, "-nx", "-q"], environment)
        self.wait_for(PROMPT)

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Everything up to `text`."""
        seen, end = "", time.monotonic() + seconds
        while text not in seen:
            ready, _, _ = select.select([self._fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"GDB did not print {text!r} but {seen!r}"
            seen += os.read(self._fd, 65536).decode(errors="replace").replace("\r\n", "\n")
        return seen

    def type(self, text: str, until: str = PROMPT) -> str:
        """Type `text`; everything that is printed up to `until`."""
        os.write(self._fd, text.encode())
        return self.wait_for(until)

    def close(self) -> None:
        """End GDB."""
        os.close(self._fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(gdb: Gdb) -> Iterator[Terminal]:
    """GDB with p2m loaded."""
    opened = Terminal(gdb)
    opened.type(f"source {SCRIPT}\n")
    yield opened
    opened.close()


def test_long_output_is_paged_and_quitting_the_pager_is_no_error(terminal: Terminal) -> None:
    terminal.type("set height 8\n")
    page = terminal.type("p2m rules\n", "--Type <RET>")
    assert "ENT-001" in page and "LIN-001" not in page
    after = terminal.type("q\n")
    assert "LIN-001" not in after and "p2m:" not in after and "Error" not in after
    assert re.search(r"= 0$", terminal.type("print $_p2m_status\n"), re.M)


def test_open_says_what_it_opened_to_a_person(terminal: Terminal) -> None:
    said = terminal.type(f"p2m open {DOM0.path}\n")
    assert "ELF vmcore, x86-64" in said and "until `p2m close`" in said


def test_the_tab_key_completes_verb_option_and_symbol(terminal: Terminal) -> None:
    terminal.type(f"p2m open {DOM0.path}\n")
    assert "0x30100" in terminal.type("p2m look\t0x100 --form\ttext\n")
    assert re.search(r"xen_p2m_addr +0xffffffff", terminal.type("p2m symbols xen_p2m_ad\t\n"))
    assert "MANIFEST.md: not a dump" in terminal.type(f"p2m open {DOM0.path.parent}/MANI\t\n")


def test_an_empty_line_does_not_repeat_a_verb(terminal: Terminal) -> None:
    terminal.type("p2m rules LIN-001\n")
    assert "LIN-001" not in terminal.type("\n")
