"""The machine behind QEMU's gdbstub as a source, and when what was read of it stops being true."""

from __future__ import annotations

from typing import Any

import gdb
from gdb_p2m.gdbui.connection import qemu_connection, state_of_machine
from gdb_p2m.gdbui.cpus import cpu_states
from gdb_p2m.gdbui.gdbstub import GdbStubSource
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.target import Target

RUNNING_EVENTS = (
    "cont",
    "stop",
    "exited",
    "memory_changed",
    "register_changed",
    "inferior_deleted",
    "connection_removed",
)
"""After these nothing that was read of the machine before can be relied on."""


def live_source(bulk: bool = True) -> GdbStubSource:
    """The machine that GDB is connected to, which must stand still. bulk: pmemsave may be used.

    Raises P2mError that says what to do: no connection, another kind of target, a running machine.
    """
    qemu = qemu_connection()
    machine, cpus, notes = cpu_states()
    source = GdbStubSource(qemu, qemu.where, machine, cpus, bulk)
    source.info.notes += notes
    return source


def live_state() -> str:
    """Changes with the connection and whenever the machine has run. Raises P2mError like live_source."""
    qemu = qemu_connection()
    return f"{qemu.connection.num} {state_of_machine(qemu)}"


def attach_target(
    *, kernel: str | None = None, xen: str | None = None, bulk: bool = True, progress: Progress = no_progress
) -> Target:
    """For gdb_p2m.api.attach: the live machine as a Target of its own.

    It holds as long as the machine stands still: once it has run, what was decoded stays as it was and every
    further read raises P2mError. Raises ImportError outside GDB.
    """
    if not hasattr(gdb, "selected_inferior"):
        raise ImportError("not inside GDB")
    source = live_source(bulk)

    def expire(event: Any) -> None:
        source.expire()
        for name in RUNNING_EVENTS:
            getattr(gdb.events, name).disconnect(expire)

    for name in RUNNING_EVENTS:
        getattr(gdb.events, name).connect(expire)
    return Target(source, kernel=kernel, xen=xen, progress=progress)
