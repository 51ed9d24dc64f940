"""`map` and `check` of a whole machine's dump, against a bare `import numpy`; see benchmarks/README.md."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gdb_p2m.rules.base import RuleContext, run_rules
from gdb_p2m.rules.catalogue import CATALOGUE
from gdb_p2m.sources.probe import open_source
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.target import Target
from gdb_p2m.views.registry import Views
from measure import ROOT, Series, compare


def lab_dump(folder: str) -> str:
    """A fresh 1 GiB dump of the lab's dom0."""
    lab, out = f"bench-{os.getpid()}", str(Path(folder) / "machine.elf")
    run = [str(ROOT / "scripts" / "lab")]
    subprocess.run([*run, "up", "--name", lab], check=True, stdout=sys.stderr)
    try:
        subprocess.run([*run, "dump", "--name", lab, out], check=True, stdout=sys.stderr)
    finally:
        subprocess.run([*run, "down", "--name", lab], check=True, stdout=sys.stderr)
    return out


def decoding(dump: str, rounds: int) -> None:
    """The decoding itself: the best of fresh views over an open target with known symbols."""
    target = Target(open_source(dump))
    guest = target.domain()
    maps, checks = [], []
    for _ in range(rounds):
        before = target.source.counters.pages
        start = time.perf_counter()
        runs = len(Views(guest).own().mapping())
        maps.append(time.perf_counter() - start)
        pages = target.source.counters.pages - before
        start = time.perf_counter()
        run_rules(CATALOGUE, RuleContext(target, guest, Views(guest), M2p(guest)))
        checks.append(time.perf_counter() - start)
    maps.sort()
    checks.sort()
    print(f"decoding {runs} runs of {1 << 27:,} PFNs: median {maps[len(maps) // 2] * 1000:.1f} ms, {pages} pages read")
    print(f"all rules: median {checks[len(checks) // 2] * 1000:.1f} ms")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dump", nargs="?", help="an uncompressed dump of the lab (default: made now)")
    parser.add_argument("-n", type=int, default=9, metavar="ROUNDS", help="rounds (default 9)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dump = args.dump or lab_dump(folder)
        tool = [sys.executable, "-m", "gdb_p2m.cli"]
        compare(
            [
                Series("python -c 'import numpy'", [sys.executable, "-c", "import numpy"]),
                Series("gdb-p2m lookup DUMP 0x100", [*tool, "lookup", dump, "0x100"]),
                Series("gdb-p2m map DUMP", [*tool, "map", dump]),
                Series("gdb-p2m map DUMP --json", [*tool, "map", dump, "--json"]),
                Series("gdb-p2m check DUMP", [*tool, "check", dump]),
            ],
            args.n,
        )
        decoding(dump, args.n)


if __name__ == "__main__":
    main()
