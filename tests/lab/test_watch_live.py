"""`p2m watch` on a real kernel: it stops where the entry is written, not where it is only read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = str(ROOT / "scripts" / "lab")
pytestmark = [
    pytest.mark.gdb,
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[int, str]]:
    """Port of a machine that has not begun yet, and its kernel's file."""
    name = f"watch-{os.getpid()}"
    run = [LAB, "up", "--stopped", "--json", "--name", name, "--mem", "1024M", "--dom0-mem", "400M"]
    port = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)["port"]
    paths = subprocess.run([LAB, "paths", "--suite", "bookworm"], check=True, capture_output=True, text=True)
    yield port, json.loads(paths.stdout)["vmlinuz"]
    subprocess.run([LAB, "down", "--name", name], check=True, capture_output=True)


def gdb(lab: tuple[int, str], *commands: str) -> str:
    port, kernel = lab
    start = ["set confirm off", f"source {ROOT}/scripts/gdb_p2m.py", f"target remote 127.0.0.1:{port}"]
    start.append(f"set p2m kernel {kernel}")
    args = [a for c in (*start, *commands, "disconnect") for a in ("-ex", c)]
    done = subprocess.run(
        ["gdb", "-nx", "-q", "-batch", *args], capture_output=True, text=True, timeout=600, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr and "Python Exception" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_machine_stops_when_memory_is_remapped_into_the_watched_pfn(lab: tuple[int, str]) -> None:
    """xen_remap_memory writes 97 entries; the first and the last are watched, one that nobody writes is, too."""
    said = gdb(
        lab,
        "p2m boot remap",
        "p2m watch 0xfee00",
        "p2m watch 0x19000",
        "p2m watch 0x19060",
        "p2m watch 0x100",
        "continue",
        "p2m lookup 0x19000 0x19060",
        "continue",
        "p2m lookup 0x19000 0x19060",
        "p2m watch",
        "p2m watch --delete all",
        "maintenance packet qqemu.PhyMemMode",
    )
    assert "the slot of PFN 0xfee00 lies in the shared page p2m_identity" in said
    assert re.search(r"hbreak \*0xffffffff[0-9a-f]+ stops at xen_alloc_p2m_entry", said)
    stops = re.findall(
        r"the entry of PFN (0x\w+) changed, at 0x\w+ \((\w+)\+0x\w+\)\n  old (.*)\n  new (0x\w+): mfn, MFN (0x\w+)",
        said,
    )
    assert [s[:3] for s in stops] == [
        ("0x19000", "__set_phys_to_machine", "0xffffffffffffffff: missing"),
        ("0x19060", "__set_phys_to_machine", "0xffffffffffffffff: missing"),
    ]
    assert all(raw == mfn for _, _, _, raw, mfn in stops)
    tables = re.findall(r"^(0x19000|0x19060) +(mfn|missing) +(\S+)", said, re.M)
    assert [t[1] for t in tables] == ["mfn", "missing", "mfn", "mfn"]
    assert [t[2] for t in tables[2:]] == [s[4] for s in stops]
    assert re.search(r"0x100 +0xffffc90000000800 +0x30100: mfn, MFN 0x30100 +0\b", said)
    assert 'received: "0"' in said
    assert "No PFN is watched." in said


def test_a_watch_can_be_ended_and_the_machine_goes_on(lab: tuple[int, str]) -> None:
    said = gdb(lab, "p2m watch", "info breakpoints", "p2m boot after", "p2m check RMP ENT")
    assert "No PFN is watched." in said and "No breakpoints or watchpoints." in said
    assert "nothing is left to be remapped" in said
