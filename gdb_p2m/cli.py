"""The shell front end: `gdb-p2m VERB DUMP [options]`. The parser and the rendering serve GDB too."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

from gdb_p2m import __version__
from gdb_p2m.commands.base import Context, Report, Verb
from gdb_p2m.commands.registry import BY_NAME, all_verbs
from gdb_p2m.errors import NotUnderstood, P2mError, UsageError
from gdb_p2m.progress import Progress, no_progress

RAW_HELP = "DUMP is raw memory from machine address ADDRESS on (of a RISC-V machine: ADDRESS:riscv64)"
EXIT_FINE, EXIT_FOUND, EXIT_USAGE, EXIT_INPUT = 0, 1, 2, 3
UNLIMITED = 1 << 16
"""Columns where there is no terminal: prose has a limit of its own."""


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError instead of leaving the process (GDB must not be left)."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", hint=f"{self.prog} --help")


def build_parser(verb: Verb, prog: str, with_dump: bool) -> Parser:
    """The parser of one verb, the same for both front ends but for DUMP."""
    usage_dump = " DUMP" if with_dump and verb.uses == "target" else ""
    parser = Parser(
        prog=prog,
        description=verb.description,
        epilog=f"example: {prog}{usage_dump.replace('DUMP', 'dom0.core')} {verb.example}".rstrip(),
    )
    if usage_dump:
        parser.add_argument("dump", metavar="DUMP", help="the dump; its format is found by its content")
    verb.configure(parser)
    common = parser.add_argument_group("common options")
    if verb.uses == "target":
        common.add_argument("--kernel", metavar="FILE", help="guest kernel: vmlinux, System.map or vmlinuz")
        common.add_argument("--xen", metavar="FILE", help="hypervisor: xen-syms")
        common.add_argument("--domain", type=int, metavar="N", help="domain id (default: dom0)")
        common.add_argument(
            "--view", metavar="V", help="linear, tree, list-list, core-table, gstage (default: the guest's own)"
        )
        if usage_dump:
            common.add_argument("--raw", metavar="ADDRESS", help=RAW_HELP)
        common.add_argument(
            "--timing", action="store_true", help="seconds per stage and pages read, on stderr"
        )
        if not verb.damaged_ok:
            common.add_argument(
                "--damaged",
                action="store_true",
                help="answer from a truncated or contradictory dump all the same",
            )
    common.add_argument("--format", choices=verb.formats, default="text", help="default: text")
    common.add_argument(
        "--json", dest="format", action="store_const", const="json", help="same as --format json"
    )
    # A verb that makes a file of its own takes --output for that file; its report goes to stdout.
    if not verb.writes_output:
        common.add_argument("-o", "--output", metavar="FILE", default="-", help="write there (default -: stdout)")
    return parser


def rendered(report: Report, fmt: str, columns: int | None = None, colour: bool = False) -> str:
    """The report in one of its formats. columns: what text is folded to, by default the terminal's."""
    if fmt in report.extra:
        return report.extra[fmt]()
    if fmt == "json":
        from gdb_p2m.render.json_text import to_json

        return to_json(report.data)
    from gdb_p2m.render.text import to_text

    return to_text(report, columns, colour)


def main_parser() -> Parser:
    """`gdb-p2m --help`: the list of verbs."""
    width = max(len(v.name) for v in all_verbs()) + 2
    listed = "\n".join(f"  {v.name:<{width}}{v.summary}" for v in all_verbs())
    extra = f"  {'gdbinit':<{width}}print the line that makes GDB load p2m"
    parser = Parser(
        prog="gdb-p2m",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="gdb-p2m VERB DUMP [options]",
        description="Decode and check the P2M of Xen guests in crash dumps. In GDB: p2m VERB.",
        epilog=f"verbs:\n{listed}\n{extra}\n\n`gdb-p2m VERB --help` explains one, with an example.\n"
        "exit codes: 0 fine, 1 check found errors, diff differences or compare disagreements, 2 wrong usage, 3 the input cannot be read or understood",
    )
    parser.add_argument("--version", action="version", version=f"gdb-p2m {__version__}")
    parser.add_argument("verb", metavar="VERB")
    return parser


def run(argv: Sequence[str], out: TextIO, err: TextIO, progress: Progress = no_progress) -> int:
    """One command line. Returns the exit code; raises only SystemExit of --help and --version."""
    if not argv or argv[0].startswith("-"):
        parser = main_parser()
        if not argv:
            parser.print_help(err)
            return EXIT_USAGE
        parser.parse_args(argv)
    if argv[0] == "gdbinit":
        from gdb_p2m.gdbinit import gdbinit_line

        out.write(gdbinit_line() + "\n")
        return EXIT_FINE
    verb = BY_NAME.get(argv[0])
    if verb is None:
        raise UsageError(f"gdb-p2m: no verb is called {argv[0]!r}", hint=nearest_verb(argv[0]))
    args = build_parser(verb, f"gdb-p2m {verb.name}", True).parse_args(argv[1:])
    if verb.uses == "nothing":
        return emit(verb.run(Context(None), args), args, out)
    return _with_target(verb, args, out, err, progress)


def _with_target(verb: Verb, args: argparse.Namespace, out: TextIO, err: TextIO, progress: Progress) -> int:
    from gdb_p2m.sources.probe import open_source
    from gdb_p2m.target import Target

    refuse_overwrite(args.output, args)
    target = Target(open_source(args.dump, progress, args.raw), kernel=args.kernel, xen=args.xen, progress=progress)
    try:
        refuse_damage(target, verb, args)
        for warning in target.warnings:
            err.write(f"gdb-p2m: warning: {warning}\n")
        with target.timing.stage("all"):
            report = verb.run(Context(target, args.domain, progress), args)
            for notice in target.notices:
                err.write(f"gdb-p2m: warning: {notice}\n")
            code = emit(report, args, out)
        if args.timing:
            err.write(timing_text(target))
        return code
    finally:
        target.close()


def refuse_overwrite(output: str, args: argparse.Namespace) -> None:
    """Raise UsageError when an output is one of the inputs: they are only read."""
    for given in (args.dump, args.kernel, args.xen):
        if given is not None and output != "-" and os.path.exists(output) and os.path.exists(given) and os.path.samefile(output, given):
            raise UsageError(f"{output} is an input, it is not overwritten", hint="name another output file")


def refuse_damage(target: object, verb: Verb, args: argparse.Namespace) -> None:
    """A truncated dump must not give an answer that looks whole, unless the user says so."""
    from gdb_p2m.target import Target

    assert isinstance(target, Target)
    if target.warnings and not verb.damaged_ok and not args.damaged:
        raise NotUnderstood(
            f"{target.source.info.path}: the dump is damaged: {target.warnings[0]}",
            hint="`check` and `identify` report on it; --damaged answers from what is left",
        )


def timing_text(target: object) -> str:
    """--timing: stages and what was read."""
    from gdb_p2m.target import Target

    assert isinstance(target, Target)
    counters = target.source.counters
    lines = [f"  {name:<28}{seconds * 1000:10.1f} ms" for name, seconds in target.timing.stages]
    lines.append(f"  {'pages read':<28}{counters.pages:10,} in {counters.requests:,} reads")
    return "timing:\n" + "\n".join(lines) + "\n"


def columns_of(out: TextIO) -> int:
    """What text is folded to: GDB's streams know it, terminals are asked, pipes and files have no width."""
    known: int | None = getattr(out, "columns", None)
    if known is not None:
        return known
    return shutil.get_terminal_size((UNLIMITED, 24)).columns if out.isatty() else UNLIMITED


def has_colour(out: TextIO) -> bool:
    """Whether a person looks at a terminal that shows colours and did not ask for none (NO_COLOR)."""
    wanted: bool | None = getattr(out, "colour", None)
    looked_at = out.isatty() if wanted is None else wanted
    return looked_at and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def emit(report: Report, args: argparse.Namespace, out: TextIO) -> int:
    """Write the report as --format and --output say; returns the exit code. Raises UsageError."""
    if report.raw_stdout:
        return report.exit_code
    to_out = args.output == "-" or report.made_output
    text = rendered(report, args.format, columns_of(out) if to_out else UNLIMITED, to_out and has_colour(out))
    if args.output == "-" or report.made_output:
        out.write(text)
    else:
        try:
            with open(args.output, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as e:
            raise UsageError(f"{args.output}: cannot be written: {e.strerror}") from None
    return report.exit_code


def nearest_verb(name: str, else_hint: str = "gdb-p2m --help lists the verbs") -> str:
    """What to try when no verb is called `name`."""
    import difflib

    near = difflib.get_close_matches(name, BY_NAME, n=1)
    return f"did you mean {near[0]!r}?" if near else else_hint


def main() -> None:
    """Entry point of the `gdb-p2m` command."""
    from gdb_p2m.render.progress_bar import terminal_progress

    try:
        code = run(sys.argv[1:], sys.stdout, sys.stderr, terminal_progress(sys.stderr))
        sys.stdout.flush()
    except UsageError as e:
        code = _complain(e, EXIT_USAGE)
    except P2mError as e:
        code = _complain(e, EXIT_INPUT)
    except BrokenPipeError:
        # The reader (head, less) went away: not our error.
        _silence_stdout()
        code = EXIT_FINE
    except OSError as e:
        _silence_stdout()
        code = _complain(P2mError(f"{e.filename or 'standard output'}: {e.strerror or e}"), EXIT_INPUT)
    except MemoryError:
        hint = "is the dump damaged? `check` and `identify` need the least"
        code = _complain(P2mError("there is not enough memory for what this dump claims to hold", hint=hint), EXIT_INPUT)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _silence_stdout() -> None:
    """Keep the interpreter from flushing once more what cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error: P2mError, code: int) -> int:
    from gdb_p2m.render.text import printable

    sys.stdout.flush()
    sys.stderr.write(f"gdb-p2m: {printable(str(error))}\n")
    return code


if __name__ == "__main__":
    main()
