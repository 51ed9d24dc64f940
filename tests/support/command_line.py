"""Runs the command line: in this process, and in one of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gdb_p2m.cli import EXIT_INPUT, EXIT_USAGE, main, run
from gdb_p2m.errors import P2mError, UsageError
from support.places import ROOT


@dataclass(frozen=True)
class Ran:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


def run_cli(*args: str | Path) -> Ran:
    """gdb_p2m.cli.run in this process; errors become the exit codes that `main` gives them."""
    out, err = io.StringIO(), io.StringIO()
    try:
        code = run([str(a) for a in args], out, err)
    except UsageError as e:
        code = EXIT_USAGE
        err.write(f"gdb-p2m: {e}\n")
    except P2mError as e:
        code = EXIT_INPUT
        err.write(f"gdb-p2m: {e}\n")
    except SystemExit as e:  # --help and --version
        code = int(e.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


def run_process(*args: str | Path, timeout: float = 60) -> Ran:
    """`gdb-p2m ...` in a forked process: real exit code, real streams, tracebacks as the interpreter prints them.

    A fork saves the half second that a new interpreter needs for its imports; `run_interpreter` is the real thing.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _be_gdb_p2m([str(a) for a in args], out.fileno(), err.fileno())
        code = _wait(pid, timeout)
        out.seek(0)
        err.seek(0)
        return Ran(code, out.read().decode(), err.read().decode())


def _be_gdb_p2m(args: list[str], out: int, err: int) -> NoReturn:
    """The child: never returns into the test."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.argv = ["gdb-p2m", *args]
        try:
            main()
        except SystemExit as e:
            code = int(e.code or 0)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(pid: int, timeout: float) -> int:
    deadline = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"not finished after {timeout} s")
        time.sleep(0.005)


def run_interpreter(*args: str | Path, timeout: float = 60) -> Ran:
    """`python -m gdb_p2m.cli ...` in a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-m", "gdb_p2m.cli", *map(str, args)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
