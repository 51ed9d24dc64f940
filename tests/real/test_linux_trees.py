"""The trees of real 3.16 and 3.18 dom0s, to the last of 2^27 PFNs, against their recorded types."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.x86_pv import WIDTH_64
from gdb_p2m.mapping import KIND_BY_WORD, Kind, Mapping
from gdb_p2m.sources.base import Source
from gdb_p2m.sources.probe import open_source
from gdb_p2m.structures.era import TREE_MID_IDENTITY, era_of
from gdb_p2m.target import Target
from gdb_p2m.units import PAGE_SHIFT
from gdb_p2m.views.leaves import Backing
from gdb_p2m.views.list_list import ListListView
from gdb_p2m.views.tree import TreeView, tree_view
from support.places import SHARED_REAL

MAX_P2M_PFN = 1 << 27


@dataclass
class Dom0:
    """One excerpt, opened, with its truth: (start, end, kind, first MFN or None), runs of MFNs joined."""

    name: str
    source: Source

    @cached_property
    def truth(self) -> list[tuple[int, int, Kind, int | None]]:
        rows = []
        with (SHARED_REAL / f"{self.name}.types.csv").open() as f:
            for row in csv.DictReader(f):
                # The column counts frames for mfn runs only; for identity it repeats the PFN.
                kind = KIND_BY_WORD[row["type"]]
                first = int(row["first_mfn"], 16) if kind.has_frame else None
                start, last = int(row["start_pfn"], 16), int(row["end_pfn_inclusive"], 16)
                assert last - start + 1 == int(row["count"])
                rows.append((start, last + 1, kind, first))
        return rows

    @cached_property
    def guest(self) -> LinuxGuest:
        guests = Target(self.source).guests
        assert len(guests) == 1
        return guests[0]

    @cached_property
    def tree(self) -> TreeView:
        return tree_view(self.guest)

    @cached_property
    def lists(self) -> ListListView:
        return ListListView(self.guest)


def files(name: str) -> tuple[Path, Path]:
    return SHARED_REAL / f"{name}.core.zst", SHARED_REAL / f"{name}.types.csv"


@pytest.fixture(scope="module", params=["linux-3.16-tree", "linux-3.18-tree"])
def tree_dom0(request: pytest.FixtureRequest) -> Dom0:
    for path in files(request.param):
        if not path.exists():
            pytest.skip(f"{path} is not there: real excerpts lie beside the checkout")
    return Dom0(request.param, open_source(str(files(request.param)[0])))


def by_type(mapping: Mapping) -> list[tuple[int, int, Kind, int | None]]:
    """Runs of the same kind joined, with the first run's first frame."""
    edges = np.flatnonzero(np.concatenate(([True], mapping.kind[1:] != mapping.kind[:-1])))
    ends = np.append(mapping.start[edges[1:]], mapping.limit)
    return [
        (run.start, int(end), run.kind, run.frame)
        for run, end in zip((mapping.run(int(i)) for i in edges), ends, strict=True)
    ]


def test_the_excerpt_opens_without_the_kernel_root_that_it_lacks(tree_dom0: Dom0) -> None:
    """The root in use is the CPU's; that the kernel's own was named and not there is said."""
    guest = tree_dom0.guest
    assert guest.id == 0 and guest.width is WIDTH_64
    assert "CR3" in guest.root.evidence
    assert any("swapper_pg_dir" in note and "not in the dump" in note for note in guest.names.notes)


def test_every_pfn_has_its_recorded_type_up_to_the_last(tree_dom0: Dom0) -> None:
    mapping = tree_dom0.tree.mapping()
    assert mapping.limit == MAX_P2M_PFN
    assert int(mapping.count.sum()) == MAX_P2M_PFN
    assert by_type(mapping) == tree_dom0.truth


def test_identity_runs_on_past_xen_max_p2m_pfn(tree_dom0: Dom0) -> None:
    """A reader that stops there loses most of the identity."""
    capacity = tree_dom0.guest.variable("xen_max_p2m_pfn")
    assert capacity < MAX_P2M_PFN
    run = tree_dom0.tree.mapping().run(len(tree_dom0.tree.mapping()) - 1)
    assert (run.kind, run.end) == (Kind.IDENTITY, MAX_P2M_PFN) and run.start <= capacity


def test_the_trace_of_every_boundary_says_what_the_map_says(tree_dom0: Dom0) -> None:
    mapping = tree_dom0.tree.mapping()
    for start, end, kind, first in tree_dom0.truth:
        for pfn in (start, start + 1, end - 2, end - 1):
            t = tree_dom0.tree.trace(pfn)
            assert t.kind is kind, (hex(pfn), t.reason)
            assert t.frame == mapping.lookup(pfn).frame  # type: ignore[union-attr]
        assert tree_dom0.tree.trace(start).frame == first


def test_traces_lead_from_p2m_top_to_the_place_that_decided(tree_dom0: Dom0) -> None:
    """Every address of a trace holds the raw value that the trace shows."""
    for pfn in {p for start, end, _, _ in tree_dom0.truth for p in (start, end - 1)}:
        t = tree_dom0.tree.trace(pfn)
        assert [s.where for s in t.steps][:3] == ["p2m_top", "top", "mid"]
        assert t.read_at in {s.address for s in t.steps}
        for step in t.steps:
            assert step.address is not None
            assert int.from_bytes(tree_dom0.source.read(step.address, 8), "little") == step.raw


def test_shared_pages_are_named_on_the_way(tree_dom0: Dom0) -> None:
    last = tree_dom0.tree.trace(MAX_P2M_PFN - 1)
    assert "p2m_mid_identity" in last.steps[1].meaning and "p2m_identity" in last.steps[2].meaning
    missing = next(start for start, _, kind, _ in tree_dom0.truth if kind is Kind.MISSING)
    hole = tree_dom0.tree.trace((missing | 0x1FF) + 1)
    assert hole.kind is Kind.MISSING and "p2m_missing" in hole.read_what


def test_a_pfn_past_the_tree_is_identity(tree_dom0: Dom0) -> None:
    """get_phys_to_machine of 3.16 and later; before it was INVALID."""
    t = tree_dom0.tree.trace(MAX_P2M_PFN)
    assert t.kind is Kind.IDENTITY and t.steps[-1].where == "limit"


def test_the_era_is_the_one_of_compact_identity_pages(tree_dom0: Dom0) -> None:
    era = era_of(tree_dom0.guest)
    assert era.name == TREE_MID_IDENTITY and not era.conflicts and not era.notes


def test_storage_counts_the_pages_that_the_dump_holds(tree_dom0: Dom0) -> None:
    """One private middle page for 1 GiB; the rest of 512 GiB hangs on two pages."""
    storage = tree_dom0.tree.storage()
    counts = {line.what: line.count for line in storage.lines}
    covered = sum(line.pfns for line in storage.lines if line.what.startswith(("private", "top slots")))
    assert counts["private middle pages"] == 1
    assert counts["top slots that lead to p2m_mid_identity"] + counts["top slots that lead to p2m_mid_missing"] == 511
    backing, frame = tree_dom0.tree.leaf_slots()
    assert counts["private leaves"] == len(np.unique(frame[backing == Backing.PRIVATE]))
    slots = {name: n for name, _, n in storage.shared}
    # All 512 slots of p2m_mid_identity, and those of the private middle page.
    assert slots["p2m_identity"] == 512 + counts["private mid slots that lead to p2m_identity"]
    assert covered > MAX_P2M_PFN - (1 << 18)
    assert "510 middle pages (2.0 MiB)" in storage.notes[0] or "509 middle pages (2.0 MiB)" in storage.notes[0]


def test_every_private_leaf_is_readable_and_maps_the_machine_pages_that_the_map_shows(tree_dom0: Dom0) -> None:
    """Entry by entry, out of the raw pages, with nothing of the bulk reader."""
    backing, frame = tree_dom0.tree.leaf_slots()
    mapping = tree_dom0.tree.mapping()
    for slot in np.flatnonzero(backing == Backing.PRIVATE)[:: 7].tolist():
        words = np.frombuffer(tree_dom0.source.read(int(frame[slot]) << PAGE_SHIFT, 4096), dtype="<u8")
        kinds, frames = mapping.expand(slot * 512, slot * 512 + 512)
        mfn = words >> np.uint64(62) == 0
        assert (kinds[mfn] == Kind.MFN).all() and (frames[mfn] == words[mfn].astype(np.int64)).all()
        assert (kinds[words == np.uint64(2**64 - 1)] == Kind.MISSING).all()
        assert ((kinds == Kind.IDENTITY) == (words >> np.uint64(62) == 1)).all()


# -- the frame list list of the tree's era: what real memory refines


def test_the_frame_lists_agree_with_the_tree_on_every_frame(tree_dom0: Dom0) -> None:
    """Frames, and identity by entry, are the same; identity by page cannot be seen there."""
    tree, lists = tree_dom0.tree.mapping(), tree_dom0.lists.mapping()
    frames = {k: [r for r in m if r.kind is Kind.MFN] for k, m in (("tree", tree), ("lists", lists))}
    assert frames["tree"] == frames["lists"]
    identity = lists.totals()[Kind.IDENTITY]
    backing, _ = tree_dom0.tree.leaf_slots()
    by_entry = tree.totals()[Kind.IDENTITY] - int(np.count_nonzero(backing == Backing.IDENTITY)) * 512
    assert identity == by_entry
    assert set(lists.totals()) == {Kind.MFN, Kind.IDENTITY, Kind.MISSING}


def test_where_identity_leaves_lead_differs_between_3_16_and_3_18(tree_dom0: Dom0) -> None:
    """Neither "the mid_mfn slot is the mid slot's MFN" nor "private if and only if private" holds for identity."""
    missing, identity = tree_dom0.tree.shared_frame("p2m_missing"), tree_dom0.tree.shared_frame("p2m_identity")
    backing, frame = tree_dom0.tree.leaf_slots()
    slots = tree_dom0.lists.lists.leaves.reshape(-1)
    private = backing == Backing.PRIVATE
    assert (slots[private] == frame[private]).all()
    assert set(slots[~private].tolist()) <= {missing, identity}
    named = set(slots[backing == Backing.IDENTITY].tolist())
    private_lists = int(np.count_nonzero(tree_dom0.lists.lists.top != tree_dom0.lists.shared_frame("p2m_mid_missing_mfn")))
    if tree_dom0.guest.has("p2m_mid_identity_mfn"):
        assert named == {missing}
        assert private_lists == 1
        unused = tree_dom0.lists.shared_frame("p2m_mid_identity_mfn")
        assert unused is not None and not (tree_dom0.lists.lists.top == unused).any()
    else:
        assert identity in named
        assert private_lists > int(np.count_nonzero(tree_dom0.tree.leaves.shared_mid == Backing.PRIVATE))
