"""Live memory over QEMU's gdbstub: an excerpt's pages in a QEMU that stands still (no Xen is booted)."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gdb_p2m.layout.names import ALL_NAMES
from support.command_line import run_cli
from support.gdb_process import Gdb, GdbRan
from support.machine import Healthy
from support.places import DOM0
from support.qemu_memory import QEMU, QemuMemory

pytestmark = [pytest.mark.gdb, pytest.mark.slow]

CR3_REGISTER = 29
"""QEMU's number of cr3 (gdb-xml/i386-64bit.xml): GDB itself cannot write registers of that type."""
VERBS = [
    "map",
    "map --view list-list",
    "lookup 0 0x100 0x9f 0x19061 0xfee00 0x7ffffff",
    "lookup --mfn 0x30100 0xfee00",
    "walk 0x100",
    "walk 0xfee00",
    "stats",
    "list-list",
    "start-info",
    "shared-info",
    "m2p 0x30100 0 0xfee00",
]
MODE = "maintenance packet qqemu.PhyMemMode"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory, dom0: Healthy) -> Path:
    """The excerpt's symbols as a System.map: its note is not in memory, and it holds no kallsyms."""
    found = [(n.name, dom0.guest.names.symbol(n.name)) for n in ALL_NAMES]
    lines = ["ffffffff81000000 T _stext\n"]
    lines += sorted(f"{s.address:016x} D {name}\n" for name, s in found if s is not None)
    path = tmp_path_factory.mktemp("kernel") / "System.map"
    path.write_text("".join(lines))
    return path


@pytest.fixture
def qemu(dom0: Healthy, tmp_path: Path) -> Iterator[QemuMemory]:
    """A machine with two CPUs."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not installed")
    folder = tmp_path / "qemu"
    folder.mkdir()
    with QemuMemory(dom0.source, folder, cpus=2) as running:
        yield running


@pytest.fixture
def attached(gdb: Gdb, qemu: QemuMemory, dom0: Healthy, kernel: Path, tmp_path: Path) -> Attached:
    """GDB commands on that machine, with the excerpt's CR3 in its first CPU."""
    cr3 = dom0.source.info.cpus[0].cr3
    assert cr3 is not None
    return Attached(gdb, qemu, cr3, kernel, tmp_path)


class Attached:
    """Runs GDB commands on a QemuMemory. `places`: where temporary files may have been left."""

    def __init__(self, gdb: Gdb, qemu: QemuMemory, cr3: int, kernel: Path, folder: Path) -> None:
        self.gdb = gdb
        self.qemu = qemu
        self.cr3 = cr3
        self.kernel = kernel
        self.temporary = folder / "temporary"
        self.temporary.mkdir()

    def __call__(self, *commands: str, bulk: bool = True, disconnect: bool = True) -> GdbRan:
        """Run commands; the connection is ended without letting the machine go."""
        before = self.left_behind()
        ran = self.gdb(
            f"set p2m kernel {self.kernel}",
            f"target remote 127.0.0.1:{self.qemu.port}",
            f"maintenance packet P{CR3_REGISTER:x}={self.cr3.to_bytes(8, 'little').hex()}",
            "flushregs",
            "echo \\n== begin\\n",
            *commands,
            *(["disconnect"] if disconnect else []),
            env={"GDB_P2M_PMEMSAVE": "on" if bulk else "off", "TMPDIR": str(self.temporary)},
        )
        assert self.left_behind() == before
        return GdbRan(ran.out.partition("== begin\n")[2], ran.err)

    def left_behind(self) -> set[str]:
        """Files of ours."""
        shared = [f"/dev/shm/{n}" for n in os.listdir("/dev/shm")] if os.path.isdir("/dev/shm") else []
        return {n for n in [*shared, *os.listdir(self.temporary)] if "gdb-p2m-" in n}


def modes(ran: GdbRan) -> list[str]:
    """Answers to MODE."""
    return re.findall(r'received: "(\d)"', ran.out)


def test_the_live_machine_is_compared_with_a_dump(attached: Attached, tmp_path: Path) -> None:
    ran = attached(f"p2m diff {DOM0.path} --json -o {tmp_path}/diff", "output $_p2m_status", "echo \\n", MODE)
    document = json.loads((tmp_path / "diff").read_text())
    assert document["equal"] and document["totals"]["kept"]["count"] == DOM0.totals["mfn"]
    assert document["sides"][1]["path"] == str(DOM0.path) != document["sides"][0]["path"]
    assert ran.out.startswith("0\n") and modes(ran) == ["0"]


@pytest.mark.parametrize("bulk", [True, False], ids=["pmemsave", "packets"])
def test_live_answers_are_those_of_the_excerpt_byte_for_byte(attached: Attached, bulk: bool, tmp_path: Path) -> None:
    commands = [f"p2m {verb} --json -o {tmp_path}/{i}" for i, verb in enumerate(VERBS)]
    ran = attached(*commands, MODE, bulk=bulk)
    # A System.map has no build id, so the warning that it is not proved to fit is right here.
    assert not [s for s in ran.err.splitlines() if s.startswith("p2m") and "not proved" not in s], ran.err
    for i, verb in enumerate(VERBS):
        name, *arguments = verb.split()
        shell = run_cli(name, DOM0.path, *arguments, "--kernel", attached.kernel, "--json")
        assert (tmp_path / str(i)).read_text() == shell.out, verb
    assert modes(ran) == ["0"]


def test_functions_and_identify_know_the_live_machine(attached: Attached, tmp_path: Path) -> None:
    ran = attached("output/x $p2m(0x100)", "echo \\n", f"p2m identify --json -o {tmp_path}/i")
    assert ran.out.startswith("0x30100\n")
    source = json.loads((tmp_path / "i").read_text())["source"]
    assert source["live"] is True and source["machine"] == "x86-64"
    assert source["extents"] == [{"start": 0, "end": 1 << 30}, {"start": 0xFFFC0000, "end": 1 << 32}]
    assert [c["cr3"] for c in source["cpus"]] == [attached.cr3, 0], "a CPU that was never started has CR3 0"


@pytest.mark.parametrize("before", ["0", "1"])
def test_the_mode_is_put_back_after_success_and_after_errors(attached: Attached, before: str) -> None:
    broken = (
        "python import gdb_p2m.gdbui.stub as s; good = s.PhysicalReader._piece\n"
        "python s.PhysicalReader._piece = lambda *a: 1 / 0\n"
    ).splitlines()
    ran = attached(
        f"maintenance packet Qqemu.PhyMemMode:{before}",
        "p2m lookup 0x100 -o /dev/null",
        MODE,
        "p2m lookup 0x8000000",
        MODE,
        "stepi",
        *broken,
        "p2m map -o /dev/null",
        MODE,
        "python s.PhysicalReader._piece = good",
        "p2m map -o /dev/null",
        "print $_p2m_status",
        MODE,
        "maintenance packet Qqemu.PhyMemMode:0",
    )
    assert modes(ran) == [before] * 4
    assert "out of range" in ran.err and "ZeroDivisionError" in ran.err and "$1 = 0" in ran.out


def test_ctrl_c_in_the_middle_leaves_gdb_usable_and_the_mode_as_it_was(attached: Attached) -> None:
    attached.cr3 = 0  # then all memory is scanned for page tables: by packets that takes seconds
    ran = attached(
        "python import os, signal, threading",
        "python threading.Timer(0.8, lambda: os.kill(os.getpid(), signal.SIGINT)).start()",
        "p2m identify",
        "print $_p2m_status",
        MODE,
        "p2m rules LIN-001 -o /dev/null",
        "print $_p2m_status",
        "info registers rip",
        bulk=False,
    )
    assert "p2m: interrupted" in ran.err
    assert "$1 = 130" in ran.out and "$2 = 0" in ran.out and "rip" in ran.out
    assert modes(ran) == ["0"]


def test_the_machine_stands_still_before_and_after(attached: Attached) -> None:
    ran = attached("monitor info status", "p2m map -o /dev/null", "p2m check -o /dev/null", "monitor info status")
    status = re.findall(r"VM status: .*", ran.all)
    assert len(status) == 2 and status[0] == status[1] and "running" not in status[0]


def test_addresses_that_are_not_ram_are_refused(attached: Attached) -> None:
    read = (
        "python import gdb_p2m.gdbui.load as l\n"
        "python source = l.current.session.machine().source\n"
        "python for at in (0xfee00000, 0x40000000, 1 << 40):\n"
    )
    lines = read.splitlines()[:2]
    tries = [
        f"python\ntry:\n source.read({at}, 4)\nexcept Exception as e:\n print(type(e).__name__, e)\nend"
        for at in (0xFEE00000, 0x40000000, 1 << 40)
    ]
    script = attached.temporary.parent / "read.gdb"
    script.write_text("\n".join([*lines, *tries]) + "\n")
    ran = attached(f"source {script}", "p2m m2p 0xfee00")
    assert re.findall(r"Unreadable machine address (\S+): not RAM", ran.out) == [
        "0xfee00000",
        "0x40000000",
        "0x10000000000",
    ]


def test_what_was_read_is_kept_until_the_machine_runs(attached: Attached, dom0: Healthy) -> None:
    """The P2M entry of PFN 0x200 is changed behind GDB's back."""
    entry, folder = dom0.entry(0x200), attached.temporary.parent
    (folder / "change.py").write_text(
        f"with open({str(attached.qemu.ram)!r}, 'r+b') as f:\n    f.seek({entry}); f.write(b'\\xff' * 8)\n"
    )
    healthy = dom0.machine.u64(entry)
    attached.qemu.write(entry, healthy.to_bytes(8, "little"))
    ran = attached(
        "output $p2m(0x200)",
        "echo \\n",
        f"source {folder}/change.py",
        "output $p2m(0x200)",
        "echo \\n",
        "stepi",
        "output $p2m_kind(0x200)",
        "echo \\n",
    )
    assert re.findall(rf'^{healthy}$|^"missing"$', ran.out, re.M) == [str(healthy), str(healthy), '"missing"']


def test_that_the_monitor_let_the_machine_go_is_noticed_although_gdb_does_not_know(
    attached: Attached, dom0: Healthy
) -> None:
    """The next packet stops the machine again: QEMU's stub is made so."""
    entry, folder = dom0.entry(0x200), attached.temporary.parent
    (folder / "change.py").write_text(
        f"import time; time.sleep(0.3)\nwith open({str(attached.qemu.ram)!r}, 'r+b') as f:\n"
        f"    f.seek({entry}); f.write(b'\\xff' * 8)\n"
    )
    ran = attached("output $p2m(0x200)", "monitor cont", f"source {folder}/change.py", "output $p2m_kind(0x200)", MODE)
    assert ran.out.startswith(f'{dom0.machine.u64(entry)}"missing"') and modes(ran) == ["0"]


def test_a_machine_that_runs_in_the_background_is_asked_to_stop(attached: Attached) -> None:
    ran = attached("continue &", "p2m map", "interrupt", "python import time; time.sleep(0.5)", "p2m lookup 0x100")
    assert "p2m: the machine is running" in ran.err


def test_the_selected_cpu_and_frame_stay_selected(attached: Attached) -> None:
    ran = attached("thread 2", "p2m lookup 0x100 -o /dev/null", "thread", "output $_thread")
    assert "Current thread is 2" in ran.out and "\n2" in ran.out


def test_round_trips_are_few(attached: Attached) -> None:
    ran = attached("p2m map -o /dev/null --timing", "p2m map -o /dev/null --timing", "p2m check -o /dev/null --timing")
    first, again, check = (int(n.replace(",", "")) for n in re.findall(r"in ([\d,]+) reads", ran.err))
    assert first < 400 and again == 0 and check < 200, (first, again, check)


def test_a_qemu_that_dies_is_a_message(attached: Attached) -> None:
    ran = attached(
        "p2m lookup 0x100 -o /dev/null",
        f"python import os, time; os.kill({attached.qemu.pid}, 9); time.sleep(0.3)",
        "p2m map",
        "p2m map",
        "print $_p2m_status",
        disconnect=False,
    )
    assert "$1 = 3" in ran.out
    assert re.search(r"p2m: (QEMU's gdbstub at .* does not answer|no dump is open, and GDB is not connected)", ran.err)


def test_an_excerpt_of_live_memory_gives_the_same_map(attached: Attached, tmp_path: Path) -> None:
    out = tmp_path / "live.core.zst"
    ran = attached(f"p2m excerpt {out}", MODE)
    assert modes(ran) == ["0"]
    assert run_cli("map", out, "--json").out == run_cli("map", DOM0.path, "--json").out
    assert json.loads(run_cli("identify", out, "--json").out)["source"]["cpus"][0]["cr3"] == attached.cr3
