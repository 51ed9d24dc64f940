"""Whole processes measured from outside, in turns."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
"""Compiled modules are kept, as pip keeps those of libraries: the warm-up round writes ours."""


@dataclass
class Series:
    """Wall seconds and peak resident MiB of one command over all rounds."""

    name: str
    command: Sequence[str]
    wall: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)

    def once(self) -> None:
        """Run the command once; a failure ends the benchmark."""
        start = time.perf_counter()
        child = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, cwd=ROOT, env=ENVIRONMENT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in (0, 1):
            sys.exit(f"{' '.join(self.command)}: exit code {child.returncode}")
        self.wall.append(time.perf_counter() - start)
        self.peak.append(usage.ru_maxrss / 1024)


def compare(series: Sequence[Series], rounds: int) -> None:
    """One warm-up round, then `rounds` rounds in turns; prints a table with ratios to the first."""
    for s in series:
        s.once()
        s.wall.clear()
        s.peak.clear()
    for _ in range(rounds):
        for s in series:
            s.once()
    base = series[0]
    print(f"{'':<44}{'median':>9}{'min':>8}{'max':>8}{'ratio':>8}{'peak MiB':>10}")
    for s in series:
        ratio = statistics.median(a / b for a, b in zip(s.wall, base.wall, strict=True))
        print(
            f"{s.name:<44}{statistics.median(s.wall) * 1000:7.0f} ms{min(s.wall) * 1000:8.0f}{max(s.wall) * 1000:8.0f}"
            f"{ratio:8.2f}{max(s.peak):10.1f}"
        )


def reading(path: Path, size: int, batch: int) -> float:
    """Seconds in which numpy reads `size` bytes of a file that is in the page cache, `batch` 8-byte entries at a time."""
    start = time.perf_counter()
    with open(path, "rb") as file:
        left = size // 8
        while left:
            left -= len(np.fromfile(file, dtype=np.uint64, count=min(left, batch)))
    return time.perf_counter() - start
