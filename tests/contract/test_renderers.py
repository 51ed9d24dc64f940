"""Every format of every verb is what it says: readable by the parsers of others, with the same content."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from urllib.parse import unquote

import pytest
from jsonschema import Draft202012Validator

from gdb_p2m.commands.base import Report
from gdb_p2m.commands.registry import BY_NAME
from gdb_p2m.render.json_text import to_json
from gdb_p2m.render.text import printable, to_text
from gdb_p2m.rules.catalogue import CATALOGUE
from gdb_p2m.target import Target
from support.faults import FAULTS
from support.machine import Healthy, Machine
from support.verbs import command_lines, run_verb

# The parts of the SARIF 2.1.0 schema (OASIS) that readers of findings rely on.
SARIF = {
    "type": "object",
    "required": ["version", "runs", "$schema"],
    "properties": {
        "version": {"const": "2.1.0"},
        "$schema": {"type": "string", "format": "uri"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "properties": {
                    "tool": {
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "required": ["name"],
                                "properties": {
                                    "name": {"const": "gdb-p2m"},
                                    "version": {"type": "string"},
                                    "rules": {
                                        "type": "array",
                                        "items": {
                                            "required": ["id", "shortDescription"],
                                            "properties": {
                                                "id": {"type": "string"},
                                                "defaultConfiguration": {
                                                    "properties": {"level": {"enum": ["error", "warning", "note"]}}
                                                },
                                            },
                                        },
                                    },
                                },
                            }
                        },
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "required": ["message", "ruleId", "level", "locations"],
                            "properties": {
                                "ruleId": {"type": "string"},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "level": {"enum": ["error", "warning", "note"]},
                                "message": {"required": ["text"], "properties": {"text": {"minLength": 1}}},
                                "locations": {
                                    "minItems": 1,
                                    "items": {
                                        "required": ["physicalLocation"],
                                        "properties": {
                                            "physicalLocation": {
                                                "required": ["artifactLocation"],
                                                "properties": {
                                                    "artifactLocation": {
                                                        "properties": {
                                                            "uri": {"type": "string", "pattern": '^[^ <>"]+$'}
                                                        }
                                                    },
                                                    "address": {
                                                        "properties": {
                                                            "absoluteAddress": {"type": "integer", "minimum": -1}
                                                        }
                                                    },
                                                },
                                            }
                                        },
                                    },
                                },
                            },
                        },
                    },
                    "invocations": {
                        "items": {
                            "required": ["executionSuccessful"],
                            "properties": {
                                "toolExecutionNotifications": {
                                    "items": {"required": ["message"], "properties": {"level": {"type": "string"}}}
                                }
                            },
                        }
                    },
                },
            },
        },
    },
}


def broken(h: Healthy, *rules: str, path: str = "crash dump <1>.core") -> Machine:
    """A dom0 with one fault of each rule; its name needs quoting everywhere."""
    machine = h.machine.copy()
    for rule in rules:
        next(f for f in FAULTS if f.rule == rule and f.truth == h.truth).apply(h, machine)
    machine.info.path = path
    return machine


def check(machine: Machine, fmt: str, without: tuple[int, ...] = ()) -> str:
    source = machine.without(*without) if without else machine.source()
    return run_verb(Target(source), BY_NAME["check"], "", fmt)


@pytest.mark.parametrize(("verb", "arguments"), command_lines(), ids=lambda x: getattr(x, "name", x))
def test_every_format_of_every_verb_parses(dom0: Healthy, verb, arguments: str) -> None:  # type: ignore[no-untyped-def]
    for fmt in verb.formats:
        text = run_verb(dom0.target, verb, arguments, fmt)
        assert text.endswith("\n") and not text.endswith("\n\n"), fmt
        if fmt == "json":
            json.loads(text)
        elif fmt == "csv":
            rows = list(csv.DictReader(io.StringIO(text)))
            assert rows and None not in rows[0]
        elif fmt == "junit":
            ET.fromstring(text.split("\n", 1)[1])
        elif fmt == "sarif":
            Draft202012Validator(SARIF).validate(json.loads(text))
        else:
            assert fmt == "text" and text.isascii() and all(c.isprintable() or c == "\n" for c in text)


def test_csv_is_the_same_map_as_json(either: Healthy) -> None:
    runs = json.loads(run_verb(either.target, BY_NAME["map"], "", "json"))["runs"]
    rows = list(csv.DictReader(io.StringIO(run_verb(either.target, BY_NAME["map"], "", "csv"))))
    assert [
        {"start": int(r["start"]), "count": int(r["count"]), "kind": r["kind"]}
        | ({"frame": int(r["frame"])} if r["frame"] else {})
        for r in rows
    ] == runs


def test_sarif_carries_every_finding_with_its_place(dom0: Healthy) -> None:
    machine = broken(dom0, "ENT-002", "LIN-005", "FLL-005")
    sarif = json.loads(check(machine, "sarif"))
    Draft202012Validator(SARIF).validate(sarif)
    plain = json.loads(check(machine, "json"))
    run = sarif["runs"][0]
    assert [(r["ruleId"], r["level"], r["message"]["text"]) for r in run["results"]] == [
        (f["rule"], f["severity"], f["message"]) for f in plain["findings"]
    ]
    rules = run["tool"]["driver"]["rules"]
    assert [r["id"] for r in rules] == [r.id for r in CATALOGUE]
    assert all(rules[r["ruleIndex"]]["id"] == r["ruleId"] for r in run["results"])
    place = next(r for r in run["results"] if r["ruleId"] == "FLL-005")["locations"][0]["physicalLocation"]
    assert unquote(place["artifactLocation"]["uri"]) == machine.info.path
    assert place["address"]["absoluteAddress"] == dom0.shared_info("max_pfn")
    virtual = next(r for r in run["results"] if r["ruleId"] == "LIN-005")["locations"][0]["physicalLocation"]
    assert "address" not in virtual, "a virtual address is no place in the dump"


def test_sarif_tells_what_could_not_be_checked(dom0: Healthy) -> None:
    sarif = json.loads(check(dom0.machine, "sarif", (dom0.guest.page_of("xen_start_info"),)))
    Draft202012Validator(SARIF).validate(sarif)
    notes = [n["message"]["text"] for n in sarif["runs"][0]["invocations"][0]["toolExecutionNotifications"]]
    assert any(n.startswith("SIF-001 could not check: ") and "not in the dump" in n for n in notes)


def test_junit_has_a_case_for_every_rule(dom0: Healthy) -> None:
    machine = broken(dom0, "ENT-002", "ENT-005")
    suite = ET.fromstring(check(machine, "junit", (dom0.guest.page_of("xen_start_info"),)).split("\n", 1)[1])
    plain = json.loads(check(machine, "json", (dom0.guest.page_of("xen_start_info"),)))
    cases = suite.findall("testcase")
    assert [c.get("name", "").split()[0] for c in cases] == [r.id for r in CATALOGUE]
    status = {r["id"]: r["status"] for r in plain["rules"]}
    severity = {r.id: r.severity for r in CATALOGUE}
    for case in cases:
        rule = case.get("name", "").split()[0]
        failed, skipped = case.find("failure"), case.find("skipped")
        assert (failed is not None) == (status[rule] == "failed" and severity[rule] != "note"), rule
        assert (skipped is not None) == (status[rule] in ("not_applicable", "could_not_check")), rule
        if skipped is not None:
            assert status[rule] in (skipped.get("message") or "")
    assert suite.get("tests") == str(len(cases))
    assert suite.get("failures") == str(len(suite.findall(".//failure"))) != "0"
    assert suite.get("skipped") == str(len(suite.findall(".//skipped")))
    assert machine.info.path in (suite.get("name") or "")


def test_text_tells_findings_first_and_every_failed_rule(dom0: Healthy) -> None:
    text = check(broken(dom0, "ENT-002", "FLL-006"), "text")
    first = text.splitlines()[0]
    assert first.startswith("ERROR ENT-002: ")
    assert "ERROR FLL-006" in text and "expected:" in text and "found:" in text
    assert text.splitlines()[-1].startswith("2 errors, 0 warnings, ")


def test_control_characters_of_a_dump_never_reach_the_terminal() -> None:
    report = Report({"schema": "x"})
    report.text("a\x1b[2Jb\r\x07\x9b")
    report.table(["h"], [["\x1b]0;title\x07"], [None], [1234567]], "t\x1b")
    text = to_text(report)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "\\x1b[2J" in text and "1,234,567" in text and "\n-\n" in text
    assert printable("plain ü") == "plain ü"


def test_json_has_an_element_a_line_and_keeps_the_order() -> None:
    text = to_json({"schema": "s", "b": [{"x": 1}, {"y": 2}], "a": [], "n": None, "t": "\x1b\u00fc"})
    assert text == (
        '{\n  "schema": "s",\n  "b": [\n    {"x": 1},\n    {"y": 2}\n  ],\n  "a": [],\n  "n": null,\n'
        '  "t": "\\u001b\\u00fc"\n}\n'
    )
