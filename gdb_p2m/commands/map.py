"""Verb `map`: the whole P2M as maximal runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from gdb_p2m.commands import all_domains
from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa
from gdb_p2m.errors import UsageError
from gdb_p2m.mapping import KIND_BY_WORD, LINUX_KINDS, RISCV_KINDS, Kind, Mapping, Run
from gdb_p2m.units import parse_range, thousands


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--range", metavar="A..B", help="only these PFNs (B included), or A+COUNT")
    parser.add_argument(
        "--kind",
        action="append",
        choices=[k.word for k in dict.fromkeys((*LINUX_KINDS, *RISCV_KINDS))],
        metavar="KIND",
        help="only runs of this kind; may be given several times: "
        + ", ".join(k.word for k in LINUX_KINDS)
        + "; RISC-V: "
        + ", ".join(k.word for k in RISCV_KINDS),
    )
    parser.add_argument(
        "--fold",
        action="store_true",
        help="text only: join neighbouring runs of one kind, whatever their frames (an overview)",
    )
    all_domains.add_argument(parser)


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """Runs of the chosen view, of the chosen domain or of all."""
    if not all_domains.wanted(ctx, args):
        return _run(ctx, args)
    together = all_domains.run_all(ctx, lambda one: _run(one, args))
    report = Report(
        {"schema": "gdb-p2m/map/1", **together.json()},
        exit_code=together.exit_code(0),
        extra={"csv": lambda: all_domains.csv_of(together)},
    )
    report.blocks.extend(together.blocks())
    return report


def _run(ctx: Context, args: argparse.Namespace) -> Report:
    view = ctx.views.get(args.view)
    start, end = (0, view.limit) if args.range is None else parse_range(args.range)
    end = view.limit if end == -1 else end
    if start >= view.limit:
        raise UsageError(f"{ctx.word} {start:#x} is out of range: view {view.name} covers 0..{view.limit - 1:#x}")
    _check_kinds(args.kind or [], ctx)
    with ctx.target.timing.stage("decode"):
        mapping = view.mapping()
    if args.range is not None:
        mapping = mapping.clip(start, min(end, view.limit))
    if args.kind:
        mapping = mapping.only({KIND_BY_WORD[k] for k in args.kind})
    data: dict[str, Any] = {
        "schema": "gdb-p2m/map/1",
        "view": view.name,
        "domain": ctx.domain.id,
        "limit": view.limit,
    }
    if getattr(args, "format", "text") == "json":
        data["runs"] = [run_json(r) for r in mapping]
    report = Report(data, extra={"csv": lambda: to_csv(mapping)})
    if getattr(args, "format", "text") == "text":
        _text(report, mapping, args.fold, ctx.word)
    return report


def _check_kinds(words: list[str], ctx: Context) -> None:
    """A kind that this domain's P2M cannot have is a mistake, not an empty answer."""
    kinds = RISCV_KINDS if ctx.domain.kind == "riscv" else LINUX_KINDS
    for word in words:
        if KIND_BY_WORD[word] not in kinds:
            raise UsageError(
                f"a {ctx.domain.kind} domain has no frames of kind {word}",
                hint=f"kinds: {', '.join(k.word for k in kinds)}",
            )


def run_json(r: Run) -> dict[str, int | str]:
    """One run as in the schema."""
    out: dict[str, int | str] = {"start": r.start, "count": r.count, "kind": r.kind.word}
    if r.frame is not None:
        out["frame"] = r.frame
    if r.order is not None:
        out["order"] = r.order
    return out


def to_csv(mapping: Mapping) -> str:
    """start,count,kind,frame (empty for kinds without), decimal; with the leaf's order for page tables."""
    ordered = mapping.order is not None
    lines = ["start,count,kind,frame" + (",order" if ordered else "")]
    for r in mapping:
        frame = "" if r.frame is None else r.frame
        lines.append(f"{r.start},{r.count},{r.kind.word},{frame}" + (f",{r.order}" if ordered else ""))
    return "\n".join(lines) + "\n"


def folded(mapping: Mapping) -> Iterator[tuple[int, int, Kind, int]]:
    """(start, count, kind, number of runs) of neighbouring runs of one kind."""
    if not len(mapping):
        return
    end = mapping.start + mapping.count
    new = (mapping.kind[1:] != mapping.kind[:-1]) | (end[:-1] != mapping.start[1:])
    first = np.concatenate(([0], np.flatnonzero(new) + 1)).tolist()
    for a, b in zip(first, [*first[1:], len(mapping)], strict=True):
        yield int(mapping.start[a]), int(end[b - 1] - mapping.start[a]), Kind(int(mapping.kind[a])), b - a


def _text(report: Report, mapping: Mapping, fold: bool, word: str) -> None:
    rows: list[list[Cell]] = []
    if fold:
        rows = [[hexa(s), hexa(s + c - 1), c, k.word, n] for s, c, k, n in folded(mapping)]
        report.table([f"first {word}", f"last {word}", "count", "kind", "runs"], rows, align="rrrlr")
    else:
        for r in mapping:
            last = None if r.frame is None else r.frame + r.count - 1
            row: list[Cell] = [hexa(r.start), hexa(r.end - 1), r.count, r.kind.word, hexa(r.frame), hexa(last)]
            rows.append(row if r.order is None else [*row, r.order])
        headers = [f"first {word}", f"last {word}", "count", "kind", "first MFN", "last MFN"]
        if mapping.order is not None:
            headers.append("order")
        report.table(headers, rows, align="rrrlrr" + "r" * (len(headers) - 6))
    totals = ", ".join(f"{thousands(n)} {k.word}" for k, n in mapping.totals().items())
    report.text(f"{len(rows):,} {'stretches' if fold else 'runs'}: {totals or 'nothing in this range'}")


VERB = Verb(
    "map",
    "the whole P2M as maximal runs",
    "A run is a stretch of one kind and, for kinds with a frame, consecutive machine frames. Runs cover "
    "0..limit-1 without gaps; a RISC-V map holds the leaves only, with the order of each (0, 9, 18). --fold joins runs "
    "of one kind for an overview.",
    "--range 0..0x1ff",
    configure,
    run,
    formats=("text", "json", "csv"),
)
