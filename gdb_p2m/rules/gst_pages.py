"""Checks of the GST rules that look at pages: GST-001, 006 to 008, 010, 011."""

from __future__ import annotations

import numpy as np

from gdb_p2m.errors import P2mError
from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.xen_riscv import (
    HGATP_MODE_SHIFT,
    HGATP_PPN_MASK,
    MODES,
    PAGETABLE_ENTRIES,
    ROOT_PAGES,
)
from gdb_p2m.mapping import Kind
from gdb_p2m.rules.base import CannotCheck, Findings, NotApplicable
from gdb_p2m.rules.gst_context import GstContext, cpu_hgatps, domain_roots
from gdb_p2m.sources.base import as_u64
from gdb_p2m.units import PAGE_SHIFT, FrameArray, U64Array
from gdb_p2m.views.gstage_tables import BoolArray
from gdb_p2m.views.gstage_types import MdStatus


def root_is_sound(ctx: GstContext, found: Findings) -> None:
    """GST-001."""
    d = ctx.riscv
    if d.root == 0:
        raise NotApplicable(d.root_problem)
    found.look(3)
    if d.root_mfn is None:
        found.add(
            {"address": d.root}, "the page_info of 4 pages of RAM", f"{d.root:#x}", d.root_problem, space="virtual"
        )
    elif d.root_mfn % ROOT_PAGES:
        found.add(
            {"mfn": d.root_mfn},
            "a frame that is a multiple of 4",
            f"{d.root_mfn:#x}",
            f"the root at frame {d.root_mfn:#x} is not aligned to 16 KiB",
        )
    if d.mode is None:
        pairs = ", ".join(f"{m.number}/{m.root_level}" for m in MODES)
        found.add(
            {"address": d.p2m},
            f"hgatp mode/root level: {pairs}",
            f"{d.mode_number}/{d.root_level}",
            f"mode {d.mode_number} with root level {d.root_level} ({d.mode_source}) is none that the hardware has",
            space="virtual",
        )
    if d.back_pointer is not None:
        found.look()
        if d.back_pointer != d.address:
            found.add(
                {"address": d.p2m},
                f"p2m_domain.domain = {d.address:#x}",
                f"{d.back_pointer:#x}",
                f"the P2M says that it belongs to the domain at {d.back_pointer:#x}, not to this one at {d.address:#x}",
                space="virtual",
            )
    _hgatp(ctx, found)


def _hgatp(ctx: GstContext, found: Findings) -> None:
    """CPUs that run a guest: their root is one of Xen's, and this domain's with this domain's mode."""
    d = ctx.riscv
    roots = domain_roots(ctx.target)
    first = min(roots.values(), default=d.id)
    for cpu, value in cpu_hgatps(ctx.target):
        mode, ppn = value >> HGATP_MODE_SHIFT, value & HGATP_PPN_MASK
        if mode == 0:
            continue
        mine = d.root_mfn is not None and ppn == d.root_mfn
        if not mine and (ppn in roots or d.id != first):
            continue
        found.look()
        if not mine:
            found.add(
                {"mfn": ppn},
                "the root of one of Xen's domains",
                f"hgatp {value:#x}",
                f"CPU {cpu}: hgatp names frame {ppn:#x}, which is the root of no domain on domain_list",
            )
        elif mode != d.mode_number:
            found.add(
                {"mfn": ppn},
                f"mode {d.mode_number}",
                f"hgatp {value:#x}: mode {mode}",
                f"CPU {cpu} runs domain {d.id} with hgatp mode {mode}, but its P2M has mode {d.mode_number}",
            )


def metadata_pointers(ctx: GstContext, found: Findings) -> None:
    """GST-006."""
    pages = ctx.metadata.pages
    known = pages.status != MdStatus.NO_PAGE_INFO
    found.look(int(np.count_nonzero(known & (pages.pointer != 0))))
    wrong = np.isin(pages.status, (MdStatus.BAD_POINTER, MdStatus.IS_TABLE, MdStatus.SHARED))
    for row in found.room(np.flatnonzero(wrong)):
        table, why = int(pages.table[row]), ctx.metadata.explain(row)
        found.add(
            {"mfn": table, "address": ctx.frames.virtual(table) + ctx.frames.v_offset},
            "NULL, or the page_info of a page of RAM that serves this table alone",
            f"{int(pages.pointer[row]):#x}",
            f"table at frame {table:#x}: {why}",
            space="virtual",
        )
    ctx.unread_metadata(found)


def pages_list(ctx: GstContext, found: Findings) -> None:
    """GST-007."""
    metadata = ctx.metadata.pages
    tables = {mfn for _, _, mfn in ctx.tables()}
    md = set(metadata.mfn[metadata.mfn >= 0].tolist())
    listed = ctx.pages
    if listed.problem and not listed.unreadable:
        found.add({}, "a closed list of page_infos", "broken", listed.problem)
    elif listed.problem:
        found.could_not_read(listed.problem)
    _no_owner(ctx, found, np.array(sorted(tables | md), dtype=np.int64), tables)
    on_list = set(listed.frames)
    found.look(len(on_list))
    if not listed.problem:
        for mfn in sorted((tables | md) - on_list):
            what = "table" if mfn in tables else "metadata"
            found.add(
                {"mfn": mfn}, "on p2m->pages", "not on it", f"the {what} page at frame {mfn:#x} is not on p2m->pages"
            )
    ctx.unread_tables(found)
    ctx.unread_metadata(found)
    if found.unread:
        return
    for mfn in sorted(on_list - tables - md):
        found.add(
            {"mfn": mfn},
            "a table or a metadata page of this P2M",
            "neither",
            f"frame {mfn:#x} is on p2m->pages, but it is neither a table nor a metadata page of this P2M",
        )


def _no_owner(ctx: GstContext, found: Findings, mfns: FrameArray, tables: set[int]) -> None:
    """count_info is 0 for every table and metadata page."""
    offset = ctx.riscv.xen.facts.maybe_offset("page_info.count_info")
    if offset is None:
        found.could_not_read("OFFSET(page_info.count_info) is not known")
        return
    values, ok = ctx.frames.words(mfns, offset)
    found.look(int(np.count_nonzero(ok)))
    for i in found.room(np.flatnonzero(ok & (values != 0))):
        mfn, what = int(mfns[i]), "table" if int(mfns[i]) in tables else "metadata"
        found.add(
            {"mfn": mfn, "address": ctx.frames.virtual(mfn) + offset},
            "count_info 0",
            f"{int(values[i]):#x}",
            f"the {what} page at frame {mfn:#x} has count_info {int(values[i]):#x}: it is in use as something else",
            space="virtual",
        )
    lost = int(np.count_nonzero(~ok))
    if lost:
        found.could_not_read(f"the page_infos of {lost:,} table and metadata pages are not in the dump")


def used_entries(ctx: GstContext, found: Findings) -> None:
    """GST-008."""
    pages, live = ctx.metadata.pages, ctx.scan.live
    with_md = np.flatnonzero(pages.status == MdStatus.OK)
    counts = ctx.frames.used_entries(pages.table[with_md])
    if counts is None:
        raise NotApplicable("this Xen does not count used entries (before 1055177445)")
    values, ok = counts
    stored = _stored_slots(ctx, pages.mfn[with_md])
    found.look(int(np.count_nonzero(ok)))
    for i in found.room(np.flatnonzero(ok & (values.astype(np.int64) != live[with_md]))):
        row = int(with_md[i])
        table, used, alive = int(pages.table[row]), int(values[i]), int(live[row])
        left = "not readable" if stored[i] < 0 else f"{int(stored[i])} slots hold a type"
        found.add(
            {"mfn": table, "address": ctx.frames.virtual(table) + ctx.frames.used_offset},
            f"used_entries {alive} (external leaves that are valid)",
            f"used_entries {used}; {left}",
            f"the table at frame {table:#x} counts {used} used metadata slots, {alive} are live: normal after unmapping, "
            "splitting or reuse of the page, which leave slots and counts behind",
            space="virtual",
        )
    ctx.unread_metadata(found)
    ctx.unread_tables(found)


def _stored_slots(ctx: GstContext, md: FrameArray) -> FrameArray:
    """Slots that hold anything, by metadata page; -1 where the page cannot be read."""
    out = np.full(len(md), -1, dtype=np.int64)
    for part, pages, ok in ctx.view.source.iter_pages(md):
        counts = np.count_nonzero(ctx.metadata.slots_of(pages), axis=1)
        out[part] = np.where(ok, counts, -1)
    return out


def metadata_without_live_slot(ctx: GstContext, found: Findings) -> None:
    """GST-010."""
    pages, live = ctx.metadata.pages, ctx.scan.live
    with_md = np.flatnonzero(pages.status == MdStatus.OK)
    found.look(len(with_md))
    for row in found.room(with_md[live[with_md] == 0]):
        mfn, table = int(pages.mfn[row]), int(pages.table[row])
        found.add(
            {"mfn": mfn},
            "a valid entry with p2m_ext_storage in the table",
            "none",
            f"no valid entry of the table at frame {table:#x} uses its metadata page at frame {mfn:#x}",
        )
    ctx.unread_metadata(found)
    ctx.unread_tables(found)


def root_selects_metadata(ctx: GstContext, found: Findings) -> None:
    """GST-011."""
    view, md = ctx.view, ctx.metadata
    roots = view.root_mfn + np.arange(ROOT_PAGES, dtype=np.int64)
    pages, ok = view.source.read_pages(roots)
    if not ok.all():
        raise CannotCheck("the root is not wholly in the dump")
    entries = as_u64(pages)
    rsw = (entries & np.uint64(pt.RISCV_RSW_MASK)) >> np.uint64(pt.RISCV_RSW_SHIFT)
    leaf = (entries & np.uint64(pt.RISCV_R | pt.RISCV_W | pt.RISCV_X)) != 0
    valid = (entries & np.uint64(pt.RISCV_V)) != 0
    external = valid & leaf & (rsw == np.uint64(view.types.external))
    if not external.any():
        raise NotApplicable("the root holds no leaf of external type")
    values, status = md.types_of(roots)
    legal = view.types.by_slot[np.minimum(values, np.uint64(255)).astype(np.uint8)] != Kind.CORRUPT
    # A type in a slot that its own page's entry uses is where it belongs.
    legal &= (status == MdStatus.OK)[:, None]
    spare = legal & ~external
    found.look(int(np.count_nonzero(external)))
    for page, slot in zip(*(a.tolist() for a in np.nonzero(external & ~legal)), strict=True):
        where = _found_elsewhere(ctx, values, spare, page, slot)
        if where:
            index = page * PAGETABLE_ENTRIES + slot
            found.add(
                {"mfn": int(roots[page]), "address": (int(roots[page]) << PAGE_SHIFT) + slot * 8},
                f"a type in slot {slot} of the metadata of root page {page}",
                where,
                f"root entry {index} has an external type, but its own slot is empty: {where}",
            )
    ctx.unread_metadata(found)


def _found_elsewhere(ctx: GstContext, values: U64Array, spare: BoolArray, page: int, slot: int) -> str:
    """Where the type of a root entry stands instead, in words; "" when nowhere."""
    md = ctx.metadata
    for other in range(ROOT_PAGES):
        if other != page and spare[other, slot]:
            return f"slot {slot} of the metadata of root page {other} holds {ctx.view.types.title(int(values[other, slot]))}"
    rows = md.pages.rows(ctx.view.root_mfn + np.arange(ROOT_PAGES, dtype=np.int64))
    for owner in (page, 0):
        first = int(md.pages.mfn[rows[owner]])
        if first < 0 or not page:
            continue
        address = md.slot_address(first, page * PAGETABLE_ENTRIES + slot)
        try:
            raw = int.from_bytes(ctx.view.source.read(address, md.format.slot_bytes), "little") & md.format.mask
        except P2mError:
            continue
        if raw < 256 and int(ctx.view.types.by_slot[raw]) != Kind.CORRUPT:
            return f"the slot of the unreduced index, at {address:#x}, holds {ctx.view.types.title(raw)}"
    return ""
