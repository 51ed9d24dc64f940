"""Verb `rules`: the catalogue, and one rule explained."""

from __future__ import annotations

import argparse

from gdb_p2m.commands.base import Context, Report, Verb
from gdb_p2m.commands.check import chosen_rules


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("rules", nargs="*", metavar="RULE", help="explain these rules or groups, e.g. LIN-004 or FLL")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """List all, or explain some."""
    rules = chosen_rules(args.rules)
    data = {
        "schema": "gdb-p2m/rules/1",
        "rules": [
            {
                "id": r.id,
                "title": r.title,
                "severity": r.severity,
                "eras": r.eras,
                "source": r.source,
                "text": r.text,
            }
            for r in rules
        ],
    }
    report = Report(data)
    if not args.rules:
        rows = [[r.id, r.severity, r.eras, r.title] for r in rules]
        report.table(["rule", "severity", "eras", "what it says"], rows)
        report.text("`rules ID` explains one, `check ID` runs it.")
        return report
    for r in rules:
        report.text(
            f"{r.id} ({r.severity}): {r.title}\n\n{_wrapped(r.text)}\n\n  eras:   {r.eras}\n  source: {r.source}"
        )
    return report


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="  ")


VERB = Verb(
    "rules",
    "the catalogue of rules; with an id, one explained",
    "Lists id, severity, eras and title of every rule. With ids or groups it explains them: what the rule guards, why "
    "the layout is so, and where that is documented.",
    "LIN-004",
    configure,
    run,
    uses="nothing",
)
