"""The progress bar: nothing where nobody looks or work is short, a bar that goes away where it is long."""

from __future__ import annotations

import io
import time

import pytest

from gdb_p2m.render import progress_bar
from gdb_p2m.render.progress_bar import terminal_progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("total", [1000, 0])
def test_long_work_shows_what_is_done_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, total: int) -> None:
    monkeypatch.setattr(progress_bar, "PATIENCE", 0.0)
    out = Terminal()
    with terminal_progress(out)("reading P2M pages", total) as step:
        for done in (1, 400, 900):
            time.sleep(0.11)
            step(done)
    text = out.getvalue()
    assert "reading P2M pages" in text and ("90%" in text if total else "900" in text)
    assert text.endswith("\r") and not text.rsplit("\r", 2)[-2].strip()


def test_short_work_shows_nothing() -> None:
    out = Terminal()
    with terminal_progress(out)("reading", 10) as step:
        step(5)
    assert "reading" not in out.getvalue()


def test_what_is_no_terminal_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "PATIENCE", 0.0)
    out = io.StringIO()
    with terminal_progress(out)("reading", 10) as step:
        step(5)
    assert out.getvalue() == ""
