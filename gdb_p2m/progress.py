"""Progress of long work, as an interface: the front ends decide whether and how to show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Step = Callable[[int], None]
"""Called with how much of the total is done."""
Progress = Callable[[str, int], AbstractContextManager[Step]]
"""Called with what is being done and the total; gives the Step."""


@contextmanager
def no_progress(what: str, total: int) -> Iterator[Step]:
    """Shows nothing."""
    yield lambda done: None
