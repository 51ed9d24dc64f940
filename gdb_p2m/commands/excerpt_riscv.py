"""`excerpt` for Xen on RISC-V: what every verb reads, and the note VMCOREINFO_XEN that makes xen-syms needless."""

from __future__ import annotations

from gdb_p2m.commands.base import Context
from gdb_p2m.commands.excerpt_code import record_code
from gdb_p2m.errors import P2mError
from gdb_p2m.layout.code import XEN_RISCV_CODE
from gdb_p2m.layout.xen_riscv import SYMBOLS, TYPES
from gdb_p2m.mapping import Run
from gdb_p2m.rules.base import run_rules
from gdb_p2m.rules.catalogue import CATALOGUE
from gdb_p2m.rules.gst_context import GstContext
from gdb_p2m.sources.recording import RecordingSource
from gdb_p2m.spaces.xen_image import own_table_shape
from gdb_p2m.symbols.xen_code import xen_code
from gdb_p2m.target import Target
from gdb_p2m.views.frame_uses import FrameUses
from gdb_p2m.views.gstage import GstageView
from gdb_p2m.views.registry import Views
from gdb_p2m.xen_riscv import RiscvDomain, XenRiscv, over_source

TRACED_RUNS = 512


def record_xen(ctx: Context, recording: RecordingSource) -> str:
    """Do what all verbs do for all domains, through `recording`; returns the text of the note."""
    xen = over_source(ctx.target.xen, recording)
    _touch_image(xen)
    shadow = Target(recording, progress=ctx.progress)
    shadow.xen = xen
    views: dict[int, GstageView] = {}
    domains = shadow.domain_list.domains
    for domain in domains:
        views |= _touch_domain(shadow, domain)
    uses = FrameUses(xen, views, domains)
    for view in views.values():
        for level in view.tree.levels:
            for mfn in level.mfn.tolist():
                _page_info(uses, mfn)
        for run in _some_runs(view):
            if run.frame is not None:
                _page_info(uses, run.frame)
    noted = {n.name for n in SYMBOLS if xen.has(n.name)}
    lines = record_code(xen_code(xen.image, xen.space), xen.names, XEN_RISCV_CODE, noted)
    return note_text(xen) + "".join(f"{line}\n" for line in lines)


def _touch_image(xen: XenRiscv) -> None:
    """Variables, the walks that tell Sv39 from Sv48, and the build-id note."""
    for name in SYMBOLS:
        if name.form == "value" and xen.has(name.name):
            try:
                xen.variable(name.name)
            except P2mError:
                continue
    if xen.space.has_table:
        base = xen.space.direct.base if xen.space.direct else None
        own_table_shape(xen.source, xen.image, xen.space.root, base)
    if xen.file is not None and xen.file.note_address is not None:
        xen.source.read(xen.image.machine(xen.file.note_address), len(xen.file.note))


def _touch_domain(shadow: Target, domain: RiscvDomain) -> dict[int, GstageView]:
    views = Views(domain, shadow.progress)
    run_rules(CATALOGUE, GstContext(shadow, domain, views))
    try:
        view = views.get("gstage")
    except P2mError:
        return {}
    assert isinstance(view, GstageView)
    view.storage()
    for run in _some_runs(view):
        view.trace(run.start)
    return {domain.id: view}


def _some_runs(view: GstageView) -> list[Run]:
    """All runs of a small map, a selection of a large one."""
    mapping = view.mapping()
    return [mapping.run(i) for i in range(0, len(mapping), max(1, len(mapping) // TRACED_RUNS))]


def _page_info(uses: FrameUses, mfn: int) -> None:
    try:
        uses.frames.read(mfn)
    except P2mError:
        return


def note_text(xen: XenRiscv) -> str:
    """VMCOREINFO_XEN in the usual text form; offsets go through embedded structs and never through a pointer."""
    lines = ["PAGESIZE=4096"]
    if xen.build_id:
        lines.append(f"BUILD-ID={xen.build_id}")
    lines.append(f"NUMBER(phys_offset)={xen.image.phys_offset}")
    for name in SYMBOLS:
        symbol = xen.names.symbol(name.name)
        if symbol is not None:
            lines.append(f"SYMBOL({name.name})={symbol.address:x}")
    embedded = xen.facts.mode_form == "embedded"
    for t in TYPES:
        fact = xen.facts.fact(t.kind, t.path)
        if fact.value is None or (xen.facts.mode_form == "globals" and t.path.startswith("gstage_mode_desc")):
            continue
        if embedded and t.path == "p2m_domain.mode":
            for member in ("mode", "paging_levels"):
                at = fact.value + xen.facts.offset(f"gstage_mode_desc.{member}")
                lines.append(f"OFFSET(p2m_domain.mode.{member})={at}")
            continue
        lines.append(f"{t.kind}({t.path})={fact.value}")
    return "\n".join(lines) + "\n"
