"""The oracle as a running machine.

with Machine(build("sv39x4"), memory="2G") as machine:
    for probe in machine.report.uart_probes(1): ...
    machine.dump(path)                       # QEMU's ELF core of the whole machine
    gdb: target remote :{machine.port}
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from .program import VARIANTS, BuildError, Missing, Program, build
from .qmp import Qmp, QmpError
from .report import Report, parse

__all__ = ["VARIANTS", "BuildError", "Machine", "MachineError", "Missing", "Program", "build", "qemu"]

QEMU_VARIABLE = "GDB_P2M_QEMU_RISCV"
MAILBOX = 0x80100000
MAILBOX_GUEST = 1
CPU = "rv64,h=true,svpbmt=true"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PORT_TAKEN = "Address already in use"


class MachineError(Exception):
    """The machine did not get to its end; the text ends with what it and QEMU said last."""


def qemu() -> str:
    """QEMU's path: $GDB_P2M_QEMU_RISCV, or qemu-system-riscv64. Raises Missing."""
    name = os.environ.get(QEMU_VARIABLE, "qemu-system-riscv64")
    if found := shutil.which(name):
        return found
    raise Missing(
        f"{name} is not installed; try: apt install qemu-system-misc (qemu-system-riscv from Debian 13 on)"
    )


class Machine:
    """A booted machine that has printed its report and now idles (or runs its guest), hgatp loaded.

    memory: "2G" has 1 GiB leaves of RAM, "256M" has not and dumps faster. guest: leave a guest running (V=1)
    in domain 1. Use as a context manager: leaving it ends QEMU and removes its files. port: its gdbstub's,
    on 127.0.0.1.
    """

    def __init__(
        self,
        program: Program,
        *,
        memory: str = "2G",
        guest: bool = False,
        cpu: str = CPU,
        timeout: float = 90,
    ) -> None:
        self.program = program
        self._memory, self._guest, self._cpu, self._timeout = memory, guest, cpu, timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path()
        self.port = 0

    def __enter__(self) -> Self:
        binary = qemu()
        self._directory = Path(tempfile.mkdtemp(prefix="riscv-"))  # short: sockets have 107 characters
        try:
            for _ in range(5):
                self.port = _free_port()
                self._start(binary)
                if self._wait():
                    return self
            raise MachineError("no free port for the gdbstub in 5 attempts")
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """QEMU's process."""
        if self._process is None:
            raise MachineError("the machine is not running")
        return self._process.pid

    @property
    def uart(self) -> str:
        """All that the machine has printed so far."""
        try:
            return (self._directory / "uart").read_text("ascii", "replace")
        except FileNotFoundError:
            return ""

    @cached_property
    def report(self) -> Report:
        """The report. Raises NotAReport."""
        return parse(self.uart)

    def dump(self, path: Path) -> None:
        """Write QEMU's ELF core of the machine; the machine stands still meanwhile. Raises MachineError."""
        with self._qmp(timeout=300) as qmp:
            qmp.execute("dump-guest-memory", paging=False, protocol=f"file:{path.absolute()}")

    def monitor(self, line: str) -> str:
        """The human monitor's answer."""
        with self._qmp(timeout=30) as qmp:
            return str(qmp.execute("human-monitor-command", **{"command-line": line})).replace("\r\n", "\n")

    def stop(self) -> None:
        """End QEMU, this one by its own process, and remove its files. Does nothing the second time."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._directory.name:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _qmp(self, timeout: float) -> Qmp:
        try:
            return Qmp(self._directory / "qmp", timeout)
        except QmpError as error:
            raise self._failed(str(error)) from None

    def _start(self, binary: str) -> None:
        mailbox = MAILBOX_GUEST if self._guest else 0
        command = [
            binary,
            *("-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"),
            *("-machine", "virt", "-accel", "tcg", "-cpu", self._cpu, "-smp", "1", "-m", self._memory),
            *("-serial", "file:uart", "-qmp", "unix:qmp,server=on,wait=off"),
            *("-gdb", f"tcp:127.0.0.1:{self.port}"),
            *("-bios", str(self.program.firmware), "-kernel", str(self.program.elf)),
            *("-device", f"loader,addr={MAILBOX:#x},data={mailbox},data-len=8"),
        ]
        with (self._directory / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )

    def _wait(self) -> bool:
        """Until the report is whole. False when QEMU lost the race for its port."""
        end = "GUEST" if self._guest else "DONE "
        deadline = time.monotonic() + self._timeout
        assert self._process is not None
        while True:
            over = self._process.poll() is not None or time.monotonic() > deadline
            text = self.uart
            lines = text[: text.rfind("\n") + 1].splitlines()[-8:]
            if any(line.startswith(end) for line in lines):
                return True
            if any(line.startswith("PANIC") for line in lines):
                raise self._failed("the machine panicked")
            if over and _PORT_TAKEN in self._log():
                return False
            if self._process.poll() is not None:
                raise self._failed(f"QEMU ended with {self._process.returncode}")
            if over:
                raise self._failed(f"no {end.strip()} line within {self._timeout:g} s")
            time.sleep(0.02)

    def _log(self) -> str:
        return (self._directory / "qemu.log").read_text("utf-8", "replace")

    def _failed(self, what: str) -> MachineError:
        tail = "\n".join(f"    {line}" for line in self.uart.splitlines()[-12:])
        return MachineError(f"{self.program.variant}: {what}\n  QEMU: {self._log().strip()}\n  UART:\n{tail}")


def _die_with_parent() -> None:
    """A test run that is killed has no time to call stop(), and a guest would count for ever."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
