"""--all-domains: a verb on every domain of the machine, one after the other, so that memory stays that of one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gdb_p2m.commands.base import Block, Context, Report
from gdb_p2m.domain import Domain
from gdb_p2m.errors import P2mError, UsageError
from gdb_p2m.guest import LinuxGuest, require_p2m
from gdb_p2m.target import Target

NO_KERNEL = "no kernel of a PV guest was found in it"
NOT_PV = "an HVM or PVH domain: it has no P2M of its own"
HELP = "every domain of the machine, one after the other"


def add_argument(parser: argparse.ArgumentParser) -> None:
    """--all-domains, for verbs that can."""
    parser.add_argument("--all-domains", action="store_true", help=HELP)


def wanted(ctx: Context, args: argparse.Namespace) -> bool:
    """Whether it was given. Raises UsageError together with --domain."""
    if not getattr(args, "all_domains", False):
        return False
    if ctx.domain_number is not None:
        raise UsageError("--all-domains and --domain exclude each other")
    return True


@dataclass
class Together:
    """The reports of all domains. failed: (domain id, why it could not be read).

    broken: how many of `failed` are PV guests that should have been read, and so make the answer partial.
    """

    reports: list[tuple[int | None, Report]] = field(default_factory=list)
    failed: list[tuple[int | None, str]] = field(default_factory=list)
    broken: int = 0

    def exit_code(self, found: int) -> int:
        """What was found, or 3 where a domain could not be read: CSV, SARIF and JUnit do not show that."""
        return found or (3 if self.broken else 0)

    def blocks(self) -> Iterator[Block]:
        """Everything for people, with a heading before each domain."""
        from gdb_p2m.commands.base import Text

        for number, report in self.reports:
            yield Text(f"=== {title(number)}")
            yield from report.blocks
        for number, why in self.failed:
            yield Text(f"=== {title(number)}\ncannot be read: {why}")

    def json(self) -> dict[str, Any]:
        """`domains` with the document of each, and `failed`."""
        documents = [{k: v for k, v in r.data.items() if k != "schema"} for _, r in self.reports]
        return {"domains": documents, "failed": [{"domain": n, "reason": why} for n, why in self.failed]}


def title(number: int | None) -> str:
    """Domain 1, for people."""
    return "domain ?" if number is None else f"domain {number}"


def run_all(ctx: Context, run: Callable[[Context], Report]) -> Together:
    """`run` on every domain, with the time of each. Raises when there is none that can be read."""
    together = Together()
    domains = ctx.target.domains
    with ctx.progress("domains", len(domains)) as step:
        for done, domain in enumerate(domains):
            with ctx.target.timing.stage(title(domain.id)):
                try:
                    if isinstance(domain, LinuxGuest):
                        require_p2m(domain)
                    together.reports.append((domain.id, run(context_of(ctx, domain))))
                except UsageError:
                    raise
                except P2mError as e:
                    together.failed.append((domain.id, e.message))
                    together.broken += 1
                    ctx.target.notices.append(f"{title(domain.id)} cannot be read: {e.message}")
            step(done + 1)
    if not together.reports and together.failed:
        raise P2mError(f"no domain can be read: {together.failed[0][1]}", hint="`domains` shows what was found and how")
    for number, why, pv in _not_guests(ctx.target):
        together.failed.append((number, why))
        if pv:
            together.broken += 1
            ctx.target.notices.append(f"{title(number)} cannot be read: {why}")
    return together


def context_of(ctx: Context, domain: Domain) -> Context:
    """A context with this domain chosen, also one without an id."""
    one = Context(ctx.target, domain.id, ctx.progress)
    one.__dict__["domain"] = domain
    return one


def _not_guests(target: Target) -> list[tuple[int | None, str, bool]]:
    """Domains that Xen knows, but whose P2M nothing here can read: id, why, and whether it is a PV guest."""
    if target.is_riscv:
        return []
    try:
        known = target.hypervisor.domains.guests
    except P2mError:
        return []
    seen = {g.id for g in target.all_guests}
    return [
        (d.id, NO_KERNEL if d.kind == "pv" else NOT_PV, d.kind == "pv")
        for d in known
        if d.id not in seen
    ]


def sarif_of(together: Together) -> str:
    """One SARIF document with a run for each domain."""
    import json

    documents = [(number, json.loads(report.extra["sarif"]())) for number, report in together.reports]
    whole = documents[0][1]
    whole["runs"] = [{**d["runs"][0], "automationDetails": {"id": f"{title(number)}/"}} for number, d in documents]
    return json.dumps(whole, indent=2) + "\n"


def junit_of(together: Together) -> str:
    """One JUnit document with a suite for each domain."""
    import xml.etree.ElementTree as ET

    suites = ET.Element("testsuites")
    for number, report in together.reports:
        suite = ET.fromstring(report.extra["junit"]())
        suite.set("name", f"{suite.get('name')}, {title(number)}")
        suites.append(suite)
    ET.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def csv_of(together: Together) -> str:
    """The domains' CSV below each other, with the domain's id as the first column."""
    lines: list[str] = []
    for number, report in together.reports:
        head, *rows = report.extra["csv"]().splitlines()
        lines += [f"domain,{head}"] if not lines else []
        lines += [f"{'' if number is None else number},{row}" for row in rows]
    return "\n".join(lines) + "\n"
