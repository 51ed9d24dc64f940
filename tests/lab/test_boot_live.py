"""Boot time, live: stop a real kernel at its moments, read the chain, let it run, verify all of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = str(ROOT / "scripts" / "lab")
pytestmark = [pytest.mark.lab, pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU")]


class Stopped:
    """A lab that has not begun yet, and GDB on it."""

    def __init__(self, name: str, mem: str, dom0: str) -> None:
        self.name = name
        run = [LAB, "up", "--stopped", "--json", "--name", name, "--mem", mem, "--dom0-mem", dom0]
        out = subprocess.run(run, check=True, capture_output=True, text=True).stdout
        self.port = json.loads(out)["port"]
        paths = subprocess.run([LAB, "paths", "--suite", "bookworm"], check=True, capture_output=True, text=True)
        self.vmlinuz = json.loads(paths.stdout)["vmlinuz"]

    def gdb(self, *commands: str) -> str:
        """Run p2m commands in one GDB that leaves the machine paused."""
        start = ["set confirm off", "set pagination off", f"source {ROOT}/scripts/gdb_p2m.py"]
        start += [f"target remote 127.0.0.1:{self.port}", f"set p2m kernel {self.vmlinuz}"]
        args = [a for c in (*start, *commands, "disconnect") for a in ("-ex", c)]
        done = subprocess.run(
            ["gdb", "-nx", "-q", "-batch", *args], capture_output=True, text=True, timeout=600, check=False
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done.stdout + done.stderr

    def down(self) -> None:
        """End the machine."""
        subprocess.run([LAB, "down", "--name", self.name], check=True, capture_output=True)


@pytest.fixture(scope="module", params=[("1024M", "400M", 97, 1), ("5G", "3500M,max:3500M", 109697, 217)], ids=str)
def machine(request: pytest.FixtureRequest) -> Iterator[tuple[Stopped, int, int]]:
    mem, dom0, pages, records = request.param
    stopped = Stopped(f"boot-{os.getpid()}", mem, dom0)
    yield stopped, pages, records
    stopped.down()


def documents(text: str) -> list[dict[str, Any]]:
    """All JSON documents in GDB's output."""
    found = []
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        document, end = decoder.raw_decode(text, at)
        found.append(document)
        at = text.find("{", end)
    return found


def test_the_chain_is_read_before_and_carried_out_after(machine: tuple[Stopped, int, int], tmp_path: Path) -> None:
    lab, pages, records = machine
    saved = tmp_path / "chain.json"
    entry, initial, stop, chain, rules, after, verified = documents(
        lab.gdb(
            "p2m boot entry --json",
            "p2m start-info --json",
            "p2m boot remap --json",
            f"p2m remap --save {saved} --json",
            "p2m check SIF RMP --json",
            "p2m boot after --json",
            f"p2m remap --verify {saved} --json",
        )
    )
    assert entry["stage"]["name"] == "entry"
    assert {f["name"]: f["value"] for f in initial["fields"]}["mfn_list"] == 0x80_0000_0000
    assert stop["passed"] == ["list", "area", "remap"] and stop["stage"]["name"] == "linear"
    assert chain["state"] == "planned" and chain["end"] == ""
    assert (chain["pages"], len(chain["chunks"])) == (pages, records)
    assert chain["chunks"][-1]["next"] == 2**64 - 1
    status = {r["id"]: r["status"] for r in rules["rules"]}
    assert rules["summary"]["errors"] == 0
    assert [status[f"RMP-00{i}"] for i in range(1, 6)] == ["passed"] * 5
    assert after["stage"]["title"].endswith("nothing is left to be remapped")
    assert verified["pages"] == verified["p2m_agrees"] == verified["m2p_agrees"] == pages


def test_a_moment_that_is_over_ends_in_a_timeout_and_leaves_no_breakpoint(machine: tuple[Stopped, int, int]) -> None:
    lab, _, _ = machine
    said = lab.gdb("p2m boot entry --timeout 3", "info breakpoints", "monitor info status", "p2m lookup 0x100")
    assert "startup_xen was not reached within 3 s; moments passed: none" in said
    assert "No breakpoints or watchpoints." in said
    assert "VM status: paused" in said
    assert "mfn" in said
