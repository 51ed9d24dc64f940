"""Verb `page-info`: struct page_info of machine frames, and what each frame is in use as."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa
from gdb_p2m.errors import P2mError
from gdb_p2m.layout.xen_riscv import PGC_ALLOCATED, PGC_STATE_FREE, PGC_STATE_MASK, PGC_XEN_HEAP
from gdb_p2m.structures.page_info import PageInfo
from gdb_p2m.units import parse_number
from gdb_p2m.views.frame_uses import FrameUses
from gdb_p2m.views.gstage import GstageView


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("mfns", nargs="+", metavar="MFN", help="machine frames")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """One block per frame."""
    mfns = [parse_number(t) for t in args.mfns]
    report = Report({"schema": "gdb-p2m/page-info/1", "frames": []})
    if not ctx.target.is_riscv:
        from gdb_p2m.commands.page_info_x86 import add_frames

        add_frames(report, ctx, mfns)
        return report
    uses, unseen = _uses(ctx)
    for mfn in mfns:
        report.data["frames"].append(_frame(report, uses, mfn))
    report.data["unseen"] = [{"domain": d, "reason": why} for d, why in unseen]
    for d, why in unseen:
        report.text(f"The P2M of domain {d} cannot be looked into: {why}")
    return report


def _uses(ctx: Context) -> tuple[FrameUses, list[tuple[int, str]]]:
    views: dict[int, GstageView] = {}
    unseen: list[tuple[int, str]] = []
    domains = ctx.target.domain_list.domains
    for d in domains:
        try:
            views[d.id] = GstageView(d, ctx.progress)
        except P2mError as e:
            unseen.append((d.id, e.message))
    return FrameUses(ctx.target.xen, views, domains), unseen


def _frame(report: Report, uses: FrameUses, mfn: int) -> dict[str, Any]:
    out: dict[str, Any] = {"mfn": mfn}
    rows: list[list[Cell]] = []
    tables, metadata = list(uses.tables(mfn)), list(uses.metadata(mfn))
    used_as = [t.text for t in tables] + [m.text for m in metadata]
    try:
        info = uses.frames.read(mfn)
    except P2mError as e:
        out["error"] = e.message
        rows.append(["page_info", e.message])
        used_as = used_as or ["not known"]
    else:
        used_as = used_as or [uses.by_page_info(info)]
        _record(out, rows, info)
    out["used_as"] = used_as
    rows.insert(0, ["used as", "; ".join(used_as)])
    out["tables"] = [asdict(t) for t in tables]
    for t in tables:
        rows += _table_rows(t.text, out["tables"][tables.index(t)])
    mapped = list(uses.mapped_by(mfn))
    out["mapped_by"] = [
        {"domain": m.domain, "gfn": m.run.start, "kind": m.run.kind.word, "order": m.run.order} for m in mapped
    ]
    for m in mapped:
        rows.append(["mapped", f"d{m.domain} GFN {m.run.start:#x}, {m.run.kind.word}, order {m.run.order}"])
    report.table(["", ""], rows, f"Machine frame {mfn:#x}")
    return out


def _record(out: dict[str, Any], rows: list[list[Cell]], info: PageInfo) -> None:
    words = [int.from_bytes(info.raw[i : i + 8], "little") for i in range(0, len(info.raw) & ~7, 8)]
    out |= {
        "address": info.address,
        "virtual": info.virtual,
        "raw": words,
        "count_info": info.count_info,
        "flags": _flags(info),
        "references": info.references,
        "u": info.u,
        "v": info.v,
        "used_entries": info.used_entries,
    }
    rows.append(["page_info", f"machine {info.address:#x}, virtual {info.virtual:#x}"])
    rows.append(["raw", " ".join(f"{w:#x}" for w in words)])
    rows.append(["count_info", f"{info.count_info:#x}: {' | '.join(_flags(info)) or 'no flags'}"])
    rows.append(["u, v", f"{info.u:#x}, {info.v:#x}"])


def _flags(info: PageInfo) -> list[str]:
    names = [("PGC_allocated", PGC_ALLOCATED), ("PGC_xen_heap", PGC_XEN_HEAP)]
    found = [name for name, bit in names if info.count_info & bit]
    if info.count_info & PGC_STATE_MASK:
        state = "free" if info.count_info & PGC_STATE_MASK == PGC_STATE_FREE else "offlining or offlined"
        found.append(f"PGC_state_{state}")
    if info.references:
        found.append(f"{info.references} reference" + ("s" if info.references > 1 else ""))
    return found


def _table_rows(text: str, t: dict[str, Any]) -> list[list[Cell]]:
    rows: list[list[Cell]] = [[text, f"GFNs {t['gfn']:#x}..{t['gfn'] + t['count'] - 1:#x}"]]
    if t["parent"] is not None:
        rows.append(["  found in", f"slot {t['slot']} of table {t['parent']:#x}"])
    shown = t["md_state"] or f"frame {hexa(t['md_mfn'])}"
    rows.append(["  metadata", shown])
    live = "not readable" if t["live"] is None else f"{t['live']} live"
    stored = "" if t["stored"] is None else f", {t['stored']} slots hold a type"
    rows.append(["  external leaves", live + stored])
    return rows


VERB = Verb(
    "page-info",
    "struct page_info of machine frames, who owns each, and what it is in use as",
    "Shows the raw record in Xen's frame table, decoded. On x86: count_info and type_info with their flags, the domain that "
    "owns the frame, its PFN by the M2P and whether that domain's P2M agrees, and every entry of every guest's P2M that leads "
    "to the frame, so that foreign maps and grants show from both sides. On RISC-V: page of a root, table of a level, metadata "
    "page of a table, memory of a domain, free, or Xen's own; for a table its metadata page and how many slots are live; and "
    "every GFN that maps the frame.",
    "0x9fef4",
    configure,
    run,
)
