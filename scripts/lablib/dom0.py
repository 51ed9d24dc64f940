"""Shell scripts in dom0, handed over and answered through the directory that host and dom0 share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError
from .initramfs import CONSOLES, FILES, JOBS, SHARE
from .labs import Lab

SHARE_DIRECTORY = "share"  # in the lab's directory

_POLL = 0.05
_STATE_EVERY = 2.0


@dataclass(frozen=True)
class Answer:
    """What a script said and how it ended."""

    code: int
    out: bytes
    err: bytes

    def text(self) -> str:
        """Its standard output without the last line break."""
        return self.out.decode(errors="replace").strip()


def make_share(directory: Path) -> None:
    """The shared directory of a new lab."""
    for name in (JOBS, CONSOLES, FILES):
        (directory / SHARE_DIRECTORY / name).mkdir(parents=True)


def shared(lab: Lab, *names: str) -> Path:
    """A file of the shared directory, as the host sees it."""
    return lab.path(SHARE_DIRECTORY).joinpath(*names)


def require_toolstack(lab: Lab) -> None:
    """Raise LabError when the lab's dom0 cannot be asked for anything."""
    if not lab.toolstack:
        raise LabError(
            f"lab '{lab.name}' has no toolstack",
            hint=f"scripts/lab down --name {lab.name}, then scripts/lab up --toolstack --name {lab.name}",
        )
    lab.require_alive()


def run(
    lab: Lab, script: str, timeout: float, *, undo: str = "", waiting: Callable[[], None] = lambda: None
) -> Answer:
    """Run a shell script in dom0 and wait for its end; `waiting` is called again and again meanwhile.

    timeout: seconds. When it is over, or this command is interrupted, everything the script started is killed,
    and the script `undo` is run.
    """
    require_toolstack(lab)
    name = f"{os.getpid()}-{time.monotonic_ns()}"
    job = shared(lab, JOBS, name)
    try:
        _submit(job, script)
        if not _wait(lab, job, timeout, waiting):
            said = (_read(job, "out") + _read(job, "err"))[-2000:].decode(errors="replace").strip()
            so_far = "it said nothing" if not said else "it said:\n    " + said.replace("\n", "\n    ")
            raise LabError(f"dom0 has not finished after {timeout:g} s; so far {so_far}", hint="a longer --timeout")
        return Answer(int(_read(job, "rc")), _read(job, "out"), _read(job, "err"))
    except BaseException:
        if not job.with_suffix(".rc").exists() and lab.alive():
            _kill(lab, job, undo)
        raise
    finally:
        _remove(job)


def run_well(
    lab: Lab, script: str, timeout: float, what: str, *, undo: str = "", waiting: Callable[[], None] = lambda: None
) -> str:
    """Run a script that must succeed; returns its standard output. what: words for the error message."""
    answer = run(lab, script, timeout, undo=undo, waiting=waiting)
    if answer.code != 0:
        said = b"\n".join(text.strip() for text in (answer.out, answer.err) if text.strip())
        lines = said.decode(errors="replace").replace("\n", "\n    ") or "nothing"
        raise LabError(f"{what}: dom0 ended with exit code {answer.code}, saying:\n    {lines}")
    return answer.text()


def submit(lab: Lab, script: str) -> None:
    """Let dom0 run a script from which no answer can come."""
    _submit(shared(lab, JOBS, f"{os.getpid()}-{time.monotonic_ns()}"), script)


def _submit(job: Path, script: str) -> None:
    scratch = job.with_suffix(".writing")
    scratch.write_text(script + "\n")
    scratch.rename(job.with_suffix(".job"))


def _wait(lab: Lab, job: Path, timeout: float, waiting: Callable[[], None]) -> bool:
    """Whether the job ended in time. A machine that is not running would never answer: that is an error."""
    deadline = time.monotonic() + timeout
    look_at_state = 0.0
    while not job.with_suffix(".rc").exists():
        now = time.monotonic()
        if now > deadline:
            return False
        if now > look_at_state:
            lab.require_alive()
            if (state := lab.state()) not in ("running", "busy"):
                raise LabError(f"lab '{lab.name}' is {state}: dom0 cannot answer", hint="scripts/lab cont")
            look_at_state = now + _STATE_EVERY
        waiting()
        time.sleep(_POLL)
    return True


def _kill(lab: Lab, job: Path, undo: str) -> None:
    """End a job that dom0 may have begun: its session has the process id of its first process."""
    with suppress(OSError):
        job.with_suffix(".job").unlink()  # not begun yet
        return
    killer = job.with_name(job.name + "-kill")
    inside = f"{SHARE}/{JOBS}/{job.name}"
    with suppress(LabError):
        _submit(killer, f"kill -9 -$(cat {inside}.pid)\n{undo}")
        _wait(lab, killer, 10.0, lambda: None)
    _remove(killer)


def _read(job: Path, suffix: str) -> bytes:
    try:
        return job.with_suffix("." + suffix).read_bytes()
    except FileNotFoundError:
        return b""


def _remove(job: Path) -> None:
    for suffix in ("writing", "job", "sh", "pid", "out", "err", "new", "rc"):
        job.with_suffix("." + suffix).unlink(missing_ok=True)
