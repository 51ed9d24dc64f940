"""Verbs `start-info` and `shared-info`: the structures, field by field."""

from __future__ import annotations

import argparse
from typing import Any

from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa, no_arguments
from gdb_p2m.structures.record import Record
from gdb_p2m.structures.xen_pages import flag_names, shared_info, start_info, unfold_cr3


def _report(ctx: Context, schema: str, record: Record, notes: dict[str, str]) -> Report:
    data: dict[str, Any] = {
        "schema": f"gdb-p2m/{schema}/1",
        "domain": ctx.guest.id,
        "address": record.address,
        "virtual": record.virtual,
        "fields": [],
    }
    rows: list[list[Cell]] = []
    for field in record.layout.fields:
        value = record.values[field.name]
        shown = f"{value:#x}" if isinstance(value, int) else repr(value)
        if isinstance(value, int) and value > 9 and field.unit in ("pages", "frames", "PFNs", "bytes", "count"):
            shown += f" ({value:,})"
        data["fields"].append(
            {
                "name": field.name,
                "offset": field.offset,
                "value": value,
                "unit": field.unit,
                "meaning": field.meaning,
            }
        )
        rows.append([f"+{field.offset}", field.name, shown, field.unit, notes.get(field.name, field.meaning)])
    report = Report(data)
    title = f"struct {record.layout.name} at machine address {hexa(record.address)}, virtual {hexa(record.virtual)}"
    report.table(["offset", "field", "value", "unit", "meaning"], rows, title, "rllll")
    report.text(f"Layout: {record.layout.source}")
    return report


def run_start_info(ctx: Context, args: argparse.Namespace) -> Report:
    """struct start_info."""
    record = start_info(ctx.guest)
    return _report(ctx, "start-info", record, {"flags": flag_names(record.number("flags"))})


def run_shared_info(ctx: Context, args: argparse.Namespace) -> Report:
    """The P2M fields of struct shared_info."""
    record = shared_info(ctx.guest)
    notes = {}
    if cr3 := record.number("p2m_cr3"):
        notes["p2m_cr3"] = f"page table at MFN {unfold_cr3(cr3, ctx.guest.width.bits):#x}"
    generation = record.number("p2m_generation")
    notes["p2m_generation"] = "odd: the list is being changed" if generation & 1 else "even: not being changed"
    if record.number("pfn_to_mfn_frame_list_list") == ctx.guest.width.invalid:
        notes["pfn_to_mfn_frame_list_list"] = "all ones: no frame list list; use p2m_cr3 and p2m_vaddr"
    return _report(ctx, "shared-info", record, notes)


START_INFO = Verb(
    "start-info",
    "struct start_info, field by field",
    "What the domain builder told the kernel at its start, and what the kernel changed since (mfn_list).",
    "",
    no_arguments,
    run_start_info,
)
SHARED_INFO = Verb(
    "shared-info",
    "the P2M fields of struct shared_info",
    "What the guest publishes for Xen's toolstack: the frame list list, or page table and address of the list.",
    "",
    no_arguments,
    run_shared_info,
)
