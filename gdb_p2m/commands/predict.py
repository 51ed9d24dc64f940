"""Predictions for `check --against`: the model's algorithm, from a description or from what is in the dump.

This is where the model and the decoders meet: the model says what the kernel would have built, the dump
what it starts from (memory map, initial size, how far boot has come).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from gdb_p2m.commands.model import description_text
from gdb_p2m.errors import NotFound, NotUnderstood, P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.e820 import E820_UNUSABLE, ISA_END, ISA_START
from gdb_p2m.layout.x86_pv import SIF_INITDOMAIN
from gdb_p2m.mapping import KIND_BY_WORD, Kind
from gdb_p2m.model.boot import BootPlan, make_plan
from gdb_p2m.model.description import MAX_PAGES, Description, E820Entry, E820Kind, parse
from gdb_p2m.model.eras import ERA_BY_NAME, EraFacts
from gdb_p2m.model.leaves import IDENTITY, MISSING, PRIVATE, Leaves
from gdb_p2m.model.linear import area_entries, leaves_at_rebuild, value_at_rebuild
from gdb_p2m.model.pieces import Fate, PieceMap
from gdb_p2m.model.stages import p2m_of
from gdb_p2m.model.tree import shape_leaves
from gdb_p2m.rules.base import CannotCheck, RuleContext
from gdb_p2m.rules.predicted import Comparison, Prediction, Stretches
from gdb_p2m.structures.e820 import E820Map, given_e820, read_e820
from gdb_p2m.structures.era import LINEAR, TREE, TREE_IDENTITY, TREE_MID_IDENTITY, era_of
from gdb_p2m.structures.remap import read_chain
from gdb_p2m.structures.stage import stage_of
from gdb_p2m.structures.xen_pages import start_info
from gdb_p2m.units import PAGE_SHIFT
from gdb_p2m.views.leaves import Backing, BackingArray
from gdb_p2m.views.registry import Views

FROM_DUMP = ("e820", "dump")
"""Values of --against that are no file names."""
MAX_DISPLACED = 1 << 26
"""Pages (256 GiB) of initial memory below holes: more is no machine's map, and would only cost time."""
_KIND_OF_FATE = np.array([KIND_BY_WORD[f.word] for f in Fate], dtype=np.uint8)
_BACKING = {PRIVATE: Backing.PRIVATE, MISSING: Backing.MISSING, IDENTITY: Backing.IDENTITY}
_HOLE_KIND = {True: Kind.IDENTITY, False: Kind.MISSING}
_PLACES = {"entry": "entry", "initial": "initial", "moving": "planned"}


@dataclass(frozen=True, slots=True)
class Place:
    """How far boot has come. name: "entry", "initial", "planned" (remapping is due) or "final".

    set_up: whether memory setup has run, which in stage initial the P2M shows already.
    """

    name: str
    set_up: bool


def predictor(guest: LinuxGuest, views: Views, against: str) -> Callable[[], Prediction]:
    """What makes the prediction that --against asks for; calling it raises P2mError when there is nothing to start from.

    A description is read at once. Raises P2mError (DescriptionError names the line).
    """
    if against in FROM_DUMP:
        return lambda: from_dump(guest, views)
    description = parse(description_text(against), against)
    return lambda: from_description(guest, description, against)


def from_description(guest: LinuxGuest, description: Description, path: str) -> Prediction:
    """What the algorithm builds for a described guest, at the stage of boot of this one. Raises P2mError."""
    return _predict(description, path, _place_of(guest), ())


def from_dump(guest: LinuxGuest, views: Views) -> Prediction:
    """What the algorithm builds from the dump's own memory map and initial size.

    Raises NotFound (no map, or an era that is not modelled), NotUnderstood (values that make no sense).
    """
    e820 = read_e820(guest)
    info = start_info(guest)
    nr_pages = info.number("nr_pages")
    if not 0 < nr_pages <= MAX_PAGES:
        raise NotUnderstood(f"start_info.nr_pages is {nr_pages:#x}: no guest has that many pages")
    initdomain = bool(info.number("flags") & SIF_INITDOMAIN)
    era = _era(guest)
    isa, assumed = _isa_range(guest, views, e820, initdomain, _HOLE_KIND[era.identity])
    entries = _entries(e820, era, isa, nr_pages << PAGE_SHIFT)
    d = Description(
        "dump",
        era,
        guest.width,
        initdomain=initdomain,
        nr_pages=nr_pages,
        e820=entries,
        holes=era.holes,
        p2m_limit=_area_limit(guest) if era.linear else 0,
    )
    return _predict(d, f"{e820.name} at {e820.address:#x}", _place_of(guest), assumed)


def _era(guest: LinuxGuest) -> EraFacts:
    """The model's era of the one that was found. Raises NotFound."""
    found = era_of(guest)
    with_list = guest.has("p2m_mid_identity_mfn")
    names = {
        LINEAR: "linear",
        TREE: "tree-2.6.37",
        TREE_IDENTITY: "tree-2.6.39",
        TREE_MID_IDENTITY: "tree-3.16" if with_list else "tree-3.18",
    }
    if found.name not in names:
        raise NotFound(f"what this era's kernels build is not modelled: {found.title}")
    return ERA_BY_NAME[names[found.name]]


def _area_limit(guest: LinuxGuest) -> int:
    """The configured limit that led to an area of xen_p2m_size entries, in bytes. Raises what reading raises."""
    return min(guest.variable("xen_p2m_size"), MAX_PAGES) << PAGE_SHIFT


def _entries(e820: E820Map, era: EraFacts, isa: str, initial: int) -> tuple[E820Entry, ...]:
    """The map as the algorithm saw it.

    isa: the kind of the range that memory setup reserves for itself; initial: bytes that the domain began with.
    """
    entries: list[E820Entry] = []
    for r in e820.ranges:
        kind = r.word if r.word in ("ram", "acpi", "nvs", "unusable") else "reserved"
        if r.type == E820_UNUSABLE and r.start >= initial and not era.linear:
            # Until 3.18 RAM past the extra memory was marked so; the P2M knows it as missing, like extra memory.
            kind = "ram"
        if (r.start, r.end) == (ISA_START, ISA_END):
            kind = isa
        if entries and kind == "ram" and (last := entries[-1]).kind == "ram" and last.end == r.start:
            entries[-1] = E820Entry(last.start, r.end, "ram")
        else:
            entries.append(E820Entry(r.start, r.end, cast(E820Kind, kind)))
    return tuple(entries)


def _isa_range(
    guest: LinuxGuest, views: Views, e820: E820Map, initdomain: bool, hole: Kind
) -> tuple[str, tuple[str, ...]]:
    """What Xen's map had where memory setup reserves the ISA range, whatever was there: kind, and how it is known.

    Only the map as Xen gave it knows. As a rule a domU's has RAM and a machine's a hole; when all PFNs of the
    range say the other thing, they are right: no other trace is left, and a wrong guess moves 96 pages.
    hole: what PFNs of holes are in this era.
    """
    if not {ISA_START, ISA_END} <= {edge for r in e820.ranges if r.is_ram for edge in (r.start, r.end)}:
        # RAM does not reach up to the range, so that Xen's map had something else there already.
        return "reserved", ()
    first, end = ISA_START >> PAGE_SHIFT, ISA_END >> PAGE_SHIFT
    given = given_e820(guest)
    if given is not None:
        return ("ram" if given.ram_pages(first, end) == end - first else "reserved"), ()
    kind, why = ("reserved", "as in every machine's map") if initdomain else ("ram", "as in every plain domU's map")
    other = Kind.MFN if initdomain else hole
    try:
        shown = set(np.unique(views.own().mapping().clip(first, end).kind).tolist())
    except P2mError:
        shown = set()
    if shown == {other}:
        kind, why = ("ram" if initdomain else "reserved"), "as its PFNs say"
    what = "RAM" if kind == "ram" else "no RAM"
    return kind, (
        f"the kernel reserves PFNs {first:#x}..{end - 1:#x} itself; Xen's map is taken to have {what} there, {why}",
    )


def _place_of(guest: LinuxGuest) -> Place:
    """How far boot has come, as the model tells stages apart."""
    if not guest.has("xen_p2m_addr"):
        return Place("final", True)
    try:
        set_up = bool(read_e820(guest).ranges)
    except P2mError:
        set_up = False
    name = _PLACES.get(stage_of(guest).name)
    if name is None:
        try:
            name = "planned" if read_chain(guest).state == "planned" else "final"
        except P2mError:
            name = "final"
    return Place(name, set_up)


def _predict(d: Description, source: str, place: Place, assumed: tuple[str, ...]) -> Prediction:
    displaced = sum(max(0, min(e.end >> PAGE_SHIFT, d.nr_pages) - (e.start >> PAGE_SHIFT)) for e in _holes_of(d))
    if displaced > MAX_DISPLACED:
        raise NotUnderstood(f"{source}: {displaced:,} pages of memory lie below holes, which is no machine's map")
    plan = make_plan(d)
    final = replace(d, stage="planned" if place.name == "planned" else "final")
    p2m = _p2m(final, plan, place)
    facts: dict[str, int | str] = {
        "stage": place.name,
        "era": d.era.name,
        "nr_pages": d.nr_pages,
        "e820_ranges": len(d.e820),
        "extra_pages": sum(e - s for s, e in plan.extra),
        "moved_pages": sum(m.count for m in plan.moves),
        "released_pages": sum(e - s for s, e in plan.given_back),
    }
    backing = _backing(final, plan, p2m.limit) if place.name in ("planned", "final") else None
    return Prediction(source, facts, _stretches(p2m), backing, assumed)


def _holes_of(d: Description) -> list[E820Entry]:
    """Everything before the map's end that is not RAM, gaps too."""
    found = []
    at = 0
    for entry in d.e820:
        if entry.kind == "ram":
            found.append(E820Entry(at, entry.start, "reserved"))
            at = entry.end
    return [*found, E820Entry(at, max(at, d.e820[-1].end), "reserved")]


def _p2m(d: Description, plan: BootPlan, place: Place) -> PieceMap:
    """What the kernel's readers find at the stage of boot."""
    if place.name == "entry":
        p2m = PieceMap(d.width.max_p2m_pfn)
        p2m.set(0, d.nr_pages, Fate.MFN, 0)
        return p2m
    if place.name != "initial":
        return p2m_of(d, plan)
    if not place.set_up:
        return p2m_of(replace(d, stage="initial"), plan)
    # The builder's list after memory setup: identity is in it; past it readers go by xen_max_p2m_pfn alone.
    p2m = value_at_rebuild(plan, d.width.max_p2m_pfn)
    p2m.set(plan.list_size, plan.max_p2m_pfn, Fate.MISSING)
    return p2m


def _stretches(p2m: PieceMap) -> Stretches:
    start = np.array([p.start for p in p2m], dtype=np.int64)
    kind = _KIND_OF_FATE[np.array([p.fate for p in p2m], dtype=np.uint8)]
    return Stretches.folded(p2m.limit, start, kind)


def _backing(d: Description, plan: BootPlan, limit: int) -> BackingArray:
    """Which leaf slots are private, and which lead to the shared pages."""
    leaves = _list_leaves(d, plan, limit) if d.era.linear else shape_leaves(d, plan)[0]
    backing = np.empty(len(leaves.flat), dtype=np.uint8)
    for kind, name in _BACKING.items():
        backing[leaves.flat == kind] = name
    return backing


def _list_leaves(d: Description, plan: BootPlan, limit: int) -> Leaves:
    """Leaves of the linear list: the rebuilt list, extra memory, then every page that was written to."""
    leaves = leaves_at_rebuild(value_at_rebuild(plan, limit), area_entries(d, plan.max_p2m_pfn), d.width)
    for start, end in plan.extra:
        leaves.make_private(start, end, IDENTITY)
    if d.stage == "final":
        written = [(m.target, m.target + m.count) for m in plan.moves]
        written += [(f.pfn, f.pfn + f.count) for f in d.foreign]
        for start, end in written:
            leaves.make_private(start, end)
        for start, end in d.ballooned:
            leaves.make_private(start, end, IDENTITY)
    return leaves


# -- the report of `check` --------------------------------------------------------------------------------------


def prediction_json(context: RuleContext, against: str) -> dict[str, Any]:
    """The section "prediction" of `check`."""
    try:
        return _comparison_json(context.comparison)
    except CannotCheck as e:
        return {"source": against, "reason": str(e)}


def _comparison_json(c: Comparison) -> dict[str, Any]:
    differences = [
        {
            "start": d.start,
            "count": d.count,
            "expected": d.expected.word,
            "found": d.found.word,
            "explained": d.explained or None,
        }
        for d in c.differences
    ]
    return {
        "source": c.prediction.source,
        **c.prediction.facts,
        "assumed": list(c.prediction.assumed),
        "compared": c.compared,
        "agree": c.compared - c.differing,
        "unreadable": c.unread,
        "differences": differences,
        "not_listed": c.stretches - len(differences),
        "storage": None if c.prediction.backing is None else _storage_json(c),
    }


def _storage_json(c: Comparison) -> dict[str, Any]:
    """Leaf slots: what backs them."""
    return {
        "compared": c.slots_compared,
        "agree": c.slots_compared - c.slots_differing,
        "differences": [
            {
                "start": d.start,
                "count": d.count,
                "slots": d.slots,
                "expected": d.expected.name.lower(),
                "found": d.found.name.lower(),
                "explained": d.explained or None,
            }
            for d in c.storage
        ],
    }


def prediction_text(data: dict[str, Any]) -> str:
    """The same in a few words; the differences are findings, which are printed anyway."""
    if "reason" in data:
        return f"Prediction from {data['source']}: could not be made: {data['reason']}"
    explained = sum(d["explained"] is not None for d in data["differences"])
    stretches = len(data["differences"]) + data["not_listed"]
    lines = [
        f"Prediction from {data['source']} (ranges: {data['e820_ranges']}), {data['nr_pages']:,} pages, "
        f"era {data['era']}, stage {data['stage']}",
        *(f"  {text}" for text in data["assumed"]),
        f"  {data['agree']:,} of {data['compared']:,} PFNs are as predicted"
        + (f"; stretches that differ: {stretches}, explained: {explained}" if stretches else ""),
    ]
    if (storage := data["storage"]) is not None:
        lines.append(f"  {storage['agree']:,} of {storage['compared']:,} leaf slots are stored as predicted")
    return "\n".join(lines)
