"""Verb `identify`: what is this?"""

from __future__ import annotations

import argparse
from typing import Any

from gdb_p2m.commands.base import Context, Report, Verb, no_arguments
from gdb_p2m.errors import P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.sources.base import CpuState, Source
from gdb_p2m.structures.era import era_of
from gdb_p2m.structures.stage import stage_of
from gdb_p2m.structures.xen_crash import xen_crash_rows, xen_release
from gdb_p2m.structures.xen_pages import flag_names, start_info
from gdb_p2m.units import PAGE_SHIFT, human_size
from gdb_p2m.views.base import View


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """Source, machine, guests, era with evidence, roots, views."""
    source = ctx.target.source
    info = source.info
    memory = sum(e.end - e.start for e in source.extents())
    data: dict[str, Any] = {
        "schema": "gdb-p2m/identify/1",
        "source": {
            "path": info.path,
            "format": info.format,
            "writer": info.writer,
            "machine": info.machine,
            "live": info.live,
            "memory_bytes": memory,
            "extents": [{"start": e.start, "end": e.end} for e in source.extents()],
            "cpus": [{"index": c.index, **c.registers} for c in info.cpus],
            "loses": info.loses,
            "problems": [{"at": a, "message": m} for a, m in info.problems],
            "xen_crash": _xen_crash(source),
            "core_table_pages": None if info.core_table is None else len(info.core_table.pfn),
        },
    }
    report = Report(data)
    cpus = ", ".join(filter(None, (_cpu_text(c) for c in info.cpus)))
    rows = [
        ["file" if not info.live else "target", info.path],
        ["format", f"{info.format}, {info.machine}"],
        ["writer", info.writer],
        ["memory", f"{human_size(memory)} in {len(source.extents())} extents, up to {source.end():#x}"],
        ["CPUs", cpus or "none noted"],
        *xen_crash_rows(source),
        *[["loses", text] for text in info.loses],
        *[["damage", f"{m} (at {a:#x})"] for a, m in info.problems],
    ]
    report.table(["", ""], rows, "Source")
    if ctx.target.is_riscv:
        from gdb_p2m.commands.identify_riscv import add_xen

        add_xen(report, ctx)
        return report
    guests = ctx.target.guests
    data["guests"] = []
    for guest in guests:
        _guest(report, ctx, guest)
    return report


def _xen_crash(source: Source) -> dict[str, Any] | None:
    """The record of a crashed Xen."""
    crash = source.info.xen_crash
    if crash is None:
        return None
    return {
        "version": xen_release(source),
        "tainted": crash.tainted,
        "xen_phys_start": crash.xen_phys_start,
        "frame_list_list": crash.frame_list_list,
    }


def _cpu_text(cpu: CpuState) -> str:
    """The page-table registers of one CPU."""
    shown = {"cr3": "CR3", "satp": "satp", "hgatp": "hgatp"}
    roots = [f"{word} {cpu.registers[name]:#x}" for name, word in shown.items() if name in cpu.registers]
    return f"CPU {cpu.index} {' '.join(roots)}" if roots else ""


def _guest(report: Report, ctx: Context, guest: LinuxGuest) -> None:
    era = era_of(guest)
    stage = stage_of(guest)
    rows = [
        ["domain", "?" if guest.id is None else str(guest.id)],
        ["how known", guest.id_evidence],
        ["kernel", guest.names.release or "release not known"],
        ["build id", guest.names.build_id or "not known"],
        ["word size", f"{guest.width.bits} bits"],
        ["era", era.title],
        *[["because", e] for e in era.evidence],
        *[["conflict", c] for c in era.conflicts],
        ["stage", f"{stage.title} ({stage.evidence})"],
        ["root", f"{guest.root.table} at machine frame {guest.root.mfn:#x}"],
        ["found by", guest.root.evidence],
        *[["symbols", f"{s.kind}: {s.detail}"] for s in guest.names.sources],
        *[["note", n] for n in guest.names.notes],
    ]
    entry: dict[str, Any] = {
        "domain": guest.id,
        "domain_evidence": guest.id_evidence,
        "kind": guest.kind,
        "release": guest.names.release,
        "build_id": guest.names.build_id,
        "word_bits": guest.width.bits,
        "era": era.name,
        "era_title": era.title,
        "era_evidence": list(era.evidence),
        "era_conflicts": list(era.conflicts),
        "stage": {"name": stage.name, "title": stage.title, "evidence": stage.evidence},
        "root": {
            "mfn": guest.root.mfn,
            "address": guest.root.mfn << PAGE_SHIFT,
            "evidence": guest.root.evidence,
        },
        "symbol_sources": [{"kind": s.kind, "detail": s.detail} for s in guest.names.sources],
        "notes": guest.names.notes,
    }
    try:
        si = start_info(guest)
        pages = si.number("nr_pages")
        rows.append(
            [
                "start_info",
                f"{si.text('magic')}, {pages:,} pages ({human_size(pages << PAGE_SHIFT)}), "
                f"{flag_names(si.number('flags'))}",
            ]
        )
        entry["start_info"] = {"magic": si.text("magic"), "nr_pages": pages, "flags": si.number("flags")}
    except P2mError as e:
        rows.append(["start_info", e.message])
        entry["start_info"] = {"error": e.message}
    entry["views"] = []
    for name, view in _views(ctx, guest):
        if isinstance(view, View):
            rows.append([f"view {name}", f"PFNs 0..{view.limit - 1:#x}"])
            entry["views"].append({"view": name, "limit": view.limit})
        else:
            rows.append([f"view {name}", view.message])
            entry["views"].append({"view": name, "error": view.message})
    report.data["guests"].append(entry)
    report.table(["", ""], rows, "Guest")


def _views(ctx: Context, guest: LinuxGuest) -> list[tuple[str, View | P2mError]]:
    from gdb_p2m.views.registry import Views

    return Views(guest, ctx.progress).available()


VERB = Verb(
    "identify",
    "what is this dump or target, and how do we know",
    "Shows the format and its writer, the machine's memory, every PV guest with its kernel, the era of its P2M "
    "and the evidence for it, the page-table root in use, and the views that can be read. On RISC-V: where Xen's image "
    "lies and how it was found, which layout its structures have, and its domains.",
    "",
    no_arguments,
    run,
    damaged_ok=True,
)
