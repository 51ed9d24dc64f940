"""Targets that are no machine: refused with the reason and what to do, nothing read from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.gdb_process import Gdb
from support.rsp_server import RspServer

pytestmark = pytest.mark.gdb

READS = "p2m reads machine memory through QEMU's gdbstub; "
VERBS = ("p2m identify", "p2m map", "print $p2m(1)", "complete p2m symbols a")


def test_a_core_file_is_to_be_opened_by_p2m(gdb: Gdb, dom0_core: Path) -> None:
    ran = gdb(f"core-file {dom0_core}", "p2m map", "print $_p2m_status", "print $p2m(1)")
    assert ran.err.count(READS + "this target is a core file") == 2
    assert "try: p2m open DUMP" in ran.err and "$1 = 3" in ran.out


def test_a_process_is_not_a_machine(gdb: Gdb) -> None:
    ran = gdb(f"file {shutil.which('true')}", "starti", "p2m map", "kill")
    if "Couldn't get registers" in ran.err or "ptrace" in ran.err:
        pytest.skip("processes cannot be traced here")
    assert READS + "this target is a process of this machine" in ran.err


def test_a_program_that_does_not_run_is_no_target(gdb: Gdb) -> None:
    ran = gdb(f"file {shutil.which('true')}", "p2m map")
    assert "no dump is open, and GDB is not connected to a machine" in ran.err


def test_another_stub_is_refused_and_never_asked_for_memory(gdb: Gdb) -> None:
    """gdbserver, and QEMU running one program: they know no physical memory mode."""
    for answer in ("", "E01"):
        with RspServer({"qqemu.PhyMemMode": answer}) as server:
            ran = gdb("set architecture i386:x86-64", f"target remote 127.0.0.1:{server.port}", *VERBS)
        refusal = f"{READS}the remote target at 127.0.0.1:{server.port} is not the stub of a whole machine"
        assert ran.err.count(refusal) == 3, ran.err
        asked = [p for p in server.packets if p.startswith(("qRcmd", "Qqemu"))]
        assert asked == [], "no monitor command, no mode"


def test_a_stub_that_claims_to_be_qemu_and_has_no_monitor_gives_no_answers(gdb: Gdb) -> None:
    with RspServer({"qqemu.PhyMemMode": "0"}) as server:
        ran = gdb("set architecture i386:x86-64", f"target remote 127.0.0.1:{server.port}", *VERBS)
    assert ran.err.count("does not answer") == 3 or ran.err.count("does not tell which addresses are RAM") == 3, ran.err
    assert not [p for p in server.packets if p.startswith("Qqemu")]


def test_a_stub_that_goes_away_is_a_message(gdb: Gdb) -> None:
    with RspServer({"qqemu.PhyMemMode": "0"}) as server:
        ran = gdb("set architecture i386:x86-64", f"target remote 127.0.0.1:{server.port}", "disconnect", *VERBS)
    assert ran.err.count("GDB is not connected to a machine") == 3
