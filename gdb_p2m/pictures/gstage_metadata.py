"""A metadata page of a G-stage as a box: which slots hold a type, and which of them mean something."""

from __future__ import annotations

import numpy as np

from gdb_p2m.mapping import Kind
from gdb_p2m.pictures.folding import stretches
from gdb_p2m.pictures.model import Box, Row, span_label
from gdb_p2m.sources.base import as_u64
from gdb_p2m.views.gstage import GstageView
from gdb_p2m.views.gstage_tables import TableLevel
from gdb_p2m.views.gstage_types import MdStatus

LIVE = 1 << 16
"""In codes of slots: the entry of the table is valid and says p2m_ext_storage, so that the type counts."""


def metadata_box(
    view: GstageView, level: TableLevel, table: int, page: int, box_id: str, column: int, limit: int
) -> Box:
    """The metadata page `page` of table frame `table`. A slot that is not live is a left-over (documented: "xen/riscv: introduce metadata table to store P2M type")."""
    values, status = view.metadata.types_of(np.array([table]))
    title, mfn = "metadata", f"MFN {page:#x}"
    if status[0] != MdStatus.OK:
        row = Row(span_label(0, 511), "not in the dump", kind=Kind.UNREADABLE)
        return Box(box_id, column, title, page, notes=(mfn, f"of table {table:#x}"), rows=(row,))
    pages, _ = view.source.read_pages(np.array([table]))
    live = view.types.external_leaves(as_u64(pages)[0], level.level, level.order == 0)
    codes = values[0].astype(np.int64) | np.where(live, LIVE, 0)
    found = [s for s in stretches(codes) if s.code]
    rows = [_row(view, s.first, s.last, s.code) for s in found[:limit]]
    if len(found) > limit:
        first, last = found[limit].first, found[-1].last
        text = f"… {len(found) - limit} stretches"
        rows.append(Row(span_label(first, last), text, slots=last - first + 1, folded=True))
    if not found:
        rows.append(Row(span_label(0, 511), "all 0: no type is kept"))
    stored = int(np.count_nonzero(values[0]))
    notes = (mfn, f"of table {table:#x}", f"{int(live.sum())} live, {stored} stored")
    return Box(box_id, column, title, page, notes=notes, rows=tuple(rows))


def _row(view: GstageView, first: int, last: int, code: int) -> Row:
    value = code & (LIVE - 1)
    name = view.types.name.get(value, f"type {value}").removeprefix("p2m_")
    if not code & LIVE:
        return Row(span_label(first, last), f"{name}, stale", "left over", slots=last - first + 1)
    kind = Kind(int(view.types.slot_kinds(np.array([value], dtype=np.uint64))[0]))
    return Row(span_label(first, last), name, "", kind, slots=last - first + 1)
