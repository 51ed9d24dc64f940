"""What the verbs look at: the dump that was opened, else the live machine. Everything lives here."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from gdb_p2m.commands.base import Context
from gdb_p2m.errors import P2mError
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import ReadCounters, Source
from gdb_p2m.target import Target, Timing


class Machine:
    """One source and what was decoded from it, per pair of --kernel and --xen, per domain.

    kernel, xen: files that `p2m open` was given. state: of a live machine, to see whether it has run.
    """

    def __init__(self, source: Source, kernel: str | None = None, xen: str | None = None, state: str = "") -> None:
        self.source = source
        self.kernel = kernel
        self.xen = xen
        self.state = state
        self._targets: dict[tuple[str | None, str | None], Target] = {}
        self._contexts: dict[tuple[str | None, str | None, int | None], Context] = {}
        self._names: dict[Target, list[str]] = {}

    def target(self, kernel: str | None, xen: str | None, progress: Progress = no_progress) -> Target:
        """The target with these symbol files, ready for a new verb: its timing and counters start again."""
        key = (kernel, xen)
        if key not in self._targets:
            self._targets[key] = Target(self.source, kernel=key[0], xen=key[1], progress=progress)
        target = self._targets[key]
        target.progress = progress
        target.timing = Timing()
        reset(self.source.counters)
        return target

    def context(self, target: Target, domain: int | None, progress: Progress = no_progress) -> Context:
        """One domain of `target`, with the views that were made before."""
        key = (target.kernel_path, target.xen_path, domain)
        if key not in self._contexts:
            self._contexts[key] = Context(target, domain, progress)
        return self._contexts[key]

    def symbol_names(self, target: Target) -> list[str]:
        """Every symbol of the default domain's kernel, for completion; collected once. Raises P2mError."""
        if target not in self._names:
            self._names[target] = list(self.context(target, None).guest.names.names())
        return self._names[target]

    def forget(self, target: Target) -> None:
        """Decode from scratch next time: after an error or Ctrl-C in the middle of decoding."""
        self._targets = {k: t for k, t in self._targets.items() if t is not target}
        self._contexts = {k: c for k, c in self._contexts.items() if c.target is not target}
        self._names.pop(target, None)

    def close(self) -> None:
        """Release the source."""
        self._targets.clear()
        self._contexts.clear()
        self._names.clear()
        self.source.close()


def absolute(path: str | None) -> str | None:
    """A path that `cd` does not change."""
    return None if path is None else os.path.abspath(path)


def reset(counters: ReadCounters) -> None:
    """Start counting again, in place: parts of a source share the object."""
    counters.pages = counters.requests = 0


class Opened(NamedTuple):
    """What `p2m open` was given, to open it again."""

    path: str
    kernel: str | None
    xen: str | None
    raw: str | None


class Session:
    """`live` makes the Machine of GDB's own target; `state` tells whether it has run since."""

    def __init__(self, live: Callable[[], Machine], state: Callable[[], str]) -> None:
        self._make_live = live
        self._live_state = state
        self._dump: Machine | None = None
        self._live: Machine | None = None
        self.opened: Opened | None = None

    def open(
        self,
        path: str,
        kernel: str | None = None,
        xen: str | None = None,
        progress: Progress = no_progress,
        raw: str | None = None,
    ) -> Machine:
        """Open a dump; the one before is closed once this has worked. Raises P2mError."""
        from gdb_p2m.sources.probe import open_source

        for file in (kernel, xen):
            if file is not None and not os.access(file, os.R_OK):
                raise P2mError(f"{file}: cannot be read")
        machine = Machine(open_source(path, progress, raw), kernel, xen)
        self.close_dump()
        self._dump = machine
        self.opened = Opened(os.path.abspath(path), absolute(kernel), absolute(xen), raw)
        return machine

    def close_dump(self) -> bool:
        """Whether there was one."""
        if self._dump is None:
            return False
        self._dump.close()
        self._dump = self.opened = None
        return True

    def machine(self) -> Machine:
        """What verbs look at now. Raises P2mError that says what to do when there is nothing."""
        if self._dump is not None:
            return self._dump
        state = self._live_state()
        if self._live is not None and self._live.state != state:
            self.drop_live()
        if self._live is None:
            self._live = self._make_live()
            self._live.state = state
        return self._live

    def drop_live(self) -> None:
        """The machine has run or is gone: nothing that was read of it holds any more."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def close(self) -> None:
        """Forget all."""
        self.close_dump()
        self.drop_live()
