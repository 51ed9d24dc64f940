"""Verb `walk`: every step of every view for one frame, side by side, also when a walk fails."""

from __future__ import annotations

import argparse
from typing import Any

from gdb_p2m.commands.answers import answer_json, frame_text, read_at_text
from gdb_p2m.commands.base import Context, Report, Verb, hexa
from gdb_p2m.errors import P2mError, UsageError
from gdb_p2m.structures.m2p import meaning
from gdb_p2m.units import parse_number
from gdb_p2m.views.base import Trace, View


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("number", metavar="N", help="the PFN (RISC-V: GFN)")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """All views, or the one of --view; then M2P for the frames found."""
    number = parse_number(args.number)
    wanted = [(args.view, ctx.views.get(args.view))] if args.view else ctx.views.available()
    own = wanted[0][1] if args.view else ctx.views.own()
    if isinstance(own, View) and number >= own.limit:
        raise UsageError(f"{ctx.word} {number:#x} is out of range: view {own.name} covers 0..{own.limit - 1:#x}")
    key = ctx.word.lower()
    data: dict[str, Any] = {"schema": "gdb-p2m/walk/1", "domain": ctx.domain.id, key: number, "views": []}
    report = Report(data)
    summary: list[list[str]] = []
    for name, view in wanted:
        if isinstance(view, P2mError):
            if isinstance(own, View) and _other_era(name, own):
                continue
            data["views"].append({"view": name, "error": view.message})
            summary.append([name, "not there", "-", view.message])
        elif number >= view.limit:
            data["views"].append({"view": name, "error": f"covers 0..{view.limit - 1:#x} only"})
            summary.append([name, "out of range", "-", f"covers 0..{view.limit - 1:#x} only"])
        else:
            trace = view.trace(number)
            _show(report, trace)
            summary.append([name, trace.kind.word, frame_text(trace), read_at_text(trace)])
            if trace.frame is not None and view is own and key == "pfn":
                _m2p(ctx, report, summary, number, trace.frame)
    title = f"{ctx.word} {number:#x}, side by side"
    report.table(["view", "kind", "MFN", "decided at (machine address)"], summary, title)
    return report


def _other_era(name: str, own: View) -> bool:
    """The view of the other era, or of another dump format, is no news: a linear guest has no tree."""
    return name == "core-table" or {name, own.name} == {"linear", "tree"}


def _show(report: Report, trace: Trace) -> None:
    steps = [
        {"where": s.where, "index": s.index, "address": s.address, "raw": s.raw, "meaning": s.meaning}
        for s in trace.steps
    ]
    report.data["views"].append({"view": trace.view, "steps": steps, "answer": answer_json(trace)})
    rows = [
        [s.where, "-" if s.index is None else str(s.index), hexa(s.address), hexa(s.raw), s.meaning]
        for s in trace.steps
    ]
    report.table(["level", "index", "machine address", "raw value", "meaning"], rows, f"View {trace.view}")


def _m2p(ctx: Context, report: Report, summary: list[list[str]], number: int, mfn: int) -> None:
    """What Xen's table says of the frame that the guest's view gave."""
    try:
        entry = ctx.m2p.entry(mfn)
    except P2mError as e:
        report.data["m2p"] = {"mfn": mfn, "error": e.message}
        summary.append(["m2p", "no entry", "-", e.message])
        return
    agrees = entry.pfn == number
    report.data["m2p"] = {"mfn": mfn, "address": entry.address, "raw": entry.raw, "agrees": agrees}
    says = "agrees" if agrees else f"differs: {meaning(entry.raw)}"
    report.table(
        ["level", "index", "machine address", "raw value", "meaning"],
        [["M2P", f"{mfn:#x}", hexa(entry.address), hexa(entry.raw), entry.meaning]],
        "Xen's M2P of that frame",
    )
    summary.append(["m2p", says, f"{mfn:#x}", f"M2P[{mfn:#x}] at {entry.address:#x}"])


VERB = Verb(
    "walk",
    "every step for one frame, through every view, with addresses and raw values",
    "Follows one PFN through the guest's own page table, the frame list list and M2P. Each step shows the machine "
    "address of the entry, its raw value and its meaning; a walk that fails shows all steps up to the failing one.",
    "0xfee00",
    configure,
    run,
)
