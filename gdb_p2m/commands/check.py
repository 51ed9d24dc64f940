"""Verb `check`: the rules against this memory."""

from __future__ import annotations

import argparse
from typing import Any

from gdb_p2m.commands import all_domains
from gdb_p2m.commands.base import Cell, Context, Report, Verb
from gdb_p2m.errors import UsageError
from gdb_p2m.rules.base import DomainContext, Result, Rule, RuleContext, run_rule
from gdb_p2m.rules.catalogue import BY_ID, CATALOGUE
from gdb_p2m.rules.gst_context import GstContext
from gdb_p2m.rules.pre import PRE_RULES
from gdb_p2m.xen_riscv import RiscvDomain

STATUS_WORDS = {
    "passed": "passed",
    "failed": "FAILED",
    "not_applicable": "not applicable",
    "could_not_check": "COULD NOT CHECK",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("rules", nargs="*", metavar="RULE", help="only these rules or groups, e.g. LIN-004 or FLL")
    parser.add_argument("--remap-chain", metavar="FILE", help="chain saved by `remap --save` during boot, for RMP-006")
    parser.add_argument(
        "--against",
        metavar="WHAT",
        help="compare with what the documented algorithm builds: from the memory map in the dump (e820), or from a "
        "description (a file, docs/model.md)",
    )
    all_domains.add_argument(parser)


def chosen_rules(names: list[str]) -> list[Rule]:
    """Rules by id or group; all for no names. Raises UsageError."""
    if not names:
        return list(CATALOGUE)
    wanted: set[str] = set()
    for name in names:
        upper = name.upper()
        hits = {r.id for r in CATALOGUE if r.id == upper or r.id.startswith(upper + "-")}
        if not hits:
            groups = ", ".join(sorted({r.split("-")[0] for r in BY_ID}))
            raise UsageError(f"no rule or group is called {name!r}", hint=f"groups: {groups}; `rules` lists all")
        wanted |= hits
    return [r for r in CATALOGUE if r.id in wanted]


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """Run rules on the chosen domain or on all, and report findings first."""
    if not all_domains.wanted(ctx, args):
        return _run(ctx, args)
    if args.remap_chain is not None or args.against is not None:
        raise UsageError("--remap-chain and --against are about one domain", hint="choose it with --domain")
    together = all_domains.run_all(ctx, lambda one: _run(one, args))
    counts = [r.data["summary"] for _, r in together.reports]
    total = {key: sum(c[key] for c in counts) for key in counts[0]} if counts else {}
    report = Report(
        {"schema": "gdb-p2m/check/1", "summary": total, **together.json()},
        exit_code=together.exit_code(1 if total.get("errors") else 0),
        extra={"sarif": lambda: all_domains.sarif_of(together), "junit": lambda: all_domains.junit_of(together)},
    )
    report.blocks.extend(together.blocks())
    words = f"{total['errors']} errors, {total['warnings']} warnings, {total['notes']} notes"
    report.text(f"=== {len(counts)} domains checked, {len(together.failed)} could not be read: {words}")
    return report


def _run(ctx: Context, args: argparse.Namespace) -> Report:
    rules = chosen_rules(args.rules)
    if args.against is not None:
        rules = [r for r in CATALOGUE if r in rules or r in PRE_RULES]
    context = _context(ctx, args)
    results: list[Result] = []
    with ctx.target.timing.stage("check"), ctx.progress("checking", len(rules)) as step:
        for rule in rules:
            results.append(run_rule(rule, context))
            step(len(results))
    report = report_of(results, ctx)
    if args.against is not None:
        _add_prediction(report, context, args.against)
    return report


def _context(ctx: Context, args: argparse.Namespace) -> DomainContext:
    """What the rules see of the chosen domain. Raises P2mError for a bad --against."""
    if args.against is None and isinstance(ctx.domain, RiscvDomain):
        return GstContext(ctx.target, ctx.domain, ctx.views)
    predict = None
    if args.against is not None:
        # The model is only needed here, and takes as long to import as all the rest.
        from gdb_p2m.commands.predict import predictor

        predict = predictor(ctx.guest, ctx.views, args.against)
    return RuleContext(ctx.target, ctx.guest, ctx.views, ctx.m2p, args.remap_chain, predict)


def _add_prediction(report: Report, context: DomainContext, against: str) -> None:
    """The section of --against: JSON beside the findings, and a paragraph at the end."""
    from gdb_p2m.commands.predict import prediction_json, prediction_text

    assert isinstance(context, RuleContext)
    report.data["prediction"] = prediction_json(context, against)
    report.text(prediction_text(report.data["prediction"]))


def report_of(results: list[Result], ctx: Context) -> Report:
    """JSON, text, SARIF and JUnit of a set of results."""
    from gdb_p2m.render import junit, sarif

    data: dict[str, Any] = {
        "schema": "gdb-p2m/check/1",
        "domain": ctx.domain.id,
        "summary": _summary(results),
        "rules": [_rule_json(r) for r in results],
        "findings": [_finding_json(r, f) for r in results for f in r.findings],
    }
    path = ctx.target.source.info.path
    report = Report(
        data,
        exit_code=1 if data["summary"]["errors"] else 0,
        extra={
            "sarif": lambda: sarif.to_sarif(results, path),
            "junit": lambda: junit.to_junit(results, path),
        },
    )
    _text(report, results, ctx.domain.kind)
    return report


def _summary(results: list[Result]) -> dict[str, int]:
    """Findings by severity (all, also those not listed), and rules by status."""
    total = {"error": 0, "warning": 0, "note": 0}
    for r in results:
        total[r.rule.severity] += r.total
    status = [r.status for r in results]
    return {
        "errors": total["error"],
        "warnings": total["warning"],
        "notes": total["note"],
        "passed": status.count("passed"),
        "failed": status.count("failed"),
        "not_applicable": status.count("not_applicable"),
        "could_not_check": status.count("could_not_check"),
    }


def _rule_json(r: Result) -> dict[str, Any]:
    out: dict[str, Any] = {"id": r.rule.id, "status": r.status, "checked": r.checked}
    if r.total:
        out["findings"] = r.total
    if r.reason:
        out["reason"] = r.reason
    return out


def _finding_json(r: Result, f: Any) -> dict[str, Any]:
    return {
        "rule": r.rule.id,
        "severity": r.rule.severity,
        "where": {**f.where, "space": f.space},
        "expected": f.expected,
        "found": f.found,
        "message": f.message,
    }


def _text(report: Report, results: list[Result], kind: str) -> None:
    """Findings, then the rules for this kind of domain; the others are only counted, as not applicable."""
    order = {"error": 0, "warning": 1, "note": 2}
    for r in sorted((r for r in results if r.findings), key=lambda r: order[r.rule.severity]):
        lines = [f"{r.rule.severity.upper()} {r.rule.id}: {r.rule.title}"]
        lines += [f"  {f.message}\n    expected: {f.expected}\n    found:    {f.found}" for f in r.findings]
        if len(r.findings) == 20 and r.total > sum(f.where.get("count", 1) for f in r.findings):
            lines.append(f"  ... and more: {r.total:,} in all")
        report.text("\n".join(lines))
    shown = [r for r in results if kind in r.rule.kinds]
    looked: list[list[Cell]] = [
        [r.rule.id, _status_word(r), r.checked, r.rule.title, r.reason] for r in shown if r.status != "not_applicable"
    ]
    if looked:
        report.table(["rule", "status", "looked at", "what it says", "remark"], looked, align="llrll")
    aside = [r for r in shown if r.status == "not_applicable"]
    if aside:
        report.text("Not applicable:\n" + "\n".join(_by_reason(aside)))
    s = report.data["summary"]
    noted = sum(r.status == "failed" and r.rule.severity == "note" for r in results)
    report.text(
        f"{s['errors']} errors, {s['warnings']} warnings, {s['notes']} notes; rules: {s['passed']} passed, {noted} noted, "
        f"{s['failed'] - noted} failed, {s['not_applicable']} not applicable, {s['could_not_check']} could not check"
    )


def _status_word(r: Result) -> str:
    """A note has nothing to fail: it was found, or not."""
    if r.status == "failed" and r.rule.severity == "note":
        return "noted"
    return STATUS_WORDS[r.status]


def _by_reason(results: list[Result]) -> list[str]:
    """Rules that do not apply, a line for each reason."""
    reasons: dict[str, list[str]] = {}
    for r in results:
        reasons.setdefault(r.reason, []).append(r.rule.id)
    return [f"  {', '.join(_ranges(ids))}: {reason}" for reason, ids in reasons.items()]


def _ranges(ids: list[str]) -> list[str]:
    """TRE-001, TRE-002, TRE-003 -> TRE-001..003."""
    out: list[list[str]] = []
    for rule in ids:
        group, number = rule.split("-")
        if out and out[-1][0] == group and int(out[-1][-1]) + 1 == int(number):
            out[-1].append(number)
        else:
            out.append([group, number])
    return [f"{g}-{n[0]}" + (f"..{n[-1]}" if len(n) > 1 else "") for g, *n in out]


VERB = Verb(
    "check",
    "the rules of the documented layout against this memory",
    "Findings first, then every rule: passed, failed, not applicable, or could not check and why. A rule passes only "
    "when it has looked at something. Exit code 1 when there are errors. `rules ID` explains a rule.",
    "LIN FLL-004",
    configure,
    run,
    damaged_ok=True,
    formats=("text", "json", "sarif", "junit"),
)
