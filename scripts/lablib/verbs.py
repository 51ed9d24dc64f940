"""What each verb does. Answers go to standard output, everything else to standard error."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import boot, cache, dom0, domus, dump, labs, livedump, machine
from .errors import LabError
from .initramfs import SHARE
from .labs import MONITOR_SOCKET, QMP_SOCKET, SERIAL_LOG, Lab
from .places import checked_name
from .progress import Progress

_SCRIPTS = Path(__file__).resolve().parent.parent


def gdb_command(lab: Lab) -> str:
    """The line to type into a shell to look at the lab."""
    commands = [f"source {_SCRIPTS / 'gdb_p2m.py'}", f"target remote 127.0.0.1:{lab.port}"]
    if lab.state() == "not begun":
        # `p2m boot` sets breakpoints before the kernel, with its symbols, is in memory.
        commands.append(f"set p2m kernel {lab.files['vmlinuz']}")
    return " ".join(["gdb", *(f"-ex {shlex.quote(c)}" for c in commands)])


def facts(lab: Lab) -> dict[str, Any]:
    """Everything a program could want to know about a lab."""
    known = asdict(lab)
    del known["start_ticks"]
    return {
        **known,
        "state": lab.state(),
        "monitor_socket": str(lab.path(MONITOR_SOCKET)),
        "qmp_socket": str(lab.path(QMP_SOCKET)),
        "serial_log": str(lab.path(SERIAL_LOG)),
        "share": str(dom0.shared(lab)) if lab.toolstack else None,
        "vmlinuz": lab.files["vmlinuz"],
        "xen": lab.files["xen"],
        "gdb": gdb_command(lab),
    }


def _describe(lab: Lab) -> str:
    cpus = "1 CPU" if lab.cpus == 1 else f"{lab.cpus} CPUs"
    return "\n".join(
        (
            f"lab '{lab.name}': {lab.state()}, pid {lab.pid}",
            f"  Debian {lab.suite}: Xen {lab.versions['xen']}, dom0 Linux {lab.versions['linux']}",
            f"  machine {lab.mem}, dom0_mem={lab.dom0_mem}, {cpus}, GDB port 127.0.0.1:{lab.port}",
            *([f"  toolstack; {dom0.shared(lab)} is {SHARE} in dom0"] if lab.toolstack else []),
            *([f"  {lab.crashkernel} for a crash kernel"] if lab.crashkernel else []),
            f"  serial log {lab.path(SERIAL_LOG)}",
            f"  {gdb_command(lab)}",
        )
    )


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document, indent=1))


def up(arguments: argparse.Namespace, progress: Progress) -> None:
    """Boot a lab."""
    mem, dom0_mem = machine.TOOLSTACK_SIZES if arguments.toolstack else machine.DEFAULT_SIZES
    options = machine.Options(
        suite=arguments.suite,
        name=checked_name(arguments.name),
        mem=arguments.mem or mem,
        dom0_mem=arguments.dom0_mem or dom0_mem,
        cpus=arguments.cpus,
        port=arguments.port,
        stopped=arguments.stopped,
        xen_args=arguments.xen_args,
        kernel_args=arguments.kernel_args,
        toolstack=arguments.toolstack,
        crashkernel=arguments.crashkernel,
    )
    options.check()
    machine.require_qemu()
    with labs.claimed(options.name) as directory:
        cached = cache.ensure(options.suite, progress, toolstack=options.toolstack)
        lab = boot.boot(options, directory, cached, arguments.timeout, progress)
    if arguments.json:
        _print_json({"schema": "gdb-p2m-lab/up/1", **facts(lab)})
    else:
        print(_describe(lab))


def take_dump(arguments: argparse.Namespace, progress: Progress) -> None:
    """Write the machine's memory to a file."""
    lab = labs.the_lab(checked_name(arguments.name))
    file = Path(arguments.file).absolute()
    size = dump.dump(lab, file, livedump.by_pieces if arguments.live else dump.by_qemu, progress)
    print(f"{file}: {size} bytes")


def stop(arguments: argparse.Namespace, progress: Progress) -> None:
    """Pause the machine."""
    _control(arguments, "stop")


def cont(arguments: argparse.Namespace, progress: Progress) -> None:
    """Let the machine go on."""
    _control(arguments, "cont")


def _control(arguments: argparse.Namespace, command: str) -> None:
    lab = labs.the_lab(checked_name(arguments.name))
    with lab.qmp() as qmp:
        qmp.execute(command)
    print(f"lab '{lab.name}': {lab.state()}")


def monitor(arguments: argparse.Namespace, progress: Progress) -> None:
    """One line of QEMU's human monitor. It only has words: those that begin an error make one of it."""
    with labs.the_lab(checked_name(arguments.name)).qmp(timeout=arguments.timeout) as qmp:
        answer = qmp.human(arguments.command)
    if answer.startswith(("Error:", "unknown command:", "invalid", "Invalid", 'Try "help')):
        raise LabError(f"QEMU's monitor says: {answer.strip()}")
    print(answer, end="" if answer.endswith("\n") or not answer else "\n")


def down(arguments: argparse.Namespace, progress: Progress) -> None:
    """End one lab or all of them."""
    chosen = labs.all_labs() if arguments.all else [labs.the_lab(checked_name(arguments.name))]
    failed = []
    for lab in chosen:
        try:
            print(f"lab '{lab.name}' (pid {lab.pid}): {labs.end(lab)}")
            shutil.rmtree(lab.directory, ignore_errors=True)
        except LabError as error:  # the others must still be ended
            failed.append(str(error))
    if failed:
        raise LabError("\n".join(failed))


def status(arguments: argparse.Namespace, progress: Progress) -> None:
    """All labs of this user."""
    found = labs.all_labs()
    if arguments.json:
        _print_json({"schema": "gdb-p2m-lab/status/1", "labs": [facts(lab) for lab in found]})
    else:
        print("\n".join(_describe(lab) for lab in found) if found else "no lab is running")


def fetch(arguments: argparse.Namespace, progress: Progress) -> None:
    """Download a suite, nothing else."""
    suite = arguments.suite
    if arguments.refresh:
        using = [lab.name for lab in labs.all_labs() if lab.suite == suite and lab.alive()]
        if using:
            raise LabError(
                f"lab '{using[0]}' runs from the cached {suite}, whose files a refresh may remove",
                hint=f"scripts/lab down --name {using[0]}",
            )
    found = cache.ensure(suite, progress, refresh=arguments.refresh, toolstack=arguments.toolstack)
    xen, linux = found.versions["xen"], found.versions["linux"]
    tools = ", toolstack" if found.toolstack else ""
    print(f"{suite}: Xen {xen}, Linux {linux}{tools} in {found.path('xen').parent}")


def console(arguments: argparse.Namespace, progress: Progress) -> None:
    """The serial log (Xen's and dom0's console) or a domU's console, without the carriage returns."""
    lab = labs.the_lab(checked_name(arguments.name))
    path = domus.console(lab, domus.checked_name(arguments.domu)) if arguments.domu else lab.path(SERIAL_LOG)
    try:
        text = path.read_bytes().replace(b"\r", b"")
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from error
    sys.stdout.buffer.write(text)


def paths(arguments: argparse.Namespace, progress: Progress) -> None:
    """Where a cached suite's files are."""
    found = cache.cached(arguments.suite)
    if found is None:
        raise LabError(
            f"{arguments.suite} is not in the cache", hint=f"scripts/lab fetch --suite {arguments.suite}"
        )
    keys = ("xen", "xen_syms", "vmlinuz", "system_map", "config", "busybox")
    _print_json(
        {
            "schema": "gdb-p2m-lab/paths/1",
            "suite": found.suite,
            "versions": found.versions,
            "packages": found.packages,
            **{key: str(found.files[key]) if key in found.files else None for key in keys},
        }
    )
