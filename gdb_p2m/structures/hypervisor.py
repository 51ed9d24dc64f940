"""Xen on x86-64 as one object: the page table that reaches it, its names, the frame table, the domains."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from gdb_p2m.errors import NotFound, P2mError
from gdb_p2m.layout import xen_x86 as layout
from gdb_p2m.layout.pagetables import X86_64_4LEVEL
from gdb_p2m.sources.base import Source
from gdb_p2m.spaces import pv_roots
from gdb_p2m.spaces.pv_roots import Root
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.structures.x86_frame_table import NoFrameTable, X86FrameTable
from gdb_p2m.units import PAGE_SHIFT, FrameArray, MachineAddress, Mfn

if TYPE_CHECKING:
    from gdb_p2m.structures.x86_domains import XenDomain, XenDomains
    from gdb_p2m.symbols.xen_memory import XenNames


class Hypervisor:
    """Xen as seen through `space`. evidence: which root that is. Nothing is read before it is asked for."""

    def __init__(self, space: VirtualSpace, evidence: str, xen_path: str | None = None) -> None:
        self.space = space
        self.evidence = evidence
        self.xen_path = xen_path
        self.frames = X86FrameTable(space, space.source.ram_end() >> PAGE_SHIFT)

    @cached_property
    def names(self) -> XenNames:
        """Xen's symbols. Raises when the file that the user gave cannot be used."""
        from gdb_p2m.symbols.xen_memory import xen_names

        return xen_names(self.space, self.xen_path)

    @cached_property
    def domains(self) -> XenDomains:
        """Every domain. Raises NotFound."""
        from gdb_p2m.structures.x86_domains import find_domains
        from gdb_p2m.structures.x86_state import add_states

        found = find_domains(self.space, self.frames, self.names)
        add_states(self.space, self.names, found)
        return found

    def domain_id(self, frame: int) -> int:
        """domain_id of the struct domain at machine frame `frame`. Raises Untranslatable or Unreadable."""
        return self.space.read_word(layout.DIRECTMAP_VIRT + (frame << PAGE_SHIFT) + layout.DOMAIN_ID, 2)

    def domain_name(self, frame: int) -> str:
        """domain 1, or DOMID_XEN, likewise."""
        number = self.domain_id(frame)
        return layout.DOMID_NAMES.get(number, f"domain {number}")

    def owner(self, mfn: int) -> XenDomain | None:
        """The domain that owns frame `mfn`; None when none does, or its record cannot be read."""
        owners, ok = self.frames.owners(np.array([mfn], dtype=np.int64))
        return self.domains.by_frame(int(owners[0])) if ok[0] and owners[0] > 0 else None

    def roots(self) -> Iterator[Root]:
        """A page-table root that maps a kernel for every PV domain, in order of frame, by the types in the frame table."""
        survey = self.frames.survey
        source = self.space.source
        for owner in np.unique(survey.root_owners).tolist():
            mine = survey.root_owners == owner
            l4 = survey.roots[mine & (survey.root_types == layout.PGT_L4)]
            yield from _first(_l4_roots(source, l4))
            if not len(l4):
                yield from _first(_l3_roots(source, survey.roots[mine]))


def _first(roots: Iterator[Root]) -> Iterator[Root]:
    found = next(roots, None)
    if found is not None:
        yield found


def _l4_roots(source: Source, frames: FrameArray) -> Iterator[Root]:
    for mfn in frames.tolist():
        if pv_roots.maps_kernel(source, mfn):
            yield Root(Mfn(mfn), f"frame table: machine frame {mfn:#x} is a PGT_l4_page_table")


def _l3_roots(source: Source, frames: FrameArray) -> Iterator[Root]:
    for mfn in frames.tolist():
        found = pv_roots.pae_root(source, mfn, f"frame table: machine frame {mfn:#x} is a pinned PGT_l3_page_table")
        if found is not None:
            yield found


def open_hypervisor(source: Source, spaces: list[tuple[VirtualSpace, str]], xen_path: str | None) -> Hypervisor:
    """Xen through the first page table that leads to its frame table: guests' own, then what CPUs had loaded.

    Raises NotFound with the reason why none does.
    """
    if source.info.core_table is not None:
        raise NotFound("a core of one domain holds neither Xen's frame table nor its domains")
    tried = [*spaces]
    for cpu in source.info.cpus:
        if cpu.cr3:
            root = MachineAddress(cpu.cr3 & ~0xFFF)
            tried.append((VirtualSpace(source, X86_64_4LEVEL, root), f"CR3 {cpu.cr3:#x} of CPU {cpu.index}"))
    problems: list[P2mError] = []
    for space, evidence in tried:
        if space.shape is not X86_64_4LEVEL:
            continue
        try:
            return Hypervisor(space, evidence, xen_path)
        except P2mError as e:
            problems.append(e)
    if not problems:
        raise NoFrameTable("no 64-bit page table is known that leads to Xen's frame table")
    chosen = next((e for e in problems if not isinstance(e, NoFrameTable)), problems[0])
    chosen.hint = chosen.hint or "a dump of the whole machine has it; `m2p` and `lookup --mfn` tell what the M2P knows"
    raise chosen
