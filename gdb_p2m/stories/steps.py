"""What each view says about one frame number, step by step, in words."""

from __future__ import annotations

from collections.abc import Sequence

from gdb_p2m.errors import P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind
from gdb_p2m.stories.base import Story
from gdb_p2m.views.base import Trace, TraceStep, View
from gdb_p2m.views.linear import LinearView

_TITLES = {
    "linear": "How the linear list says so",
    "tree": "How the tree says so",
    "list-list": "What the frame list list says (what Xen's toolstack reads)",
    "core-table": "What the dump's own table says (.xen_p2m)",
    "gstage": "How the G-stage page table says so",
}
_SECTIONS = {
    "linear": ("layout: list",),
    "tree": ("layout: tree",),
    "list-list": ("layout: frame lists",),
    "gstage": ("riscv",),
}
Seen = Sequence[tuple[str, View | P2mError, Trace | None]]
"""(name, the view or why there is none, the trace or None when the number is past that view)."""


def tell_views(story: Story, seen: Seen, own: Trace, guest: LinuxGuest | None) -> None:
    """A section for each view that looked, with what its answer means beside the guest's own."""
    for name, view, trace in seen:
        if isinstance(view, P2mError):
            story.add(f"view-{name}", _TITLES[name], [f"Nothing: {view.message}."])
            continue
        if trace is None:
            story.add(f"view-{name}", _TITLES[name], [f"Nothing: it covers 0..{view.limit - 1:#x} only."])
            continue
        items = [("", text) for text in _arithmetic(name, view, own, guest)]
        items += [(f"{i}.", step_text(s)) for i, s in enumerate(trace.steps, 1)]
        items.append(("", _conclusion(name, trace, own)))
        story.bullets(f"view-{name}", _TITLES[name], items, _SECTIONS.get(name, ()))


def step_text(step: TraceStep) -> str:
    """One step as a sentence: what was read where, and what it means."""
    where = step.where if step.index is None else f"{step.where}[{step.index}]"
    at = "" if step.address is None else f" at machine address {step.address:#x}"
    if step.raw is None:
        return f"{where}{at}: {step.meaning}."
    return f"{where}{at} holds {step.raw:#x}: {step.meaning}."


def _arithmetic(name: str, view: View, own: Trace, guest: LinuxGuest | None) -> list[str]:
    """Where the number leads, before anything is read."""
    n = own.number
    if guest is None:
        return []
    width = guest.width
    if isinstance(view, LinearView):
        if n >= view.size:
            return []
        at = view.base + n * width.bytes
        return [
            f"Entry {n:#x} of the list lies at virtual address {view.base:#x} + {n:#x} * {width.bytes} = {at:#x}. "
            "Which machine "
            "frame backs that address is the question, so the kernel's page table is walked first."
        ]
    if name in ("tree", "list-list") and n < view.limit:
        top, mid, index = n // width.mid_span, n // width.per_page % width.per_page, n % width.per_page
        per = width.per_page
        return [
            f"{n:#x} = {top} * {per}^2 + {mid} * {per} + {index}: top slot {top}, middle slot {mid}, entry {index}."
        ]
    return []


def _conclusion(name: str, trace: Trace, own: Trace) -> str:
    frame = f", machine frame {trace.frame:#x}" if trace.frame is not None else ""
    said = f"So this view says: {trace.kind.word}{frame}."
    if trace.kind is own.kind and trace.frame == own.frame:
        return said
    if name == "list-list" and own.kind is Kind.IDENTITY and trace.kind is Kind.MISSING:
        return (
            f"{said} That is no contradiction: the frame lists hold machine frames of pages of entries, and the "
            "toolstack knows "
            "frames and INVALID only, so identity that is stored by page is invisible here, by design."
        )
    if name == "core-table" and trace.kind is Kind.MISSING:
        return f"{said} That is no contradiction: the format lists only PFNs with a frame of the domain's own."
    if Kind.UNREADABLE in (trace.kind, own.kind):
        return f"{said} One of the two could not be read, so they cannot be compared."
    return (
        f"{said} The guest's own view says {own.kind.word}: the two disagree, and `check` says which rule that breaks."
    )
