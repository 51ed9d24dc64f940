"""What several verbs say about one frame number: JSON and words of a Trace."""

from __future__ import annotations

from typing import Any

from gdb_p2m.errors import UsageError
from gdb_p2m.mapping import Kind
from gdb_p2m.units import parse_number
from gdb_p2m.views.base import Trace, View


def pfns_below_limit(texts: list[str], view: View, what: str = "PFN") -> list[int]:
    """The numbers typed, each below the view's limit. Raises UsageError."""
    numbers = [parse_number(t) for t in texts]
    for number in numbers:
        if number >= view.limit:
            raise UsageError(
                f"{what} {number:#x} is out of range: view {view.name} covers 0..{view.limit - 1:#x}",
                hint="did you mean a machine frame? use --mfn",
            )
    return numbers


def answer_json(trace: Trace) -> dict[str, Any]:
    """The answer of a trace as in the schema of `lookup`."""
    answer: dict[str, Any] = {number_key(trace.view): trace.number, "kind": trace.kind.word}
    if trace.frame is not None:
        answer["frame"] = trace.frame
    if trace.order is not None:
        answer["order"] = trace.order
    answer["read_at"] = {"address": trace.read_at, "space": "machine", "what": trace.read_what}
    if trace.reason:
        answer["reason"] = trace.reason
    return answer


def number_key(view: str) -> str:
    """JSON key of the numbers that a view translates."""
    return "gfn" if view == "gstage" else "pfn"


def read_at_text(trace: Trace) -> str:
    """Where the answer was read, for people."""
    where = trace.read_what if trace.read_at is None else f"{trace.read_what} at {trace.read_at:#x}"
    return f"{where}: {trace.reason}" if trace.reason else where


def frame_text(trace: Trace) -> str:
    """The frame for people: identity frames are their own number."""
    if trace.kind is Kind.IDENTITY:
        return "1:1"
    return "-" if trace.frame is None else f"{trace.frame:#x}"
