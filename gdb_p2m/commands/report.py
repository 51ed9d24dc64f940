"""Verb `report`: one HTML page with pictures, runs and findings."""

from __future__ import annotations

import argparse

from gdb_p2m.commands.base import Context, Report, Verb
from gdb_p2m.commands.output_files import output_file, refuse_to_overwrite


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("-o", "--output", metavar="PAGE", required=True, help="file to write; - is standard output")
    parser.add_argument("--force", action="store_true", help="overwrite PAGE when it is there")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """Make the page and write it."""
    from gdb_p2m.report.page import build_page

    out = args.output
    if out != "-":
        refuse_to_overwrite(ctx, out, args.force)
    with ctx.target.timing.stage("report"):
        page = build_page(ctx, args.view)
    data = page.html.encode()
    report = Report(
        {
            "schema": "gdb-p2m/report/1",
            "output": out,
            "title": page.title,
            "bytes": len(data),
            "runs": page.runs,
            "findings": page.findings,
            "lacking": page.sections,
        },
        made_output=True,
    )
    if out == "-":
        report.extra["text"] = lambda: page.html
        return report
    with output_file(out) as file:
        file.write(data)
    lacking = "".join(f"\n{name}: not shown: {why}" for name, why in page.sections.items())
    found = f"{page.findings} finding" + ("" if page.findings == 1 else "s")
    report.text(f"{out}: a page about {page.title}: {page.runs:,} runs, {found}{lacking}")
    return report


VERB = Verb(
    "report",
    "one self-contained HTML page: identity, pictures, runs, findings",
    "Writes a page that opens from disk and needs no network: who this machine is, its PFN space as a strip to zoom into, "
    "down to single frames, the structure as a drawing, who owns which machine frame, the runs as a table to "
    "search, and the findings with their explanations, linked to their places.",
    "-o page.html",
    configure,
    run,
    damaged_ok=True,
    writes_output=True,
)
