"""The verbs about domUs, and what else needs a toolstack in dom0."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import collect, crash, dom0, domus, labs
from .labs import Lab
from .places import checked_name
from .progress import Progress, size_text


def _lab(arguments: argparse.Namespace) -> Lab:
    lab = labs.the_lab(checked_name(arguments.name))
    dom0.require_toolstack(lab)
    return lab


def execute(arguments: argparse.Namespace, progress: Progress) -> int:
    """A shell command in dom0; its output and its exit code become ours."""
    answer = dom0.run(_lab(arguments), arguments.command, arguments.timeout)
    sys.stdout.buffer.write(answer.out)
    sys.stdout.flush()
    sys.stderr.buffer.write(answer.err)
    return answer.code


def create(arguments: argparse.Namespace, progress: Progress) -> None:
    """Create a domU and wait for its user space."""
    guest = domus.Guest(
        name=arguments.domu,
        memory=arguments.memory,
        maxmem=arguments.maxmem or arguments.memory,
        vcpus=arguments.vcpus,
        e820_host=arguments.e820_host,
        kernel_args=arguments.kernel_args,
    )
    guest.check()
    lab = _lab(arguments)
    domid = domus.create(lab, guest, arguments.timeout, progress)
    log = domus.console(lab, guest.name)
    if arguments.json:
        facts = {"domid": domid, "name": guest.name, "lab": lab.name, "memory": guest.memory, "maxmem": guest.maxmem}
        print(json.dumps({"schema": "gdb-p2m-lab/domu/1", **facts, "console": str(log)}, indent=1))
    else:
        print(f"domU '{guest.name}': domid {domid}, {guest.memory} MiB of {guest.maxmem}, console {log}")


def pause(arguments: argparse.Namespace, progress: Progress) -> None:
    """Stop a domU's CPUs."""
    domus.xl(_lab(arguments), "pause", domus.checked_name(arguments.domu))
    print(f"domU '{arguments.domu}': paused")


def unpause(arguments: argparse.Namespace, progress: Progress) -> None:
    """Let a paused domU go on."""
    domus.xl(_lab(arguments), "unpause", domus.checked_name(arguments.domu))
    print(f"domU '{arguments.domu}': running")


def balloon(arguments: argparse.Namespace, progress: Progress) -> None:
    """Change a domU's memory."""
    name = domus.checked_name(arguments.domu)
    domus.balloon(_lab(arguments), name, arguments.memory, arguments.timeout, progress)
    print(f"domU '{name}': {arguments.memory} MiB")


def dump_core(arguments: argparse.Namespace, progress: Progress) -> None:
    """xl's core of a domU."""
    file = Path(arguments.file).absolute()
    name = domus.checked_name(arguments.domu)
    size = collect.dump_core(_lab(arguments), name, file, arguments.timeout, progress)
    print(f"{file}: {size} bytes")


def mfndump(arguments: argparse.Namespace, progress: Progress) -> None:
    """Xen's own reading of a P2M or of the M2P."""
    file = Path(arguments.file).absolute()
    name = domus.checked_name(arguments.domu) if arguments.domu else None
    size = collect.mfndump(_lab(arguments), name, file, arguments.timeout, progress)
    print(f"{file}: {size} bytes")


def save(arguments: argparse.Namespace, progress: Progress) -> None:
    """Suspend a domU to a file."""
    file = domus.save(_lab(arguments), domus.checked_name(arguments.domu), arguments.timeout, progress)
    print(f"domU '{arguments.domu}': saved, {size_text(file.stat().st_size)} in {file}")


def restore(arguments: argparse.Namespace, progress: Progress) -> None:
    """Make a saved domU go on."""
    domid = domus.restore(_lab(arguments), domus.checked_name(arguments.domu), arguments.timeout, progress)
    print(f"domU '{arguments.domu}': restored, domid {domid}")


def crash_machine(arguments: argparse.Namespace, progress: Progress) -> None:
    """Crash the machine and keep what the crash kernel writes."""
    file = Path(arguments.file).absolute()
    wanted = crash.Wanted(arguments.format, arguments.no_domus, arguments.dump_level, arguments.trigger)
    size = crash.crash(_lab(arguments), file, wanted, arguments.timeout, progress)
    print(f"{file}: {size} bytes; lab '{arguments.name}' has ended")
