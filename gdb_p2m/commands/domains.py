"""Verb `domains`: every domain that memory shows, and the roots of its P2M."""

from __future__ import annotations

import argparse
from typing import Any

from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa, no_arguments
from gdb_p2m.errors import P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.xen_riscv import INVALID_GFN
from gdb_p2m.mapping import Kind
from gdb_p2m.structures.xen_pages import shared_info, start_info
from gdb_p2m.units import PAGE_SHIFT
from gdb_p2m.views.registry import Views
from gdb_p2m.xen_riscv import RiscvDomain


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """One row per domain; what is wrong with the list itself comes after."""
    entries: list[dict[str, Any]] = []
    rows: list[list[Cell]] = []
    for domain in ctx.target.domains:
        entry = _riscv(ctx, domain) if isinstance(domain, RiscvDomain) else _pv(domain)
        entries.append(entry)
        roots = entry["roots"]
        words = ", ".join(f"{name} {hexa(r['mfn'])}" for name, r in roots.items() if isinstance(r, dict))
        pages: Cell = entry["pages"] if entry["pages"] is not None else entry["pages_error"]
        rows.append(["?" if domain.id is None else str(domain.id), domain.kind, pages, words, entry["evidence"]])
    report = Report({"schema": "gdb-p2m/domains/1", "domains": entries})
    report.table(["id", "kind", "pages", "roots (machine frame)", "how known"], rows, align="rlrll")
    if ctx.target.is_riscv:
        _list_problems(ctx, report)
    return report


def _list_problems(ctx: Context, report: Report) -> None:
    found = ctx.target.domain_list
    report.data["broken"] = [{"address": a, "reason": why} for a, why in found.broken]
    report.data["list_problem"] = found.problem or None
    for address, why in found.broken:
        report.text(f"The domain at {address:#x} cannot be read: {why}")
    if found.problem:
        report.text(f"The list ends early: {found.problem}")


def _riscv(ctx: Context, d: RiscvDomain) -> dict[str, Any]:
    """pages: tot_pages, or where its offset is not known the RAM that the domain's own P2M maps as ram_rw."""
    root = d.root_mfn
    roots: dict[str, Any] = {
        "gstage": {"mfn": root, "address": None if root is None else root << PAGE_SHIFT, "page_info": d.root},
        "hgatp": d.hgatp,
        "mode": None if d.mode is None else d.mode.name,
        "mode_number": d.mode_number,
        "root_level": d.root_level,
    }
    if d.root_problem:
        roots["problem"] = d.root_problem
    never = d.lowest_mapped_gfn == INVALID_GFN
    entry: dict[str, Any] = {
        "id": d.id,
        "kind": d.kind,
        "pages": None,
        "roots": roots,
        "address": d.address,
        "lowest_mapped_gfn": None if never else d.lowest_mapped_gfn,
        "max_mapped_gfn": None if never else d.max_mapped_gfn,
        "evidence": d.id_evidence,
    }
    entry["pages_source"] = "domain.tot_pages"
    if d.tot_pages is not None:
        entry["pages"] = d.tot_pages
        return entry
    entry["pages_source"] = "frames that the P2M maps as ram_rw"
    try:
        entry["pages"] = Views(d, ctx.progress).own().mapping().totals().get(Kind.RAM_RW, 0)
    except P2mError as e:
        entry["pages_error"] = e.message
    return entry


def _pv(guest: LinuxGuest) -> dict[str, Any]:
    """pages: nr_pages of start_info, what the domain was built with."""
    roots: dict[str, Any] = {
        "page_table": {
            "mfn": guest.root.mfn,
            "address": guest.root.mfn << PAGE_SHIFT,
            "evidence": guest.root.evidence,
        }
    }
    entry: dict[str, Any] = {
        "id": guest.id,
        "kind": guest.kind,
        "pages": None,
        "roots": roots,
        "evidence": guest.id_evidence,
    }
    try:
        entry["pages"] = start_info(guest).number("nr_pages")
    except P2mError as e:
        entry["pages_error"] = e.message
    try:
        mfn = shared_info(guest).number("pfn_to_mfn_frame_list_list")
    except P2mError:
        return entry
    if mfn not in (0, guest.width.invalid):
        roots["frame_list_list"] = {"mfn": mfn, "address": mfn << PAGE_SHIFT, "evidence": "shared_info.arch"}
    return entry


VERB = Verb(
    "domains",
    "every domain that this memory shows: id, kind, pages, roots",
    "On RISC-V Xen's domain_list is followed: id, root of the G-stage with its mode and the value of hgatp. On x86 the "
    "PV guests that were found: page-table root and frame list list. Pages: of start_info, or on RISC-V "
    "tot_pages (without its offset: the frames that the P2M maps as ram_rw).",
    "",
    no_arguments,
    run,
)
