"""The last column of an x86 picture: leaves, opened where kinds meet, stacked where they are alike."""

from __future__ import annotations

from gdb_p2m.mapping import Kind
from gdb_p2m.pictures.entries import entry_rows, first_and_last
from gdb_p2m.pictures.folding import Stretch
from gdb_p2m.pictures.model import Box, Options, Row, Sheet, from_slots, hex_span, span_label
from gdb_p2m.pictures.skeleton import OUTSIDE, Skeleton, kinds_of_mask
from gdb_p2m.units import thousands
from gdb_p2m.views.leaves import Backing

SHARED = {Backing.MISSING: "p2m_missing", Backing.IDENTITY: "p2m_identity"}
SHARED_KIND = {Backing.MISSING: Kind.MISSING, Backing.IDENTITY: Kind.IDENTITY}
UNIFORM_WORDS = {
    Kind.MFN: "only MFNs",
    Kind.FOREIGN: "only FOREIGN",
    Kind.IDENTITY: "only IDENTITY|PFN",
    Kind.MISSING: "only ~0: missing",
    Kind.UNREADABLE: "not in the dump",
    Kind.CORRUPT: "makes no sense",
}


class LeafColumn:
    """Makes rows of middle pages and the leaf boxes that they lead to. Shared leaves come last."""

    def __init__(self, skeleton: Skeleton, options: Options, sheet: Sheet, forced: set[int]) -> None:
        self.s = skeleton
        self.options = options
        self.sheet = sheet
        self.forced = forced
        self._shared: dict[Backing, str] = {}
        self._dirty: dict[Backing, int] = {}

    @staticmethod
    def is_boundary(code: int) -> bool:
        """Whether a leaf of the guest's own holds several kinds."""
        mask = code >> 8
        return code & 0xFF == Backing.PRIVATE and mask & (mask - 1) != 0

    def row(self, parts: list[Stretch], keep: bool, base: int, mids: int) -> Row:
        """The row of one stretch of slots, or of several that were folded. mids: middle pages that are alike."""
        s = self.s
        first, last = parts[0].first, parts[-1].last
        label = span_label(first - base, last - base)
        numbers = (s.first_pfn(first), s.first_pfn(last + 1) - 1)
        slots = last - first + 1
        if not keep and len(parts) > 1:
            self.sheet.say_folded(
                f"PFN {hex_span(*numbers)}: {thousands(slots)} slots in {len(parts)} stretches are one row"
            )
            return Row(label, f"… {_summary(parts)}", "", None, None, numbers, slots=slots, folded=True)
        part = parts[0]
        backing = part.code & 0xFF
        if backing == OUTSIDE:
            return Row(label, "not part of the list", slots=slots)
        if backing in (Backing.UNREADABLE, Backing.CORRUPT):
            kind = Kind.UNREADABLE if backing == Backing.UNREADABLE else Kind.CORRUPT
            text = "not in the dump" if kind is Kind.UNREADABLE else "leads to no leaf"
            return Row(label, text, f"PFN {hex_span(*numbers)}", kind, None, numbers, slots=slots)
        if backing in SHARED:
            what = Backing(backing)
            to = self._shared_leaf(what, part.code)
            return Row(label, "", SHARED_KIND[what].word, SHARED_KIND[what], to, numbers, int(s.frame[first]), slots)
        if not keep:
            return Row(label, _words(part.code), "", None, None, numbers, int(s.frame[first]), slots)
        return Row(label, "", "", None, self._own(part, mids), numbers, int(s.frame[first]), slots)

    def _shared_leaf(self, what: Backing, code: int) -> str:
        if what not in self._shared:
            self._shared[what] = self.sheet.new_id(SHARED[what])
        mask = code >> 8 & ~(1 << SHARED_KIND[what]) & ~(1 << Kind.MISSING)
        self._dirty[what] = self._dirty.get(what, 0) | mask
        return self._shared[what]

    def finish(self) -> None:
        """Add the shared leaves, after all others."""
        s = self.s
        frames = {name: frame for frame, name in s.names.items()}
        for what, box_id in self._shared.items():
            name = SHARED[what]
            count = s.shared_slots.get(name, 0)
            mfn = frames.get(name)
            notes = [] if mfn is None else [f"MFN {mfn:#x}"]
            notes.append(from_slots(count))
            word = SHARED_KIND[what].word
            if s.view.name == "list-list" and what is Backing.IDENTITY:
                word = "missing, seen from here"
            rows = [
                Row(span_label(0, s.per_leaf - 1), "~0 (INVALID)", f"means {word}", SHARED_KIND[what], slots=s.per_leaf)
            ]
            if self._dirty[what]:
                rows.append(Row("!", "overwritten entries", "corrupt wherever shared", Kind.CORRUPT))
            notes.append(f"reads as {word}")
            self.sheet.add(
                Box(box_id, 2, name, mfn, None, 1, count, tuple(notes), tuple(rows), None, SHARED_KIND[what])
            )

    def _own(self, part: Stretch, mids: int) -> str:
        """One leaf opened, or a stack of leaves that are alike. mids > 1: of so many middle pages."""
        s = self.s
        pages = part.slots * mids
        mfn = int(s.frame[part.first])
        numbers = (s.first_pfn(part.first), s.first_pfn(part.first + pages) - 1)
        box_id = self.sheet.new_id(f"leaf-{mfn:x}")
        single = pages == 1
        title = s.leaf_word if single else f"{thousands(pages)} {plural(s.leaf_word)}"
        last_mfn = int(s.frame[part.first + pages - 1])
        notes = [f"MFN {mfn:#x}" + ("" if single else f" … {last_mfn:#x}"), f"PFN {hex_span(*numbers)}"]
        kinds = kinds_of_mask(part.code >> 8)
        if not single:
            notes.append(_words(part.code))
        limit = self.options.rows if single else 3
        end = min(numbers[1] + 1, s.mapping.limit)
        rows, left = entry_rows(s.mapping, numbers[0], end, limit, single)
        if not single and len(kinds) == 1:
            rows = first_and_last(rows)
        if left:
            self.sheet.say_folded(f"PFN {hex_span(*numbers)}: {thousands(left)} changes of kind are one row")
        if not single:
            self.sheet.say_folded(f"{thousands(pages)} {plural(s.leaf_word)} ({_words(part.code)}) are one stack")
        kind = kinds[0] if len(kinds) == 1 else None
        last = last_mfn if pages > 1 else None
        self.sheet.add(Box(box_id, 2, title, mfn, last, pages, None, tuple(notes), tuple(rows), numbers, kind))
        return box_id


def plural(word: str) -> str:
    """`leaf` -> `leaves`, `page of MFNs` -> `pages of MFNs`."""
    first, blank, rest = word.partition(" of ")
    return "leaves" if word == "leaf" else first + "s" + blank + rest


def _words(code: int) -> str:
    """What a leaf with this code holds."""
    kinds = kinds_of_mask(code >> 8)
    if len(kinds) == 1:
        return UNIFORM_WORDS.get(kinds[0], kinds[0].word)
    return " and ".join(k.word for k in kinds)


def _summary(parts: list[Stretch]) -> str:
    """`40 slots: 30 own, 10 shared`."""
    own = sum(p.slots for p in parts if p.code & 0xFF == Backing.PRIVATE)
    total = sum(p.slots for p in parts)
    return f"{thousands(total)} slots" + (f", {thousands(own)} own" if own != total else "")
