"""`p2m watch PFN`: stop the machine when the P2M entry of a PFN changes, and say what it was and is."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any

import gdb
from gdb_p2m.cli import EXIT_FINE, Parser, rendered
from gdb_p2m.commands.base import Report
from gdb_p2m.errors import NotFound, NotSupported, P2mError, UsageError
from gdb_p2m.gdbui.commands import guarded, parsed
from gdb_p2m.gdbui.connection import QemuConnection, qemu_connection
from gdb_p2m.gdbui.output import stdout
from gdb_p2m.gdbui.session import Session
from gdb_p2m.gdbui.settings import Settings
from gdb_p2m.gdbui.slot import Slot, slot_of
from gdb_p2m.gdbui.stub import PhysicalReader
from gdb_p2m.symbols.table import SymbolTable
from gdb_p2m.units import parse_number

TYPES = {64: "unsigned long", 32: "unsigned int"}


class EntryWatch(gdb.Breakpoint):  # type: ignore[misc]
    """An access watchpoint on the slot's virtual address.

    Of accesses, not of changes: GDB compares what it reads through the page table of whatever the CPU runs, and
    another guest may have a list at the same address. So each access asks machine memory, which cannot lie.
    """

    def __init__(self, slot: Slot, names: SymbolTable) -> None:
        where = f"*({TYPES[slot.width.bits]} *) {slot.virtual:#x}"
        super().__init__(where, type=gdb.BP_WATCHPOINT, wp_class=gdb.WP_ACCESS, internal=False)
        self.silent = True
        self.slot = slot
        self.raw = slot.raw
        self.changes = 0
        self.names = names

    def stop(self) -> bool:
        """Called by GDB at each access; whether the entry is another one now."""
        try:
            now = self._read()
        except P2mError as e:
            gdb.write(f"p2m watch: the entry of PFN {self.slot.pfn:#x} cannot be read: {e.message}\n", gdb.STDERR)
            return True
        if now == self.raw:
            return False
        before, self.raw = self.raw, now
        self.changes += 1
        gdb.write(
            f"p2m watch: the entry of PFN {self.slot.pfn:#x} changed{self._place()}\n"
            f"  old {self.slot.meaning(before)}\n  new {self.slot.meaning(now)}\n"
        )
        return True

    def _read(self) -> int:
        connection = gdb.selected_inferior().connection
        if not isinstance(connection, gdb.RemoteTargetConnection):
            raise NotFound("GDB is not connected to the machine")
        reader = PhysicalReader(QemuConnection(connection))
        (data,) = reader.read([(self.slot.machine, self.slot.width.bytes)])
        return int.from_bytes(data, "little")

    def _place(self) -> str:
        """`, at 0xffffffff81021d5b (__set_phys_to_machine+0x4b)`: where the CPU is now."""
        with suppress(gdb.error, P2mError):
            rip = int(gdb.newest_frame().pc()) & ((1 << 64) - 1)
            near = self.names.nearest(rip)
            return f", at {rip:#x}" + (f" ({near[0]}+{near[1]:#x})" if near else "")
        return ""


class WatchCommand(gdb.Command):  # type: ignore[misc]
    """Stop the running machine when the P2M entry of a PFN changes."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self.session = session
        self.settings = settings
        self.watches: list[EntryWatch] = []
        self.__doc__ = f"{type(self).__doc__}\n\n{self._parser().format_help()}"
        super().__init__("p2m watch", gdb.COMMAND_BREAKPOINTS, gdb.COMPLETE_NONE)

    def _parser(self) -> Parser:
        parser = Parser(
            prog="p2m watch",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description="Sets a hardware watchpoint on the entry of PFN; `continue`, and the machine stops when the\n"
            "entry changes, with the old and the new meaning shown. Without PFN: the watches there are.",
            epilog="example: p2m watch 0x100",
        )
        parser.add_argument("number", nargs="?", metavar="PFN", help="the PFN to watch")
        parser.add_argument("--delete", metavar="PFN", help="end the watch of this PFN (all: of all)")
        parser.add_argument("--domain", type=int, metavar="N", help="domain id (default: dom0)")
        parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
        parser.add_argument("--json", dest="format", action="store_const", const="json", help="same as --format json")
        return parser

    def invoke(self, text: str, from_tty: bool) -> None:
        """Called by GDB."""
        self.dont_repeat()
        guarded(lambda: self._run(text))

    def _run(self, text: str) -> int:
        args = parsed(self._parser(), text)
        if args.number is not None and args.delete is not None:
            raise UsageError("p2m watch: either a PFN to watch or --delete")
        if args.delete is not None:
            self._delete(args.delete)
        elif args.number is not None:
            self._add(parse_number(args.number), args.domain)
        stdout().write(rendered(self._list(), args.format))
        return EXIT_FINE

    def _alive(self) -> list[EntryWatch]:
        """Those that GDB's own `delete` has not removed."""
        self.watches = [w for w in self.watches if w.is_valid()]
        return self.watches

    def _add(self, pfn: int, domain: int | None) -> None:
        if self.session.opened is not None:
            raise NotSupported(
                "p2m watch: a dump does not change; a dump is open, so the verbs look at it",
                hint="`p2m close`, and `target remote` to a machine that can run",
            )
        qemu_connection()
        if any(w.slot.pfn == pfn for w in self._alive()):
            raise UsageError(f"p2m watch: PFN {pfn:#x} is watched already", hint=f"p2m watch --delete {pfn:#x}")
        machine = self.session.machine()
        context = machine.context(self.settings.target(machine), domain)
        slot = slot_of(context, pfn)
        try:
            watch = EntryWatch(slot, context.guest.names)
        except gdb.error as e:
            raise P2mError(
                f"p2m watch: GDB sets no hardware watchpoint: {e}", hint="show can-use-hw-watchpoints"
            ) from None
        self.watches.append(watch)

    def _delete(self, text: str) -> None:
        chosen = self._alive() if text == "all" else [w for w in self._alive() if w.slot.pfn == parse_number(text)]
        if not chosen and text != "all":
            listed = ", ".join(f"{w.slot.pfn:#x}" for w in self.watches) or "none"
            raise UsageError(f"p2m watch: PFN {text} is not watched", hint=f"watched: {listed}")
        for watch in chosen:
            watch.delete()
        self._alive()

    def _list(self) -> Report:
        rows: list[list[str | int | None]] = []
        entries: list[dict[str, Any]] = []
        for w in self._alive():
            rows.append([w.number, f"{w.slot.pfn:#x}", f"{w.slot.virtual:#x}", w.slot.meaning(w.raw), w.changes])
            entries.append(
                {"number": w.number, "pfn": w.slot.pfn, "address": w.slot.virtual, "raw": w.raw, "changes": w.changes}
            )
        report = Report({"schema": "gdb-p2m/watch/1", "watches": entries})
        if rows:
            report.table(["watchpoint", "PFN", "virtual address", "entry when last seen", "changes"], rows)
        else:
            report.text("No PFN is watched.")
        return report

    def unload(self) -> None:
        """End all watches."""
        for watch in self._alive():
            watch.delete()
        self.watches = []
