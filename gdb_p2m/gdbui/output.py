"""GDB's output as text streams, and progress on it."""

from __future__ import annotations

import io
import sys
from typing import TextIO, cast

import gdb
from gdb_p2m.cli import UNLIMITED
from gdb_p2m.progress import Progress, no_progress


class GdbStream(io.TextIOBase):
    """Writes where GDB writes: its paging, logging and redirection apply."""

    def __init__(self, stream: int, interactive: bool = False) -> None:
        super().__init__()
        self._stream = stream
        self._interactive = interactive

    def write(self, text: str, /) -> int:
        """All of it. Quitting GDB's pager raises KeyboardInterrupt."""
        gdb.write(text, self._stream)
        return len(text)

    def flush(self) -> None:
        """Let GDB flush."""
        gdb.flush(self._stream)

    @property
    def columns(self) -> int:
        """GDB's own width for a person; else what the shell takes for pipes (readline sets COLUMNS to 80 here)."""
        width = gdb.parameter("width") if is_interactive() else None
        return int(width) if width else UNLIMITED

    @property
    def colour(self) -> bool:
        """As GDB colours its own output: for a person, unless `set style enabled off`."""
        return is_interactive() and bool(gdb.parameter("style enabled"))

    def isatty(self) -> bool:
        """Whether a person is watching."""
        return self._interactive


def stdout() -> TextIO:
    """GDB's standard output."""
    return cast(TextIO, GdbStream(gdb.STDOUT))


def stderr(interactive: bool = False) -> TextIO:
    """GDB's standard error, never paged."""
    return cast(TextIO, GdbStream(gdb.STDERR, interactive))


def is_interactive() -> bool:
    """Whether a person sits at GDB's own command line, not a program at the other end of a pipe."""
    streams = (sys.__stdin__, sys.__stderr__)
    return all(stream is not None and stream.isatty() for stream in streams)


def progress() -> Progress:
    """Progress on GDB's standard error when somebody is watching."""
    if not is_interactive():
        return no_progress
    from gdb_p2m.render.progress_bar import terminal_progress

    return terminal_progress(stderr(interactive=True))
