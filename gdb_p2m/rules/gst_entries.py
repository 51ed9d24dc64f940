"""Checks of the GST rules that look at entries: GST-002 to 005, 009, 012, 013."""

from __future__ import annotations

import numpy as np

from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.xen_riscv import FLAGS_BY_TYPE, INVALID_GFN, TYPE_FLAGS
from gdb_p2m.mapping import Kind
from gdb_p2m.rules.base import CannotCheck, Findings, NotApplicable
from gdb_p2m.rules.gst_context import BadEntries, GstContext
from gdb_p2m.spaces.entries import decode, riscv_flags
from gdb_p2m.units import PAGE_SHIFT
from gdb_p2m.views.gstage import TABLE_PROBLEMS
from gdb_p2m.views.gstage_tables import TableStatus
from gdb_p2m.views.gstage_types import MdStatus

POINTER_BITS = np.uint64(((1 << 64) - 1) ^ (pt.RISCV_V | pt.RISCV_PPN_MASK))
_NAMES = {
    Kind.RAM_RW: "p2m_ram_rw",
    Kind.MMIO_DIRECT_IO: "p2m_mmio_direct_io",
    Kind.MAP_FOREIGN_RW: "p2m_map_foreign_rw",
    Kind.MAP_FOREIGN_RO: "p2m_map_foreign_ro",
}


def _where(bad: BadEntries, i: int) -> dict[str, int]:
    address = (bad.table[i] << PAGE_SHIFT) + bad.slot[i] * 8
    return {"gfn": bad.gfn[i], "mfn": bad.table[i], "address": address, "count": bad.count[i]}


def _entry(bad: BadEntries, i: int) -> str:
    slots = f"slot {bad.slot[i]}" if bad.count[i] == 1 else f"slots {bad.slot[i]}..{bad.slot[i] + bad.count[i] - 1}"
    return f"{slots} of the L{bad.level[i]} table at frame {bad.table[i]:#x} (GFN {bad.gfn[i]:#x})"


def _raw(bad: BadEntries, i: int) -> str:
    return f"{bad.raw[i]:#x} [{riscv_flags(bad.raw[i])}]"


def pointers_are_plain(ctx: GstContext, found: Findings) -> None:
    """GST-002."""
    tree = ctx.view.tree
    for level, above in zip(tree.levels[1:], tree.levels, strict=False):
        found.look(len(level))
        for row in found.room(np.flatnonzero(level.pointer & POINTER_BITS)):
            raw, slot, table = int(level.pointer[row]), int(level.slot[row]), int(above.mfn[level.parent[row]])
            found.add(
                {"gfn": int(level.base[row]), "mfn": table, "address": (table << PAGE_SHIFT) + slot * 8},
                "V and the frame number alone",
                f"{raw:#x} [{riscv_flags(raw)}]",
                f"slot {slot} of the {above.level.name} table at frame {table:#x} points to a table with more bits than V",
            )
    bad = ctx.scan.malformed
    found.look(bad.looked)
    levels = {lv.number: lv for lv in tree.levels}
    for i in range(len(bad.raw)):
        level = levels[bad.level[i]]
        problem = decode("riscv", bad.raw[i], level.level, level is tree.levels[-1]).problem
        found.add(
            _where(bad, i),
            "an entry that the hardware accepts",
            _raw(bad, i),
            f"{_entry(bad, i)}: {problem}",
            count=bad.count[i],
        )
    found.total += bad.lost
    ctx.unread_tables(found)


def superpages_aligned(ctx: GstContext, found: Findings) -> None:
    """GST-003."""
    bad = ctx.scan.superpages
    found.look(bad.looked)
    for i in range(len(bad.raw)):
        order = bad.level[i] * 9
        if bad.level[i] > 2:
            expected, what = "a table, or nothing", f"a leaf at level {bad.level[i]}"
        else:
            expected = f"a frame number whose low {order} bits are zero"
            what = f"a superpage at frame {bad.extra[i]:#x}, which is not aligned"
        found.add(_where(bad, i), expected, _raw(bad, i), f"{_entry(bad, i)}: {what}")
    found.total += bad.lost
    ctx.unread_tables(found)


def external_types(ctx: GstContext, found: Findings) -> None:
    """GST-004."""
    bad = ctx.scan.external
    pages, types = ctx.view.metadata.pages, ctx.view.types
    found.look(bad.looked)
    for i in range(len(bad.raw)):
        row = int(pages.rows(np.array([bad.table[i]]))[0])
        why = ctx.view.metadata.explain(row) or f"its slot holds type {types.title(bad.extra[i])}"
        found.add(
            _where(bad, i),
            "p2m_map_foreign_rw or p2m_map_foreign_ro in the slot of the table's metadata page",
            why,
            f"{_entry(bad, i)} has an external type, but {why}",
            count=bad.count[i],
        )
    found.total += bad.lost
    if ctx.scan.unreadable:
        found.could_not_read(f"the metadata of {ctx.scan.unreadable:,} external leaves is not in the dump")
    ctx.unread_tables(found)


def flags_agree(ctx: GstContext, found: Findings) -> None:
    """GST-005."""
    bad = ctx.scan.flags
    found.look(bad.looked)
    for i in range(len(bad.raw)):
        kind, raw = Kind(bad.extra[i]), bad.raw[i]
        if kind in _NAMES:
            name = _NAMES[kind]
            expected = f"{name}: {riscv_flags(TYPE_FLAGS[name])}"
            text = f"{_entry(bad, i)} is {name}, but its flags are {riscv_flags(raw & FLAGS_BY_TYPE)}"
        elif kind is Kind.INVALID:
            expected, text = "V clear", f"{_entry(bad, i)} is valid, but its type is p2m_invalid"
        else:
            expected, text = "flags of one of the types", f"{_entry(bad, i)}: {_contradiction(ctx, bad, i)}"
        found.add(_where(bad, i), expected, _raw(bad, i), text, count=bad.count[i])
    found.total += bad.lost
    ctx.unread_tables(found)


def _contradiction(ctx: GstContext, bad: BadEntries, i: int) -> str:
    level = next(lv for lv in ctx.view.tree.levels if lv.number == bad.level[i])
    problem = decode("riscv", bad.raw[i], level.level, level is ctx.view.tree.levels[-1]).problem
    if problem:
        return problem
    if bad.raw[i] & pt.RISCV_N:
        return "N (Svnapot) is set, which Xen does not use"
    return f"RSW holds {ctx.view.types.title((bad.raw[i] & pt.RISCV_RSW_MASK) >> pt.RISCV_RSW_SHIFT)}"


def mapped_within_limits(ctx: GstContext, found: Findings) -> None:
    """GST-009."""
    low, high = ctx.riscv.lowest_mapped_gfn, ctx.riscv.max_mapped_gfn
    if low is None or high is None:
        raise CannotCheck("the offsets of lowest_mapped_gfn and max_mapped_gfn are not known")
    ctx.view  # noqa: B018  GST-001 reports what makes the view impossible
    mapping = ctx.mapping
    mapped = np.flatnonzero((mapping.kind != Kind.UNREADABLE) & (mapping.kind != Kind.CORRUPT))
    found.look(int(mapping.count[mapped].sum()))
    shown = "none (nothing was ever mapped)" if low == INVALID_GFN else f"{low:#x}..{high:#x}"
    start, last = mapping.start[mapped], mapping.start[mapped] + mapping.count[mapped] - 1
    outside = np.flatnonzero((start < min(low, 1 << 62)) | (last > min(high, 1 << 62)))
    for i in found.room(outside):
        a, b = int(start[i]), int(last[i])
        first = a if a < low else max(a, high + 1)
        end = min(b, low - 1) if a < low else b
        found.add(
            {"gfn": first, "count": end - first + 1},
            f"GFNs within {shown}",
            f"GFNs {first:#x}..{end:#x} are mapped",
            f"GFNs {first:#x}..{end:#x} are mapped, but lowest_mapped_gfn..max_mapped_gfn is {shown}: Xen's own lookup "
            "does not see them",
        )
    ctx.unread_tables(found)


def split_keeps_type(ctx: GstContext, found: Findings) -> None:
    """GST-012."""
    splits, types = ctx.scan.splits, ctx.view.types
    if not splits.groups:
        raise NotApplicable("no table holds pieces of a superpage of external type")
    found.look(splits.members)
    for level, table, slot, values, members in splits.broken:
        listed = ", ".join(types.title(v) for v in values)
        found.add(
            {"mfn": table, "address": (table << PAGE_SHIFT) + slot * 8, "count": members},
            "one type in all slots of the pieces",
            listed,
            f"{members} entries of the L{level} table at frame {table:#x} are pieces of one superpage (from slot {slot}), but "
            f"their metadata slots hold different types: {listed}",
        )
    if int(np.count_nonzero(ctx.view.metadata.pages.status == MdStatus.NO_PAGE_INFO)):
        ctx.unread_metadata(found)
    ctx.unread_tables(found)


def tables_used_once(ctx: GstContext, found: Findings) -> None:
    """GST-013."""
    tree = ctx.view.tree
    for level, above in zip(tree.levels[1:], tree.levels, strict=False):
        found.look(len(level))
        wrong = (level.status == TableStatus.OUTSIDE) | (level.status == TableStatus.SHARED)
        for row in found.room(np.flatnonzero(wrong)):
            mfn, status = int(level.mfn[row]), TableStatus(int(level.status[row]))
            table, slot = int(above.mfn[level.parent[row]]), int(level.slot[row])
            found.add(
                {"gfn": int(level.base[row]), "mfn": mfn, "address": (table << PAGE_SHIFT) + slot * 8},
                "a page of RAM that is no other table of this P2M",
                TABLE_PROBLEMS[status],
                f"slot {slot} of the {above.level.name} table at frame {table:#x} points to frame {mfn:#x}: "
                f"{TABLE_PROBLEMS[status]}",
            )
