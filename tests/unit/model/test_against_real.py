"""The model against real memory: the same E820 and size must give the same P2M, page by page.

Private or shared, missing or identity, kind by kind to the last PFN: frames differ, for they are Xen's choice.
"""

from __future__ import annotations

import numpy as np
import pytest

from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.sources.probe import open_source
from gdb_p2m.target import Target
from gdb_p2m.views.list_list import ListListView
from gdb_p2m.views.registry import Views
from support.model_memory import source_of
from support.places import DOM0, FIXTURES, ODD, SHARED_REAL, Truth

FIVE_GIB = """
era linear
kernel 6.12.0
nr_pages 150250
e820 0x0-0x7ffff ram
e820 0x80000-0xfffff reserved
e820 0x100000-0xbffdffff ram
e820 0xbffe0000-0xffffffff reserved
e820 0x100000000-0x17fffffff ram
e820 0xfd00000000-0xffffffffff reserved
machine 0x0-0xbfffffff
machine 0x100000000-0x17fffffff
"""

E820_HOST = """
nr_pages 0x9600
domain 1
e820 0x0-0x95fffff ram
e820 0x9600000-0xffffffff reserved
e820 0x100000000-0x1063fffff ram
"""
GROWABLE = """
nr_pages 0x8300
domain 1
e820 0+200M ram
"""


def opened(path: str) -> LinuxGuest:
    (guest,) = Target(open_source(path)).guests
    return guest


def modelled(text: str) -> LinuxGuest:
    (guest,) = Target(source_of(build(parse(text, "model")))).guests
    return guest


def kinds(mapping: Mapping) -> list[tuple[int, int, Kind]]:
    """(start, end, kind), runs of frames joined."""
    keep = np.concatenate(([True], mapping.kind[1:] != mapping.kind[:-1]))
    starts = mapping.start[keep]
    ends = np.concatenate((starts[1:], [mapping.limit]))
    return [
        (s, e, Kind(k)) for s, e, k in zip(starts.tolist(), ends.tolist(), mapping.kind[keep].tolist(), strict=True)
    ]


def own_first(real: LinuxGuest, model: LinuxGuest) -> None:
    """Kinds of every PFN and the backing of every leaf agree."""
    left, right = Views(real).own(), Views(model).own()
    assert left.name == right.name
    assert kinds(left.mapping()) == kinds(right.mapping())
    a, b = left.leaf_slots()[0], right.leaf_slots()[0]
    assert np.array_equal(a, b), np.flatnonzero(a != b)[:8]


def lists_alike(real: LinuxGuest, model: LinuxGuest) -> None:
    """Which top slots of the frame lists share a mid page agrees, and so does what the lists say."""
    shared = []
    for guest in (real, model):
        view = ListListView(guest)
        shared.append((view.lists.top == view.shared_frame("p2m_mid_missing_mfn")).tolist())
    assert shared[0] == shared[1]
    left, right = (Views(g).get("list-list").mapping() for g in (real, model))
    assert kinds(left) == kinds(right)


@pytest.mark.parametrize(
    ("truth", "text"),
    [(DOM0, (FIXTURES / "models" / "lab-dom0.model").read_text()), (ODD, FIVE_GIB)],
    ids=["6.1 on 1 GiB", "6.12 on 5 GiB, odd size"],
)
def test_linear_dom0(truth: Truth, text: str) -> None:
    real, model = opened(str(truth.path)), modelled(text)
    own_first(real, model)
    lists_alike(real, model)
    for name in ("xen_p2m_addr", "xen_p2m_size", "xen_p2m_last_pfn", "xen_max_p2m_pfn"):
        if real.has(name):
            assert real.variable(name) == model.variable(name), name


@pytest.mark.parametrize(
    ("name", "text"), [("linux-6.1-domu-150M-e820-host", E820_HOST), ("linux-6.1-domu-131M-of-200M", GROWABLE)]
)
def test_linear_domu(name: str, text: str) -> None:
    real, model = opened(str(FIXTURES / f"{name}.core.zst")), modelled(text)
    own_first(real, model)
    lists_alike(real, model)
    for variable in ("xen_p2m_addr", "xen_p2m_size", "xen_p2m_last_pfn", "xen_max_p2m_pfn", "max_pfn"):
        assert real.variable(variable) == model.variable(variable), variable


PC = (FIXTURES / "models" / "tree-dom0.model").read_text()


def of_the_lab(name: str) -> str:
    return (FIXTURES / "models" / f"{name}.model").read_text()


@pytest.mark.parametrize(
    ("excerpt", "text"),
    [
        ("linux-3.16-tree", PC),
        ("linux-3.18-tree", of_the_lab("tree-3.18-hole-dom0")),
        ("linux-3.18-pae-tree", PC.replace("tree-3.16", "tree-3.18") + "width pae\n"),
        ("linux-4.9-pae-linear", PC.replace("tree-3.16", "linear") + "width pae\np2m_limit 4G\n"),
    ],
)
def test_older_dom0(excerpt: str, text: str) -> None:
    path = SHARED_REAL / f"{excerpt}.core.zst"
    if not path.exists():
        pytest.skip(f"the excerpt {path.name} is not here")
    real, model = opened(str(path)), modelled(text)
    lists_alike(real, model)
    own_first(real, model)
    names = ["xen_max_p2m_pfn", "xen_p2m_addr", "xen_p2m_size", "xen_p2m_last_pfn"]
    if real.width.bits == 32:
        names += ["machine_to_phys_mapping", "machine_to_phys_nr", "HYPERVISOR_shared_info"]
    for name in names:
        assert real.has(name) == model.has(name), name
        if real.has(name):
            assert real.variable(name) == model.variable(name), name
