"""Verb `explain`: the story of one frame in words, for people who learn."""

from __future__ import annotations

import argparse
from typing import Any

from gdb_p2m.commands.answers import answer_json
from gdb_p2m.commands.base import Context, Prose, Report, Verb
from gdb_p2m.errors import P2mError, UsageError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind
from gdb_p2m.stories.base import Story
from gdb_p2m.stories.steps import Seen, step_text, tell_views
from gdb_p2m.units import parse_number
from gdb_p2m.views.base import Trace, View
from gdb_p2m.views.gstage import GstageView

MAX_NUMBER = 1 << 52
"""No machine has frame numbers that large (64 address bits)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("number", metavar="N", help="the PFN (RISC-V: GFN)")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """Trace the number through the views and tell what was found."""
    number = parse_number(args.number)
    if number >= MAX_NUMBER:
        raise UsageError(f"{ctx.word} {number:#x} is out of range: no machine has so many frames")
    own = ctx.views.own()
    seen = _seen(ctx, args.view, own, number)
    trace = next((t for _, v, t in seen if v is own and t is not None), None) or own.trace(number)
    guest = ctx.domain if isinstance(ctx.domain, LinuxGuest) else None
    steps = Story("")
    tell_views(steps, seen, trace, guest)
    story, more = _linux(ctx, guest, own, trace, steps) if guest is not None else _riscv(own, trace, steps)
    data: dict[str, Any] = {
        "schema": "gdb-p2m/explain/1",
        "domain": ctx.domain.id,
        "view": own.name,
        "case": story.case,
        "answer": answer_json(trace),
        **more,
        "views": [_view_json(*each) for each in seen],
        "sections": [
            {"id": s.id, "title": s.title, "paragraphs": [text for _, text in s.items], "sources": list(s.sources)}
            for s in story.sections
        ],
        "sources": [
            {"key": c.key, "title": c.title, "where": c.where, "commit": c.commit or None} for c in story.cited
        ],
    }
    report = Report(data)
    report.blocks += [Prose(s.title, _with_sources(s.items, s.sources)) for s in story.sections]
    report.blocks.append(Prose("Sources", [("-", c.line) for c in story.cited]))
    return report


def _with_sources(items: tuple[tuple[str, str], ...], sources: tuple[str, ...]) -> list[tuple[str, str]]:
    """The paragraphs, the last one followed by what they cite."""
    *rest, (mark, text) = items
    return [*rest, (mark, f"{text} [{', '.join(sources)}]" if sources else text)]


def _seen(ctx: Context, wanted: str | None, own: View, number: int) -> Seen:
    """The views that look: all that the guest has, or the one of --view. Views of other eras are no news."""
    views: list[tuple[str, View | P2mError]] = [(wanted, ctx.views.get(wanted))] if wanted else ctx.views.available()
    out: list[tuple[str, View | P2mError, Trace | None]] = []
    for name, view in sorted(views, key=lambda each: each[1] is not own):
        if isinstance(view, P2mError):
            if name == "list-list":
                out.append((name, view, None))
        else:
            # A guest's own view knows what lies past its end; the others have nothing to say of it.
            inside = number < view.limit or view is own
            out.append((name, view, view.trace(number) if inside else None))
    return out


def _linux(ctx: Context, guest: LinuxGuest, own: View, trace: Trace, steps: Story) -> tuple[Story, dict[str, Any]]:
    from gdb_p2m.stories.linux import story_of
    from gdb_p2m.stories.scene import Scene

    m2p = None
    if trace.kind in (Kind.MFN, Kind.FOREIGN) and trace.frame is not None:
        m2p = _m2p(ctx, steps, trace, trace.frame)
    scene = Scene(guest, own, trace)
    story = story_of(scene, steps)
    return story, {"era": {"name": scene.era.name, "title": scene.era.title}, "m2p": m2p}


def _m2p(ctx: Context, steps: Story, trace: Trace, mfn: int) -> dict[str, Any]:
    """What Xen says of the frame, the other way round."""
    title = "What Xen says of that frame (M2P)"
    try:
        entry = ctx.m2p.entry(mfn)
    except P2mError as e:
        steps.add("m2p", title, [f"Nothing: {e.message}."])
        return {"mfn": mfn, "error": e.message}
    agrees = entry.pfn == trace.number
    text = f"M2P[{mfn:#x}] at machine address {entry.address:#x} holds {entry.raw:#x}: {entry.meaning}. "
    if agrees and trace.kind is Kind.FOREIGN:
        text += (
            "It names this very PFN: so the frame is the guest's own, and only marked, as pages that are granted "
            "out may be."
        )
    elif agrees:
        text += "Xen keeps this table from frame to PFN for the whole machine; it agrees with the guest's P2M."
    elif trace.kind is Kind.FOREIGN:
        text += "It is the owner's PFN, or none, so it need not agree with a foreign entry."
    else:
        text += (
            "It does not agree with the guest's P2M, as it must for a frame of the guest's own; `check` has a rule "
            "for it."
        )
    steps.add("m2p", title, [text], ("layout: M2P",))
    return {"mfn": mfn, "address": entry.address, "raw": entry.raw, "agrees": agrees}


def _riscv(own: View, trace: Trace, steps: Story) -> tuple[Story, dict[str, Any]]:
    from gdb_p2m.stories.riscv import GuestFrame, story_of

    assert isinstance(own, GstageView)
    return story_of(GuestFrame(own, trace), steps), {"mode": own.mode.name}


def _view_json(name: str, view: View | P2mError, trace: Trace | None) -> dict[str, Any]:
    if isinstance(view, P2mError):
        return {"view": name, "error": view.message}
    if trace is None:
        return {"view": name, "error": f"covers 0..{view.limit - 1:#x} only"}
    steps = [{"text": step_text(s), "address": s.address, "raw": s.raw} for s in trace.steps]
    return {"view": name, "kind": trace.kind.word, "frame": trace.frame, "steps": steps}


VERB = Verb(
    "explain",
    "the story of one frame: what it is, who says so, which code decides, and why it is made that way",
    "For people who learn, on real memory: what the frame is; what each view reads, step by step; why a page of "
    "INVALID "
    "entries can mean identity; which function of the kernel (or of Xen, on RISC-V) decides; how it came to be so; "
    "what "
    "other eras would do; and the sources of all that.",
    "0xfee00",
    configure,
    run,
)
