"""The pseudo-physical memory map of a guest, from the tables that its kernel keeps of it.

The copies that e820__memory_setup() takes of what xen_memory_setup() returned are the map that the console shows
as "Xen: [mem ...]" (seen). In them RAM is cut to what the domain has and may get, so that they decide what the
P2M's memory setup did. The map as Xen gave it is init data.
"""

from __future__ import annotations

from dataclasses import dataclass

from gdb_p2m.errors import NotFound, NotUnderstood, P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.e820 import (
    E820_COUNT_BYTES,
    E820_ENTRY,
    E820_MAX_ENTRIES,
    E820_NAMES,
    E820_RAM,
    E820_TYPES,
    XEN_E820,
    E820Name,
)
from gdb_p2m.layout.names import SYSTEM_FREEING_INITMEM
from gdb_p2m.units import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class E820Range:
    """Bytes start..end-1 of the map; type as the firmware numbers it."""

    start: int
    end: int
    type: int

    @property
    def word(self) -> str:
        """The type in a word: "ram", "reserved", ..., "type 42"."""
        return E820_TYPES.get(self.type, f"type {self.type}")

    @property
    def is_ram(self) -> bool:
        """Whether it is RAM."""
        return self.type == E820_RAM


@dataclass(frozen=True, slots=True)
class E820Map:
    """A table: ranges rising and without overlaps. name: the variable; address: virtual, of the table."""

    name: str
    address: int
    ranges: tuple[E820Range, ...]

    def ram_pages(self, start: int, end: int) -> int:
        """How many of PFNs start..end-1 are whole pages of RAM."""
        total = 0
        for r in self.ranges:
            if r.is_ram:
                first, last = max(start, -(-r.start // PAGE_SIZE)), min(end, r.end // PAGE_SIZE)
                total += max(0, last - first)
        return total


def init_data_is_live(guest: LinuxGuest) -> bool:
    """Whether init data is known not to be freed yet."""
    try:
        return guest.has("system_state") and guest.variable("system_state") & 0xFFFF_FFFF < SYSTEM_FREEING_INITMEM
    except P2mError:
        return False


def read_e820(guest: LinuxGuest) -> E820Map:
    """The map that memory setup left. Raises NotFound that says what each table lacks, NotUnderstood."""
    lacking: list[str] = []
    for known in E820_NAMES:
        if not guest.has(known.name):
            lacking.append(f"{known.name} is not known by name")
            continue
        try:
            address, count = _place(guest, known)
        except P2mError as e:
            lacking.append(f"{known.name}: {e.message}")
            continue
        if count:
            return E820Map(known.name, address, _ranges(guest, known.name, address, count))
        lacking.append(f"{known.name} is empty, the kernel has not set its memory up yet")
    raise NotFound(
        f"no memory map (E820) can be read: {'; '.join(lacking)}",
        hint="give a description of the guest instead: check --against FILE (docs/model.md)",
    )


def given_e820(guest: LinuxGuest) -> E820Map | None:
    """The map as Xen gave it, None when it is not there (any more)."""
    if not guest.has(XEN_E820.name) or not init_data_is_live(guest):
        return None
    try:
        address, count = _place(guest, XEN_E820)
        return E820Map(XEN_E820.name, address, _ranges(guest, XEN_E820.name, address, count)) if count else None
    except P2mError:
        return None


def _place(guest: LinuxGuest, known: E820Name) -> tuple[int, int]:
    """(virtual address of the table, its number of entries). Raises P2mError."""
    address = guest.variable(known.name) if known.pointer else guest.names.require(known.name).address
    count = guest.space.read_word(address, E820_COUNT_BYTES)
    if not known.pointer and count > E820_MAX_ENTRIES:
        # 4.10 and 4.11 have a pointer of the same name; its low half is no sensible count.
        address = guest.space.read_word(address)
        count = guest.space.read_word(address, E820_COUNT_BYTES)
    return address, count


def _ranges(guest: LinuxGuest, name: str, address: int, count: int) -> tuple[E820Range, ...]:
    """The entries, checked. Raises NotUnderstood, and what reading raises."""
    if count > E820_MAX_ENTRIES:
        raise NotUnderstood(
            f"{name} at {address:#x} claims {count:,} entries; at most {E820_MAX_ENTRIES:,} are possible"
        )
    data = guest.space.read(address + E820_COUNT_BYTES, count * E820_ENTRY.size)
    found: list[E820Range] = []
    for i, (start, size, kind) in enumerate(E820_ENTRY.iter_unpack(data)):
        end = start + size
        if not size or end > 1 << 64:
            raise NotUnderstood(f"{name}[{i}] at {address:#x} is no range: start {start:#x}, size {size:#x}")
        if found and start < found[-1].end:
            raise NotUnderstood(f"{name}[{i}] at {address:#x} starts at {start:#x}, before {name}[{i - 1}] ends")
        found.append(E820Range(start, end, kind))
    return tuple(found)


def touch_e820(guest: LinuxGuest) -> None:
    """Read whatever tables there are, so that an excerpt holds them. Never raises for what is not there."""
    given_e820(guest)
    for known in E820_NAMES:
        if guest.has(known.name):
            try:
                _ranges(guest, known.name, *_place(guest, known))
            except P2mError:
                continue
