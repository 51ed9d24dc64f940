"""Verb `compare`: four views of one domain, one table: where they agree, and every run where they do not."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from gdb_p2m.commands import all_domains
from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa
from gdb_p2m.errors import NotFound, NotUnderstood, P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.structures.hypervisor import Hypervisor
from gdb_p2m.units import thousands
from gdb_p2m.views.comparison import (
    Compared,
    Comparison,
    Disagreement,
    compare_m2p,
    compare_map,
    compare_owned,
    compare_owner,
)
from gdb_p2m.views.machine_frames import MachineFrames

MAX_SHOWN = 200
"""Disagreements in the text; JSON has more."""
MAX_FOREIGN = 4096
"""Foreign frames that are looked up one by one."""
TITLES = {
    "list-list": "frame list list",
    "core-table": ".xen_p2m",
    "m2p": "M2P of the guest's frames",
    "owner": "owner of the guest's frames",
    "owned frames": "frames that Xen says are its",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    all_domains.add_argument(parser)


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """One domain, or all."""
    if not all_domains.wanted(ctx, args):
        return _run(ctx)
    together = all_domains.run_all(ctx, _run)
    code = together.exit_code(max((r.exit_code for _, r in together.reports), default=0))
    report = Report({"schema": "gdb-p2m/compare/1", **together.json()}, exit_code=code)
    report.blocks.extend(together.blocks())
    return report


def _run(ctx: Context) -> Report:
    guest = ctx.guest
    own_view = ctx.views.own()
    with ctx.target.timing.stage("decode"):
        result = Comparison(own_view.mapping())
    with ctx.target.timing.stage("compare"):
        _maps(ctx, result)
        _frames(ctx, result)
    if all(c.reason for c in result.views):
        why = "; ".join(f"{TITLES[c.view]}: {c.reason}" for c in result.views)
        raise NotFound(f"there is nothing to compare the guest's P2M with: {why}", hint="a dump of the whole machine has it")
    foreign, others, unseen = _foreign(ctx, result.own)
    data: dict[str, Any] = {
        "schema": "gdb-p2m/compare/1",
        "domain": guest.id,
        "view": own_view.name,
        "pfns": own_view.limit,
        "agree_in_all": result.agreeing,
        "disagree": result.disagreeing,
        "views": [_compared_json(c) for c in result.views],
        "disagreements": [_disagreement_json(d) for d in result.found],
        "disagreeing_runs": result.runs,
        "foreign": foreign,
        "mapped_by_others": others,
        "unseen": unseen,
    }
    report = Report(data, exit_code=1 if result.runs else 0)
    _text(report, result)
    _foreign_text(report, foreign, others)
    for one in unseen:
        who = "other domains map" if one["domain"] is None else f"domain {one['domain']} maps"
        report.text(f"What {who} is not all known: {one['reason']}")
    return report


def _maps(ctx: Context, result: Comparison) -> None:
    for name in ("list-list", "core-table"):
        if name == "core-table" and ctx.target.source.info.core_table is None:
            continue  # a format of its own, not a view that this dump lacks
        try:
            other = ctx.views.get(name).mapping()
        except P2mError as e:
            result.views.append(Compared(name, "PFNs", reason=e.message))
        else:
            compare_map(result, other, ctx.views.own(), ctx.guest.width.per_page)


def _frames(ctx: Context, result: Comparison) -> None:
    """The M2P, and the frame table from both sides; each says why when it cannot be asked."""
    if ctx.m2p.pieces():
        compare_m2p(result, ctx.m2p)
    else:
        result.views.append(Compared("m2p", "PFNs", reason="none of the M2P can be read"))
    try:
        xen = ctx.target.hypervisor_through(ctx.guest)
        owner = _owner_frame(xen, ctx.guest)
    except P2mError as e:
        result.views += [Compared("owner", "PFNs", reason=e.message), Compared("owned frames", "frames", reason=e.message)]
        return
    compare_owner(result, xen.frames, owner, _names(xen))
    compare_owned(result, xen.frames, owner, ctx.m2p)


def _owner_frame(xen: Hypervisor, guest: LinuxGuest) -> int:
    """The struct domain that owns the guest's page table. Raises NotUnderstood."""
    owner = xen.frames.read(guest.root.mfn).owner
    if owner <= 0:
        raise NotUnderstood(f"the frame table names no owner of the guest's page table at frame {guest.root.mfn:#x}")
    return owner


def _names(xen: Hypervisor) -> dict[int, str]:
    """Owners by the frame of their struct domain; empty where Xen's domains cannot be read."""
    try:
        return {d.frame: d.name for d in (*xen.domains.guests, *xen.domains.system)}
    except P2mError:
        return {}


# -- grants and foreign maps ----------------------------------------------------------------------------------


def _foreign(ctx: Context, own: Mapping) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """(this domain's foreign entries with the owner of each frame, other domains' foreign entries of its frames).

    The third: domains whose entries could not be seen, or not all of them, and why.
    """
    frames = MachineFrames(ctx.target, ctx.views, ctx.progress)
    mine = [_foreign_json(frames, pfn, mfn) for pfn, mfn in _foreign_entries(own)]
    if ctx.target.source.info.core_table is not None:
        return mine, [], [{"domain": None, "reason": "a core of one domain holds no other"}]
    theirs: list[dict[str, Any]] = []
    unseen: list[dict[str, Any]] = []
    if len(mine) == MAX_FOREIGN:
        unseen.append({"domain": ctx.guest.id, "reason": f"only the first {MAX_FOREIGN:,} foreign entries are looked up"})
    for guest in ctx.target.all_guests:
        if guest is ctx.guest:
            continue
        try:
            entries = _foreign_entries(frames.mapping(guest))
        except P2mError as e:
            unseen.append({"domain": guest.id, "reason": e.message})
            continue
        if len(entries) == MAX_FOREIGN:
            unseen.append({"domain": guest.id, "reason": f"only its first {MAX_FOREIGN:,} foreign entries were looked at"})
        for (pfn, mfn), place in zip(entries, _own_pfns(own, [mfn for _, mfn in entries]), strict=True):
            if place >= 0:
                theirs.append({"domain": guest.id, "pfn": pfn, "frame": mfn, "own_pfn": place})
    return mine, theirs, unseen


def _own_pfns(own: Mapping, mfns: list[int]) -> list[int]:
    """A PFN of each frame that is the domain's own, -1 for the others."""
    runs = np.flatnonzero(own.kind == Kind.MFN)
    runs = runs[np.argsort(own.frame[runs], kind="stable")]
    if not len(runs):
        return [-1] * len(mfns)
    wanted = np.array(mfns, dtype=np.int64)
    i = runs[np.maximum(np.searchsorted(own.frame[runs], wanted, side="right") - 1, 0)]
    skip = wanted - own.frame[i]
    found: list[int] = np.where((skip >= 0) & (skip < own.count[i]), own.start[i] + skip, -1).tolist()
    return found


def _foreign_entries(mapping: Mapping) -> list[tuple[int, int]]:
    """(PFN, MFN) of foreign entries, the first MAX_FOREIGN of them."""
    found: list[tuple[int, int]] = []
    for run in mapping.only({Kind.FOREIGN}):
        assert run.frame is not None
        room = min(run.count, MAX_FOREIGN - len(found))
        found += [(run.start + i, run.frame + i) for i in range(room)]
        if len(found) >= MAX_FOREIGN:
            break
    return found


def _foreign_json(frames: MachineFrames, pfn: int, mfn: int) -> dict[str, Any]:
    out: dict[str, Any] = {"pfn": pfn, "frame": mfn}
    try:
        owner = frames.owner(mfn)
    except P2mError as e:
        return out | {"owner": None, "owner_pfn": None, "text": f"owner not known: {e.message}"}
    return out | {"owner": owner.domain, "owner_pfn": owner.pfn, "text": owner.text}


# -- rendering ------------------------------------------------------------------------------------------------


def _compared_json(c: Compared) -> dict[str, Any]:
    out: dict[str, Any] = {"view": c.view, "unit": c.unit}
    if c.reason:
        return out | {"compared": False, "reason": c.reason}
    return out | {"compared": True, "agree": c.agree, "disagree": c.disagree, "unknown": c.unknown}


def _disagreement_json(d: Disagreement) -> dict[str, Any]:
    return {"start": d.start, "count": d.count, "view": d.view, "rule": d.rule, "says": d.says}


def _text(report: Report, result: Comparison) -> None:
    rows: list[list[Cell]] = []
    for c in result.views:
        if c.reason:
            rows.append([TITLES[c.view], "-", "-", "-", c.unit, f"not compared: {c.reason}"])
        else:
            rows.append([TITLES[c.view], c.agree, c.disagree, c.unknown, c.unit, ""])
    headers = ["view", "agree", "disagree", "not known", "of", "remark"]
    report.table(headers, rows, f"Against the guest's own view, {result.own.view}", align="lrrrll")
    asked = sum(not c.reason for c in result.views)
    report.text(
        f"{thousands(result.agreeing)} of {thousands(result.own.limit)} PFNs agree in all {asked + 1} views that could be read; "
        f"{thousands(result.disagreeing)} PFNs disagree, in {thousands(result.runs)} runs"
    )
    shown = result.found[:MAX_SHOWN]
    if shown:
        lines: list[list[Cell]] = [
            [hexa(d.start), hexa(d.start + d.count - 1), d.count, *_says(d, result.own.view), d.rule or "-"] for d in shown
        ]
        names = ["first PFN", "last PFN", "count", f"{result.own.view} says", "the other says", "rule"]
        report.table(names, lines, "Disagreements", align="rrrlll")
    if result.runs > len(shown):
        report.text(f"... and {thousands(result.runs - len(shown))} runs more")


def _says(d: Disagreement, own: str) -> tuple[str, str]:
    return d.says[own], f"{TITLES[d.view]}: {d.says[d.view]}"


def _foreign_text(report: Report, foreign: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    if foreign:
        rows: list[list[Cell]] = [[hexa(f["pfn"]), hexa(f["frame"]), f["text"]] for f in foreign[:MAX_SHOWN]]
        report.table(["PFN", "MFN", "whose frame it is"], rows, "Foreign entries: grants and foreign maps", align="rrl")
    if others:
        rows = [
            [hexa(o["own_pfn"]), hexa(o["frame"]), f"d{'?' if o['domain'] is None else o['domain']} PFN {o['pfn']:#x}"]
            for o in others[:MAX_SHOWN]
        ]
        report.table(["PFN", "MFN", "mapped by"], rows, "Frames of this domain that others map", align="rrl")


VERB = Verb(
    "compare",
    "the guest's P2M, the frame list list, the M2P and the frame table's owners, side by side",
    "Every view of one domain against the guest's own list or tree: the frame list list, `.xen_p2m` of an xl core, the M2P and "
    "Xen's frame table, that from both sides: who owns the frames that the guest calls its own, and where the frames are that "
    "Xen says it owns. Says how many PFNs agree in all, and each disagreement as a run with what both say and the rule that it "
    "breaks. Identity that is stored by page reads as INVALID in the frame list list by design: that is no disagreement. "
    "Foreign entries are shown with the owner of the frame, and the domain's frames that others map. Exit code 1 when there is "
    "a disagreement.",
    "",
    configure,
    run,
)
