"""Verb `lookup`: PFN -> kind, MFN and the exact place of the answer; `--mfn` for the reverse."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gdb_p2m.commands.answers import answer_json, frame_text, pfns_below_limit, read_at_text
from gdb_p2m.commands.base import Cell, Context, Report, Verb
from gdb_p2m.errors import P2mError
from gdb_p2m.units import parse_number
from gdb_p2m.views.base import View
from gdb_p2m.xen_riscv import RiscvDomain

if TYPE_CHECKING:
    from gdb_p2m.views.machine_frames import MachineFrames


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("numbers", nargs="+", metavar="N", help="PFNs (or, with --mfn, machine frames)")
    parser.add_argument("--mfn", action="store_true", help="the reverse: which PFNs map to these machine frames")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """One answer per number."""
    return _reverse(ctx, args) if args.mfn else _forward(ctx, args)


def _forward(ctx: Context, args: argparse.Namespace) -> Report:
    view = ctx.views.get(args.view)
    traces = [view.trace(n) for n in pfns_below_limit(args.numbers, view, ctx.word)]
    data = {
        "schema": "gdb-p2m/lookup/1",
        "view": view.name,
        "domain": ctx.domain.id,
        "answers": [answer_json(t) for t in traces],
    }
    report = Report(data)
    rows = [[f"{t.number:#x}", t.kind.word, frame_text(t), read_at_text(t)] for t in traces]
    report.table([ctx.word, "kind", "MFN", "read at (machine address)"], rows)
    return report


def _reverse(ctx: Context, args: argparse.Namespace) -> Report:
    """P2M searched for the frame, and what Xen's M2P says of it (RISC-V has no M2P)."""
    view = ctx.views.get(args.view)
    if isinstance(ctx.domain, RiscvDomain):
        return _reverse_riscv(ctx, args, view)
    from gdb_p2m.views.machine_frames import MachineFrames

    mapping = view.mapping()
    frames = MachineFrames(ctx.target, ctx.views, ctx.progress)
    answers: list[dict[str, Any]] = []
    rows: list[list[Cell]] = []
    unknown: set[str] = set()
    for mfn in (parse_number(t) for t in args.numbers):
        found = [r for r in mapping.reverse(mfn)]
        try:
            m2p = ctx.m2p.entry(mfn).meaning
        except P2mError as e:
            m2p = f"no entry: {e.message}"
        hits = [{"pfn": r.start, "kind": r.kind.word} for r in found]
        owner, text = _owner(frames, mfn, unknown)
        answers.append({"mfn": mfn, "pfns": hits, "m2p": m2p, "owner": owner})
        rows.extend([f"{mfn:#x}", f"{r.start:#x}", r.kind.word, m2p, text] for r in found)
        if not found:
            rows.append([f"{mfn:#x}", "-", "in no entry of this P2M", m2p, text])
    report = Report({"schema": "gdb-p2m/lookup/1", "view": view.name, "domain": ctx.guest.id, "answers": answers})
    report.table(["MFN", "PFN", "kind", "M2P says", "owner"], rows)
    for reason in sorted(unknown):
        report.text(f"Owner not known: {reason}")
    return report


def _owner(frames: MachineFrames, mfn: int, unknown: set[str]) -> tuple[dict[str, Any], str]:
    """Who owns a frame of the machine, by Xen's frame table; the reasons why that is not known go to `unknown`."""
    try:
        owner = frames.owner(mfn)
    except P2mError as e:
        unknown.add(e.message)
        return {"domain": None, "name": "not known", "reason": e.message}, "not known"
    data: dict[str, Any] = {"domain": owner.domain, "name": owner.name, "pfn": owner.pfn, "confirmed": owner.confirmed}
    if owner.reason:
        data["reason"] = owner.reason
    return data, owner.text


def _reverse_riscv(ctx: Context, args: argparse.Namespace, view: View) -> Report:
    """The G-stage searched for the frame; every GFN that maps it, with the order of its leaf."""
    mapping = view.mapping()
    answers: list[dict[str, Any]] = []
    rows: list[list[Cell]] = []
    for mfn in (parse_number(t) for t in args.numbers):
        found = mapping.reverse(mfn)
        hits = [{"gfn": r.start, "kind": r.kind.word, "order": r.order} for r in found]
        answers.append({"mfn": mfn, "gfns": hits})
        rows.extend([f"{mfn:#x}", f"{r.start:#x}", r.kind.word, r.order] for r in found)
        if not found:
            rows.append([f"{mfn:#x}", "-", "in no entry of this P2M", "-"])
    report = Report(
        {"schema": "gdb-p2m/lookup/1", "view": view.name, "domain": ctx.domain.id, "answers": answers}
    )
    report.table(["MFN", "GFN", "kind", "order"], rows)
    return report


VERB = Verb(
    "lookup",
    "frame number -> kind, machine frame, and where the answer was read",
    "Answers from the chosen view: mfn, foreign, identity, missing, or unreadable/corrupt with the reason; for a "
    "RISC-V domain N is a GFN and the answer is ram_rw, mmio_direct_io, map_foreign_rw, map_foreign_ro or invalid. "
    "With --mfn it searches the P2M for machine frames and shows Xen's M2P entry beside (x86), and the domain that owns the "
    "frame, whichever it is, with its PFN there.",
    "0x100 0xfee00",
    configure,
    run,
)
