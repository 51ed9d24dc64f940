"""GDB's connection to QEMU: what to refuse, packets, monitor commands, and whether the machine stands still."""

from __future__ import annotations

import gdb
from gdb_p2m.errors import NotFound, NotSupported, P2mError
from gdb_p2m.gdbui.stub import is_qemu_system

OPEN_A_DUMP = "take a dump of the machine and `p2m open DUMP`"
TARGETS = {
    "core": "a core file",
    "native": "a process of this machine",
    "exec": "a program that is not running",
    "sim": "a simulator",
}


class QemuConnection:
    """The Stub of a gdb.RemoteTargetConnection."""

    def __init__(self, connection: gdb.RemoteTargetConnection) -> None:
        self.connection = connection

    @property
    def where(self) -> str:
        """The address that was connected to."""
        return str(self.connection.details)

    def packet(self, payload: str) -> bytes:
        """The answer to a packet, empty when the stub does not know it. Raises P2mError."""
        try:
            return self.connection.send_packet(payload) or b""
        except (gdb.error, RuntimeError, ValueError) as e:
            raise self._lost(e) from None

    def monitor(self, command: str) -> str:
        """What QEMU's monitor says. Raises P2mError."""
        try:
            return str(gdb.execute(f"monitor {command}", to_string=True))
        except gdb.error as e:
            raise self._lost(e) from None

    def _lost(self, error: Exception) -> P2mError:
        return P2mError(
            f"QEMU's gdbstub at {self.where} does not answer: {error}", hint="`target remote` connects again"
        )


def qemu_connection() -> QemuConnection:
    """The machine that GDB is connected to, standing still. Raises P2mError that says what to do."""
    connection = gdb.selected_inferior().connection
    if connection is None:
        raise NotFound(
            "no dump is open, and GDB is not connected to a machine",
            hint="`p2m open DUMP`, or start QEMU with -gdb tcp::1234 and `target remote :1234`",
        )
    if not isinstance(connection, gdb.RemoteTargetConnection):
        kind = TARGETS.get(connection.type, f"of type {connection.type}")
        raise NotSupported(
            f"p2m reads machine memory through QEMU's gdbstub; this target is {kind}",
            hint="p2m open DUMP",
        )
    _require_stopped()
    qemu = QemuConnection(connection)
    if not is_qemu_system(qemu):
        raise NotSupported(
            f"p2m reads machine memory through QEMU's gdbstub; the remote target at {qemu.where} is not the stub of "
            "a whole machine (gdbserver, or QEMU running one program)",
            hint=OPEN_A_DUMP,
        )
    return qemu


def _require_stopped() -> None:
    thread = gdb.selected_thread()
    threads = gdb.selected_inferior().threads() if thread is None else (thread,)
    if not threads:
        raise NotFound("GDB's remote target has no CPU", hint="`target remote` again")
    if any(t.is_running() for t in threads):
        raise P2mError("the machine is running", hint="`interrupt`, or Ctrl-C, stops it; then ask again")


def state_of_machine(qemu: QemuConnection) -> str:
    """Changes when the machine has run, also behind GDB's back (`monitor cont`, then `monitor stop`).

    Registers of all CPUs and, on x86, the local APIC's timer, which counts as long as the machine runs.
    Raises P2mError when it runs right now.
    """
    status = qemu.monitor("info status").strip()
    if "running" in status:
        raise P2mError(
            f"QEMU says {status!r}, although GDB has stopped it: something else let the machine go on",
            hint="`monitor stop` stops it",
        )
    return status + qemu.monitor("info registers -a") + qemu.monitor("info lapic")
