"""Runs the command line: in this process, and in one of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdb_p2m.cli import EXIT_INPUT, EXIT_USAGE, run
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


def run_process(*args: str | Path, timeout: float = 60, cwd: Path | None = None) -> Ran:
    """`python -m gdb_p2m.cli ...` in a process of its own, with the real exit code."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, "-m", "gdb_p2m.cli", *map(str, args)],
        capture_output=True,
        env=env,
        cwd=cwd,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
