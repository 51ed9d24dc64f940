"""The map of a RISC-V guest of 4 KiB pages, against numpy reading the same tables; see benchmarks/README.md."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from gdb_p2m.model.riscv import parse_riscv
from gdb_p2m.model.riscv_xen import build_riscv
from gdb_p2m.sources.probe import open_source
from gdb_p2m.target import Target
from gdb_p2m.views.registry import Views
from measure import reading

LEAVES_PER_GIB = 1 << 18
BATCH = 1 << 17


def describe(gib: int) -> str:
    """A domain with `gib` GiB mapped in 4 KiB pages; twice the RAM that the tables take."""
    leaves = gib * LEAVES_PER_GIB
    ram = max(leaves * 16, 256 << 20) >> 20
    mapping = f"map mmio_direct_io 0x0 {leaves} 0x40000000 4k"
    return f"xen-riscv benchmark\nmode sv48x4\nram 0x80000000+{ram}M\ndomain 1\n{mapping}\n"


def measure(gib: int, rounds: int, folder: Path, plain: Path) -> None:
    """One size: readings and maps in turns."""
    dump = folder / "machine.core"
    started = time.perf_counter()
    build_riscv(parse_riscv(describe(gib))).write_elf(dump)
    built = time.perf_counter() - started
    target = Target(open_source(str(dump)))
    domain = target.domain(1)
    wholes, batches, maps = [], [], []
    for _ in range(rounds):
        pages = target.source.counters.pages
        started = time.perf_counter()
        runs = len(Views(domain).own().mapping())
        maps.append(time.perf_counter() - started)
        pages = target.source.counters.pages - pages
        wholes.append(reading(plain, pages * 4096, pages * 512))
        batches.append(reading(plain, pages * 4096, BATCH))
    target.close()
    dump.unlink()
    whole, small, ours = (statistics.median(x) * 1000 for x in (wholes, batches, maps))
    print(
        f"{gib:>5} GiB{gib * LEAVES_PER_GIB:>14,}{pages:>10,}{built:>8.1f} s{ours:>8.0f} ms{whole:>8.0f} ms{small:>9.0f} ms"
        f"{whole / ours:>8.2f}{runs:>7,}",
        flush=True,
    )


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--gib", type=int, nargs="+", default=[1, 16, 128, 1024], help="guest sizes (default 1 16 128 1024)"
    )
    parser.add_argument("-n", type=int, default=5, metavar="ROUNDS", help="rounds (default 5)")
    args = parser.parse_args()
    head = f"{'guest':>9}{'leaves':>14}{'pages':>10}{'build':>10}{'map':>11}{'fromfile':>11}{'in batches':>12}"
    print(f"{head}{'ratio':>8}{'runs':>7}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open(folder / "plain", "wb") as file:
            for _ in range(max(args.gib) + 16):
                file.write(os.urandom(LEAVES_PER_GIB * 8 + 16384))
        for gib in args.gib:
            measure(gib, args.n, folder, folder / "plain")


if __name__ == "__main__":
    main()
