"""The picture of an x86 view: top page, middle pages, leaves; shared pages once, what is alike in stacks.

Linux draws the tree so in the comment of arch/x86/xen/p2m.c (2.6.37 on; p2m_mid_identity since 3.16); here the slots
have the values of one machine, and the linear list and the frame list list are drawn in the same way.
"""

from __future__ import annotations

import numpy as np

from gdb_p2m.mapping import Kind
from gdb_p2m.pictures.folding import Stretch, best, fold, stretches
from gdb_p2m.pictures.model import Box, Options, Picture, Row, Sheet, from_slots, hex_span, span_label
from gdb_p2m.pictures.pv_leaves import LeafColumn, plural
from gdb_p2m.pictures.skeleton import OUTSIDE, Skeleton, kind_masks, kinds_of_mask
from gdb_p2m.units import thousands
from gdb_p2m.views.leaves import Backing

BAD = (1 << Kind.UNREADABLE) | (1 << Kind.CORRUPT)


class PvDrawing:
    """One drawing in the making. codes: per leaf slot, Backing | kinds << 8; alike slots have equal codes."""

    def __init__(self, s: Skeleton, options: Options) -> None:
        self.s = s
        self.options = options
        self.sheet = Sheet()
        masks = kind_masks(s.mapping, s.per_leaf, len(s.backing) - s.skip)
        kinds = np.concatenate((np.zeros(s.skip, dtype=np.int64), masks.astype(np.int64)))
        self.codes = s.backing.astype(np.int64) | np.where(s.backing == OUTSIDE, 0, kinds << 8)
        self.rows = self.codes.reshape(-1, s.per_mid)
        self.forced = {n // s.per_leaf + s.skip for n in options.at}
        self.leaves = LeafColumn(s, options, self.sheet, self.forced)
        self._shared_mids: dict[int, str] = {}

    def draw(self) -> Picture:
        """The picture."""
        s = self.s
        groups = self._top_groups()
        drawn = self._drawn(groups)
        own = sum(int(s.mid[groups[i].first]) not in s.names for i in drawn)
        budget = max(4, self.options.boxes // max(1, own) + 2)
        rows: list[Row] = []
        top_id = self.sheet.new_id("top")
        for part in fold(len(groups), drawn | self._plain(groups, drawn)):
            rows.append(self._top_row([groups[i] for i in part], part.start in drawn, budget))
        notes = () if s.top_mfn is None else (f"MFN {s.top_mfn:#x}",)
        top = Box(top_id, 0, s.top_title, s.top_mfn, notes=notes, rows=tuple(rows))
        self.leaves.finish()
        unused = [n for n, count in s.shared_slots.items() if not count]
        if unused:
            self.sheet.remark([f"made, but no slot leads there: {', '.join(unused)}"])
        self._remark_on_the_end()
        word = "" if s.guest.id is None else f" of domain {s.guest.id}"
        return Picture(
            s.view.name,
            s.guest.id,
            "PFN",
            f"The P2M{word}, view {s.view.name}",
            s.columns,
            (top, *self.sheet.boxes),
            s.heading,
            tuple(self.sheet.folded),
            tuple(self.sheet.remarks),
        )

    # -- the top page ----------------------------------------------------------------------------------

    def _top_groups(self) -> list[Stretch]:
        """Top slots that lead to one middle page, or to middle pages all of whose slots are alike."""
        s = self.s
        low, high = self.rows.min(axis=1), self.rows.max(axis=1)
        codes = np.arange(len(s.mid), dtype=np.int64) | 1 << 60
        uniform = (low == high) & (s.mid >= 0)
        codes[uniform] = 1 << 50 | low[uniform]
        shared = np.isin(s.mid, [f for f in s.names])
        codes[shared] = s.mid[shared]
        none = s.mid < 0
        codes[none] = -1 - low[none]
        found = []
        for g in stretches(codes):
            forced = [i for i in range(g.first, g.last + 1) if not shared[i] and self._forced_in(i)]
            found += _cut(g, forced)
        return found

    def _forced_in(self, top: int) -> bool:
        return any(f // self.s.per_mid == top for f in self.forced)

    def _drawn(self, groups: list[Stretch]) -> set[int]:
        """Groups whose middle page is drawn: shared ones, and the most telling of the others."""
        s = self.s
        shared = {i for i, g in enumerate(groups) if int(s.mid[g.first]) in s.names}
        own = [i for i, g in enumerate(groups) if s.mid[g.first] >= 0 and i not in shared]
        chosen = best([self._score(groups[i]) for i in own], self.options.boxes)
        return shared | {own[i] for i in chosen}

    def _score(self, g: Stretch) -> tuple[int, ...]:
        row = self.rows[g.first]
        bad = int(np.count_nonzero(row >> 8 & BAD))
        return int(self._forced_in(g.first)), int(bad > 0), int(np.count_nonzero(row[1:] != row[:-1]))

    def _plain(self, groups: list[Stretch], drawn: set[int]) -> set[int]:
        """Groups without a middle page: a row each, the largest first, as far as there is room."""
        none = [i for i, g in enumerate(groups) if self.s.mid[g.first] < 0]
        return {none[i] for i in best([(groups[i].slots,) for i in none], self.options.rows)}

    def _top_row(self, groups: list[Stretch], drawn: bool, budget: int) -> Row:
        s = self.s
        first, last = groups[0].first, groups[-1].last
        span = s.per_mid * s.per_leaf
        numbers = (max(0, s.first_pfn(first * s.per_mid)), min(s.first_pfn((last + 1) * s.per_mid), s.view.limit) - 1)
        label = span_label(s.first_top + first, s.first_top + last)
        detail = f"PFN {hex_span(*numbers)}"
        mfn = int(s.mid[first])
        count = last - first + 1
        if not drawn:
            if len(groups) == 1 and mfn < 0:
                kinds = kinds_of_mask(int(self.rows[first].max()) >> 8)
                text = "not in the dump" if Kind.UNREADABLE in kinds else "leads nowhere"
                return Row(label, text, detail, kinds[0] if kinds else None, numbers=numbers, slots=count)
            text = f"… {thousands(count)} {plural(s.mid_word)}"
            self.sheet.say_folded(
                f"{s.top_title} {label}: {thousands(count)} {plural(s.mid_word)} ({thousands(count * span)} PFNs) are not drawn"
            )
            return Row(label, text, detail, None, numbers=numbers, slots=count, folded=True)
        if mfn in s.names:
            return Row(label, "", detail, None, self._shared_mid(mfn, first), numbers, mfn, count)
        to = self._own_mid(groups[0], numbers, budget)
        return Row(label, "", detail, None, to, numbers, mfn, count)

    # -- middle pages ----------------------------------------------------------------------------------

    def _shared_mid(self, mfn: int, top: int) -> str:
        """A shared middle page, drawn once."""
        if mfn not in self._shared_mids:
            s = self.s
            name = s.names[mfn]
            box_id = self.sheet.new_id(name)
            self._shared_mids[mfn] = box_id
            rows = self._mid_rows(Stretch(top, top, 0), 2)
            count = s.shared_slots.get(name, 0)
            notes = (f"MFN {mfn:#x}", from_slots(count))
            self.sheet.add(Box(box_id, 1, name, mfn, None, 1, count, notes, rows))
        return self._shared_mids[mfn]

    def _own_mid(self, g: Stretch, numbers: tuple[int, int], budget: int) -> str:
        """A middle page of its own, or a stack of pages that are alike."""
        s = self.s
        mfn = int(s.mid[g.first])
        box_id = self.sheet.new_id(f"mid-{mfn:x}")
        place = len(self.sheet.boxes)
        rows = self._mid_rows(g, budget)
        title = s.mid_word if g.slots == 1 else f"{thousands(g.slots)} {plural(s.mid_word)}"
        notes = [f"MFN {mfn:#x}" + ("" if g.slots == 1 else " first"), f"PFN {hex_span(*numbers)}"]
        if g.slots > 1:
            notes.append("all slots alike")
            self.sheet.say_folded(f"{thousands(g.slots)} {plural(s.mid_word)} that are alike are one stack")
        box = Box(box_id, 1, title, mfn, None, g.slots, None, tuple(notes), rows, numbers)
        self.sheet.boxes.insert(place, box)
        return box_id

    def _mid_rows(self, g: Stretch, budget: int) -> tuple[Row, ...]:
        """Slots of a middle page: alike ones joined, the most telling leaves opened."""
        s = self.s
        base = g.first * s.per_mid
        parts = self._leaf_groups(base)
        own = [i for i, p in enumerate(parts) if p.code & 0xFF == Backing.PRIVATE]
        keep = {own[i] for i in best([self._leaf_score(parts[i]) for i in own], budget)}
        other = [i for i, p in enumerate(parts) if i not in own]
        keep |= {other[i] for i in best([(parts[i].slots,) for i in other], self.options.rows)}
        rows = []
        for part in fold(len(parts), keep):
            chosen = [parts[i] for i in part]
            rows.append(self.leaves.row(chosen, part.start in keep, base, g.slots))
        return tuple(rows)

    def _leaf_groups(self, base: int) -> list[Stretch]:
        """Stretches of alike slots; boundary leaves (of several kinds) stay single when they are few."""
        found: list[Stretch] = []
        all_parts = stretches(self.codes[base : base + self.s.per_mid], base)
        mixed = sum(p.slots for p in all_parts if self.leaves.is_boundary(p.code))
        for p in all_parts:
            if self.leaves.is_boundary(p.code) and mixed <= self.options.boxes:
                found += [Stretch(i, i, p.code) for i in range(p.first, p.last + 1)]
            else:
                found += _cut(p, [f for f in sorted(self.forced) if p.first <= f <= p.last])
        return found

    def _leaf_score(self, p: Stretch) -> tuple[int, ...]:
        forced = int(any(p.first <= f <= p.last for f in self.forced))
        return forced, int(p.code >> 8 & BAD > 0), int(self.leaves.is_boundary(p.code)), p.slots

    def _remark_on_the_end(self) -> None:
        """PFNs past the pages that were drawn."""
        s = self.s
        end = s.first_pfn(len(s.backing))
        if end >= s.view.limit:
            return
        tail = s.mapping.clip(end, s.view.limit)
        words = ", ".join(f"PFN {r.start:#x}..{r.end - 1:#x} {r.kind.word}" for r in list(tail)[:3])
        self.sheet.remark([f"past the end of the list: {words}"])


def _cut(g: Stretch, at: list[int]) -> list[Stretch]:
    """A stretch with the slots `at` on their own."""
    out = []
    first = g.first
    for i in at:
        if i > first:
            out.append(Stretch(first, i - 1, g.code))
        out.append(Stretch(i, i, g.code))
        first = i + 1
    if first <= g.last:
        out.append(Stretch(first, g.last, g.code))
    return out


def pv_picture(skeleton: Skeleton, options: Options) -> Picture:
    """The picture of an x86 view. Cost: runs and leaf slots; memory of its pages was read by the view."""
    return PvDrawing(skeleton, options).draw()
