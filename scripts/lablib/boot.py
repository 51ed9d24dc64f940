"""Start a lab and wait until dom0 says that it is ready."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from . import labs, machine
from .cache import CachedSuite
from .errors import LabError
from .initramfs import NO_TOOLSTACK, READY
from .labs import QEMU_LOG, SERIAL_LOG, Lab
from .machine import Options
from .progress import Progress

_PORT_ATTEMPTS = 5
_TAIL_LINES = 25

_MILESTONES = (
    (b"Xen version", "Xen has begun"),
    (b"Linux version", "dom0's kernel has begun"),
    (b"as init process", "dom0's user space has begun"),
)
# Xen stops for good after these (it is told not to reboot): waiting for the timeout would tell no more.
_FATAL = re.compile(
    rb"Panic on CPU|Kernel panic - not syncing|Hardware Dom0 (crashed|shutdown)|" + re.escape(NO_TOOLSTACK).encode()
)


def boot(options: Options, directory: Path, cached: CachedSuite, timeout: float, progress: Progress) -> Lab:
    """Start QEMU and, unless it is to stay stopped, wait for dom0. Whatever fails, no QEMU is left behind."""
    machine.prepare(options, directory, cached)
    lab, process = _start(options, directory, cached)
    progress.step(f"QEMU has begun: pid {lab.pid}, GDB port {lab.port}")
    try:
        _wait_for_monitor(lab, process)
        if not options.stopped:
            _wait_for_dom0(lab, process, timeout, progress)
    except BaseException:
        labs.end(lab)
        process.wait()
        raise
    return lab


def _start(options: Options, directory: Path, cached: CachedSuite) -> tuple[Lab, subprocess.Popen[bytes]]:
    """Start QEMU; when somebody was faster in taking the free port, choose another one."""
    if options.port:
        machine.require_port(options.port)
    for attempt in range(_PORT_ATTEMPTS):
        lab, process = machine.start(options, options.port or machine.free_port(), directory, cached)
        lost_port = _died_at_once(lab, process) and "in use" in _read(lab.path(QEMU_LOG))
        if options.port or not lost_port or attempt == _PORT_ATTEMPTS - 1:
            break
    return lab, process


def _died_at_once(lab: Lab, process: subprocess.Popen[bytes]) -> bool:
    """Wait until QEMU has taken its ports and made its sockets, or has given up."""
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        if lab.path(labs.QMP_SOCKET).exists() and lab.path(labs.MONITOR_SOCKET).exists():
            return False
        time.sleep(0.02)
    return process.poll() is not None


def _wait_for_monitor(lab: Lab, process: subprocess.Popen[bytes]) -> None:
    """QEMU answers once it has loaded everything and taken the GDB port: wrong options show here."""
    try:
        with lab.qmp(timeout=30.0) as qmp:
            qmp.execute("query-status")
    except LabError as error:
        if process.poll() is None and lab.alive():
            raise
        raise _death(lab, process) from error


def _wait_for_dom0(lab: Lab, process: subprocess.Popen[bytes], timeout: float, progress: Progress) -> None:
    """Follow the serial log until the ready line, the end of QEMU, a panic or the timeout."""
    deadline = time.monotonic() + timeout
    passed = 0
    text = b""
    with lab.path(SERIAL_LOG).open("rb") as log:
        while True:
            dead = process.poll() is not None
            text += log.read()
            while passed < len(_MILESTONES) and _MILESTONES[passed][0] in text:
                progress.step(_MILESTONES[passed][1])
                passed += 1
            if READY.encode() in text:
                progress.step("dom0 is ready")
                return
            if dead:
                raise _death(lab, process)
            if match := _FATAL.search(text):
                time.sleep(0.5)  # let it say the rest
                raise LabError(f"the machine stopped: '{match[0].decode()}'; {_tail(lab)}")
            if time.monotonic() > deadline:
                raise LabError(
                    f"dom0 was not ready after {timeout:g} s; {_tail(lab)}",
                    hint="a longer --timeout if the machine is slow",
                )
            progress.moving("  " + _last_line(text))
            time.sleep(0.1)


def _death(lab: Lab, process: subprocess.Popen[bytes]) -> LabError:
    status = process.wait()
    if not Path(lab.directory).is_dir():
        return LabError(f"lab '{lab.name}' was taken down by another command")
    how = f"was ended by signal {-status}" if status < 0 else f"ended with exit code {status}"
    said = _read(lab.path(QEMU_LOG)).strip()
    return LabError(f"QEMU {how}" + (f", saying:\n    {said}" if said else "") + f"; {_tail(lab)}")


def _tail(lab: Lab) -> str:
    """The end of the serial log, for an error message."""
    path = lab.path(SERIAL_LOG)
    lines = [line for line in _read(path).splitlines() if line.strip()]
    if not lines:
        return f"nothing was written to the serial log {path}"
    last = "\n    ".join(lines[-_TAIL_LINES:])
    return f"the serial log {path} ends with:\n    {last}"


def _read(path: Path) -> str:
    """A log's text; nothing when `down` of another command took it away."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _last_line(text: bytes) -> str:
    lines = text[-400:].replace(b"\r", b"").rstrip().splitlines()
    return lines[-1].decode(errors="replace") if lines else ""
