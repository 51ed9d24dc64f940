"""A real Xen with its dom0, looked at through GDB: the same answers live and from a dump of the same moment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gdb_p2m.commands.registry import all_verbs
from support.gdb_process import Gdb, GdbRan, find_gdb
from support.places import ROOT

pytestmark = [pytest.mark.gdb, pytest.mark.lab]

MODE = "maintenance packet qqemu.PhyMemMode"
MORE = ["map --view list-list", "lookup 0 0x9f 0x19061 0x7ffffff", "lookup --mfn 0x30100 5", "walk 0x19061"]
"""Beyond every verb's own example."""
NOT_TWICE = {"excerpt", "export", "model"}
"""Verbs that write files."""


class Lab:
    """scripts/lab in a run directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.environment = {**os.environ, "GDB_P2M_LAB_RUN": str(folder)}

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "lab"), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A booted machine with two CPUs."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    run = Lab(tmp_path_factory.mktemp("lab"))
    try:
        run("fetch")
    except AssertionError as error:
        pytest.skip(f"the packages cannot be downloaded: {error}")
    run("up", "--cpus", "2")
    yield run
    run("down", "--all")


@pytest.fixture(scope="module")
def facts(lab: Lab) -> dict[str, Any]:
    """Port and files."""
    found: dict[str, Any] = json.loads(lab("status", "--json"))["labs"][0]
    return found


class Live:
    """GDB on the lab."""

    def __init__(self, gdb: Gdb, port: int) -> None:
        self.gdb = gdb
        self.attach = f"target remote 127.0.0.1:{port}"

    def __call__(self, *commands: str) -> GdbRan:
        """Commands; the connection ends without letting the machine go."""
        return self.gdb(self.attach, *commands, "disconnect", timeout=300)


@pytest.fixture(params=["gdb", "gdb-multiarch"])
def live(request: pytest.FixtureRequest, facts: dict[str, Any]) -> Live:
    """Each GDB."""
    return Live(find_gdb(str(request.param)), facts["port"])


def lines() -> list[str]:
    """Every verb with its example."""
    return [f"{v.name} {v.example}".strip() for v in all_verbs() if v.name not in NOT_TWICE] + MORE


def comparable(text: str) -> Any:
    """JSON without what must differ: where the memory came from."""
    data = json.loads(text)
    for name in ("path", "format", "writer", "live"):
        data.get("source", {}).pop(name, None)
    return data


def page_data(page: str) -> Any:
    """What a report's page draws; its words say where the memory came from."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def test_every_verb_says_the_same_live_by_packets_and_from_a_dump(live: Live, lab: Lab, tmp_path: Path) -> None:
    ways = ("live", "packets", "dump")
    for way in ways:
        (tmp_path / way).mkdir()

    def asked(way: str) -> list[str]:
        return [f"p2m {line} --json -o {tmp_path}/{way}/{i}" for i, line in enumerate(lines())]

    core = tmp_path / "machine.elf"
    ran = live(
        *asked("live"),
        "set p2m pmemsave off",
        *asked("packets"),
        f'monitor dump-guest-memory "{core}"',
        f"p2m open {core}",
        *asked("dump"),
        MODE,
    )
    core.unlink()
    assert "internal error" not in ran.err and 'received: "0"' in ran.out
    for i, line in enumerate(lines()):
        files = [tmp_path / way / str(i) for way in ways]
        if not all(f.exists() for f in files):
            # A verb that has no answer here has none either way, for the same reason.
            assert not any(f.exists() for f in files), line
            continue
        texts = [f.read_text() for f in files]
        assert texts[0] == texts[1], line
        if line == "identify":
            assert comparable(texts[0]) == comparable(texts[2])
        elif line.startswith("report "):
            assert page_data(texts[0]) == page_data(texts[2])
        else:
            assert texts[0] == texts[2], line
    assert sum(f.exists() for f in (tmp_path / "live" / str(i) for i in range(len(lines())))) > len(all_verbs()) // 2
    refused = [line for line in ran.err.splitlines() if line.startswith("p2m: ")]
    assert len(refused) % 3 == 0 and refused[: len(refused) // 3] == refused[len(refused) // 3 : 2 * len(refused) // 3]


def test_map_takes_few_round_trips_and_no_time_to_speak_of(live: Live) -> None:
    """0.1 s by pmemsave, 0.6 s by packets on a machine with nothing else to do (docs/gdb.md); tests share theirs."""
    ran = live("p2m map -o /dev/null --timing", "stepi", "set p2m pmemsave off", "p2m map -o /dev/null --timing")
    seconds = [float(ms) / 1000 for ms in re.findall(r"(?m)^  all +([\d.]+) ms", ran.err)]
    trips = [int(n.replace(",", "")) for n in re.findall(r"in ([\d,]+) reads", ran.err)]
    assert len(seconds) == 2 and max(seconds) < 20, ran.err
    assert trips[0] < 500 < trips[1]


def test_a_paused_machine_stays_paused_and_a_verb_never_lets_it_go(live: Live, lab: Lab) -> None:
    lab("stop")
    ran = live("p2m check -o /dev/null", "p2m lookup 0x8000000", "p2m nonsense", "print $p2m(0x100)", MODE)
    assert "paused" in lab("monitor", "info status")
    assert 'received: "0"' in ran.out
    lab("cont")
    assert "running" in lab("monitor", "info status")


def test_after_the_machine_has_run_it_is_read_anew(live: Live, lab: Lab) -> None:
    read = (
        "python import gdb_p2m.gdbui.load as l; s = l.current.session.machine().source; "
        "print('READ', [s.counters.requests, s.read(0x1000, 8), s.counters.requests][0::2])"
    )
    ran = live(
        read,
        read,
        "python import os, signal, threading",
        "python threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()",
        "continue",
        read,
    )
    trips = [[int(n) for n in t.split(",")] for t in re.findall(r"READ \[([\d, ]+)\]", ran.out)]
    assert len(trips) == 3, ran.all
    read_now = [after > before for before, after in trips]
    assert read_now == [True, False, True]


def test_ctrl_c_at_any_moment_leaves_gdb_and_the_machine_as_they_were(live: Live, tmp_path: Path) -> None:
    script = tmp_path / "storm.py"
    script.write_text(STORM)
    ran = live(f"python folder = {str(tmp_path)!r}", f"source {script}", MODE)
    assert "STORM bad 0 same True" in ran.out, ran.all
    assert 'received: "0"' in ran.out
    interrupted = int(re.findall(r"interrupted (\d+)", ran.out)[0])
    assert interrupted > 5, "else nothing was tried"


STORM = """
import gdb, os, random, subprocess, sys
random.seed(1)
session = sys.modules["gdb_p2m.gdbui.load"].current.session
connection = gdb.selected_inferior().connection
reference, again = folder + "/reference", folder + "/again"
gdb.execute("p2m map --json -o " + reference)
bad = interrupted = 0
for turn in range(30):
    gdb.execute("set p2m pmemsave " + random.choice(("on", "off")))
    session.drop_live()
    line = "sleep %.3f; kill -INT %d" % (random.random() * 0.4, os.getpid())
    killer = subprocess.Popen(["sh", "-c", line])
    try:
        try:
            gdb.execute("p2m map --json -o " + again)
            bad += open(again).read() != open(reference).read()
        except gdb.error as e:
            # Any error will do; what counts is that no answer was wrong and that the mode was put back.
            interrupted += 1
        killer.wait()
    except KeyboardInterrupt:
        killer.wait()
    for _ in range(3):
        try:
            bad += connection.send_packet("qqemu.PhyMemMode") != b"0"
            break
        except KeyboardInterrupt:
            pass
session.drop_live()
gdb.execute("p2m map --json -o " + again)
print("STORM bad", bad, "same", open(again).read() == open(reference).read(), "interrupted", interrupted)
"""
