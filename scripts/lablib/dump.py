"""The whole machine's memory as an ELF core, by QEMU's dump-guest-memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from .deliver import deliver
from .elf import check_core
from .errors import LabError
from .labs import Lab
from .progress import Progress, size_text

_UNITS = {"M": 1 << 20, "G": 1 << 30}


def memory_bytes(mem: str) -> int:
    """The size of the machine's RAM: 1024M, 5G."""
    return int(mem[:-1]) * _UNITS[mem[-1]]


def dump(lab: Lab, file: Path, make: Callable[[Lab, Path, Progress], None], progress: Progress) -> int:
    """Write a checked dump to `file` (compressed when its name ends in .zst) and return the file's size."""
    size = memory_bytes(lab.mem)

    def checked(raw: Path) -> None:
        make(lab, raw, progress)
        check_core(raw, size)

    return deliver(file, size, checked, progress)


def by_qemu(lab: Lab, file: Path, progress: Progress) -> None:
    """dump-guest-memory: QEMU stops the machine meanwhile and lets it go on afterwards if it was running.

    detach: the command returns at once and QEMU stays able to answer, so there is something to show.
    """
    with lab.qmp(timeout=60.0) as qmp:
        qmp.execute("dump-guest-memory", paging=False, protocol=f"file:{file}", detach=True)
        while (state := qmp.execute("query-dump"))["status"] == "active":
            progress.moving(f"  {size_text(state['completed'])} of {size_text(state['total'])}")
            time.sleep(0.1)
        progress.clear()
    if state["status"] != "completed":
        raise LabError(f"QEMU could not write {file}: status '{state['status']}'", hint="is the disk full?")
