"""The running labs: one directory each, with the facts on disk, and QEMU's process behind it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import LabError
from .places import make_run_root, run_root
from .qmp import Qmp, QmpError, QmpTimeout

# Names in a lab's directory. QEMU runs in it, so its own command line uses them without any path: no length
# limit of socket paths and no quoting of commas or blanks can get in the way.
FACTS = "lab.json"
QMP_SOCKET = "qmp.sock"
MONITOR_SOCKET = "monitor.sock"
SERIAL_LOG = "serial.log"
QEMU_LOG = "qemu.log"


@dataclass(frozen=True)
class Lab:
    """What is known about one lab.

    start_ticks: field 22 of /proc/PID/stat, which tells our process from a later one with the same id.
    crashkernel: the size of the memory Xen keeps for a crash kernel, empty when there is none.
    """

    name: str
    directory: str
    suite: str
    pid: int
    start_ticks: int
    port: int
    mem: str
    dom0_mem: str
    cpus: int
    xen_args: str
    kernel_args: str
    versions: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    toolstack: bool = False
    crashkernel: str = ""

    def path(self, name: str) -> Path:
        """A file in the lab's directory."""
        return Path(self.directory) / name

    def save(self) -> None:
        """Write the facts, whole or not at all."""
        scratch = self.path(FACTS + ".new")
        scratch.write_text(json.dumps(asdict(self), indent=1) + "\n")
        scratch.replace(self.path(FACTS))

    def alive(self) -> bool:
        """Whether the process is still there and still ours."""
        return start_ticks(self.pid) == self.start_ticks

    def require_alive(self) -> None:
        """Raise LabError when the process is gone."""
        if not self.alive():
            raise LabError(
                f"lab '{self.name}' is dead: its QEMU (pid {self.pid}) is gone",
                hint=f"`scripts/lab console --name {self.name}` for its last words, then `down`",
            )

    def qmp(self, timeout: float = 10.0) -> Qmp:
        """A session with the lab's QEMU; LabError when it has died."""
        self.require_alive()
        return Qmp(self.path(QMP_SOCKET), timeout=timeout)

    def state(self) -> str:
        """running, paused, not begun (QEMU -S), in the debugger, busy or dead; or QEMU's own word for it."""
        if not self.alive():
            return "dead"
        try:
            with self.qmp(timeout=2.0) as qmp:
                status = str(qmp.execute("query-status")["status"])
        except QmpTimeout:
            return "busy"
        except QmpError:
            return "busy" if self.alive() else "dead"
        return {"prelaunch": "not begun", "debug": "in the debugger"}.get(status, status)


def start_ticks(pid: int) -> int:
    """When the process was started, in clock ticks since boot; -1 when there is none or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    rest = text.rpartition(")")[2].split()  # after the command's name, which may hold blanks and parentheses
    return -1 if rest[0] in "ZX" else int(rest[19])


def load(directory: Path) -> Lab | None:
    """The lab of a directory; None when there is none."""
    try:
        facts: dict[str, Any] = json.loads((directory / FACTS).read_text())
        return Lab(**{**facts, "directory": str(directory)})
    except (OSError, ValueError, TypeError):
        return None


def all_labs() -> list[Lab]:
    """This user's labs, dead ones too, by name."""
    root = run_root()
    found = [load(path) for path in sorted(root.iterdir())] if root.is_dir() else []
    return [lab for lab in found if lab is not None]


def the_lab(name: str) -> Lab:
    """The lab of that name; LabError when there is none."""
    if lab := load(run_root() / name):
        return lab
    others = ", ".join(other.name for other in all_labs())
    raise LabError(
        f"there is no lab named '{name}'" + (f"; there is: {others}" if others else ""),
        hint=f"scripts/lab up --name {name}",
    )


@contextmanager
def claimed(name: str) -> Iterator[Path]:
    """The fresh directory for a new lab, held against another `up` of the same name until the block ends.

    What a dead lab of that name left is removed.
    """
    root = make_run_root()
    with (root / f".{name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(f"lab '{name}' is just being started by another command") from None
        directory = root / name
        lab = load(directory)
        if lab is not None and lab.alive():
            raise LabError(
                f"lab '{name}' is already running (pid {lab.pid}, {lab.suite}, port {lab.port})",
                hint=f"scripts/lab down --name {name}, or another --name",
            )
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        yield directory


def end(lab: Lab, *, patience: float = 5.0) -> str:
    """Make the lab's QEMU go away, kindly first; returns how it went. Only ever signals our own process."""
    if not lab.alive():
        return "was dead already"
    try:
        with lab.qmp(timeout=2.0) as qmp:
            qmp.execute("quit")
    except LabError:
        pass  # it hangs or is busy: the signals below do not need its cooperation
    if _gone(lab, patience):
        return "quit"
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(lab, number)
        if _gone(lab, patience):
            return f"ended by {number.name}"
    raise LabError(f"QEMU of lab '{lab.name}' (pid {lab.pid}) does not go away")


def _gone(lab: Lab, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while lab.alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _signal(lab: Lab, number: signal.Signals) -> None:
    """Through a process descriptor: the id cannot pass to another process between check and signal."""
    try:
        descriptor = os.pidfd_open(lab.pid)
    except ProcessLookupError:
        return
    try:
        if lab.alive():
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)
