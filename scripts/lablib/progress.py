"""What the user sees while waiting. Standard error only: standard output belongs to the answer."""

from __future__ import annotations

import shutil
import sys
import time


def size_text(count: int) -> str:
    """A byte count as people write it: decimal units, as apt does."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


class Progress:
    """Steps are always said; the moving line only exists on a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._line = False
        self._begin = time.monotonic()

    def seconds(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._begin

    def step(self, text: str) -> None:
        """One line that stays, with the time since the command began."""
        self.clear()
        print(f"lab: [{self.seconds():5.1f}s] {text}", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """One line that stays and says that something is not as it should be."""
        self.clear()
        print(f"lab: warning: {text}", file=sys.stderr, flush=True)

    def moving(self, text: str) -> None:
        """Replace the moving line; nothing at all when standard error is not a terminal."""
        if not self._terminal:
            return
        width = shutil.get_terminal_size().columns - 1
        print("\r\033[K" + text[:width], end="", file=sys.stderr, flush=True)
        self._line = True

    def clear(self) -> None:
        """Take the moving line away, before anything else is printed."""
        if self._line:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._line = False
