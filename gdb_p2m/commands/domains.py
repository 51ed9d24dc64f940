"""Verb `domains`: every domain that memory shows, and the roots of its P2M."""

from __future__ import annotations

import argparse
from typing import Any

from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa, no_arguments
from gdb_p2m.errors import P2mError
from gdb_p2m.layout.xen_riscv import INVALID_GFN
from gdb_p2m.mapping import Kind
from gdb_p2m.units import PAGE_SHIFT
from gdb_p2m.views.registry import Views
from gdb_p2m.xen_riscv import RiscvDomain


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """One row per domain; what is wrong with the list itself comes after."""
    report = Report({"schema": "gdb-p2m/domains/1", "domains": []})
    if not ctx.target.is_riscv:
        from gdb_p2m.commands.domains_x86 import add_domains

        add_domains(report, ctx)
        return report
    rows: list[list[Cell]] = []
    for domain in ctx.target.domain_list.domains:
        entry = _riscv(ctx, domain)
        report.data["domains"].append(entry)
        words = ", ".join(f"{name} {hexa(r['mfn'])}" for name, r in entry["roots"].items() if isinstance(r, dict))
        pages: Cell = entry["pages"] if entry["pages"] is not None else entry["pages_error"]
        rows.append([str(domain.id), domain.kind, pages, words, entry["evidence"]])
    report.table(["id", "kind", "pages", "roots (machine frame)", "how known"], rows, align="rlrll")
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


VERB = Verb(
    "domains",
    "every domain that this memory shows: id, kind, state, pages, roots",
    "On x86 Xen's frame table and its struct domains are read through any PV guest's page table: ids, pages, whether a "
    "domain is paused or dying, and the roots of each PV guest. Xen's symbols come from --xen, from VMCOREINFO_XEN or from "
    "Xen's own memory; offsets that none of them names are found on the spot, and all of it says how it is known. Without "
    "Xen's own view: the PV page tables and start_info pages that a scan finds, and what they cannot tell. On RISC-V Xen's "
    "domain_list is followed: id, root of the G-stage with its mode and the value of hgatp; pages: tot_pages, or the frames "
    "that the P2M maps as ram_rw.",
    "",
    no_arguments,
    run,
)
