"""What the guest's readers find for every PFN, stage by stage of the boot."""

from __future__ import annotations

from gdb_p2m.model.boot import BootPlan
from gdb_p2m.model.description import Description
from gdb_p2m.model.linear import area_entries, value_at_rebuild
from gdb_p2m.model.pieces import Fate, PieceMap


def p2m_of(d: Description, plan: BootPlan) -> PieceMap:
    """The P2M at the description's stage, over MAX_P2M_PFN or the list if that is larger."""
    limit = d.width.max_p2m_pfn
    if d.era.linear:
        limit = max(limit, area_entries(d, plan.max_p2m_pfn))
    if d.stage == "initial":
        return _initial(d, plan, limit)
    p2m = _linear(plan, limit) if d.era.linear else _tree(d, plan, limit)
    if d.stage == "final":
        _run(d, plan, p2m)
    return p2m


def _initial(d: Description, plan: BootPlan, limit: int) -> PieceMap:
    """The builder's list, the end of its last page filled with INVALID, nothing decided yet."""
    p2m = PieceMap(limit)
    p2m.set(0, d.nr_pages, Fate.MFN, 0)
    if d.era.linear:
        p2m.set(plan.list_size, limit, Fate.IDENTITY)
    return p2m


def _linear(plan: BootPlan, limit: int) -> PieceMap:
    p2m = value_at_rebuild(plan, limit)
    for start, end in plan.extra:
        p2m.set(start, end, Fate.MISSING)
    return p2m


def _tree(d: Description, plan: BootPlan, limit: int) -> PieceMap:
    p2m = PieceMap(limit)
    p2m.set(0, d.nr_pages, Fate.MFN, 0)
    for start, end in plan.given_back:
        p2m.set(start, end, Fate.MISSING)
    if d.era.identity:
        past = [(plan.e820_end, limit)] if d.era.identity_past_e820 else []
        for start, end in (*plan.holes, *past):
            p2m.set(start, end, Fate.IDENTITY)
    return p2m


def _run(d: Description, plan: BootPlan, p2m: PieceMap) -> None:
    """What happens to the P2M after its setup: remapping, ballooning, foreign maps."""
    for m in plan.moves:
        p2m.set(m.target, m.target + m.count, Fate.MFN, m.source)
    for start, end in d.ballooned:
        p2m.set(start, end, Fate.MISSING)
    for f in d.foreign:
        p2m.set(f.pfn, f.pfn + f.count, Fate.FOREIGN, f.mfn)
