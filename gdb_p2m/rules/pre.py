"""PRE: the P2M against what the documented algorithm would have built (check --against)."""

from __future__ import annotations

from gdb_p2m.mapping import Kind
from gdb_p2m.rules.base import Findings, NotApplicable, Rule, RuleContext
from gdb_p2m.rules.predicted import Comparison, Difference

SOURCE = "Linux arch/x86/xen/setup.c, xen_memory_setup(), and p2m.c; docs/model.md: Prediction"
UNEXPLAINED = "nothing in this memory explains it"


def _comparison(ctx: RuleContext) -> Comparison:
    if ctx.prediction is None:
        raise NotApplicable("there is no prediction to compare with (check --against e820, or --against FILE)")
    return ctx.comparison


def _kinds(ctx: RuleContext, found: Findings) -> None:
    c = _comparison(ctx)
    found.look(c.compared)
    alike: dict[tuple[Kind, Kind, str], list[Difference]] = {}
    for d in c.differences:
        alike.setdefault((d.expected, d.found, d.explained), []).append(d)
    for (expected, got, explained), group in alike.items():
        total = sum(d.count for d in group)
        where = f"{_plural(total, 'PFN')}" + (f" in {len(group):,} stretches" if len(group) > 1 else "")
        found.add(
            {"pfn": group[0].start, "count": total},
            expected.word,
            got.word,
            f"{where} from {group[0].start:#x} on, predicted {expected.word}: {explained or UNEXPLAINED}",
            count=total,
        )
    found.total = c.differing
    if c.unread:
        found.could_not_read(f"{c.unread:,} PFNs are unreadable: their pages of the P2M are not in the dump")


def _plural(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _storage(ctx: RuleContext, found: Findings) -> None:
    c = _comparison(ctx)
    if c.prediction.backing is None:
        raise NotApplicable("how this list is stored is not predicted")
    found.look(c.slots_compared)
    for d in c.storage:
        found.add(
            {"pfn": d.start, "count": d.slots},
            _words(d.expected.name),
            _words(d.found.name),
            f"{_plural(d.slots, 'leaf slot')} from PFN {d.start:#x} on, predicted {_words(d.expected.name)}: "
            f"{d.explained or UNEXPLAINED}",
            count=d.slots,
        )
    found.total = c.slots_differing


def _words(backing: str) -> str:
    name = backing.lower()
    return f"p2m_{name}" if name in ("missing", "identity") else name


PRE_RULES = (
    Rule(
        "PRE-001",
        "every PFN is what the documented algorithm makes it",
        "note",
        "all",
        SOURCE,
        "From the memory map and the initial size the kernel's memory setup decides which PFNs have frames, which are "
        "identity and which are missing. Whatever happens later shows as a difference: ballooning, foreign maps, "
        "memory added. What this memory can explain is explained; the rest deserves a look.",
        _kinds,
    ),
    Rule(
        "PRE-002",
        "leaf pages are shared and private as the algorithm leaves them",
        "note",
        "all",
        SOURCE,
        "Whole pages of missing or identity are shared; pages that hold frames, or could come to hold some, are "
        "private. A page that became private later is never shared again.",
        _storage,
    ),
)
