"""Verb `diff`: what changed in a domain's P2M between two dumps."""

from __future__ import annotations

import argparse
import os
from typing import Any

from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa
from gdb_p2m.commands.diff_sides import Side, doubts, refuse, side_of
from gdb_p2m.errors import NotUnderstood, P2mError, UsageError
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.mapping_diff import DIFFERENT, Change, ChangeRun, MappingDiff, diff, frame_totals
from gdb_p2m.target import Target
from gdb_p2m.units import PAGE_SHIFT, human_size, parse_range, thousands
from gdb_p2m.views.base import View

LISTED = {*DIFFERENT, Change.UNKNOWN}
"""Changes that are listed unless --change asks for others."""
MEANING = {
    Change.KEPT: "same machine frame",
    Change.MOVED: "another machine frame",
    Change.GONE: "had a frame, is missing now",
    Change.NEW: "was missing, has a frame now",
    Change.KIND: "another kind",
    Change.ORDER: "same frame, leaf of another size",
    Change.SAME: "no frame, same kind",
    Change.UNKNOWN: "cannot be compared: unreadable or corrupt",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("other", metavar="FILE", help="the dump to compare with: the later one")
    parser.add_argument("--reverse", action="store_true", help="FILE is the earlier one")
    parser.add_argument("--other-domain", type=int, metavar="N", help="domain id in FILE (default: as --domain)")
    parser.add_argument("--other-kernel", metavar="FILE", help="guest kernel of FILE (default: as --kernel)")
    parser.add_argument("--other-xen", metavar="FILE", help="hypervisor of FILE (default: as --xen)")
    parser.add_argument("--other-raw", metavar="ADDRESS", help="FILE is raw memory from machine address ADDRESS on")
    parser.add_argument("--range", metavar="A..B", help="only these PFNs (B included), or A+COUNT")
    parser.add_argument(
        "--change",
        action="append",
        choices=[c.word for c in Change],
        metavar="CHANGE",
        help="list only these; may be given several times: " + ", ".join(c.word for c in Change),
    )
    parser.add_argument("--fold", action="store_true", help="join runs of one change, whatever their frames")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """The target's P2M against FILE's."""
    _refuse_overwrite(args)
    with ctx.target.timing.stage("open the other dump"):
        other = _open(ctx, args)
    try:
        domain = args.other_domain
        if domain is None and other.source.info.core_table is None:
            domain = ctx.domain_number  # a core of one domain has no other, and does not say its id
        second = Context(other, domain, ctx.progress)
        mine, theirs = _decoded(ctx, args.view), _decoded(second, args.view, args.other)
        ctx.target.notices.extend(n for n in other.notices if n not in ctx.target.notices)
        sides = [side_of(ctx, mine[0]), side_of(second, theirs[0])]
    finally:
        other.close()
    maps = [mine[1], theirs[1]]
    if args.reverse:
        sides.reverse()
        maps.reverse()
    refuse(*sides)
    return _report(ctx, args, sides, maps)


def _refuse_overwrite(args: argparse.Namespace) -> None:
    """FILE is an input too (cli.refuse_overwrite knows of the dump and the symbol files)."""
    out = getattr(args, "output", "-")
    for given in (args.other, args.other_kernel, args.other_xen):
        if out != "-" and given and os.path.exists(out) and os.path.exists(given) and os.path.samefile(out, given):
            raise UsageError(f"{out} is an input, it is not overwritten", hint="name another output file")


def _open(ctx: Context, args: argparse.Namespace) -> Target:
    """FILE with its own symbol files, else those of the target. Raises NotUnderstood when it is damaged."""
    from gdb_p2m.sources.probe import open_source

    path = os.path.expanduser(args.other)
    other = Target(
        open_source(path, ctx.progress, args.other_raw),
        kernel=args.other_kernel or ctx.target.kernel_path,
        xen=args.other_xen or ctx.target.xen_path,
        progress=ctx.progress,
    )
    if other.warnings and not args.damaged:
        other.close()
        raise NotUnderstood(
            f"{path}: the dump is damaged: {other.warnings[0]}",
            hint="`check` and `identify` report on it; --damaged answers from what is left",
        )
    return other


def _decoded(ctx: Context, name: str | None, path: str = "") -> tuple[View, Mapping]:
    """The view and its map; errors about FILE name it."""
    try:
        view = ctx.views.get(name)
        with ctx.target.timing.stage("decode"):
            return view, view.mapping()
    except P2mError as e:
        if path and path not in e.message:
            e.message = f"{path}: {e.message}"
        raise


def _report(ctx: Context, args: argparse.Namespace, sides: list[Side], maps: list[Mapping]) -> Report:
    limit = max(m.limit for m in maps)
    start, end = (0, limit) if args.range is None else parse_range(args.range)
    if start >= limit:
        raise UsageError(f"{ctx.word} {start:#x} is out of range: the views cover 0..{limit - 1:#x}")
    end = limit if end == -1 else min(end, limit)
    with ctx.target.timing.stage("compare"):
        whole = diff(maps[0], maps[1], start, end)
        frames = frame_totals(maps[0].clip(start, end), maps[1].clip(start, end))
    totals = whole.totals()
    wanted = {c for c in Change if c.word in args.change} if args.change else LISTED
    shown = whole.only(wanted)
    found = [c.word for c in (*DIFFERENT, Change.UNKNOWN) if totals[c][0]]
    notes = doubts(*sides)
    data: dict[str, Any] = {
        "schema": "gdb-p2m/diff/1",
        "view": sides[0].view,
        "sides": [s.json() for s in sides],
        "doubts": notes,
        "equal": not found,
        "totals": {c.word: {"count": n, "runs": r} for c, (n, r) in totals.items()},
        "frames": {"common": frames.common, "left": frames.left, "arrived": frames.arrived},
    }
    report = Report(data, exit_code=1 if found else 0)
    if getattr(args, "format", "text") == "json":
        data["runs"] = [run_json(r) for r in shown]
    else:
        _text(report, ctx.word, sides, notes, totals)
        _runs_text(report, ctx.word, shown, args.fold)
        report.text(
            f"Machine frames: {thousands(frames.common)} in both, {thousands(frames.left)} only before, "
            f"{thousands(frames.arrived)} only after. {_verdict(totals)}"
        )
    return report


def _verdict(totals: dict[Change, tuple[int, int]]) -> str:
    changed = sum(totals[c][0] for c in DIFFERENT)
    unknown = totals[Change.UNKNOWN][0]
    said = f"The maps differ in {thousands(changed)} frame numbers" if changed else "No difference was found"
    return f"{said}; {thousands(unknown)} could not be compared." if unknown else f"{said}."


def run_json(r: ChangeRun) -> dict[str, Any]:
    """One run as in the schema."""
    out: dict[str, Any] = {"start": r.start, "count": r.count, "change": r.change.word}
    for when, kind, frame, order in zip(("before", "after"), r.kinds, r.frames, r.orders, strict=True):
        out[when] = {"kind": kind.word}
        if frame is not None:
            out[when]["frame"] = frame
        if order is not None:
            out[when]["order"] = order
    return out


def _text(
    report: Report, word: str, sides: list[Side], notes: list[str], totals: dict[Change, tuple[int, int]]
) -> None:
    rows = [
        [when, s.path, "?" if s.domain is None else str(s.domain), s.release or "not known", s.boot_id or "not known"]
        for when, s in zip(("before", "after"), sides, strict=True)
    ]
    report.table(["", "dump", "domain", "kernel" if sides[0].kind == "pv" else "Xen", "boot id"], rows)
    if notes:
        report.text("\n".join(f"doubt: {n}" for n in notes))
    counted: list[list[Cell]] = [
        [c.word, n, runs, human_size(n << PAGE_SHIFT), MEANING[c]] for c, (n, runs) in totals.items() if n
    ]
    title = f"View {sides[0].view}"
    report.table(["change", f"{word}s", "runs", "address space", "meaning"], counted, title, "lrrrl")


def _runs_text(report: Report, word: str, shown: MappingDiff, fold: bool) -> None:
    if not len(shown):
        return
    rows: list[list[Cell]]
    if fold:
        rows = [[hexa(s), hexa(s + c - 1), c, change.word, n] for s, c, change, n in shown.folded()]
        report.table([f"first {word}", f"last {word}", "count", "change", "runs"], rows, align="rrrlr")
        return
    rows = [[hexa(r.start), hexa(r.end - 1), r.count, r.change.word, _answer(r, 0), _answer(r, 1)] for r in shown]
    report.table([f"first {word}", f"last {word}", "count", "change", "before", "after"], rows, align="rrrlll")


def _answer(r: ChangeRun, side: int) -> str:
    """ "mfn 0x30100..0x301ff" or "missing"."""
    kind, frame, order = r.kinds[side], r.frames[side], r.orders[side]
    if kind is Kind.INVALID:
        return "-"
    size = "" if order is None else f", order {order}"
    if frame is None:
        return f"{kind.word}{size}"
    last = f"..{frame + r.count - 1:#x}" if r.count > 1 else ""
    return f"{kind.word} {frame:#x}{last}{size}"


VERB = Verb(
    "diff",
    "what changed in a domain's P2M between two dumps",
    "Compares the map of the dump (in GDB: of the open dump or the live machine) with that of FILE, a later moment of "
    "the same domain: after xl save and restore, ballooning, or another stage of boot. Lists frame numbers that moved, "
    "are gone, are new or changed kind, as maximal runs. Exit code 1 when anything differs or could not be compared.",
    "later.core",
    configure,
    run,
)
