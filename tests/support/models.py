"""Guests that the model builds, opened from memory: small, of every era and width, and easy to damage."""

from __future__ import annotations

from collections.abc import Iterable

from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Mapping
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.model.machine import Machine
from gdb_p2m.sources.base import CpuState, Note
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.target import Target
from gdb_p2m.units import PAGE_SHIFT

TREE_ERAS = ("tree-2.6.37", "tree-2.6.39", "tree-3.16", "tree-3.18")
WIDTHS = ("64", "pae")

# RAM with a small and a large hole, PFNs that were given back, frames of another domain.
HOLED = """
era {era}
width {width}
nr_pages 0x4000
max_pages 0x8000
e820 0x0-0x9efff ram
e820 0x9f000-0xfffff reserved
e820 0x100000-0x3ffffff ram
e820 0x4000000-0x5ffffff reserved
e820 0x6000000-0x9ffffff ram
ballooned 0x2200+1700
foreign 0x3000+16 mfn 0x8000
"""


def holed(era: str, width: str) -> Machine:
    """A 64 MiB guest whose P2M has every kind."""
    return build(parse(HOLED.format(era=era, width=width), f"{era} {width}"))


def source_of(machine: Machine, *, without: Iterable[int] = (), cr3: int | None = None) -> FakeSource:
    """What a dump of the machine would hold, but only frames that are not all zero.

    without: machine frames that are left out. cr3: what the CPU's note says instead of the truth (0: no note).
    """
    gone = {mfn << PAGE_SHIFT for mfn in without}
    pieces: dict[int, bytes | bytearray] = {}
    for start, data in machine.pieces().items():
        for at in range(0, len(data), 1 << PAGE_SHIFT):
            if start + at not in gone:
                pieces[start + at] = data[at : at + (1 << PAGE_SHIFT)]
    source = FakeSource(pieces)
    loaded = machine.cr3 if cr3 is None else cr3
    source.info.cpus = [CpuState(0, {"cr3": loaded})] if loaded else []
    source.info.notes = [Note(n.name, n.type, n.desc) for n in machine.notes]
    return source


def guest_of(machine: Machine, *, without: Iterable[int] = (), cr3: int | None = None) -> LinuxGuest:
    """The machine's one guest."""
    (guest,) = Target(source_of(machine, without=without, cr3=cr3)).guests
    return guest


def runs(mapping: Mapping) -> list[tuple[int, int, str, int | None]]:
    """A mapping in the words of the model's Truth."""
    return [(r.start, r.count, r.kind.word, r.frame) for r in mapping]
