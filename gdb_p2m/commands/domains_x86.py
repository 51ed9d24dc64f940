"""What `domains` says of an x86 machine: Xen's own domains joined with the PV guests whose kernels were found."""

from __future__ import annotations

from typing import Any

from gdb_p2m.commands.base import Cell, Context, Report, hexa
from gdb_p2m.errors import P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.structures.hypervisor import Hypervisor
from gdb_p2m.structures.start_info_scan import FoundStartInfo, start_info_pages
from gdb_p2m.structures.x86_domains import XenDomain, XenDomains
from gdb_p2m.structures.xen_pages import shared_info, start_info
from gdb_p2m.target import BY_OWNER, Target
from gdb_p2m.units import PAGE_SHIFT

HEADERS = ["id", "kind", "state", "pages", "roots (machine frame)", "how known"]


def add_domains(report: Report, ctx: Context) -> None:
    """Rows and JSON of every domain, then how it was learned and what was not."""
    target = ctx.target
    guests, nothing = _guests(target)
    xen, problem = _hypervisor(target)
    entries = [pv_entry(g) for g in guests]
    if xen is not None:
        entries = _joined(xen, guests, entries)
    else:
        entries += [_start_info_entry(f) for f in _lonely_pages(ctx, entries)]
    if not entries and nothing is not None:
        raise nothing
    report.data["domains"] = entries
    report.table(HEADERS, [_row(e) for e in entries], align="rllrll")
    report.data["hypervisor"] = _hypervisor_json(xen, problem)
    not_learned = _not_learned(xen, problem, entries)
    report.data["not_learned"] = not_learned
    if xen is not None:
        _explain(report, xen)
    for entry in entries:
        for text in entry.get("problems", ()):
            report.text(f"Domain {entry['id']}: {text}")
    if not_learned:
        report.text("Not learned:\n" + "\n".join(f"  {text}" for text in not_learned))


def _guests(target: Target) -> tuple[list[LinuxGuest], P2mError | None]:
    """A machine may have domains, though no kernel of a PV guest is found."""
    try:
        return target.all_guests, None
    except P2mError as e:
        return [], e


def _hypervisor(target: Target) -> tuple[Hypervisor | None, str]:
    try:
        xen = target.hypervisor
        _ = xen.domains
    except P2mError as e:
        if target.xen_path is not None:
            raise  # what the user named must not be passed over
        return None, e.message
    return xen, ""


# -- one entry ------------------------------------------------------------------------------------------------


def pv_entry(guest: LinuxGuest) -> dict[str, Any]:
    """A PV guest by its own kernel. pages: nr_pages of start_info, what the domain was built with."""
    roots: dict[str, Any] = {
        "page_table": {"mfn": guest.root.mfn, "address": guest.root.mfn << PAGE_SHIFT, "evidence": guest.root.evidence}
    }
    entry: dict[str, Any] = {
        "id": guest.id,
        "kind": guest.kind,
        "state": "unknown",
        "pages": None,
        "pages_source": "start_info.nr_pages: what the domain was built with",
        "roots": roots,
        "evidence": guest.id_evidence,
        "release": guest.names.release,
    }
    try:
        info = start_info(guest)
        entry["pages"] = info.number("nr_pages")
        entry["start_info"] = {"mfn": info.address >> PAGE_SHIFT}
    except P2mError as e:
        entry["pages_error"] = e.message
    try:
        page = shared_info(guest)
    except P2mError:
        return entry
    entry["shared_info"] = {"mfn": page.address >> PAGE_SHIFT}
    mfn = page.number("pfn_to_mfn_frame_list_list")
    if mfn not in (0, guest.width.invalid):
        roots["frame_list_list"] = {"mfn": mfn, "address": mfn << PAGE_SHIFT, "evidence": "shared_info.arch"}
    return entry


def _joined(xen: Hypervisor, guests: list[LinuxGuest], entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Xen's domains in order, each with what its kernel says; then guests that Xen does not know."""
    strangers: list[dict[str, Any]] = []
    own: dict[int, dict[str, Any]] = {}
    for guest, entry in zip(guests, entries, strict=True):
        owner = xen.owner(guest.root.mfn)
        if owner is None or owner.system or owner.frame in own:
            strangers.append(entry)
        else:
            own[owner.frame] = entry
    complete = not xen.frames.survey.unread
    out = [_xen_entry(xen.domains, d, own.get(d.frame), complete) for d in xen.domains.guests]
    for e in strangers:
        e["problems"] = ["its page table belongs to no domain that Xen knows: a guest that is gone, or stale memory"]
    return out + strangers


def _xen_entry(found: XenDomains, d: XenDomain, known: dict[str, Any] | None, complete: bool) -> dict[str, Any]:
    tot_pages = found.offsets["tot_pages"].value
    entry = known or {"roots": {}, "release": None, "evidence": ""}
    if entry["evidence"].startswith(BY_OWNER):
        entry["evidence"] = ""  # the struct domain is named anyway
    if complete or tot_pages is not None:
        entry["pages"] = d.census.pages if complete or tot_pages is None else d.word(tot_pages, 4)
        entry["pages_source"] = "frames that Xen's frame table counts for it" if complete else "domain.tot_pages"
        entry.pop("pages_error", None)
    entry.setdefault("pages", None)
    where = "on domain_list" if d.listed else "owner of frames in the frame table"
    entry |= {
        "id": d.id,
        "kind": d.kind,
        "state": d.state,
        "state_evidence": d.state_evidence,
        "evidence": f"struct domain at {d.address:#x}, {where}" + ("; " + entry["evidence"] if entry["evidence"] else ""),
        "struct_domain": {"virtual": d.address, "mfn": d.frame},
        "listed": d.listed,
        "xenheap_pages": d.census.heap,
        "problems": list(d.problems),
    }
    if known is not None and d.shared_info is not None and known.get("shared_info", {}).get("mfn", d.shared_info) != d.shared_info:
        theirs = known["shared_info"]["mfn"]
        entry["problems"].append(f"its kernel has shared_info at MFN {theirs:#x}, Xen at {d.shared_info:#x}")
    elif d.shared_info is not None:
        entry["shared_info"] = {"mfn": d.shared_info}
    if known is None:
        entry["problems"].append("no kernel of a PV guest was found in it: its P2M cannot be read")
        if d.kind == "not pv":
            entry["problems"] = ["an HVM or PVH domain: Xen translates for it, it has no P2M of its own"]
    return entry


def _lonely_pages(ctx: Context, entries: list[dict[str, Any]]) -> list[FoundStartInfo]:
    """start_info pages of no guest that was found, in a dump of a whole machine."""
    if ctx.target.source.info.core_table is not None:
        return []
    seen = {e["start_info"]["mfn"] for e in entries if "start_info" in e}
    return [f for f in start_info_pages(ctx.target.source, ctx.progress) if f.mfn not in seen]


def _start_info_entry(found: FoundStartInfo) -> dict[str, Any]:
    return {
        "id": None,
        "kind": "pv",
        "state": "unknown",
        "pages": found.record.number("nr_pages"),
        "pages_source": "start_info.nr_pages: what the domain was built with",
        "roots": {},
        "release": None,
        "evidence": f"a start_info page at machine frame {found.mfn:#x}; it may be left over from a domain that is gone",
        "start_info": {"mfn": found.mfn},
        "shared_info": {"mfn": found.shared_info},
        "problems": ["no page-table root was found for it: its P2M cannot be read"],
    }


def _row(entry: dict[str, Any]) -> list[Cell]:
    roots = ", ".join(f"{name} {hexa(r['mfn'])}" for name, r in entry["roots"].items() if isinstance(r, dict))
    pages: Cell = entry["pages"] if entry["pages"] is not None else entry.get("pages_error", "not known")
    number = "?" if entry["id"] is None else str(entry["id"])
    return [number, entry["kind"], entry["state"], pages, roots or "-", entry["evidence"]]


# -- how it was learned ---------------------------------------------------------------------------------------


def _explain(report: Report, xen: Hypervisor) -> None:
    found = xen.domains
    lines = [f"Xen was read through the {xen.evidence}."]
    lines += [f"  {s.kind}: {s.detail}" for s in xen.names.sources]
    lines += [f"  {note}" for note in (xen.names.doubt, *xen.names.notes) if note]
    if found.list_source:
        lines.append(f"  domain_list: {found.list_source}")
    for name, offset in found.offsets.items():
        where = "not known" if offset.value is None else str(offset.value)
        lines.append(f"  OFFSET(domain.{name}): {where} ({offset.source})")
    report.text("\n".join(lines))
    if found.list_problem:
        report.text(found.list_problem)
    for address, why in found.broken:
        report.text(f"Not a domain, at {address:#x}: {why}")


def _hypervisor_json(xen: Hypervisor | None, problem: str) -> dict[str, Any]:
    if xen is None:
        return {"found": False, "reason": problem}
    found = xen.domains
    return {
        "found": True,
        "through": xen.evidence,
        "symbols": [{"kind": s.kind, "detail": s.detail} for s in xen.names.sources],
        "offsets": {n: {"value": o.value, "source": o.source} for n, o in found.offsets.items()},
        "list": found.list_source or None,
        "list_problem": found.list_problem or None,
        "broken": [{"address": a, "reason": why} for a, why in found.broken],
        "system": [{"id": d.id, "name": d.name, "frames": d.census.pages + d.census.heap} for d in found.system],
        "unread_frames": xen.frames.survey.unread,
    }


def _not_learned(xen: Hypervisor | None, problem: str, entries: list[dict[str, Any]]) -> list[str]:
    out = []
    if xen is None:
        out.append(f"Xen's own view: {problem}")
        out.append("so: whether a domain is paused or dying, and domains that are not PV or whose kernel is not in memory")
        if any(e["id"] is None for e in entries):
            out.append("ids of domains without SIF_INITDOMAIN: only Xen has them")
        return out
    if xen.frames.survey.unread:
        out.append(f"the records of {xen.frames.survey.unread:,} frames are not in the dump: owners among them are not seen")
    return out


__all__ = ["add_domains", "pv_entry"]
