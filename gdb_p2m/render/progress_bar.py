"""Progress on a terminal: a line that shows up only for work that takes over a second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from gdb_p2m.progress import Progress, Step, no_progress

PATIENCE = 1.0
INTERVAL = 0.1


def terminal_progress(stream: TextIO) -> Progress:
    """A Progress that writes to `stream` when it is a terminal, else one that shows nothing."""
    if not stream.isatty():
        return no_progress

    @contextmanager
    def show(what: str, total: int) -> Iterator[Step]:
        started = last = time.monotonic()
        shown = False

        def step(done: int) -> None:
            nonlocal last, shown
            now = time.monotonic()
            if now - started < PATIENCE or now - last < INTERVAL:
                return
            last, shown = now, True
            percent = f"{100 * done // total:3d}%" if total else f"{done:,}"
            stream.write(f"\r{what}: {percent} \033[K")
            stream.flush()

        try:
            yield step
        finally:
            if shown:
                stream.write("\r\033[K")
                stream.flush()

    return show
