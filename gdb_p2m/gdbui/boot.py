"""`p2m boot`: stop a PV kernel at the moments of its boot that matter to the P2M, and say what exists there."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

import gdb
from gdb_p2m.cli import EXIT_FINE, Parser, rendered
from gdb_p2m.commands.base import Report
from gdb_p2m.errors import NotFound, P2mError, UsageError
from gdb_p2m.gdbui.commands import completed, guarded, parsed
from gdb_p2m.gdbui.connection import qemu_connection
from gdb_p2m.gdbui.output import stdout
from gdb_p2m.gdbui.session import Session
from gdb_p2m.gdbui.settings import Settings
from gdb_p2m.layout.boot import MOMENTS, Moment
from gdb_p2m.structures.stage import stage_of
from gdb_p2m.symbols.base import SymbolSource

DEFAULT_TIMEOUT = 300
WIDE = "i386:x86-64"


class _Passing(gdb.Breakpoint):  # type: ignore[misc]
    """A hardware breakpoint that notes that it was passed, and stops only where the user wants to be.

    Hardware, because at the time of arming the kernel is not in memory, or not mapped, yet; the address is
    compared by the (virtual) CPU whatever its mode was when the breakpoint was set.
    """

    def __init__(self, moment: Moment, address: int, wanted: Moment, passed: list[Moment]) -> None:
        super().__init__(f"*{address:#x}", type=gdb.BP_HARDWARE_BREAKPOINT, internal=True)
        self.silent = True
        self._moment = moment
        self._wanted = wanted
        self._passed = passed

    def stop(self) -> bool:
        """Called by GDB at each hit."""
        if self._moment not in self._passed:
            self._passed.append(self._moment)
        return self._moment is self._wanted


class BootCommand(gdb.Command):  # type: ignore[misc]
    """Stop a booting PV kernel at a moment that matters to its P2M."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self.session = session
        self.settings = settings
        self.__doc__ = f"{type(self).__doc__}\n\n{self._parser().format_help()}"
        super().__init__("p2m boot", gdb.COMMAND_RUNNING)

    def _parser(self) -> Parser:
        listed = "\n".join(f"  {m.name:<7}{m.function:<26}{m.title}" for m in MOMENTS)
        parser = Parser(
            prog="p2m boot",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description=f"Continue to MOMENT of the boot, or to any kernel FUNCTION:\n\n{listed}\n\n"
            "Start the machine stopped (scripts/lab up --stopped, or QEMU's -S); it goes on when you continue.",
            epilog="example: p2m boot remap --kernel vmlinuz",
        )
        words = [*(m.name for m in MOMENTS), *(m.function for m in MOMENTS)]
        parser.add_argument("moment", nargs="?", metavar="MOMENT", help="one of " + ", ".join(words[: len(MOMENTS)]))
        parser.add_argument("--kernel", metavar="FILE", help="guest kernel: vmlinux, System.map or vmlinuz")
        parser.add_argument("--timeout", type=int, default=DEFAULT_TIMEOUT, metavar="SECONDS", help="default 300")
        parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
        parser.add_argument("--json", dest="format", action="store_const", const="json", help="same as --format json")
        return parser

    def invoke(self, text: str, from_tty: bool) -> None:
        """Called by GDB."""
        self.dont_repeat()
        guarded(lambda: self._run(text))

    def complete(self, text: str, word: str | None) -> list[str]:
        """Called by GDB."""
        if word is not None and not text.startswith("-") and " " not in text:
            return [m.name for m in MOMENTS if m.name.startswith(word)]
        return completed(self._parser(), text, word, self.session, self.settings)

    def _run(self, text: str) -> int:
        args = parsed(self._parser(), text)
        if args.moment is None:
            raise UsageError("p2m boot: which moment?", hint=", ".join(m.name for m in MOMENTS))
        qemu_connection()
        names = self._names(args.kernel or self.settings.kernel.path)
        wanted, way = self._way_to(args.moment, names)
        passed = self._go(wanted, way, args.timeout)
        self.session.drop_live()
        report = self._report(wanted, passed)
        stdout().write(rendered(report, args.format))
        return EXIT_FINE

    def _names(self, kernel: str | None) -> SymbolSource | Any:
        """The kernel's symbols: its file, or, once it runs, the kallsyms in its memory."""
        if kernel is not None:
            from gdb_p2m.symbols.symtab import open_kernel_file

            return open_kernel_file(kernel)
        try:
            machine = self.session.machine()
            return machine.context(machine.target(None, None), None).guest.names
        except P2mError as e:
            raise NotFound(
                f"no kernel is in memory yet ({e.message.split(';')[0]}), so its symbols must come from a file",
                hint="p2m boot MOMENT --kernel vmlinuz (scripts/lab paths prints the lab's), or set p2m kernel FILE",
            ) from None

    def _way_to(self, name: str, names: Any) -> tuple[Moment, list[tuple[Moment, int]]]:
        """The moment that `name` means, and all moments up to it with their addresses."""
        wanted = next((m for m in MOMENTS if name in (m.name, m.function)), None)
        if wanted is None:
            wanted = Moment(name, name, f"at {name}", "see `p2m identify`")
        way: list[tuple[Moment, int]] = []
        for moment in (*MOMENTS, *([] if wanted in MOMENTS else [wanted])):
            symbol = names.symbol(moment.function)
            if symbol is not None:
                way.append((moment, symbol.address))
            elif moment is wanted:
                raise NotFound(
                    f"this kernel has no symbol {moment.function}, so {moment.name!r} cannot be stopped at",
                    hint="moments: " + ", ".join(m.name for m in MOMENTS) + "; or any function of the kernel",
                )
            if moment is wanted:
                break
        return wanted, way

    def _go(self, wanted: Moment, way: Sequence[tuple[Moment, int]], timeout: int) -> list[Moment]:
        """Arm, continue, disarm. Raises P2mError when the moment did not come."""
        _wide_architecture()
        passed: list[Moment] = []
        armed: list[_Passing] = []
        late = threading.Event()
        alarm = threading.Timer(timeout, _ring, (late,))
        alarm.daemon = True
        interrupted = False
        try:
            for moment, address in way:
                armed.append(_Passing(moment, address, wanted, passed))
            alarm.start()
            gdb.execute("continue", to_string=True)
        except KeyboardInterrupt:
            interrupted = True
        except gdb.error as e:
            raise P2mError(
                f"the machine did not go on: {e}", hint="`info breakpoints` and `monitor info status`"
            ) from None
        finally:
            alarm.cancel()
            for breakpoint in armed:
                breakpoint.delete()
        if wanted in passed:
            return passed
        so_far = ", ".join(m.name for m in passed) or "none"
        if late.is_set():
            why = f"{wanted.function} was not reached within {timeout} s"
        elif interrupted:
            raise KeyboardInterrupt
        else:
            why = f"the machine stopped before it reached {wanted.function}"
        raise P2mError(
            f"{why}; moments passed: {so_far}",
            hint="does --kernel fit the kernel that boots? has it booted already? --timeout waits longer",
        )

    def _report(self, wanted: Moment, passed: list[Moment]) -> Report:
        machine = self.session.machine()
        context = machine.context(machine.target(None, None), None)
        rip = int(gdb.newest_frame().read_register("rip")) & ((1 << 64) - 1)
        stage = stage_of(context.guest)
        data = {
            "schema": "gdb-p2m/boot/1",
            "moment": wanted.name,
            "function": wanted.function,
            "rip": rip,
            "passed": [m.name for m in passed],
            "stage": {"name": stage.name, "title": stage.title, "evidence": stage.evidence},
            "exists": wanted.exists,
        }
        report = Report(data)
        rows = [
            ["stopped", f"{wanted.title}: {wanted.function} at {rip:#x}"],
            ["passed", ", ".join(m.name for m in passed)],
            ["stage", f"{stage.title} ({stage.evidence})"],
            ["exists now", wanted.exists],
        ]
        report.table(["", ""], rows)
        return report


def _ring(late: threading.Event) -> None:
    """The time is up: what Ctrl-C does."""
    late.set()
    os.kill(os.getpid(), signal.SIGINT)


def _wide_architecture() -> None:
    """GDB must take 64-bit addresses, also while the CPU is still in its 16-bit mode."""
    if gdb.newest_frame().architecture().name() != WIDE:
        gdb.execute(f"set architecture {WIDE}", to_string=True)
