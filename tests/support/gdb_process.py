"""Runs GDB: one process a test, without any user's settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.places import ROOT

SCRIPT = ROOT / "scripts" / "gdb_p2m.py"


@dataclass(frozen=True)
class GdbRan:
    """What one GDB printed."""

    out: str
    err: str

    @property
    def all(self) -> str:
        """Both streams."""
        return self.out + self.err


class Gdb:
    """A way to run one GDB binary."""

    def __init__(self, binary: str) -> None:
        self.binary = binary
        self.environment = {k: v for k, v in os.environ.items() if k not in ("GDB_P2M_PMEMSAVE", "PYTHONPATH")}
        # The environment that runs the tests has what p2m needs, wherever it lies.
        self.environment["GDB_P2M_VENV"] = sys.prefix

    def command_line(self, *commands: str, script: Path | None = SCRIPT) -> list[str]:
        """GDB in batch mode; `script` is sourced before the commands. An error does not end the others."""
        source = [] if script is None else [f"source {script}"]
        return [self.binary, "-nx", "-q", "-batch", *(a for c in [*source, *commands] for a in ("-ex", c))]

    def __call__(
        self,
        *commands: str,
        script: Path | None = SCRIPT,
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        timeout: float = 120,
    ) -> GdbRan:
        """Run commands. env: changes; None removes."""
        environment = {k: v for k, v in {**self.environment, **(env or {})}.items() if v is not None}
        done = subprocess.run(
            self.command_line(*commands, script=script),
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        ran = GdbRan(done.stdout, done.stderr)
        assert "Traceback" not in ran.all, ran.all
        assert "Python Exception" not in ran.all, ran.all
        return ran


def find_gdb(name: str) -> Gdb:
    """The binary, or a skip that says why it cannot serve."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    asked = "python import sys; print(sys.version_info[:2] == " + repr(tuple(sys.version_info[:2])) + ")"
    done = subprocess.run(
        [path, "-nx", "-batch", "-ex", asked], capture_output=True, text=True, timeout=60, check=False
    )
    if done.stdout.strip() != "True":
        pytest.skip(f"{name} embeds another Python than the one that runs the tests ({done.stdout or done.stderr})")
    return Gdb(path)
