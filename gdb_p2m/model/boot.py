"""What the kernel's memory setup decides from the E820: identity, extra memory, where displaced RAM goes.

Follows xen_memory_setup() and its helpers in Linux arch/x86/xen/setup.c: the order and the limits of the
linear era are those of 4.3 and later (one loop for counting and remapping), the trees' those of 3.16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gdb_p2m.layout.x86_pv import REMAP_HEADER_WORDS
from gdb_p2m.model.description import Description, DescriptionError
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE

EXTRA_MEM_RATIO = 10
"""setup.c: extra memory is at most ten times the initial size (seen: 1,002,500 pages for 100,250)."""


@dataclass(frozen=True, slots=True)
class Move:
    """`count` frames move from PFN `source` to PFN `target`; the source becomes identity."""

    source: int
    target: int
    count: int


@dataclass
class BootPlan:
    """PFN ranges are (start, end). holes: non-RAM before the E820's end, cut to nothing.

    extra: RAM of the E820 that the domain does not have yet. moves: in the order in which the kernel makes
    them. given_back: released to Xen before the P2M takes its shape. max_p2m_pfn: xen_max_p2m_pfn as
    memory setup leaves it; max_pfn: the kernel's own end of RAM. extra_left: pages of extra memory allowed.
    """

    nr_pages: int
    list_size: int
    e820_end: int
    holes: list[tuple[int, int]] = field(default_factory=list)
    extra: list[tuple[int, int]] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    given_back: list[tuple[int, int]] = field(default_factory=list)
    max_p2m_pfn: int = 0
    max_pfn: int = 0


def make_plan(d: Description) -> BootPlan:
    """The plan of one guest. Raises DescriptionError when the E820 leaves no room for it."""
    per = d.width.per_page
    plan = BootPlan(d.nr_pages, -(-d.nr_pages // per) * per, _pfn_up(d.e820[-1].end))
    plan.holes = list(_holes(d))
    displaced = sum(max(0, min(e, d.nr_pages) - s) for s, e in plan.holes)
    if d.era.identity:
        _displace(d, plan, displaced)
    else:
        plan.given_back = [(s, min(e, d.nr_pages)) for s, e in plan.holes if s < d.nr_pages]
    plan.given_back += d.released
    _find_extra(d, plan, displaced)
    last_target = max((m.target + m.count for m in plan.moves), default=0)
    start = plan.list_size if d.era.linear else d.nr_pages
    plan.max_p2m_pfn = plan.extra[-1][1] if plan.extra else start
    plan.max_p2m_pfn = max(plan.max_p2m_pfn, last_target)
    plan.max_pfn = max(d.nr_pages, last_target, *(e for _, e in plan.extra))
    return plan


def _pfn_up(address: int) -> int:
    return -(-address // PAGE_SIZE)


def _ram(d: Description) -> Iterator[tuple[int, int]]:
    """Whole pages of RAM in the E820."""
    for entry in d.e820:
        start, end = _pfn_up(entry.start), entry.end >> PAGE_SHIFT
        if entry.kind == "ram" and end > start:
            yield start, end


def _holes(d: Description) -> Iterator[tuple[int, int]]:
    """Everything that is not RAM, gaps too, in whole pages: a page that is partly RAM counts as hole."""
    last = 0
    for entry in d.e820:
        if entry.kind == "ram":
            start, end = last >> PAGE_SHIFT, _pfn_up(entry.start)
            if start < end:
                yield start, end
            last = entry.end
    start, end = last >> PAGE_SHIFT, _pfn_up(d.e820[-1].end)
    if start < end:
        yield start, end


def _displace(d: Description, plan: BootPlan, displaced: int) -> None:
    """RAM under holes: moved to RAM of the E820 past nr_pages, the rest given back."""
    target = d.nr_pages if d.remap_to is None else d.remap_to
    for start, hole_end in plan.holes:
        end = min(hole_end, d.nr_pages)
        at = start
        while at < end:
            room, target = _next_ram(d, target) if d.holes == "remap" else (0, target)
            if not room:
                plan.given_back.append((at, end))
                break
            count = min(end - at, room)
            plan.moves += _moves(d, at, count, target)
            at += count
            target += count
    if displaced and d.remap_to is not None and any(m.target < d.nr_pages for m in plan.moves):
        raise DescriptionError(d.name, 0, "remap_to", f"{d.remap_to:#x} lies inside the initial memory")


def _next_ram(d: Description, pfn: int) -> tuple[int, int]:
    """(pages, first PFN) of the RAM at or after `pfn` (xen_find_pfn_range); 0 pages when there is none."""
    for start, end in _ram(d):
        if end > pfn:
            first = max(start, pfn)
            return end - first, first
    return 0, pfn


def _moves(d: Description, source: int, count: int, target: int) -> Iterator[Move]:
    """One stretch in the pieces in which the era moves it."""
    if d.era.linear:
        size = d.width.per_page - REMAP_HEADER_WORDS
        for done in range(0, count, size):
            yield Move(source + done, target + done, min(size, count - done))
    else:
        yield from _block_moves(source, count, target, d.width.per_page)


def _block_moves(source: int, count: int, target: int, per: int) -> Iterator[Move]:
    """3.16 to 3.18: whole leaves first, then what is left at both ends, in step.

    From xen_do_set_identity_and_remap_chunk() as "xen: Delay remapping memory of pv-domain" removes it: source and
    target are aligned each for itself, so the pages at the ends need not keep their distance.
    """
    source_aligned, target_aligned = -(-source // per) * per, -(-target // per) * per
    source_end, target_end = (source + count) // per * per, (target + count) // per * per
    blocks = max(0, min((source_end - source_aligned) // per, (target_end - target_aligned) // per))
    if blocks:
        yield Move(source_aligned, target_aligned, blocks * per)
    left = count - blocks * per
    while left:
        if source == source_aligned:
            source += blocks * per
        if target == target_aligned:
            target += blocks * per
        step = left
        for at, aligned in ((source, source_aligned), (target, target_aligned)):
            if at < aligned:
                step = min(step, aligned - at)
        yield Move(source, target, step)
        source, target, left = source + step, target + step, left - step


def _find_extra(d: Description, plan: BootPlan, displaced: int) -> None:
    """RAM past the initial memory, as far as the domain may grow."""
    limit = d.width.max_p2m_pfn
    most = limit if d.max_pages is None else min(d.max_pages, limit)
    if d.era.linear:
        most = min(limit, most + sum(m.count for m in plan.moves))
    left = min(EXTRA_MEM_RATIO * d.nr_pages, max(0, most - d.nr_pages))
    if not d.era.linear:
        # 3.16 to 3.18 count what was released, not what moved: the moved pages have their place already.
        left += sum(e - s for s, e in plan.given_back)
    moved_end = max((m.target + m.count for m in plan.moves), default=0)
    first = d.nr_pages if d.era.linear else max(d.nr_pages, moved_end)
    for start, end in _ram(d):
        a, b = max(start, first), min(end, limit)
        b = min(b, a + left)
        if a < b:
            plan.extra.append((a, b))
            left -= b - a
