"""Progress on a terminal: a bar that shows up only for work that takes over a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from gdb_p2m.progress import Progress, Step, no_progress

PATIENCE = 1.0
"""Seconds before a bar appears."""
_KNOWN = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
_UNKNOWN = "{desc}: {n_fmt} [{elapsed}]"


def terminal_progress(stream: TextIO) -> Progress:
    """A Progress that writes to `stream` when it is a terminal, else one that shows nothing."""
    if not stream.isatty():
        return no_progress

    @contextmanager
    def show(what: str, total: int) -> Iterator[Step]:
        from tqdm import tqdm

        with tqdm(
            total=total or None,
            desc=what,
            file=stream,
            delay=PATIENCE,
            leave=False,
            dynamic_ncols=True,
            unit_scale=True,
            bar_format=_KNOWN if total else _UNKNOWN,
        ) as bar:

            def step(done: int) -> None:
                bar.update(done - bar.n)

            yield step

    return show
