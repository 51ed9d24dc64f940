"""The page of the `report` verb: what the other verbs say, in one file that needs nothing else.

Everything that comes from a dump goes through autoescape (markup) or `tojson` (data of the script, with `<` as \\u003c),
after control characters were made visible; the page forbids itself all network by its own policy.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from gdb_p2m import __version__
from gdb_p2m.commands import check, identify, rules, stats
from gdb_p2m.commands.base import Block, Context, Prose, Report, Table, Verb
from gdb_p2m.errors import P2mError
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.pictures.model import Options, Picture
from gdb_p2m.pictures.registry import picture_of
from gdb_p2m.render.kinds import LOOKS, MIXED, Look
from gdb_p2m.render.templating import environment
from gdb_p2m.render.text import printable
from gdb_p2m.report.lanes import Mark, machine_lanes, of_mapping
from gdb_p2m.units import PAGE_SHIFT, human_size, thousands
from gdb_p2m.views.base import View

LIBRARY = "d3-7.9.2"
MAX_ROWS = 100_000
"""Runs of the table; more are counted and said to be left out."""
OPENED = 4
"""Places of findings whose pages the drawing opens in any case."""

MARK_LOOKS: dict[Mark, tuple[str, Look]] = {
    Mark.MIXED: ("several kinds", MIXED),
    Mark.M2P_AGREES: (
        "M2P agrees",
        Look("#0072b2", "#4ba3db", "solid", "=", "M2P names the PFN whose P2M entry is this frame"),
    ),
    Mark.M2P_OTHER: (
        "M2P differs",
        Look(
            "#c98500",
            "#f0b441",
            "diagonal",
            "x",
            "M2P names a PFN that is not this domain's: another domain's frame, or Xen's",
        ),
    ),
    Mark.M2P_INVALID: ("M2P invalid", LOOKS[Kind.MISSING]),
    Mark.M2P_SHARED: ("M2P shared", Look("#a04f86", "#e08fc0", "upright", "s", "SHARED_M2P_ENTRY")),
    Mark.OWNED: (
        "owned",
        Look("#2f7d8c", "#5cc3d6", "solid", "o", "Xen's frame table says that this domain owns the frame"),
    ),
    Mark.P2M_PAGE: ("P2M page", Look("#5b3f9e", "#a98ef0", "level", "P", "a page that the P2M itself is made of")),
    Mark.METADATA: ("metadata page", Look("#a04f86", "#e08fc0", "upright", "m", "types that do not fit into entries")),
}


@dataclass
class Page:
    """The page and what is in it. sections: section -> "" or why it is not there."""

    html: str
    title: str
    runs: int
    findings: int
    sections: dict[str, str] = field(default_factory=dict)


class Builder:
    """Collects the parts. A part that cannot be made says why in its place; the others are not worse for it."""

    def __init__(self, ctx: Context, view: str | None) -> None:
        self.ctx = ctx
        self.view_name = view
        self.sections: dict[str, str] = {}

    def build(self) -> Page:
        """The page. Raises P2mError when not even `identify` has an answer."""
        identity = self._ask(identify.VERB)
        checked = self._checked()
        view = self._view()
        title = _title(identity.data, self._number())
        context: dict[str, Any] = {
            "version": __version__,
            "title": printable(title),
            "file": printable(self.ctx.target.source.info.path),
            "identity": _blocks(identity.blocks),
            "word": "GFN" if self.ctx.target.is_riscv else "PFN",
            "totals": [],
            "picture": "",
            "statistics": [],
            "lanes": [],
            "sections": self.sections,
            "looks": {k.word: v for k, v in LOOKS.items()},
            "checked": checked,
        }
        data: dict[str, Any] = {
            "kinds": _kinds(),
            "findings": checked["findings"],
            "strip": None,
            "machine": None,
            "runs": None,
        }
        if view is not None:
            self._add_view(context, data, view)
        context["data"] = clean(data)
        context["parts"] = static_parts()
        html = environment().get_template("page.html.j2").render(**context)
        runs = 0 if data["runs"] is None else data["runs"]["total"]
        return Page(html, title, runs, len(checked["findings"]), self.sections)

    def _ask(self, verb: Verb) -> Report:
        """What a verb says without arguments of its own. Raises P2mError."""
        parser = argparse.ArgumentParser()
        verb.configure(parser)
        return verb.run(self.ctx, parser.parse_args([], argparse.Namespace(view=self.view_name, format="text")))

    def _number(self) -> int | None:
        """Number of the chosen domain, when it is known."""
        try:
            return self.ctx.domain.id
        except P2mError:
            return self.ctx.domain_number

    def _view(self) -> View | None:
        """The chosen view, mapped; None with the reason noted."""
        try:
            view = self.ctx.views.get(self.view_name)
            view.mapping()
        except P2mError as e:
            self.sections["view"] = printable(str(e))
            return None
        return view

    def _checked(self) -> dict[str, Any]:
        """Findings and rules, as `check` and `rules` have them."""
        try:
            data = self._ask(check.VERB).data
        except P2mError as e:
            self.sections["findings"] = printable(str(e))
            return {"summary": None, "findings": [], "rules": [], "total": 0}
        texts = {r["id"]: r for r in self._ask(rules.VERB).data["rules"]}
        order = {"error": 0, "warning": 1, "note": 2}
        found = sorted(data["findings"], key=lambda f: order[f["severity"]])
        findings = [
            {
                **f,
                "id": i,
                "title": texts[f["rule"]]["title"],
                "text": texts[f["rule"]]["text"],
                "source": texts[f["rule"]]["source"],
            }
            for i, f in enumerate(found)
        ]
        counted = {r["id"]: r.get("findings", 0) for r in data["rules"]}
        listed = [{**r, "title": texts[r["id"]]["title"]} for r in data["rules"]]
        total = sum(counted.values())
        return clean({"summary": data["summary"], "findings": findings, "rules": listed, "total": total})

    def _add_view(self, context: dict[str, Any], data: dict[str, Any], view: View) -> None:
        """Everything that needs a P2M."""
        mapping = view.mapping()
        word = self.ctx.word
        context["totals"] = _totals(mapping, word)
        try:
            context["statistics"] = _blocks(self._ask(stats.VERB).blocks)
        except P2mError as e:
            self.sections["statistics"] = printable(str(e))
        where = [f["where"] for f in context["checked"]["findings"]]
        at = [w[key] for w in where for key in ("pfn", "gfn") if key in w]
        try:
            picture: Picture = picture_of(
                view, Options(at=tuple(dict.fromkeys(n for n in at if n < view.limit))[:OPENED])
            )
            from gdb_p2m.render.picture_svg import picture_svg

            context["picture"] = picture_svg(picture, standalone=False)
        except P2mError as e:
            self.sections["structure"] = printable(str(e))
        whole = of_mapping(view.name, mapping)
        data["strip"] = {
            "word": word,
            "limit": view.limit,
            "focus": _focus(mapping),
            "compressed": True,
            "lanes": [{**whole.json(), "name": f"all {word}s"}, *_lane_per_kind(mapping)],
            "leads": "MFN",
        }
        data["runs"] = _rows(mapping)
        problems: list[str] = []
        lanes = list(machine_lanes(self.ctx, view, problems))
        if problems:
            self.sections["machine"] = printable("; ".join(problems))
        end = max((int((x.start + x.count).max()) for x in lanes if len(x.start)), default=1)
        data["machine"] = {
            "word": "MFN",
            "limit": end,
            "focus": [0, end],
            "compressed": end > 1 << 26,
            "lanes": [lane.json() for lane in lanes],
            "leads": word,
        }


def _focus(mapping: Mapping) -> list[int]:
    """Where the page's strip begins: all but the last run, which most often is the identity of the rest."""
    if len(mapping) < 2:
        return [0, mapping.limit]
    ends = mapping.start + mapping.count
    gaps = mapping.start[1:] - ends[:-1]
    half = np.arange(1, len(mapping)) * 2 >= len(mapping)
    wide = np.flatnonzero(half & (gaps > 4 * (ends[:-1] - mapping.start[0])))
    if len(wide):  # a G-stage with a few mappings far away
        first, last = int(mapping.start[0]), int(ends[wide[0]])
        return [max(0, first - (last - first) // 16), last + (last - first) // 16]
    end = int(mapping.start[-1] + min(int(mapping.count[-1]), int(mapping.start[-1]) // 8 + 16))
    first = 0 if int(mapping.start[0]) < end // 4 else int(mapping.start[0])
    return [first, min(end, mapping.limit)]


def _lane_per_kind(mapping: Mapping) -> list[dict[str, Any]]:
    """The runs again, a lane a kind, so that a single frame is seen among billions and without colour.

    Made from the map itself: what is rare stays exact, however much of the common lane had to be joined.
    """
    return [of_mapping(kind.word, mapping.only({kind})).json() for kind in mapping.totals()]


def _rows(mapping: Mapping) -> dict[str, Any]:
    """The runs of the table."""
    part = slice(0, MAX_ROWS)
    return {
        "total": len(mapping),
        "start": mapping.start[part].tolist(),
        "count": mapping.count[part].tolist(),
        "kind": mapping.kind[part].tolist(),
        "frame": mapping.frame[part].tolist(),
        "order": None if mapping.order is None else mapping.order[part].tolist(),
    }


def _totals(mapping: Mapping, word: str) -> list[dict[str, Any]]:
    return [
        {
            "kind": k.word,
            "count": thousands(n),
            "size": human_size(n << PAGE_SHIFT),
            "words": LOOKS[k].words,
            "letter": LOOKS[k].letter,
            "word": word,
        }
        for k, n in mapping.totals().items()
    ]


def _kinds() -> list[dict[str, Any]]:
    """Looks by number, for the script."""
    by_number: dict[int, dict[str, Any]] = {int(k): {"name": k.word, **asdict(v)} for k, v in LOOKS.items()}
    by_number |= {int(m): {"name": name, **asdict(look)} for m, (name, look) in MARK_LOOKS.items()}
    return [by_number[i] for i in sorted(by_number)]


def _title(data: dict[str, Any], number: int | None) -> str:
    """`Linux 6.1.0-56-amd64, domain 0`, or what is known instead."""
    guests = data.get("guests") or []
    if guests:
        guests = [g for g in guests if g.get("domain") == number] or guests
        release = guests[0].get("release") or "kernel of unknown release"
        return f"Linux {release}" + ("" if number is None else f", domain {number}")
    return f"Xen on RISC-V, domain {number}"


def _blocks(blocks: list[Block]) -> list[dict[str, Any]]:
    """Tables and paragraphs of a report, ready for the template."""
    out: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, Table):
            rows = [[_cell(c) for c in row] for row in block.rows]
            align = block.align or "l" * len(block.headers)
            headers = [printable(h) for h in block.headers] if any(block.headers) else []
            out.append({"title": printable(block.title), "headers": headers, "rows": rows, "align": align, "text": ""})
        else:
            text = _prose(block) if isinstance(block, Prose) else block.text
            out.append({"title": "", "headers": [], "rows": [], "align": "", "text": printable(text)})
    return out


def _prose(block: Prose) -> str:
    """Titled paragraphs as they are; the page folds lines itself."""
    return "\n".join([block.title, *(f"{mark} {text}".strip() for mark, text in block.items)])


def _cell(cell: str | int | None) -> str:
    if cell is None:
        return "-"
    return thousands(cell) if isinstance(cell, int) else printable(cell)


def clean(value: Any) -> Any:
    """The same data with control characters (also bidirectional ones) made visible in every string."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {k: clean(v) for k, v in value.items()}
    if isinstance(value, list):
        return value if value and isinstance(value[0], int) else [clean(v) for v in value]
    return value


@cache
def static_parts() -> dict[str, Any]:
    """Style sheet, script and the embedded library: files of this package, which need no escaping."""
    from markupsafe import Markup

    base = files("gdb_p2m") / "report"
    names = {
        "css": ("templates", "page.css"),
        "script": ("templates", "page.js"),
        "strip": ("templates", "strip.js"),
        "library": ("vendor", f"{LIBRARY}.min.js"),
    }
    parts: dict[str, Any] = {}
    for key, (folder, name) in names.items():
        text = (base / folder / name).read_text(encoding="utf-8")
        assert "</script" not in text.lower() and "</style" not in text.lower(), name
        parts[key] = Markup(text)
    parts["licence"] = (base / "vendor" / f"{LIBRARY}.LICENSE").read_text(encoding="utf-8")
    parts["library_name"] = LIBRARY
    return parts


def build_page(ctx: Context, view: str | None) -> Page:
    """The page about one domain, in view `view` or its own. Raises P2mError when `identify` has no answer."""
    return Builder(ctx, view).build()
