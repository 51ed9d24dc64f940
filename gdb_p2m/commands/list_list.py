"""Verb `list-list`: the frame list list, slot by slot."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa
from gdb_p2m.errors import UsageError
from gdb_p2m.units import parse_number
from gdb_p2m.views.list_list import ListListView


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--top", metavar="I", help="the mid page behind top slot I, slot by slot")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """Top slots as stretches of equal or consecutive MFNs; with --top one mid page."""
    view = ctx.views.get("list-list")
    assert isinstance(view, ListListView)
    info = view.shared_info
    data: dict[str, Any] = {
        "schema": "gdb-p2m/list-list/1",
        "domain": ctx.guest.id,
        "top_mfn": view.top_mfn,
        "published_at": info.address_of("pfn_to_mfn_frame_list_list"),
        "max_pfn": info.number("max_pfn"),
    }
    report = Report(data)
    names = _names(view)
    if args.top is None:
        slots, per_slot, title = view.lists.top, view.width.mid_span, f"Top page, MFN {view.top_mfn:#x}"
        data["top"] = _stretches(report, slots, per_slot, names, title, 0, "mid")
        private = {int(m) for m in np.unique(slots) if int(m) not in names}
        report.text(
            f"shared_info.arch.pfn_to_mfn_frame_list_list at machine address {data['published_at']:#x}; "
            f"max_pfn {data['max_pfn']:#x}. {len(private)} private mid pages. See a mid page with --top I."
        )
        return report
    index = parse_number(args.top)
    if index >= len(view.lists.top):
        raise UsageError(f"top slot {index} is out of range: 0..{len(view.lists.top) - 1}")
    mid = int(view.lists.top[index])
    data["top_index"] = index
    data["mid_mfn"] = mid
    first = index * view.width.mid_span
    if not view.lists.mid_ok[index]:
        report.text(f"The mid page at MFN {mid:#x} (top slot {index}) cannot be read.")
        data["mid"] = None
        return report
    title = f"Mid page of top slot {index}, MFN {mid:#x}{names.get(mid, '')}"
    data["mid"] = _stretches(report, view.lists.leaves[index], view.width.per_page, names, title, first, "leaf")
    return report


def _names(view: ListListView) -> dict[int, str]:
    names = ("p2m_missing", "p2m_identity", "p2m_mid_missing_mfn", "p2m_mid_identity_mfn")
    return {int(f): f" = {n}" for n in names if (f := view.shared_frame(n)) is not None}


def _stretches(
    report: Report, slots: Any, per_slot: int, names: dict[int, str], title: str, first_pfn: int, leads: str
) -> list[dict[str, Any]]:
    """Slots joined where the MFN repeats or rises by one."""
    step = np.diff(slots)
    same = step == 0
    up = step == 1
    rows: list[list[Cell]] = []
    out = []
    i = 0
    while i < len(slots):
        j = i
        rule = None
        while j + 1 < len(slots) and (same[j] if rule == "same" else up[j] if rule == "up" else same[j] or up[j]):
            rule = rule or ("same" if same[j] else "up")
            j += 1
        mfn, last = int(slots[i]), int(slots[j])
        what = names.get(mfn, "").removeprefix(" = ") or f"{leads} page" + ("s" if j > i else "")
        shown = "not an MFN" if mfn < 0 else hexa(mfn) + (f"..{last:#x}" if last != mfn else "")
        pfns = f"{first_pfn + i * per_slot:#x}..{first_pfn + (j + 1) * per_slot - 1:#x}"
        rows.append([f"{i}" if i == j else f"{i}..{j}", shown, what, pfns])
        out.append({"first": i, "last": j, "mfn": mfn, "last_mfn": last, "what": what})
        i = j + 1
    report.table(["slots", "MFN", "what", "PFNs"], rows, title, "rlll")
    return out


VERB = Verb(
    "list-list",
    "the frame list list that Xen's toolstack reads",
    "Shows the top page's slots (MFNs of mid pages) and, with --top I, the slots of one mid page (MFNs of leaf "
    "pages). Shared pages are named. Identity that is stored by page cannot be seen in this structure.",
    "--top 0",
    configure,
    run,
)
