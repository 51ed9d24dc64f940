"""The verbs with their options, as argparse takes them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

from . import crash, domu_verbs, verbs
from .machine import DEFAULT_SIZES, TOOLSTACK_SIZES
from .packages import DEFAULT_SUITE, SUITES
from .progress import Progress

_DESCRIPTION = """\
Boot a real Xen with a Linux PV dom0 under QEMU (TCG, no /dev/kvm), from Debian packages that are
downloaded once and never installed.

  scripts/lab up                          boot, wait for dom0, print how to attach GDB
  scripts/lab dump machine.elf            the whole machine's memory as an ELF core
  scripts/lab down                        end it

With Xen's toolstack in dom0 there can be guests:

  scripts/lab up --toolstack
  scripts/lab domu d1 --memory 131 --maxmem 200
  scripts/lab dump-core d1 d1.core
"""
_EPILOG = "Exit codes: 0 fine, 2 wrong usage, 3 cannot (the message says why). More in docs/lab.md."

_SubParsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Verb = Callable[[argparse.Namespace, Progress], int | None]


def parser() -> argparse.ArgumentParser:
    """The parser; what it returns has the function to call as `verb`."""
    top = argparse.ArgumentParser(
        prog="lab",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = top.add_subparsers(metavar="VERB", required=True)
    _add_up(add)
    _add_machine(add)
    _add_cache(add)
    _add_domus(add)
    _add_domu_files(add)
    _add_crash(add)
    return top


def _add(add: _SubParsers, word: str, verb: Verb, text: str, *, named: bool = True) -> argparse.ArgumentParser:
    one = add.add_parser(word, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    one.set_defaults(verb=verb)
    if named:
        one.add_argument("--name", default="default", help="which lab ('default')")
    return one


def _add_suite(one: argparse.ArgumentParser) -> None:
    one.add_argument("--suite", choices=SUITES, default=DEFAULT_SUITE, help=f"Debian suite ({DEFAULT_SUITE})")


def _add_timeout(one: argparse.ArgumentParser, seconds: float, what: str) -> None:
    text = f"seconds to wait {what} ({seconds:g})"
    one.add_argument("--timeout", type=float, default=seconds, metavar="S", help=text)


def _add_file(one: argparse.ArgumentParser) -> None:
    one.add_argument("file", metavar="FILE", help="compressed when the name ends in .zst")


def _add_up(add: _SubParsers) -> None:
    one = _add(add, "up", verbs.up, "boot a lab, wait until dom0 is ready, print how to attach GDB")
    _add_suite(one)
    option = one.add_argument
    (mem, dom0_mem), (more, dom0_more) = DEFAULT_SIZES, TOOLSTACK_SIZES
    option("--toolstack", action="store_true", help="with Xen's toolstack in dom0, for domUs")
    option("--crashkernel", default="", metavar="SIZE", help=f"keep memory for `lab crash`, {crash.CRASHKERNEL} is good")
    option("--mem", metavar="SIZE", help=f"the machine's memory ({mem}; with --toolstack {more})")
    sizes = f"Xen's dom0_mem, or 3500M,max:3500M ({dom0_mem}; with --toolstack {dom0_more})"
    option("--dom0-mem", metavar="SIZES", help=sizes)
    option("--cpus", type=int, default=1, metavar="N", help="CPUs (1)")
    option("--port", type=int, default=0, help="GDB port on 127.0.0.1 (a free one)")
    option("--stopped", action="store_true", help="do not let the CPU begin; `lab cont` does")
    option("--xen-args", default="", metavar="ARGS", help="more of Xen's command line")
    option("--kernel-args", default="", metavar="ARGS", help="more of dom0's kernel command line, no comma")
    _add_timeout(one, 300.0, "for dom0")
    option("--json", action="store_true", help="the facts as JSON, for programs")


def _add_machine(add: _SubParsers) -> None:
    dump = _add(add, "dump", verbs.take_dump, "write the machine's memory to FILE as an ELF core")
    _add_file(dump)
    dump.add_argument("--live", action="store_true", help="do not stop the machine: pages of many instants")
    _add(add, "stop", verbs.stop, "pause the machine")
    _add(add, "cont", verbs.cont, "let the machine go on")
    monitor = _add(add, "monitor", verbs.monitor, "one command of QEMU's human monitor")
    monitor.add_argument("command", metavar="CMD", help="such as 'info registers'")
    _add_timeout(monitor, 60.0, "for the answer")
    down = _add(add, "down", verbs.down, "end a lab")
    down.add_argument("--all", action="store_true", help="all labs of this user")
    status = _add(add, "status", verbs.status, "all labs of this user", named=False)
    status.add_argument("--json", action="store_true", help="for programs")
    console = _add(add, "console", verbs.console, "print the serial log: what Xen and dom0 said")
    console.add_argument("--domu", metavar="DOMU", help="a domU's console instead")


def _add_cache(add: _SubParsers) -> None:
    fetch = _add(add, "fetch", verbs.fetch, "download a suite and do nothing else", named=False)
    _add_suite(fetch)
    fetch.add_argument("--toolstack", action="store_true", help="also what `up --toolstack` needs")
    fetch.add_argument("--refresh", action="store_true", help="look for newer packages than the cached ones")
    paths = _add(add, "paths", verbs.paths, "where a cached suite's files are, as JSON", named=False)
    _add_suite(paths)


def _add_domus(add: _SubParsers) -> None:
    execute = _add(add, "exec", domu_verbs.execute, "run a shell command in dom0")
    execute.add_argument("command", metavar="CMD", help="such as 'xl list'; its output and exit code are passed on")
    _add_timeout(execute, 120.0, "for its end")
    domu = _add(add, "domu", domu_verbs.create, "create a PV domU, wait until its user space is up")
    option = domu.add_argument
    option("domu", metavar="DOMU", help="the name of the new domU")
    option("--memory", type=int, required=True, metavar="MIB", help="its memory")
    option("--maxmem", type=int, metavar="MIB", help="what it may get later (as --memory): its P2M is that large")
    option("--e820-host", action="store_true", help="with the machine's holes in its memory map")
    option("--vcpus", type=int, default=1, metavar="N", help="its CPUs (1)")
    option("--kernel-args", default="", metavar="ARGS", help="more of its kernel's command line")
    _add_timeout(domu, 300.0, "for its user space")
    option("--json", action="store_true", help="for programs")
    for word, verb, text in (
        ("pause", domu_verbs.pause, "stop a domU's CPUs"),
        ("unpause", domu_verbs.unpause, "let a paused domU go on"),
    ):
        _add(add, word, verb, text).add_argument("domu", metavar="DOMU", help="its name")
    balloon = _add(add, "balloon", domu_verbs.balloon, "change a domU's memory, wait until it has it")
    balloon.add_argument("domu", metavar="DOMU", help="its name")
    balloon.add_argument("memory", type=int, metavar="MIB", help="how much it shall have, at most its maxmem")
    _add_timeout(balloon, 120.0, "for the domU")


def _add_domu_files(add: _SubParsers) -> None:
    core = _add(add, "dump-core", domu_verbs.dump_core, "write xl's core of a domU to FILE")
    core.add_argument("domu", metavar="DOMU", help="its name")
    _add_file(core)
    _add_timeout(core, 300.0, "for dom0")
    text = "write Xen's own reading of a domU's P2M to FILE, or of the M2P when there is no DOMU"
    mfndump = _add(add, "mfndump", domu_verbs.mfndump, text)
    mfndump.add_argument("domu", metavar="DOMU", nargs="?", help="its name")
    _add_file(mfndump)
    _add_timeout(mfndump, 300.0, "for dom0")
    for word, verb, text in (
        ("save", domu_verbs.save, "suspend a domU into a file of the lab"),
        ("restore", domu_verbs.restore, "make a saved domU go on, in other machine frames"),
    ):
        one = _add(add, word, verb, text)
        one.add_argument("domu", metavar="DOMU", help="its name")
        _add_timeout(one, 300.0, "for dom0")


def _add_crash(add: _SubParsers) -> None:
    text = "crash the machine, write the crash kernel's dump of it to FILE, end the lab"
    one = _add(add, "crash", domu_verbs.crash_machine, text)
    _add_file(one)
    option = one.add_argument
    option("--format", choices=crash.FORMATS, default="elf", help="as makedumpfile makes it ('elf')")
    option("-X", "--no-domus", action="store_true", help="without the pages of domUs")
    option("-d", "--dump-level", type=int, default=0, metavar="N", help="makedumpfile's dump level (0)")
    option("--trigger", choices=crash.TRIGGERS, default="xen", help="who crashes: 'xen' (debug key C) or 'dom0' (sysrq c)")
    _add_timeout(one, 600.0, "for the crash kernel")
