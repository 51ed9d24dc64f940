"""Files that dom0 makes, brought to the user: cores of domUs, and Xen's own reading of P2M and M2P."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from . import dom0, domus
from .deliver import deliver, move
from .elf import check_core
from .errors import LabError
from .initramfs import COPY, FILES, SHARE, TMPFS
from .labs import Lab
from .progress import Progress, size_text

_MIB = 1 << 20


def dump_core(lab: Lab, name: str, file: Path, timeout: float, progress: Progress) -> int:
    """Write xl's core of a domU to a file of the host and return its size.

    It goes through dom0's memory: see TMPFS.
    """
    script = f"xl dump-core {name} $tmp && {COPY.format('$tmp', '$out')}; code=$?; rm -f $tmp; exit $code"
    what = f"cannot dump domU '{name}' (dom0 needs as much free memory as the domU has)"
    needed = domus.memory(lab, name) * _MIB
    return _collect(lab, script, file, needed, check_core, timeout, what, progress)


def mfndump(lab: Lab, name: str | None, file: Path, timeout: float, progress: Progress) -> int:
    """Write Xen's own reading of a domU's P2M, or of the M2P when there is no name; returns the file's size."""
    if name is None:
        script, what = "xen-mfndump dump-m2p > $out", "cannot dump the M2P"
    else:
        script = f"domid=$(xl domid {name}) && xen-mfndump dump-p2m $domid > $out"
        what = f"cannot dump the P2M of domU '{name}'"
    return _collect(lab, script, file, 0, _check_mfndump, timeout, what, progress)


def _collect(
    lab: Lab,
    script: str,
    file: Path,
    needed: int,
    check: Callable[[Path], None],
    timeout: float,
    what: str,
    progress: Progress,
) -> int:
    """Run a script that writes $out (and may use $tmp, in dom0's memory), check that and deliver it as `file`."""
    name = f"{os.getpid()}-{time.monotonic_ns()}"
    shared = dom0.shared(lab, FILES, name)

    def make(raw: Path) -> None:
        try:
            head = f"out={SHARE}/{FILES}/{name} tmp={TMPFS}/{name}\n"
            dom0.run_well(
                lab, head + script, timeout, what, undo=head + "rm -f $tmp", waiting=lambda: _show(shared, progress)
            )
            check(shared)
            move(shared, raw)
        finally:
            progress.clear()
            shared.unlink(missing_ok=True)

    dom0.require_toolstack(lab)
    return deliver(file, needed, make, progress)


def _show(file: Path, progress: Progress) -> None:
    if file.exists():
        progress.moving(f"  {size_text(file.stat().st_size)}")


def _check_mfndump(file: Path) -> None:
    with file.open("rb") as stream:
        if b" ==> " not in stream.read(1 << 16):  # it complains on standard output and ends with code 0
            stream.seek(0)
            raise LabError(f"xen-mfndump printed no table but: {stream.read(500).decode(errors='replace').strip()}")
