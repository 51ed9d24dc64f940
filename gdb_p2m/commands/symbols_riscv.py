"""`symbols` for Xen on RISC-V: names and type facts, each with its source."""

from __future__ import annotations

import argparse
from typing import Any

from gdb_p2m.commands.base import Cell, Report
from gdb_p2m.errors import P2mError
from gdb_p2m.layout.xen_riscv import SYMBOLS, TYPES, XenName
from gdb_p2m.xen_riscv import XenRiscv


def xen_symbols(xen: XenRiscv, args: argparse.Namespace) -> Report:
    """Xen's symbol table, and (without names given) every size, offset and enumerator that decoding uses."""
    report = Report({"schema": "gdb-p2m/symbols/1", "domain": None, "symbols": []})
    if args.all:
        return _all(xen, report)
    wanted = [XenName(n, "object", 0, "", "not known to any source") for n in args.names] or list(SYMBOLS)
    _names(xen, report, wanted)
    if not args.names:
        _types(xen, report)
    sources = xen.names.sources
    report.data["sources"] = [
        {"kind": s.kind, "detail": s.detail, "build_id": s.build_id, "release": s.release} for s in sources
    ]
    notes = [
        f"metadata slots are {xen.facts.metadata.name}: {xen.facts.metadata_evidence}",
        f"the mode is stored as {xen.facts.mode_form}: {xen.facts.mode_evidence}",
        *xen.names.notes,
        *xen.notes,
    ]
    report.data["notes"] = notes
    asked = [f"{i}. {s.kind}: {s.detail}" for i, s in enumerate(sources, 1)]
    report.text("\n".join(["Sources, in the order in which they are asked:", *asked, *notes]))
    return report


def _names(xen: XenRiscv, report: Report, wanted: list[XenName]) -> None:
    rows: list[list[Cell]] = []
    for name in wanted:
        symbol = xen.names.symbol(name.name)
        if symbol is None:
            rows.append([name.name, "-", "-", f"absent: {name.absence}"])
            report.data["symbols"].append({"name": name.name, "address": None, "source": None, "absence": name.absence})
            continue
        value: int | None = None
        shown = "-"
        if name.form == "value":
            try:
                value = xen.variable(name.name)
                shown = f"{value:#x}"
            except P2mError:
                shown = "unreadable"
        rows.append([name.name, f"{symbol.address:#x}", shown, symbol.source])
        report.data["symbols"].append(
            {"name": name.name, "address": symbol.address, "value": value, "source": symbol.source}
        )
    report.table(["name", "address", "value", "source, or what its absence costs"], rows)


def _types(xen: XenRiscv, report: Report) -> None:
    rows: list[list[Cell]] = []
    facts: list[dict[str, Any]] = []
    for fact, known in zip(xen.facts.all(), TYPES, strict=True):
        source = fact.source if fact.value is not None else f"{fact.source}: {known.absence}"
        rows.append([f"{fact.kind}({fact.name})", "-" if fact.value is None else str(fact.value), source])
        facts.append({"kind": fact.kind, "name": fact.name, "value": fact.value, "source": source})
    report.data["types"] = facts
    report.table(["type fact", "value", "source"], rows, align="lrl")


def _all(xen: XenRiscv, report: Report) -> Report:
    rows: list[list[Cell]] = []
    for name in xen.names.names():
        symbol = xen.names.symbol(name)
        if symbol is not None:
            rows.append([f"{symbol.address:#x}", name, symbol.source])
            report.data["symbols"].append({"name": name, "address": symbol.address, "source": symbol.source})
    report.table(["address", "name", "source"], rows)
    return report
