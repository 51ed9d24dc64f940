"""The picture of a G-stage: the root's four pages, tables level by level, superpages, and metadata pages.

A column is a level. Tables that are not drawn are counted in the row of the table above; the most telling ones are
drawn: with frame numbers that the user asked for, with damage, with many kinds, with metadata.
"""

from __future__ import annotations

import numpy as np

from gdb_p2m.layout.xen_riscv import PAGETABLE_ENTRIES, ROOT_PAGES
from gdb_p2m.mapping import Kind
from gdb_p2m.pictures.entries import entry_text
from gdb_p2m.pictures.folding import Stretch, best, fold, stretches
from gdb_p2m.pictures.gstage_metadata import metadata_box
from gdb_p2m.pictures.model import Box, Options, Picture, Row, Sheet, hex_span, span_label
from gdb_p2m.units import PAGE_SHIFT, human_size, thousands
from gdb_p2m.views.gstage import TABLE_PROBLEMS, GstageView
from gdb_p2m.views.gstage_leaves import bad_table_kind
from gdb_p2m.views.gstage_tables import TableLevel, TableStatus
from gdb_p2m.views.gstage_types import MdStatus

UNDRAWN = 1 << 20
BAD_TABLE = 1 << 21
DRAWN = 1 << 22
"""Codes of slots that lead to tables; others are values of Kind."""


class GstageDrawing:
    """One drawing in the making. ids: (level index, row) -> box id of the tables that are drawn."""

    def __init__(self, view: GstageView, options: Options) -> None:
        self.view = view
        self.options = options
        self.sheet = Sheet()
        self.mapping = view.mapping()
        self.levels = view.tree.levels
        self.ids: dict[tuple[int, int], str] = {}
        self.children = [self._children(i) for i in range(len(self.levels) - 1)]

    def _children(self, index: int) -> dict[int, list[int]]:
        """Row of a table -> rows of its tables in the level below."""
        below: dict[int, list[int]] = {}
        parents = self.levels[index + 1].parent
        for a, b in ((s.first, s.last) for s in stretches(parents)):
            below.setdefault(int(parents[a]), []).extend(range(a, b + 1))
        return below

    def draw(self) -> Picture:
        """The picture."""
        view, domain = self.view, self.view.domain
        chosen = self._choose()
        for index, rows in enumerate(chosen):
            for row in rows:
                self.ids[index, row] = self.sheet.new_id(f"table-{int(self.levels[index].mfn[row]):x}")
        for index, rows in enumerate(chosen):
            for row in rows:
                self.sheet.add(self._table(index, row))
        hgatp = "" if domain.hgatp is None else f", hgatp {domain.hgatp:#x}"
        root = hex_span(view.root_mfn, view.root_mfn + ROOT_PAGES - 1)
        heading = (f"p2m->root: page_info of frames {root}, {view.mode.name}{hgatp}",)
        return Picture(
            view.name,
            domain.id,
            "GFN",
            f"The P2M of domain {domain.id}, view gstage",
            (*(lv.level.name for lv in self.levels), "metadata"),
            tuple(self.sheet.boxes),
            heading,
            tuple(self.sheet.folded),
            tuple(self.sheet.remarks),
        )

    # -- which tables ----------------------------------------------------------------------------------

    def _choose(self) -> list[list[int]]:
        """Rows of the tables that are drawn, level by level. The root's pages always are."""
        chosen = [list(range(len(self.levels[0])))]
        for index, below in enumerate(self.children):
            level = self.levels[index + 1]
            rows = [r for parent in chosen[-1] for r in below.get(parent, ())]
            good = [r for r in rows if level.status[r] <= TableStatus.UNREADABLE]
            kept = sorted(good[i] for i in best([self._score(index + 1, r) for r in good], self.options.boxes))
            left = len(level) - len(kept)
            if left:
                self.sheet.say_folded(
                    f"{level.level.name}: {thousands(left)} of {thousands(len(level))} tables are not drawn"
                )
            chosen.append(kept)
        return chosen

    def _score(self, index: int, row: int) -> tuple[int, ...]:
        level = self.levels[index]
        first, end = int(level.base[row]), int(level.base[row]) + level.span
        forced = any(first <= n < end for n in self.options.at)
        a, b = np.searchsorted(self.mapping.start, [first, end])
        kinds = len(np.unique(self.mapping.kind[a:b]))
        below = len(self.children[index].get(row, ())) if index < len(self.children) else 0
        bad = level.status[row] != TableStatus.OK
        return int(forced), int(bad), kinds, min(below, 2), min(int(b - a), 8)

    # -- one table -------------------------------------------------------------------------------------

    def _table(self, index: int, row: int) -> Box:
        level = self.levels[index]
        mfn, base = int(level.mfn[row]), int(level.base[row])
        title = f"root page {row}" if index == 0 else f"{level.level.name} table"
        notes = (f"MFN {mfn:#x}", f"GFN {hex_span(base, base + level.span - 1)}")
        numbers = (base, base + level.span - 1)
        if level.status[row] == TableStatus.UNREADABLE:
            rows = [Row(span_label(0, PAGETABLE_ENTRIES - 1), "not in the dump", kind=Kind.UNREADABLE, numbers=numbers)]
        else:
            rows = self._rows(index, row)
            rows += self._metadata(level, index, row)
        return Box(self.ids[index, row], index, title, mfn, notes=notes, rows=tuple(rows), numbers=numbers)

    def _rows(self, index: int, row: int) -> list[Row]:
        level = self.levels[index]
        slots = np.arange(PAGETABLE_ENTRIES, dtype=np.int64)
        codes = self.mapping.kinds_at(level.base[row] + (slots << level.order)).astype(np.int64)
        tables: dict[int, int] = {}
        if index < len(self.children):
            below = self.levels[index + 1]
            for child in self.children[index].get(row, ()):
                slot = int(below.slot[child])
                tables[slot] = child
                if (index + 1, child) in self.ids:
                    codes[slot] = DRAWN | slot
                elif below.status[child] > TableStatus.UNREADABLE:
                    codes[slot] = BAD_TABLE | int(below.status[child])
                else:
                    codes[slot] = UNDRAWN
        parts = stretches(codes)
        drawn = {i for i, p in enumerate(parts) if p.code & (DRAWN | BAD_TABLE)}
        other = [i for i in range(len(parts)) if i not in drawn]
        keep = drawn | {other[i] for i in best([_weight(parts[i]) for i in other], self.options.rows)}
        rows = []
        for part in fold(len(parts), keep):
            rows.append(self._row(index, row, [parts[i] for i in part], tables))
        return rows

    def _row(self, index: int, row: int, parts: list[Stretch], tables: dict[int, int]) -> Row:
        level = self.levels[index]
        first, last = parts[0].first, parts[-1].last
        label = span_label(first, last)
        gfn = int(level.base[row]) + (first << level.order)
        numbers = (gfn, int(level.base[row]) + ((last + 1) << level.order) - 1)
        count = last - first + 1
        span = f"GFN {hex_span(*numbers)}"
        if len(parts) > 1:
            self.sheet.say_folded(
                f"{level.level.name} table {int(level.mfn[row]):#x}: {len(parts)} stretches of slots are one row"
            )
            return Row(label, f"… {len(parts)} stretches", span, numbers=numbers, slots=count, folded=True)
        code = parts[0].code
        if code & DRAWN:
            child = tables[first]
            return Row(
                label, "", span, None, self.ids[index + 1, child], numbers, int(self.levels[index + 1].mfn[child])
            )
        if code & BAD_TABLE:
            status = TableStatus(code & 3)
            return Row(
                label, TABLE_PROBLEMS[status].split(":")[0], span, bad_table_kind(status), numbers=numbers, slots=count
            )
        if code == UNDRAWN:
            text = f"… {count} tables" if count > 1 else "a table, not drawn"
            return Row(label, text, span, numbers=numbers, slots=count, folded=True)
        return self._leaf_row(level, parts[0], label, numbers)

    def _leaf_row(self, level: TableLevel, part: Stretch, label: str, numbers: tuple[int, int]) -> Row:
        kind = Kind(part.code)
        if kind is Kind.INVALID:
            return Row(label, "V=0", "invalid: nothing is mapped", kind, numbers=numbers, slots=part.slots)
        here = self.mapping.clip(numbers[0], numbers[1] + 1)
        if not kind.has_frame or not len(here):
            return Row(label, entry_text(kind, -1, -1, 1), "", kind, numbers=numbers, slots=part.slots)
        low, high = int(here.frame[0]), int(here.frame[-1] + here.count[-1]) - 1
        text = f"{kind.word} {entry_text(kind, low, high, len(here))}"
        size = human_size(1 << level.order + PAGE_SHIFT)
        detail = f"{size} superpages" if level.order else ""
        return Row(label, text, detail, kind, None, numbers, low, part.slots)

    def _metadata(self, level: TableLevel, index: int, row: int) -> list[Row]:
        """The row of v.md.pg, and the metadata page as a box of its own."""
        md = self.view.metadata
        mfn = int(level.mfn[row])
        at = int(md.pages.rows(np.array([mfn]))[0])
        status = MdStatus(int(md.pages.status[at]))
        if status is MdStatus.NONE:
            return []
        if status is not MdStatus.OK:
            kind = Kind.UNREADABLE if status in (MdStatus.NO_PAGE_INFO, MdStatus.UNREADABLE) else Kind.CORRUPT
            return [Row("v.md.pg", md.explain(at) or "cannot be read", kind=kind)]
        page = int(md.pages.mfn[at])
        box_id = self.sheet.new_id(f"metadata-{page:x}")
        self.sheet.add(metadata_box(self.view, level, mfn, page, box_id, len(self.levels), self.options.rows))
        return [Row("v.md.pg", "", "types of foreign leaves", None, box_id, None, page)]


def _weight(part: Stretch) -> tuple[int, ...]:
    """What is mapped says more than what is not; damage says most."""
    return int(part.code in (Kind.CORRUPT, Kind.UNREADABLE)), int(part.code != Kind.INVALID), part.slots


def gstage_picture(view: GstageView, options: Options) -> Picture:
    """The picture of a G-stage. Cost: the tables that are drawn; the view has read all of them."""
    return GstageDrawing(view, options).draw()
