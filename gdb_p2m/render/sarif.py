"""SARIF 2.1.0 of `check`, for code-scanning front ends."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from gdb_p2m import __version__
from gdb_p2m.rules.base import Finding, Result

LEVELS = {"error": "error", "warning": "warning", "note": "note"}


def to_sarif(results: Sequence[Result], path: str) -> str:
    """One run with all rules; rules that could not look become notifications."""
    rules = [
        {
            "id": r.rule.id,
            "shortDescription": {"text": r.rule.title},
            "fullDescription": {"text": r.rule.text},
            "help": {"text": f"{r.rule.text} Source: {r.rule.source}"},
            "defaultConfiguration": {"level": LEVELS[r.rule.severity]},
        }
        for r in results
    ]
    found = [_result(i, r, f, path) for i, r in enumerate(results) for f in r.findings]
    unlooked = [
        {"level": "warning", "message": {"text": f"{r.rule.id} could not check: {r.reason}"}}
        for r in results
        if r.status == "could_not_check"
    ]
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "gdb-p2m", "version": __version__, "rules": rules}},
                "results": found,
                "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": unlooked}],
            }
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def _result(index: int, r: Result, f: Finding, path: str) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": quote(os.fsencode(path))}}
    if "address" in f.where and f.space == "machine":
        physical["address"] = {"absoluteAddress": f.where["address"], "kind": "data"}
    return {
        "ruleId": r.rule.id,
        "ruleIndex": index,
        "level": LEVELS[r.rule.severity],
        "message": {"text": f.message},
        "locations": [{"physicalLocation": physical}],
        "properties": {"where": {**f.where, "space": f.space}, "expected": f.expected, "found": f.found},
    }
