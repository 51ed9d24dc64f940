"""Real 32-bit PAE dom0s below a 64-bit Xen, to the last of 2^30 PFNs, against their recorded types."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.pagetables import I386_PAE
from gdb_p2m.layout.x86_pv import MACH2PHYS_VIRT_START_PAE
from gdb_p2m.mapping import KIND_BY_WORD, Kind
from gdb_p2m.sources.probe import open_source
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.structures.xen_pages import shared_info, unfold_cr3
from gdb_p2m.target import Target
from gdb_p2m.views.base import View
from gdb_p2m.views.list_list import ListListView
from gdb_p2m.views.registry import Views
from support.places import SHARED_REAL

Guest = tuple[str, LinuxGuest, View]


@pytest.fixture(scope="module", params=["linux-4.9-pae-linear", "linux-3.18-pae-tree"])
def pae(request: pytest.FixtureRequest) -> Guest:
    core, truth = (SHARED_REAL / f"{request.param}.{end}" for end in ("core.zst", "types.csv"))
    for path in (core, truth):
        if not path.exists():
            pytest.skip(f"{path} is not there: real excerpts lie beside the checkout")
    (guest,) = Target(open_source(str(core))).guests
    return request.param, guest, Views(guest).own()


def test_every_pfn_has_its_recorded_type_up_to_the_last(pae: Guest) -> None:
    name, _guest, view = pae
    mapping = view.mapping()
    edges = np.flatnonzero(np.concatenate(([True], mapping.kind[1:] != mapping.kind[:-1])))
    found = [mapping.run(int(i)) for i in edges]
    with (SHARED_REAL / f"{name}.types.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [(r.start, r.kind) for r in found] == [(int(r["start_pfn"], 16), KIND_BY_WORD[r["type"]]) for r in rows]
    assert [r.frame for r in found if r.kind is Kind.MFN] == [
        int(r["first_mfn"], 16) for r in rows if r["type"] == "mfn"
    ]
    assert mapping.limit == int(rows[-1]["end_pfn_inclusive"], 16) + 1 == 1 << 30
    for row in rows:
        for text in (row["start_pfn"], row["end_pfn_inclusive"]):
            assert view.trace(int(text, 16)).kind.word == row["type"]


def test_the_view_is_that_of_the_era(pae: Guest) -> None:
    name, _guest, view = pae
    assert view.name == ("tree" if name.endswith("tree") else "linear")


def test_the_root_is_the_l3_below_xens_own_l4(pae: Guest) -> None:
    _name, guest, _view = pae
    assert guest.id == 0 and guest.root.shape is I386_PAE
    assert "slot 0" in guest.root.evidence and "swapper_pg_dir" in guest.root.evidence


def test_the_m2p_lies_above_its_documented_start_and_agrees_with_every_frame(pae: Guest) -> None:
    """1 GiB of machine: Xen moved the compat table up to 0xffc00000."""
    _name, guest, view = pae
    table = M2p(guest)
    assert table.base > MACH2PHYS_VIRT_START_PAE
    checked = 0
    for run in view.mapping():
        if run.kind is Kind.MFN:
            assert run.frame is not None
            pfns, ok = table.lookup(np.arange(run.frame, run.frame + run.count))
            assert ok.all() and (pfns == np.arange(run.start, run.end, dtype=np.uint64)).all()
            checked += run.count
    assert checked == 102_400
    guest.names._found["machine_to_phys_mapping"] = None
    try:
        assert M2p(guest).base == table.base
    finally:
        guest.names._found.clear()


def test_the_frame_lists_show_the_same_frames(pae: Guest) -> None:
    _name, guest, view = pae
    lists = ListListView(guest).mapping()
    assert [r for r in lists if r.kind is Kind.MFN] == [r for r in view.mapping() if r.kind is Kind.MFN]


def test_p2m_cr3_unfolds_to_the_kernels_l3(pae: Guest) -> None:
    """Only the linear era publishes it (4.3 on)."""
    name, guest, _view = pae
    cr3 = shared_info(guest).number("p2m_cr3")
    assert (unfold_cr3(cr3, 32) == guest.root.mfn) if "linear" in name else cr3 == 0
