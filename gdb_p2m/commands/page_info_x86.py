"""What `page-info` says of an x86 machine: the record in Xen's frame table, decoded, and who uses the frame."""

from __future__ import annotations

from typing import Any

from gdb_p2m.commands.base import Cell, Context, Report
from gdb_p2m.errors import P2mError
from gdb_p2m.structures.x86_frame_table import X86PageInfo
from gdb_p2m.views.machine_frames import MachineFrames, Owner, Use


def add_frames(report: Report, ctx: Context, mfns: list[int]) -> None:
    """One block per frame. Raises NotFound when memory does not show Xen's frame table."""
    frames = MachineFrames(ctx.target, progress=ctx.progress)
    _ = frames.xen.domains
    for mfn in mfns:
        report.data["frames"].append(_frame(report, frames, mfn))
    report.data["unseen"] = [{"domain": d, "reason": why} for d, why in frames.unseen()]
    for d, why in frames.unseen():
        report.text(f"The P2M of domain {'?' if d is None else d} cannot be looked into: {why}")


def _frame(report: Report, frames: MachineFrames, mfn: int) -> dict[str, Any]:
    out: dict[str, Any] = {"mfn": mfn}
    rows: list[list[Cell]] = []
    try:
        info = frames.xen.frames.read(mfn)
        owner = frames.owner(mfn)
    except P2mError as e:
        out |= {"error": e.message, "used_as": ["not known"]}
        rows = [["used as", "not known"], ["page_info", e.message]]
    else:
        used_as = frames.used_as(info, owner)
        out["used_as"] = [used_as]
        rows.append(["used as", used_as])
        _record(out, rows, info, owner)
    mapped = list(frames.uses(mfn))
    out["mapped_by"] = [{"domain": u.domain, "pfn": u.pfn, "kind": u.kind.word} for u in mapped]
    rows += [["in a P2M", _use_words(u, out)] for u in mapped]
    try:
        m2p = frames.m2p.entry(mfn).meaning
    except P2mError as e:
        m2p = f"no entry: {e.message}"
    out["m2p"] = m2p
    rows.append(["M2P says", m2p])
    report.table(["", ""], rows, f"Machine frame {mfn:#x}")
    return out


def _use_words(use: Use, out: dict[str, Any]) -> str:
    who = "d?" if use.domain is None else f"d{use.domain}"
    owner = (out.get("owner") or {}).get("domain")
    note = ""
    if use.kind.word == "foreign":
        note = "" if owner is None else f": a frame of d{owner}, mapped by a grant or as a foreign page"
    elif owner is not None and use.domain is not None and owner != use.domain:
        note = f": but the frame table says that d{owner} owns it"
    return f"{who} PFN {use.pfn:#x}, {use.kind.word}{note}"


def _record(out: dict[str, Any], rows: list[list[Cell]], info: X86PageInfo, owner: Owner) -> None:
    out |= {
        "address": info.address,
        "raw": list(info.raw),
        "count_info": info.count_info,
        "flags": info.flags,
        "state": info.state,
        "references": info.references,
        "type_info": info.type_info,
        "type": info.type_name,
        "type_flags": info.type_flags,
        "type_count": info.type_count,
        "owner": {
            "domain": owner.domain,
            "name": owner.name,
            "pfn": owner.pfn,
            "confirmed": owner.confirmed,
            "struct_domain": info.owner or None,
        },
    }
    if owner.reason:
        out["owner"]["reason"] = owner.reason
    rows.append(["owner", owner.text])
    rows.append(["page_info", f"machine {info.address:#x}"])
    rows.append(["raw", " ".join(f"{w:#x}" for w in info.raw)])
    if info.absent:
        return
    words = [*info.flags, _count(info.references, "reference")]
    rows.append(["count_info", f"{info.count_info:#x}: {' | '.join(words)}"])
    types = [info.type_name, *info.type_flags, _count(info.type_count, "use")]
    rows.append(["type_info", f"{info.type_info:#x}: {' | '.join(types)}"])


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
