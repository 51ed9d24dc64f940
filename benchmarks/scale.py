"""How the cost of `map` and `check` grows with a guest's size, frames contiguous and scattered; see benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.rules.base import RuleContext, run_rules
from gdb_p2m.rules.catalogue import CATALOGUE
from gdb_p2m.sources.probe import open_source
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.target import Target
from gdb_p2m.views.registry import Views
from measure import reading

PAGES_PER_GIB = 1 << 18
ORDERS = {"contiguous": "contiguous", "scattered": "scattered seed 5"}
BATCH = 1 << 17
"""Entries per read of the reader in batches: 1 MiB, which stays in a core's cache."""


class Anonymous(threading.Thread):
    """Peak of this process's own memory (RssAnon), in MiB; pages of the mapped dump belong to the system's cache."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.now, self._end = 0.0, 0.0, threading.Event()
        self.look()
        self.first = self.now
        self.start()

    def look(self) -> None:
        """Sample once."""
        lines = Path("/proc/self/status").read_text().splitlines()
        self.now = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
        self.peak = max(self.peak, self.now)

    def run(self) -> None:
        while not self._end.wait(0.005):
            self.look()

    def grown(self) -> float:
        """MiB since the start, at the highest."""
        return self.peak - self.first


def describe(gib: int, order: str) -> str:
    """A fully populated guest of `gib` GiB."""
    return f"era linear\ndomain 0 initdomain\nnr_pages {gib * PAGES_PER_GIB}\nframes {ORDERS[order]}\n"


def one(dump: str, rounds: int, plain: Path, size: int) -> None:
    """One dump in this process; prints a JSON line. The readings are taken in turns with the maps."""
    target = Target(open_source(dump))
    guest = target.domain()
    maps, wholes, batches, runs = [], [], [], 0
    for _ in range(rounds):
        wholes.append(reading(plain, size, size // 8))
        batches.append(reading(plain, size, BATCH))
    memory = Anonymous()
    for _ in range(rounds):
        pages = target.source.counters.pages
        start = time.perf_counter()
        mapping = Views(guest).own().mapping()
        maps.append(time.perf_counter() - start)
        pages = target.source.counters.pages - pages
        runs = len(mapping)
        del mapping
    peak_map = memory.grown()
    start = time.perf_counter()
    results = run_rules(CATALOGUE, RuleContext(target, guest, Views(guest), M2p(guest)))
    check = time.perf_counter() - start
    said = {
        "map": statistics.median(maps),
        "whole": statistics.median(wholes),
        "batches": statistics.median(batches),
        "check": check,
        "failed": sum(r.status == "failed" and r.rule.severity == "error" for r in results),
        "runs": runs,
        "pages": pages,
        "map_mib": peak_map,
        "check_mib": memory.grown(),
    }
    print(json.dumps(said))


def main() -> None:
    """Measure every size and order in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--gib", type=int, nargs="+", default=[1, 16, 128, 512], help="guest sizes (default 1 16 128 512)"
    )
    parser.add_argument("-n", type=int, default=3, metavar="ROUNDS", help="rounds (default 3)")
    parser.add_argument("--one", nargs=3, metavar=("DUMP", "PLAIN", "SIZE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one[0], args.n, Path(args.one[1]), int(args.one[2]))
        return
    print(
        f"{'guest':<20}{'build':>9}{'map':>10}{'fromfile':>11}{'in batches':>12}{'check':>9}{'runs':>13}{'pages':>9}"
        f"{'MiB map':>9}{'check':>8}"
    )
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        with open(plain, "wb") as file:
            for _ in range(max(args.gib)):
                file.write(os.urandom(PAGES_PER_GIB * 8))
        for order in ORDERS:
            for gib in args.gib:
                dump = Path(folder) / "guest.core"
                start = time.perf_counter()
                build(parse(describe(gib, order), "benchmark")).write_elf(str(dump))
                built = time.perf_counter() - start
                command = [
                    sys.executable,
                    __file__,
                    "-n",
                    str(args.n),
                    "--one",
                    str(dump),
                    str(plain),
                    str(gib * PAGES_PER_GIB * 8),
                ]
                s = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
                assert not s["failed"], "a healthy guest breaks a rule"
                print(
                    f"{f'{gib} GiB {order}':<20}{built:7.1f} s{s['map'] * 1000:7.0f} ms{s['whole'] * 1000:8.0f} ms{s['batches'] * 1000:9.0f} ms"
                    f"{s['check']:7.1f} s{s['runs']:13,}{s['pages']:9,}{s['map_mib']:9.0f}{s['check_mib']:8.0f}",
                    flush=True,
                )
                dump.unlink()


if __name__ == "__main__":
    main()
