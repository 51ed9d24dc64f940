"""Model machines whose kernel also keeps its E820 tables, as xen_memory_setup() leaves them.

The clipping is written from Linux arch/x86/xen/setup.c, not from the model's plan: if both are right, the
clipped map alone leads to the same P2M.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from gdb_p2m.model.description import KERNEL_PFN, Description
from gdb_p2m.model.machine import Machine
from gdb_p2m.sources.base import Note
from gdb_p2m.sources.fake import FakeSource
from support.model_memory import source_of

PAGE = 4096
TYPES = {"ram": 1, "reserved": 2, "acpi": 3, "nvs": 4, "unusable": 5}
ISA = (0xA0000, 0x100000)
TABLE_PFN, POINTER_PFN, BALLOON_PFN, GIVEN_PFN = (KERNEL_PFN + i for i in (8, 9, 10, 11))
"""Pages of the model's image that hold nothing."""

Range = tuple[int, int, int]
"""First byte, first byte after it, type."""


def given_map(d: Description) -> list[Range]:
    """The map as Xen gives it."""
    return [(e.start, e.end, TYPES[e.kind]) for e in d.e820]


def kernel_map(d: Description) -> list[Range]:
    """e820_table when xen_memory_setup() returns."""
    mem_end = d.nr_pages * PAGE
    limit = d.width.max_p2m_pfn
    max_pages = limit if d.max_pages is None else min(d.max_pages, limit)
    max_pages = min(max_pages + sum(max(0, min(e, d.nr_pages) - s) for s, e in holes(d)), limit)
    extra = min(10 * d.nr_pages, max(0, max_pages - d.nr_pages))
    found: list[Range] = []
    for start, end, kind in given_map(d):
        at = start
        while at < end:
            stop = end
            if kind == TYPES["ram"]:
                first, last = -(-at // PAGE), end // PAGE
                if at < mem_end:
                    stop = min(end, mem_end)
                elif not extra:
                    if not d.era.linear:
                        found.append((at, end, TYPES["unusable"]))
                    break
                else:
                    stop = min(end, at + extra * PAGE)
                    last = stop // PAGE
                    extra -= last - first
                if -(-at // PAGE) < stop // PAGE:
                    found.append((-(-at // PAGE) * PAGE, stop // PAGE * PAGE, kind))
            else:
                found.append((at, stop, kind))
            at = stop
    return merged([*found, (*ISA, TYPES["reserved"])])


def holes(d: Description) -> Iterable[tuple[int, int]]:
    """Ranges of PFNs that are not RAM, whole pages (xen_foreach_remap_area)."""
    start = 0
    for i, e in enumerate(d.e820):
        if e.kind == "ram" or i == len(d.e820) - 1:
            first, last = start // PAGE, -(-(e.start if e.kind == "ram" else e.end) // PAGE)
            if first < last:
                yield first, last
            start = e.end


def merged(ranges: Sequence[Range]) -> list[Range]:
    """e820__update_table(): the highest type wins, neighbours of one type are joined."""
    points = sorted({p for s, e, _ in ranges for p in (s, e)})
    out: list[Range] = []
    for a, b in zip(points, points[1:], strict=False):
        kinds = [k for s, e, k in ranges if s <= a and b <= e]
        if kinds:
            if out and out[-1][1] == a and out[-1][2] == max(kinds):
                out[-1] = (out[-1][0], b, out[-1][2])
            else:
                out.append((a, b, max(kinds)))
    return out


def table_bytes(ranges: Sequence[Range], count: int | None = None) -> bytes:
    """struct e820_table; count: what nr_entries claims."""
    packed = b"".join(struct.pack("<QQI", s, e - s, k) for s, e, k in ranges)
    return struct.pack("<I", len(ranges) if count is None else count) + packed


class Tables:
    """The names and the memory of a machine, to be added to."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.lines: list[str] = []

    def put(self, name: str, pfn: int, data: bytes) -> int:
        """`data` at the beginning of a page of the image, under a name ("" for none); returns its virtual address."""
        va = self.machine.kernel.kernel_va(pfn)
        self.machine.memory.write(self.machine.kernel.machine_of_image(va), data)
        if name:
            self.lines.append(f"SYMBOL({name})={va:x}")
        return va

    def pointer(self, name: str, target: int) -> None:
        """A pointer variable."""
        self.put(name, POINTER_PFN, target.to_bytes(self.machine.width.bytes, "little"))

    def source(self) -> FakeSource:
        """The machine's memory with these names among its own."""
        source = source_of(self.machine)
        extra = "".join(f"{line}\n" for line in self.lines).encode()
        source.info.notes = [
            Note(n.name, n.type, bytes(n.desc) + (extra if n.name == "VMCOREINFO" else b"")) for n in source.info.notes
        ]
        return source


def with_e820(machine: Machine, ranges: Sequence[Range] | None = None, *, balloon: int | None = None) -> FakeSource:
    """The machine with e820_table_firmware (what the kernel would have, if not given) and balloon_stats."""
    tables = Tables(machine)
    table = tables.put("", TABLE_PFN, table_bytes(kernel_map(machine.description) if ranges is None else ranges))
    tables.pointer("e820_table_firmware", table)
    if balloon is not None:
        tables.put("balloon_stats", BALLOON_PFN, balloon.to_bytes(machine.width.bytes, "little"))
    return tables.source()
