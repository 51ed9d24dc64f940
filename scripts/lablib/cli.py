"""The command line: verbs and options, errors to exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from . import verbs
from .errors import LabError
from .packages import DEFAULT_SUITE, SUITES
from .progress import Progress

_DESCRIPTION = """\
Boot a real Xen with a Linux PV dom0 under QEMU (TCG, no /dev/kvm), from Debian packages that are
downloaded once and never installed.

  scripts/lab up                          boot, wait for dom0, print how to attach GDB
  scripts/lab dump machine.elf            the whole machine's memory as an ELF core
  scripts/lab down                        end it
"""
_EPILOG = "Exit codes: 0 fine, 2 wrong usage, 3 cannot (the message says why). More in docs/lab.md."

_SubParsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Verb = Callable[[argparse.Namespace, Progress], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    progress = Progress()
    try:
        parsed.verb(parsed, progress)
        sys.stdout.flush()
    except LabError as error:
        progress.clear()
        print(f"lab: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `lab console | head`: nobody reads any more, which is no failure of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # the error says which file: a full disk, a directory we may not write to
        progress.clear()
        print(f"lab: {error}", file=sys.stderr)
        return LabError.exit_code
    except KeyboardInterrupt:
        progress.clear()
        print("lab: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_subparsers(metavar="VERB", required=True)
    _add_up(add)
    dump = _add(add, "dump", verbs.take_dump, "write the machine's memory to FILE as an ELF core")
    dump.add_argument("file", metavar="FILE", help="compressed when the name ends in .zst")
    dump.add_argument("--live", action="store_true", help="do not stop the machine: pages of many instants")
    _add(add, "stop", verbs.stop, "pause the machine")
    _add(add, "cont", verbs.cont, "let the machine go on")
    monitor = _add(add, "monitor", verbs.monitor, "one command of QEMU's human monitor")
    monitor.add_argument("command", metavar="CMD", help="such as 'info registers'")
    monitor.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds to wait (60)")
    down = _add(add, "down", verbs.down, "end a lab")
    down.add_argument("--all", action="store_true", help="all labs of this user")
    status = _add(add, "status", verbs.status, "all labs of this user", named=False)
    status.add_argument("--json", action="store_true", help="for programs")
    fetch = _add(add, "fetch", verbs.fetch, "download a suite and do nothing else", named=False)
    _add_suite(fetch)
    fetch.add_argument("--refresh", action="store_true", help="look for newer packages than the cached ones")
    _add(add, "console", verbs.console, "print the serial log: what Xen and dom0 said")
    paths = _add(add, "paths", verbs.paths, "where a cached suite's files are, as JSON", named=False)
    _add_suite(paths)
    return parser


def _add(
    add: _SubParsers,
    word: str,
    verb: Verb,
    text: str,
    *,
    named: bool = True,
) -> argparse.ArgumentParser:
    parser = add.add_parser(word, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    parser.set_defaults(verb=verb)
    if named:
        parser.add_argument("--name", default="default", help="which lab ('default')")
    return parser


def _add_suite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--suite", choices=SUITES, default=DEFAULT_SUITE, help=f"Debian suite ({DEFAULT_SUITE})"
    )


def _add_up(add: _SubParsers) -> None:
    parser = _add(add, "up", verbs.up, "boot a lab, wait until dom0 is ready, print how to attach GDB")
    _add_suite(parser)
    option = parser.add_argument
    option("--mem", default="1024M", metavar="SIZE", help="the machine's memory (1024M)")
    option("--dom0-mem", default="400M", metavar="SIZES", help="Xen's dom0_mem, or 3500M,max:3500M (400M)")
    option("--cpus", type=int, default=1, metavar="N", help="CPUs (1)")
    option("--port", type=int, default=0, help="GDB port on 127.0.0.1 (a free one)")
    option("--stopped", action="store_true", help="do not let the CPU begin; `lab cont` does")
    option("--xen-args", default="", metavar="ARGS", help="more of Xen's command line")
    option("--kernel-args", default="", metavar="ARGS", help="more of dom0's kernel command line, no comma")
    option("--timeout", type=float, default=300.0, metavar="S", help="seconds to wait for dom0 (300)")
    option("--json", action="store_true", help="the facts as JSON, for programs")
