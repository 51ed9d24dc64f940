"""QEMU's own account of the machine's memory: which machine addresses are RAM.

From the text of the monitor command `info mtree -f` (QEMU softmmu/memory.c, mtree_print_flatview; seen
with QEMU 7.2). In physical mode the stub answers reads of anything else with zeros and no error.
"""

from __future__ import annotations

import re

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.sources.base import Extent, merge_extents

SYSTEM_SPACE = '"memory"'
"""Name of the address space that devices, dumps and the stub's physical mode see."""
RAM_KINDS = ("ram", "rom")
"""What dump-guest-memory writes too: not ramd (a device's RAM), romd (flash), nv-ram, i/o."""

_VIEW = re.compile(r"(?m)^FlatView #\d+\s*$")
_RANGE = re.compile(r"^\s*([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ([^)]+)\):", re.MULTILINE)


def ram_extents(text: str) -> tuple[Extent, ...]:
    """RAM and ROM of the system's flat view, merged and sorted. Raises NotUnderstood."""
    for view in _VIEW.split(text):
        if f"AS {SYSTEM_SPACE}," not in view:
            continue
        extents = merge_extents(
            Extent(int(first, 16), int(last, 16) + 1) for first, last, kind in _RANGE.findall(view) if kind in RAM_KINDS
        )
        if extents:
            return extents
    shown = " ".join(text.split())[:120] or "nothing"
    raise NotUnderstood(
        f"QEMU's `info mtree -f` does not tell which addresses are RAM; it says: {shown}",
        hint="without the RAM's ranges the stub's zeros cannot be told from memory; take a dump and `p2m open` it",
    )
