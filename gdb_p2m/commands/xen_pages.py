"""Verbs `start-info` and `shared-info`: the structures, field by field."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa, no_arguments
from gdb_p2m.structures.initial_mapping import (
    MAPPING_IMPLEMENTED,
    MAPPING_THEORY,
    SLOT_BYTES,
    InitialMapping,
    initial_mapping,
)
from gdb_p2m.structures.record import Record
from gdb_p2m.structures.xen_pages import flag_names, shared_info, start_info, unfold_cr3
from gdb_p2m.units import PAGE_SIZE, human_size


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
    report = _report(ctx, "start-info", record, {"flags": flag_names(record.number("flags"))})
    if args.explain:
        _explain(report, initial_mapping(record, ctx.guest.width.bits), record)
    return report


def configure_start_info(parser: argparse.ArgumentParser) -> None:
    """Arguments of start-info."""
    parser.add_argument("--explain", action="store_true", help="the arithmetic of the initial mapping, for this guest")


def _explain(report: Report, m: InitialMapping, record: Record) -> None:
    """What limits a domain whose list lies inside the initial mapping, and what this guest uses."""
    inside = m.domain_limit(MAPPING_IMPLEMENTED)
    theory = m.domain_limit(MAPPING_THEORY)
    report.data["explain"] = {
        "list_bytes": m.list_bytes,
        "list_pages": m.list_pages,
        "table_frames": m.tables,
        "outside": m.outside,
        "limit_inside_bytes": inside,
        "limit_inside_theory_bytes": theory,
        "limit_slot_bytes": m.slot_limit,
    }
    first, frames = record.number("first_p2m_pfn"), record.number("nr_p2m_frames")
    size = human_size(m.nr_pages * PAGE_SIZE)
    lines = [
        f"The domain builder hands over a list of {m.nr_pages:,} entries of {m.entry_bytes} bytes: "
        f"{human_size(m.list_bytes)}, {m.list_pages:,} pages, for {size} of memory.",
        f"Inside the initial mapping the list shares {human_size(MAPPING_IMPLEMENTED)} (in theory "
        f"{human_size(MAPPING_THEORY)}) with the kernel, the initrd and the page tables. If nothing else were there, the "
        f"list could describe {human_size(inside)} ({human_size(theory)}) at the most, and a domain could not be started "
        "with more.",
        f"In a top-level slot of its own (0x8000000000 on x86-64) it has {human_size(SLOT_BYTES)} of addresses, enough for "
        f"{human_size(m.slot_limit)} of memory.",
    ]
    if m.outside and m.tables is not None:
        used = 100 * m.list_bytes / MAPPING_IMPLEMENTED
        lines.append(
            f"This guest's list lay outside: frames {first:#x}..{first + frames - 1:#x} ({frames:,} frames: {m.list_pages:,} of "
            f"the list, {m.tables:,} of page tables that map it). Inside, it would have taken {used:.2f}% of the mapping."
        )
    else:
        lines.append("This guest's list lay inside the initial mapping (nr_p2m_frames is 0).")
    report.text("\n\n".join(textwrap.fill(line, 110) for line in lines))


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
    "--explain",
    configure_start_info,
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
