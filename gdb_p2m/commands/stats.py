"""Verb `stats`: PFNs per kind, how they are stored, what sharing saves."""

from __future__ import annotations

import argparse

from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa, no_arguments
from gdb_p2m.units import PAGE_SHIFT, human_size


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """Statistics of the chosen view."""
    view = ctx.views.get(args.view)
    mapping = view.mapping()
    totals = mapping.totals()
    storage = view.storage()
    data = {
        "schema": "gdb-p2m/stats/1",
        "view": view.name,
        "domain": ctx.domain.id,
        "limit": view.limit,
        "runs": len(mapping),
        "kinds": {k.word: n for k, n in totals.items()},
        "storage": [{"what": s.what, "count": s.count, "unit": s.unit, "pfns": s.pfns} for s in storage.lines],
        "shared": [{"name": n, "frame": f, "slots": c} for n, f, c in storage.shared],
        "bytes_used": storage.bytes_used,
        "bytes_saved": storage.bytes_saved,
        "notes": list(storage.notes),
    }
    report = Report(data)
    rows: list[list[Cell]] = [[k.word, n, human_size(n << PAGE_SHIFT)] for k, n in totals.items()]
    rows.append(["all", view.limit, human_size(view.limit << PAGE_SHIFT)])
    report.table(["kind", f"{ctx.word}s", "address space"], rows, f"View {view.name}, {len(mapping):,} runs", "lrr")
    stored: list[list[Cell]] = [[s.what, s.count, s.unit, s.pfns] for s in storage.lines]
    report.table(["how it is stored", "count", "unit", f"{ctx.word}s"], stored, "Storage", "lrlr")
    if storage.shared:
        shared: list[list[Cell]] = [[n, hexa(f), c] for n, f, c in storage.shared]
        report.table(["shared page", "machine frame", "slots that lead to it"], shared, "Sharing", "lrr")
    without = "superpages" if ctx.word == "GFN" else "shared pages"
    report.text(
        f"This view takes {human_size(storage.bytes_used)}; without {without} it would take "
        f"{human_size(storage.bytes_used + storage.bytes_saved)} ({human_size(storage.bytes_saved)} saved)."
    )
    if storage.notes:
        report.text("\n".join(storage.notes))
    return report


VERB = Verb(
    "stats",
    "PFNs per kind, sharing of pages, memory used and saved",
    "Counts the kinds of the chosen view, how many slots share each shared page, the memory that the P2M takes and "
    "what the sharing saves.",
    "",
    no_arguments,
    run,
)
