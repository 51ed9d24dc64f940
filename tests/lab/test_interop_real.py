"""crash and drgn on an export of a real dump, with the kernel's own debug information.

Both are large and nobody has them by accident: GDB_P2M_INTEROP_DUMP names a dump of a 64-bit PV guest and
GDB_P2M_INTEROP_VMLINUX its vmlinux with DWARF (Debian: linux-image-RELEASE-dbg).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.command_line import run_cli

pytestmark = [pytest.mark.lab, pytest.mark.slow]
DUMP, VMLINUX = os.environ.get("GDB_P2M_INTEROP_DUMP"), os.environ.get("GDB_P2M_INTEROP_VMLINUX")
RELEASE = r"\d+\.\d+\.\d+[-+.\w]*"


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not DUMP or not VMLINUX:
        pytest.skip("GDB_P2M_INTEROP_DUMP and GDB_P2M_INTEROP_VMLINUX are not set")
    out = tmp_path_factory.mktemp("interop") / "guest.elf"
    ran = run_cli("export", DUMP, "--elf", out, "--for-crash")
    assert ran.code == 0, ran.err
    return out


def test_crash_opens_it_and_translates_the_p2m_list(core: Path) -> None:
    crash = shutil.which("crash")
    if crash is None:
        pytest.skip("crash is not installed (apt install crash)")
    script = "sys\np/x *(unsigned long *)xen_p2m_addr@1\np/x xen_p2m_size\nvtop -k ffffc90000000000\nquit\n"
    done = subprocess.run(
        [crash, "-s", "--no_modules", str(VMLINUX), str(core)],
        input=script, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert re.search(rf"RELEASE: {RELEASE}", done.stdout), done.stdout + done.stderr
    assert "xen_m2p" not in done.stdout + done.stderr
    assert re.search(r"PTE: [0-9a-f]+ => [0-9a-f]+", done.stdout), done.stdout


def test_drgn_lists_tasks_and_reads_a_process(core: Path) -> None:
    drgn = pytest.importorskip("drgn", reason="drgn is not installed (extra drgn)")
    from drgn.helpers.linux import access_process_vm, find_task, for_each_task

    prog = drgn.Program()
    prog.set_core_dump(str(core))
    prog.load_debug_info([VMLINUX])
    assert re.match(RELEASE, prog["init_uts_ns"].name.release.string_().decode())
    assert len(list(for_each_task(prog))) > 10
    init = find_task(prog, 1)
    assert access_process_vm(init, init.mm.start_code.value_(), 16) != bytes(16)
    assert prog.stack_trace(1)[0].name
