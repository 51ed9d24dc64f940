"""Registers everything with GDB, and takes it back before a second `source`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gdb
from gdb_p2m.commands.registry import all_verbs
from gdb_p2m.errors import P2mError
from gdb_p2m.gdbui.boot import BootCommand
from gdb_p2m.gdbui.commands import CloseCommand, OpenCommand, P2mCommand, VerbCommand
from gdb_p2m.gdbui.functions import FUNCTIONS
from gdb_p2m.gdbui.live import RUNNING_EVENTS, live_source, live_state
from gdb_p2m.gdbui.output import is_interactive
from gdb_p2m.gdbui.printers import register as register_printers
from gdb_p2m.gdbui.session import Machine, Session
from gdb_p2m.gdbui.settings import Settings
from gdb_p2m.gdbui.watch import WatchCommand


class Loaded:
    """What one `source` has set up."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.session = Session(self._live, self._state)
        self._drop: Callable[[object], None] = lambda event: self.session.drop_live()
        for name in RUNNING_EVENTS:
            getattr(gdb.events, name).connect(self._drop)
        P2mCommand()
        for verb in all_verbs():
            VerbCommand(verb, self.session, self.settings)
        OpenCommand(self.session, self.settings)
        CloseCommand(self.session)
        BootCommand(self.session, self.settings)
        self.watch = WatchCommand(self.session, self.settings)
        register_printers()
        if not is_interactive():
            # Nobody would press the key that the pager waits for.
            gdb.execute("set pagination off", to_string=True)
        for name, function in FUNCTIONS.items():
            function(name, self.session, self.settings)

    def _live(self) -> Machine:
        return Machine(live_source(bool(self.settings.pmemsave.value)))

    def _state(self) -> str:
        return f"{self.settings.pmemsave.value} {live_state()}"

    def unload(self) -> dict[str, Any]:
        """Close everything; the commands stay until others replace them. Returns what `resume` takes."""
        for name in RUNNING_EVENTS:
            getattr(gdb.events, name).disconnect(self._drop)
        opened = self.session.opened
        # A plain tuple: the class of a named one is forgotten with its module.
        self.watch.unload()
        state = {"opened": None if opened is None else tuple(opened), "settings": self.settings.values()}
        self.session.close()
        return state

    def resume(self, state: dict[str, Any]) -> None:
        """Settings and dump of the load before. A dump that has gone meanwhile is reported, not an error."""
        self.settings.restore(state["settings"])
        if state["opened"] is not None:
            path, kernel, xen, raw = state["opened"]
            try:
                self.session.open(path, kernel, xen, raw=raw)
            except P2mError as e:
                gdb.write(f"p2m: {e}\n", gdb.STDERR)


current: Loaded | None = None


def load(state: dict[str, Any] | None = None) -> Loaded:
    """Register all. state: of the load before, when this is a second `source`."""
    global current
    current = Loaded()
    if state is not None:
        current.resume(state)
    return current
