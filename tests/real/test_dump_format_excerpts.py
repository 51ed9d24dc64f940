"""Excerpts of real cores of `xl dump-core` and of a real Xen crash: what Xen and its tools said of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind
from gdb_p2m.sources.probe import open_source
from gdb_p2m.structures.xen_crash import xen_crash_rows, xen_release
from gdb_p2m.structures.xen_pages import shared_info
from gdb_p2m.target import Target
from gdb_p2m.views.registry import Views
from support.places import FIXTURES


@dataclass(frozen=True)
class DomU:
    """A domU's excerpt. runs: (first PFN, last PFN, kind), runs of frames joined; xen-mfndump said the same of
    frames and holes, but it knows no identity."""

    path: Path
    runs: tuple[tuple[int, int, str], ...]
    frame_runs: int
    first_mfn: int
    root: int


DOMUS = (
    DomU(
        FIXTURES / "linux-6.1-domu-150M-e820-host.core.zst",
        (
            (0x0, 0x95FF, "mfn"),
            (0x9600, 0xFFFFF, "identity"),
            (0x100000, 0x1063FF, "missing"),
            (0x106400, 0x7FFFFFF, "identity"),
        ),
        75,
        0x1B000,
        0x18610,
    ),
    DomU(
        FIXTURES / "linux-6.1-domu-131M-of-200M.core.zst",
        ((0x0, 0x82FF, "mfn"), (0x8300, 0xC7FF, "missing"), (0xC800, 0x7FFFFFF, "identity")),
        321,
        0x3CE00,
        0x3E810,
    ),
)
KEXEC = FIXTURES / "linux-6.1-dom0-600M-kexec.core.zst"


@pytest.fixture(scope="module", params=DOMUS, ids=lambda d: d.path.stem)
def domu(request: pytest.FixtureRequest) -> tuple[DomU, LinuxGuest]:
    (guest,) = Target(open_source(str(request.param.path))).guests
    return request.param, guest


@pytest.fixture(scope="module")
def dom0() -> LinuxGuest:
    (guest,) = Target(open_source(str(KEXEC))).guests
    return guest


def joined(guest: LinuxGuest, view: str) -> list[tuple[int, int, str]]:
    out: list[tuple[int, int, str]] = []
    for r in Views(guest).get(view).mapping():
        if out and out[-1][2] == r.kind.word:
            out[-1] = (out[-1][0], r.end - 1, r.kind.word)
        else:
            out.append((r.start, r.end - 1, r.kind.word))
    return out


def test_a_domus_list_has_its_holes_and_its_identity(domu: tuple[DomU, LinuxGuest]) -> None:
    truth, guest = domu
    assert tuple(joined(guest, "linear")) == truth.runs
    mapping = Views(guest).get("linear").mapping()
    assert int(np.count_nonzero(mapping.kind == Kind.MFN)) == truth.frame_runs
    assert mapping.run(0).frame == truth.first_mfn
    assert guest.root.mfn == truth.root
    assert guest.id is None


@pytest.mark.parametrize("view", ["list-list", "core-table"])
def test_frames_are_the_same_in_every_view_and_identity_is_lost(domu: tuple[DomU, LinuxGuest], view: str) -> None:
    truth, guest = domu
    end = truth.runs[-1][0] + 1000
    own_kinds, own_frames = Views(guest).get("linear").mapping().expand(0, end)
    kinds, frames = Views(guest).get(view).mapping().expand(0, end)
    has = own_kinds == Kind.MFN
    assert np.array_equal(kinds == Kind.MFN, has)
    assert np.array_equal(frames[has], own_frames[has])
    assert (kinds[~has] == Kind.MISSING).all()


def test_shared_info_came_along_although_it_is_no_page_of_the_domain(domu: tuple[DomU, LinuxGuest]) -> None:
    truth, guest = domu
    info = shared_info(guest)
    assert guest.source.info.core_table is not None
    assert info.address >> 12 not in guest.source.info.core_table.mfn
    last = truth.runs[-1][0]
    assert info.number("max_pfn") == last


def test_a_crashed_xen_tells_its_version_and_dom0s_frame_list_list(dom0: LinuxGuest) -> None:
    source = dom0.source
    assert xen_release(source) == "4.17.7"
    rows = dict(xen_crash_rows(source))
    assert rows["Xen compiler"].startswith("x86_64-linux-gnu-gcc (Debian")
    assert source.info.xen_crash is not None
    assert source.info.xen_crash.frame_list_list == shared_info(dom0).number("pfn_to_mfn_frame_list_list")
    assert [c.cr3 for c in source.info.cpus] == [0x3FE62000, 0x3E7EC000]


def test_the_crashed_dom0_had_mapped_four_frames_of_its_domus(dom0: LinuxGuest) -> None:
    mapping = Views(dom0).own().mapping()
    assert {k.word: n for k, n in mapping.totals().items()} == {
        "mfn": 153_600,
        "foreign": 4,
        "identity": 133_791_873,
        "missing": 272_251,
    }
    foreign = [r for r in mapping if r.kind is Kind.FOREIGN]
    assert foreign[0].start == 0x187FFC
    assert foreign[0].frame == 0x1A202
