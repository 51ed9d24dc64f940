"""JUnit XML of `check`: one test case a rule, so that CI systems show the rules as tests."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from gdb_p2m.render.text import printable
from gdb_p2m.rules.base import Result


def to_junit(results: Sequence[Result], path: str) -> str:
    """Errors and warnings fail their case, notes are system-out; a rule that did not look is skipped."""
    failed = [r for r in results if r.status == "failed" and r.rule.severity != "note"]
    skipped = [r for r in results if r.status in ("not_applicable", "could_not_check")]
    suite = ET.Element(
        "testsuite",
        name=f"gdb-p2m check {printable(path)}",
        tests=str(len(results)),
        failures=str(len(failed)),
        skipped=str(len(skipped)),
    )
    for r in results:
        case = ET.SubElement(
            suite, "testcase", classname=r.rule.id.split("-")[0], name=f"{r.rule.id} {r.rule.title}"
        )
        messages = "\n".join(printable(f.message) for f in r.findings)
        if r in skipped:
            ET.SubElement(case, "skipped", message=printable(f"{r.status}: {r.reason}"))
        elif r in failed:
            ET.SubElement(
                case, "failure", message=f"{r.total} findings", type=r.rule.severity
            ).text = messages
        elif messages:
            ET.SubElement(case, "system-out").text = messages
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"
