"""Verb `symbols`: each name we need, where its address comes from, or what its absence costs."""

from __future__ import annotations

import argparse
from typing import Any

from gdb_p2m.commands.base import Cell, Context, Report, Verb
from gdb_p2m.errors import P2mError, UsageError
from gdb_p2m.layout.names import ALL_NAMES, KernelName


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these symbols (any kernel symbol)")
    parser.add_argument("--all", action="store_true", help="every symbol that the sources know (long)")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """The symbol table of the chosen domain's kernel."""
    if args.all and args.names:
        raise UsageError("--all and a list of names exclude each other")
    if ctx.target.is_riscv:
        from gdb_p2m.commands.symbols_riscv import xen_symbols

        return xen_symbols(ctx.target.xen, args)
    guest = ctx.guest
    if args.all:
        return _all(ctx)
    wanted = [KernelName(n, "object", "", "", "not known to any source") for n in args.names] or ALL_NAMES
    rows: list[list[Cell]] = []
    entries: list[dict[str, Any]] = []
    for name in wanted:
        symbol = guest.names.symbol(name.name)
        if symbol is None and name.name in guest.inferred:
            found = guest.inferred[name.name]
            shown = "-" if found.value is None else f"{found.value:#x}"
            rows.append([name.name, "-", shown, f"inferred: {found.evidence}"])
            source = f"inferred: {found.evidence}"
            entries.append({"name": name.name, "address": None, "value": found.value, "source": source})
            continue
        if symbol is None:
            rows.append([name.name, "-", "-", f"absent: {name.absence}"])
            entries.append({"name": name.name, "address": None, "source": None, "absence": name.absence})
            continue
        value = _value(ctx, name)
        rows.append([name.name, f"{symbol.address:#x}", value[0], symbol.source])
        entries.append({"name": name.name, "address": symbol.address, "value": value[1], "source": symbol.source})
    report = Report({"schema": "gdb-p2m/symbols/1", "domain": guest.id, "symbols": entries})
    report.data["sources"] = [
        {"kind": s.kind, "detail": s.detail, "build_id": s.build_id, "release": s.release} for s in guest.names.sources
    ]
    report.data["notes"] = guest.names.notes
    report.table(["name", "address", "value", "source, or what its absence costs"], rows)
    asked = [f"{i}. {s.kind}: {s.detail}" for i, s in enumerate(guest.names.sources, 1)]
    report.text("\n".join(["Sources, in the order in which they are asked:", *asked, *guest.names.notes]))
    return report


def _value(ctx: Context, name: KernelName) -> tuple[str, int | None]:
    """What the variable holds, for pointers and values."""
    if name.form == "object":
        return "-", None
    try:
        value = ctx.guest.variable(name.name)
    except P2mError:
        return "unreadable", None
    return f"{value:#x}", value


def _all(ctx: Context) -> Report:
    rows: list[list[Cell]] = []
    entries = []
    for name in ctx.guest.names.names():
        symbol = ctx.guest.names.symbol(name)
        if symbol is not None:
            rows.append([f"{symbol.address:#x}", name, symbol.source])
            entries.append({"name": name, "address": symbol.address, "source": symbol.source})
    report = Report({"schema": "gdb-p2m/symbols/1", "domain": ctx.guest.id, "symbols": entries})
    report.table(["address", "name", "source"], rows)
    return report


VERB = Verb(
    "symbols",
    "every kernel name we need: address, value, source, or what its absence costs",
    "Lists the symbols that decoding uses, with the source of each (VMCOREINFO note or text, kallsyms in memory, "
    "a file given with --kernel). A name that is absent says which answers are lost with it. On RISC-V the names are "
    "Xen's, and every size, offset and enumerator is listed with its source too.",
    "p2m_identity xen_p2m_addr",
    configure,
    run,
)
