"""Verb `m2p`: Xen's M2P entries."""

from __future__ import annotations

import argparse
from typing import Any

from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa
from gdb_p2m.errors import P2mError
from gdb_p2m.units import parse_number


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("mfns", nargs="+", metavar="MFN", help="machine frames")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """One row per machine frame."""
    table = ctx.m2p
    entries: list[dict[str, Any]] = []
    rows: list[list[Cell]] = []
    for mfn in (parse_number(t) for t in args.mfns):
        try:
            entry = table.entry(mfn)
        except P2mError as e:
            entries.append({"mfn": mfn, "error": e.message})
            rows.append([hexa(mfn), "-", "-", f"unreadable: {e.message}"])
            continue
        entries.append(
            {
                "mfn": mfn,
                "address": entry.address,
                "raw": entry.raw,
                "pfn": entry.pfn,
                "meaning": entry.meaning,
            }
        )
        rows.append([hexa(mfn), hexa(entry.address), hexa(entry.raw), entry.meaning])
    report = Report({"schema": "gdb-p2m/m2p/1", "domain": ctx.guest.id, "base": table.base, "entries": entries})
    report.table(["MFN", "machine address", "raw value", "meaning"], rows)
    report.text(f"M2P at virtual {table.base:#x} ({table.base_source}), {table.entry_bytes} bytes an entry")
    return report


VERB = Verb(
    "m2p",
    "Xen's machine-to-physical entries",
    "Reads machine_to_phys_mapping as the guest sees it. An entry names the PFN that the owner of the frame gave it.",
    "0x30100",
    configure,
    run,
)
