"""The commands: prefix `p2m`, one sub-command a verb, `open` and `close`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import gdb
from gdb_p2m.cli import (
    EXIT_FINE,
    EXIT_INPUT,
    EXIT_USAGE,
    RAW_HELP,
    Parser,
    build_parser,
    emit,
    nearest_verb,
    refuse_damage,
    refuse_overwrite,
    timing_text,
)
from gdb_p2m.commands.base import Context, Report, Verb
from gdb_p2m.commands.registry import all_verbs
from gdb_p2m.errors import P2mError, UsageError
from gdb_p2m.gdbui.completion import FILE_METAVARS, complete
from gdb_p2m.gdbui.output import progress, stderr, stdout
from gdb_p2m.gdbui.session import Session
from gdb_p2m.gdbui.settings import Settings
from gdb_p2m.units import human_size

STATUS = "_p2m_status"
"""Convenience variable with the exit code that the shell would have given."""
EXIT_INTERRUPTED = 130


def guarded(run: Callable[[], int]) -> None:
    """Run one command: sets $_p2m_status, and turns what goes wrong into GDB's own errors.

    Raises gdb.GdbError, which GDB prints as one message.
    """
    code, message = EXIT_INPUT, ""
    try:
        code = run()
    except UsageError as e:
        code, message = EXIT_USAGE, str(e)
    except P2mError as e:
        message = str(e)
    except SystemExit:  # --help has been printed
        code = EXIT_FINE
    except KeyboardInterrupt:
        code, message = EXIT_INTERRUPTED, "interrupted"
    except Exception as e:
        if gdb.parameter("python print-stack") == "full":
            raise
        message = (
            f"internal error, please report it: {type(e).__name__}: {e}\n"
            "  try: `set python print-stack full` and the command again shows where"
        )
    finally:
        gdb.set_convenience_variable(STATUS, code)
    if message:
        raise gdb.GdbError(message if message.startswith("p2m") else f"p2m: {message}")


def arguments(text: str) -> list[str]:
    """A command line as words, quoted as GDB quotes; $NAME and $FUNCTION(...) are evaluated by GDB."""
    return [_evaluated(w) if w.startswith("$") else w for w in gdb.string_to_argv(text)]


def _evaluated(word: str) -> str:
    try:
        return hex(int(gdb.parse_and_eval(word)))
    except (gdb.error, TypeError, ValueError) as e:
        raise UsageError(f"p2m: {word}: {e}") from None


def parsed(parser: Parser, text: str) -> argparse.Namespace:
    """Parse; ~ in file names is the home directory, which no shell has expanded. Raises UsageError."""
    args = parser.parse_args(arguments(text))
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if action.metavar in FILE_METAVARS and isinstance(value, str):
            setattr(args, action.dest, os.path.expanduser(value))
    return args


def show(report: Report, args: argparse.Namespace) -> int:
    """Write a report; returns the exit code. Raises UsageError."""
    try:
        return emit(report, args, stdout())
    except KeyboardInterrupt:  # the reader has quit GDB's pager: that is no error
        return report.exit_code


class VerbCommand(gdb.Command):  # type: ignore[misc]
    """One verb."""

    def __init__(self, verb: Verb, session: Session, settings: Settings) -> None:
        self.verb = verb
        self.session = session
        self.settings = settings
        self.__doc__ = f"{verb.summary[0].upper()}{verb.summary[1:]}.\n\n{self._parser().format_help()}"
        super().__init__(f"p2m {verb.name}", gdb.COMMAND_DATA)

    def _parser(self) -> Parser:
        return build_parser(self.verb, f"p2m {self.verb.name}", False)

    def invoke(self, text: str, from_tty: bool) -> None:
        """Called by GDB."""
        self.dont_repeat()
        guarded(lambda: self._run(text))

    def _run(self, text: str) -> int:
        args = parsed(self._parser(), text)
        if self.verb.uses == "nothing":
            return show(self.verb.run(Context(None), args), args)
        if getattr(args, "out", None) == "-":
            raise UsageError(f"p2m {self.verb.name}: GDB's output takes text only", hint="name a file")
        machine = self.session.machine()
        args.dump = self.session.opened.path if self.session.opened else None
        refuse_overwrite(args.output, args)
        shown = progress()
        target = self.settings.target(machine, args.kernel, args.xen, shown)
        refuse_damage(target, self.verb, args)
        err = stderr()
        for warning in target.warnings:
            err.write(f"p2m: warning: {warning}\n")
        try:
            with target.timing.stage("all"):
                report = self.verb.run(machine.context(target, args.domain, shown), args)
        except UsageError:
            raise
        except BaseException:
            machine.forget(target)
            raise
        for notice in target.notices:
            err.write(f"p2m: warning: {notice}\n")
        code = show(report, args)
        if args.timing:
            err.write(timing_text(target))
        return code

    def complete(self, text: str, word: str | None) -> list[str]:
        """Called by GDB, with None for `word` while it looks for where the word begins."""
        return completed(self._parser(), text, word, self.session, self.settings)


def completed(parser: Parser, text: str, word: str | None, session: Session, settings: Settings) -> list[str]:
    """Candidates as GDB wants them: it breaks words at `-` and `=` too, so only the rest is given back."""
    if word is None:
        return []
    found = complete(parser, text, lambda: _symbols(session, settings))
    current = text.split()[-1] if text and not text[-1].isspace() else ""
    return [c[len(current) - len(word) :] for c in found]


def _symbols(session: Session, settings: Settings) -> list[str]:
    """Every kernel symbol of the default domain; nothing when there is no machine to ask."""
    try:
        machine = session.machine()
        return machine.symbol_names(settings.target(machine))
    except P2mError:
        return []


class OpenCommand(gdb.Command):  # type: ignore[misc]
    """Let the verbs read a dump instead of GDB's target."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self.session = session
        self.settings = settings
        self.__doc__ = f"{type(self).__doc__}\n\n{self._parser().format_help()}"
        super().__init__("p2m open", gdb.COMMAND_FILES)

    def _parser(self) -> Parser:
        parser = Parser(prog="p2m open", description="The verbs read DUMP until `p2m close`.")
        parser.add_argument("dump", metavar="DUMP", help="the dump; its format is found by its content")
        parser.add_argument("--kernel", metavar="FILE", help="guest kernel: vmlinux, System.map or vmlinuz")
        parser.add_argument("--xen", metavar="FILE", help="hypervisor: xen-syms")
        parser.add_argument("--raw", metavar="ADDRESS", help=RAW_HELP)
        return parser

    def invoke(self, text: str, from_tty: bool) -> None:
        """Called by GDB."""
        self.dont_repeat()
        guarded(lambda: self._run(text, from_tty))

    def _run(self, text: str, from_tty: bool) -> int:
        args = parsed(self._parser(), text)
        machine = self.session.open(args.dump, args.kernel, args.xen, progress(), args.raw)
        if from_tty:
            info, extents = machine.source.info, machine.source.extents()
            size = human_size(sum(e.end - e.start for e in extents))
            gdb.write(f"{info.path}: {info.format}, {info.machine}, {size}. The verbs read it until `p2m close`.\n")
        return EXIT_FINE

    def complete(self, text: str, word: str | None) -> list[str]:
        """Called by GDB."""
        return completed(self._parser(), text, word, self.session, self.settings)


class CloseCommand(gdb.Command):  # type: ignore[misc]
    """Close the dump of `p2m open`; the verbs read GDB's target again."""

    def __init__(self, session: Session) -> None:
        self.session = session
        super().__init__("p2m close", gdb.COMMAND_FILES, gdb.COMPLETE_NONE)

    def invoke(self, text: str, from_tty: bool) -> None:
        """Called by GDB."""
        self.dont_repeat()
        guarded(lambda: self._run(text))

    def _run(self, text: str) -> int:
        if text.strip():
            raise UsageError("p2m close takes no arguments")
        if not self.session.close_dump():
            raise UsageError("p2m: no dump is open")
        return EXIT_FINE


class P2mCommand(gdb.Command):  # type: ignore[misc]
    """Decode and check the P2M of Xen guests, in machine memory or in a dump.

    The verbs read the dump of `p2m open DUMP`; without one, the machine behind QEMU's gdbstub
    (`target remote :1234`). They only ever read. `help p2m VERB` explains one, with an example.
    Functions for expressions: $p2m(pfn), $p2m_kind(pfn), $m2p(mfn). Settings: `help set p2m`."""

    def __init__(self) -> None:
        super().__init__("p2m", gdb.COMMAND_DATA, gdb.COMPLETE_NONE, True)

    def invoke(self, text: str, from_tty: bool) -> None:
        """Called by GDB for `p2m` alone, and for words that are no sub-command."""
        self.dont_repeat()
        guarded(lambda: self._run(text))

    def _run(self, text: str) -> int:
        word = (text.split() or [""])[0]
        if word and word not in ("-h", "--help", "help"):
            raise UsageError(f"p2m: no verb is called {word!r}", hint=nearest_verb(word, "`p2m` lists the verbs"))
        gdb.write(overview())
        return EXIT_FINE


def overview() -> str:
    """`p2m` alone: the verbs, in their order."""
    rows = [(v.name, v.summary) for v in all_verbs()]
    rows += [("boot MOMENT", "live: stop a booting kernel where its P2M changes")]
    rows += [("watch PFN", "live: stop the machine when the entry of a PFN changes")]
    rows += [("open DUMP", "read a dump instead of GDB's target"), ("close", "read GDB's target again")]
    width = max(len(name) for name, _ in rows) + 2
    listed = "\n".join(f"  {name:<{width}}{summary}" for name, summary in rows)
    return (
        f"p2m VERB [options]: the P2M of Xen guests, live or from a dump\n\n{listed}\n\n"
        "`help p2m VERB` or `p2m VERB --help` explains one, with an example.\n"
    )
