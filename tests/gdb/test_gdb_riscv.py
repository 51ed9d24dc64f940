"""Live RISC-V: a machine whose P2M the hardware itself walks, through gdb-multiarch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from riscv_oracle.machine import Machine, Missing, build, qemu
from support.gdb_process import find_gdb

pytestmark = [pytest.mark.gdb, pytest.mark.riscv]

LINES = ["domains", "symbols", "map", "map --domain 1", "stats", "lookup 0x80000", "walk 0x80000", "page-info 0x80100"]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One variant; 256 MiB are dumped quickly."""
    try:
        qemu()
        program = build("sv39x4")
    except Missing as missing:
        pytest.skip(str(missing))
    with Machine(program, memory="256M") as running:
        yield running


def test_every_verb_says_the_same_live_by_packets_and_from_a_dump(machine: Machine, tmp_path: Path) -> None:
    multiarch = find_gdb("gdb-multiarch")
    core = tmp_path / "machine.elf"
    ways = {"live": "set p2m pmemsave on", "packets": "set p2m pmemsave off", "dump": f"p2m open {core}"}
    lines = [*LINES, "check", "identify"]
    commands = [f"target remote 127.0.0.1:{machine.port}", f'monitor dump-guest-memory "{core}"']
    for way, change in ways.items():
        (tmp_path / way).mkdir()
        commands.append(change)
        commands += [
            f"p2m {line} --xen {machine.program.elf} --json -o {tmp_path}/{way}/{i}" for i, line in enumerate(lines)
        ]
    ran = multiarch(*commands, "maintenance packet qqemu.PhyMemMode", "disconnect")
    assert "p2m: " not in ran.err, ran.err
    assert 'received: "0"' in ran.out
    texts = {way: [(tmp_path / way / str(i)).read_text() for i in range(len(lines))] for way in ways}
    assert texts["live"] == texts["packets"]
    for i, line in enumerate(LINES):
        assert texts["live"][i] == texts["dump"][i], line
    # Only a live CPU tells its hgatp: GST-001 looks at one thing more.
    live, dump = (json.loads(texts[way][len(LINES)])["rules"] for way in ("live", "dump"))
    assert [a["id"] for a, b in zip(live, dump, strict=True) if a != b] == ["GST-001"]
    cpu = json.loads(texts["live"][-1])["source"]["cpus"][0]
    assert cpu["hgatp"] >> 60 == 8 and cpu["satp"] >> 60 == 8, "Sv39x4 and Sv39"
