"""The arithmetic of the initial mapping ("xen: eliminate scalability issues from initial mapping setup", Linux 4.0): what the list outside of it buys."""

from __future__ import annotations

from dataclasses import dataclass

from gdb_p2m.structures.record import Record
from gdb_p2m.units import GIB, PAGE_SIZE

MAPPING_IMPLEMENTED = 1 * GIB
"""The kernel's image mapping that the builder fills: 1 GiB as implemented."""
MAPPING_THEORY = 2 * GIB
"""__START_KERNEL_map to the end of the address space."""
SLOT_BYTES = 512 * GIB
"""What one top-level slot maps: where the list lies when the kernel asks for it."""


@dataclass(frozen=True, slots=True)
class InitialMapping:
    """All in bytes but frames. tables: page-table pages among nr_p2m_frames, None when there are none to tell.

    outside: whether the list has (or had) a top-level slot of its own.
    """

    entry_bytes: int
    nr_pages: int
    list_bytes: int
    list_pages: int
    p2m_frames: int
    tables: int | None
    outside: bool

    def domain_limit(self, mapping: int) -> int:
        """Bytes of the largest domain whose list alone would fill `mapping` bytes."""
        return mapping // self.entry_bytes * PAGE_SIZE

    @property
    def slot_limit(self) -> int:
        """Bytes of the largest domain whose list fits into one top-level slot."""
        return self.domain_limit(SLOT_BYTES)


def initial_mapping(info: Record, bits: int) -> InitialMapping:
    """The numbers of this guest, from its start_info."""
    entry = bits // 8
    nr_pages, frames = info.number("nr_pages"), info.number("nr_p2m_frames")
    list_pages = -(-nr_pages * entry // PAGE_SIZE)
    # The builder fills the two fields only when the kernel asked for the list outside (XEN_ELFNOTE_INIT_P2M).
    tables = frames - list_pages if frames else None
    return InitialMapping(entry, nr_pages, nr_pages * entry, list_pages, frames, tables, frames > 0)


