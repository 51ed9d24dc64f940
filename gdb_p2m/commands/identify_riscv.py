"""The part of `identify` about Xen on RISC-V: the image, its layout, the domains."""

from __future__ import annotations

from typing import Any

from gdb_p2m.commands.base import Context, Report
from gdb_p2m.errors import P2mError
from gdb_p2m.units import PAGE_SHIFT, human_size
from gdb_p2m.views.base import View
from gdb_p2m.views.registry import Views
from gdb_p2m.xen_riscv import RiscvDomain, XenRiscv


def add_xen(report: Report, ctx: Context) -> None:
    """Xen and every domain; problems of the list are part of the answer."""
    xen = ctx.target.xen
    _xen(report, xen)
    found = ctx.target.domain_list
    report.data["xen"]["domains"] = []
    for domain in found.domains:
        _domain(report, ctx, domain)
    report.data["xen"]["broken_domains"] = [{"address": a, "reason": why} for a, why in found.broken]
    report.data["xen"]["list_problem"] = found.problem or None
    for address, why in found.broken:
        report.text(f"The domain at {address:#x} cannot be read: {why}")
    if found.problem:
        report.text(f"domain_list ends early: {found.problem}")


def _xen(report: Report, xen: XenRiscv) -> None:
    image, facts = xen.image, xen.facts
    notes = [*xen.notes, *xen.space.notes]
    data: dict[str, Any] = {
        "build_id": xen.build_id,
        "image": {
            "start": image.start,
            "end": image.end,
            "machine": image.machine(image.start),
            "phys_offset": image.phys_offset,
            "evidence": image.evidence,
        },
        "page_table": {"shape": xen.space.shape.name, "evidence": xen.shape_evidence},
        "metadata": {"format": facts.metadata.name, "evidence": facts.metadata_evidence},
        "mode": {"form": facts.mode_form, "evidence": facts.mode_evidence},
        "symbol_sources": [{"kind": s.kind, "detail": s.detail} for s in xen.names.sources],
        "notes": notes,
    }
    rows = [
        ["hypervisor", "Xen on RISC-V"],
        ["build id", xen.build_id or "not known"],
        ["image", f"{image.start:#x}..{image.end - 1:#x} at machine address {image.machine(image.start):#x}"],
        ["found by", image.evidence],
        ["own page table", xen.shape_evidence or "not known"],
        ["metadata", f"slots are {facts.metadata.name}, {facts.metadata.slot_bytes} bytes"],
        ["because", facts.metadata_evidence],
        ["mode", f"stored as {facts.mode_form}"],
        ["because", facts.mode_evidence],
    ]
    try:
        first, end = xen.ram_frames
        data["ram"] = {"first_mfn": first, "end_mfn": end}
        rows.append(["RAM", f"frames {first:#x}..{end - 1:#x} ({human_size((end - first) << PAGE_SHIFT)})"])
    except P2mError as e:
        data["ram"] = {"error": e.message}
        rows.append(["RAM", e.message])
    rows += [["symbols", f"{s.kind}: {s.detail}"] for s in xen.names.sources]
    rows += [["note", n] for n in notes]
    report.data["xen"] = data
    report.table(["", ""], rows, "Hypervisor")


def _domain(report: Report, ctx: Context, d: RiscvDomain) -> None:
    mode = d.mode
    rows = [
        ["domain", str(d.id)],
        ["how known", d.id_evidence],
        ["mode", f"{mode.name}" if mode else f"number {d.mode_number} with root level {d.root_level}: no mode"],
        ["read from", d.mode_source],
        ["root", d.root_problem or f"frames {d.root_mfn:#x}..{(d.root_mfn or 0) + 3:#x}, page_info {d.root:#x}"],
    ]
    if d.hgatp is not None:
        rows.append(["hgatp", f"{d.hgatp:#x} (VMID 0: it belongs to a vCPU)"])
    entry: dict[str, Any] = {
        "domain": d.id,
        "kind": d.kind,
        "address": d.address,
        "p2m": d.p2m,
        "mode": None if mode is None else mode.name,
        "mode_number": d.mode_number,
        "root_level": d.root_level,
        "mode_source": d.mode_source,
        "root": {"mfn": d.root_mfn, "page_info": d.root, "problem": d.root_problem or None},
        "hgatp": d.hgatp,
        "views": [],
    }
    for name, view in Views(d, ctx.progress).available():
        if isinstance(view, View):
            rows.append([f"view {name}", f"GFNs 0..{view.limit - 1:#x}"])
            entry["views"].append({"view": name, "limit": view.limit})
        else:
            rows.append([f"view {name}", view.message])
            entry["views"].append({"view": name, "error": view.message})
    report.data["xen"]["domains"].append(entry)
    report.table(["", ""], rows, "Domain")
