"""`p2m watch` where nothing runs: what it refuses and why, its list; and output that no pager holds up."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gdb_p2m.layout.names import ALL_NAMES
from support.gdb_process import SCRIPT, Gdb, GdbRan
from support.machine import Healthy
from support.places import DOM0
from support.qemu_memory import QEMU, QemuMemory

pytestmark = pytest.mark.gdb
CR3_REGISTER = 29


@pytest.fixture
def attached(gdb: Gdb, dom0: Healthy, tmp_path: Path) -> Iterator[object]:
    """GDB commands on the excerpt's pages in a QEMU that stands still."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not installed")
    names = [(n.name, dom0.guest.names.symbol(n.name)) for n in ALL_NAMES]
    lines = sorted(f"{s.address:016x} D {name}\n" for name, s in names if s is not None)
    kernel = tmp_path / "System.map"
    kernel.write_text("".join(["ffffffff81000000 T _stext\n", "ffffffff810212c0 T xen_alloc_p2m_entry\n", *lines]))
    folder = tmp_path / "qemu"
    folder.mkdir()
    with QemuMemory(dom0.source, folder, cpus=1) as qemu:
        cr3 = dom0.source.info.cpus[0].cr3
        assert cr3 is not None
        written = cr3.to_bytes(8, "little").hex()

        def run(*commands: str) -> GdbRan:
            attach = [f"target remote 127.0.0.1:{qemu.port}", f"maintenance packet P{CR3_REGISTER:x}={written}"]
            return gdb(*attach, f"set p2m kernel {kernel}", *commands, "disconnect", timeout=120)

        yield run


@pytest.mark.slow
def test_watches_are_set_listed_and_deleted(attached) -> None:  # type: ignore[no-untyped-def]
    ran = attached(
        "p2m watch",
        "p2m watch 0x100",
        "p2m watch 0x19061",
        "info breakpoints",
        "p2m watch 0x100",
        "p2m watch --delete 0x200",
        "p2m watch --delete 0x100",
        "p2m watch --json",
        "delete 2",
        "p2m watch --json",
        "maintenance packet qqemu.PhyMemMode",
    )
    assert "No PFN is watched." in ran.out
    assert "0x100  0xffffc90000000800  0x30100: mfn, MFN 0x30100" in ran.out
    assert "0xffffffffffffffff: missing" in ran.out
    assert ran.out.count("acc watchpoint") == 2
    assert "PFN 0x100 is watched already" in ran.err
    assert "PFN 0x200 is not watched" in ran.err and "watched: 0x100, 0x19061" in ran.err
    lists = _documents(ran.out)
    assert [[w["pfn"] for w in d["watches"]] for d in lists] == [[0x19061], []]
    assert 'received: "0"' in ran.out


def _documents(text: str) -> list[dict]:  # type: ignore[type-arg]
    found, decoder, at = [], json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            document, end = decoder.raw_decode(text, at)
        except ValueError:
            end = at + 1
        else:
            found.append(document)
        at = text.find("{", end)
    return found


@pytest.mark.slow
def test_a_slot_in_a_shared_page_is_refused_with_what_changes_first(attached) -> None:  # type: ignore[no-untyped-def]
    ran = attached("p2m watch 0xfee00", "p2m watch 0x8000000", "p2m watch --delete all", "info breakpoints")
    assert "the slot of PFN 0xfee00 lies in the shared page p2m_identity" in ran.err
    assert "L1 entry at machine address 0x2fc1cfb8" in ran.err
    assert "hbreak *0xffffffff810212c0 stops at xen_alloc_p2m_entry" in ran.err
    assert "PFN 0x8000000 has no entry" in ran.err
    assert "No breakpoints or watchpoints." in ran.all


def test_a_dump_is_refused_and_no_target_too(gdb: Gdb) -> None:
    ran = gdb(
        f"p2m open {DOM0.path}", "p2m watch 0x100", "print $_p2m_status", "p2m close", "p2m watch 0x100", "p2m watch"
    )
    assert "a dump does not change" in ran.err and "$1 = 3" in ran.out
    assert "GDB is not connected to a machine" in ran.err
    assert "No PFN is watched." in ran.out


def test_wrong_arguments_are_usage_errors(gdb: Gdb) -> None:
    ran = gdb("p2m watch 1 --delete 1", "print $_p2m_status", "p2m watch --delete x", "p2m watch 1 2", "help p2m watch")
    assert "either a PFN to watch or --delete" in ran.err and "$1 = 2" in ran.out
    assert "hardware watchpoint" in ran.out and "example: p2m watch 0x100" in ran.out


def test_without_a_person_nothing_is_paged(gdb: Gdb) -> None:
    """Standard input is no terminal; the pager would wait for a key for ever."""
    done = subprocess.run(
        [gdb.binary, "-nx", "-q"],
        input=f"source {SCRIPT}\nset height 5\nshow pagination\np2m rules\nquit\n",
        env={**gdb.environment, "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "State of pagination is off" in done.stdout and "RMP-006" in done.stdout


def test_verbs_work_within_the_tui(gdb: Gdb) -> None:
    """GDB's full-screen mode: commands and their output go through its window, and leaving it works."""
    pid, fd = pty.fork()
    if pid == 0:
        environment = {**gdb.environment, "TERM": "vt100", "LINES": "40", "COLUMNS": "120"}
        os.execve(gdb.binary, [gdb.binary, "-nx", "-q"], environment)
    seen, end = "", time.monotonic() + 60

    def until(text: str, start: int) -> int:
        nonlocal seen
        while text not in seen[start:]:
            ready, _, _ = select.select([fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {text!r} in {seen[start:][-400:]!r}"
            seen += os.read(fd, 65536).decode(errors="replace")
        return len(seen)

    try:
        at = until("(gdb)", 0)
        os.write(fd, f"source {SCRIPT}\n".encode())
        at = until("(gdb)", at)
        os.write(fd, b"tui enable\n")
        at = until("\x1b", at)
        os.write(fd, f"p2m open {DOM0.path}\n".encode())
        at = until("until `p2m close`", at)
        os.write(fd, b"p2m lookup 0x100\n")
        at = until("0x30100", at)
        os.write(fd, b"p2m watch 0x100\n")
        at = until("a dump does not change", at)
        os.write(fd, b"tui disable\nprint 41+1\n")
        until("$1 = 42", at)
    finally:
        os.close(fd)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
