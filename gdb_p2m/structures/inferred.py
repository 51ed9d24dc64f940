"""What a guest's linear list is when no symbol of its kernel is known: by shared_info alone.

shared_info is the interface between guest and toolstack, so it needs no name: p2m_vaddr is the list, p2m_cr3 the page
table to read it through (Xen public/arch-x86/xen.h; Linux 4.3 on, xen_setup_mfn_list_list()). What it does not say is
where the list ends and which pages stand for "missing" and "identity"; both are read off the list itself:

- The list has no unmapped page and its holes are covered by shared page tables, while an area of vmalloc space ends
  with an unmapped page: the list ends where its shared tables end, if what follows cannot be more of it.
- A shared leaf is mapped many times and holds INVALID_P2M_ENTRY only. Frame lists name p2m_missing: it is the only MFN
  in a mid page that several top slots share (p2m_mid_missing_mfn). What lies past all memory is p2m_identity.

Everything here is an inference and is called so. Where the evidence does not settle it, nothing is inferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from gdb_p2m.errors import NotFound, NotUnderstood, P2mError, Unreadable
from gdb_p2m.guest import Inferred, LinuxGuest
from gdb_p2m.layout.pagetables import I386_PAE
from gdb_p2m.layout.x86_pv import SHARED_INFO_32, SHARED_INFO_64
from gdb_p2m.sources.base import Extent
from gdb_p2m.spaces.pv_roots import Root, is_pae_l3, is_pv_l4, kernel_mark
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.structures.inferred_list import Ends, SharedLeaves, list_end, shared_leaves
from gdb_p2m.structures.record import Record, parse
from gdb_p2m.structures.stage import is_virtual_area
from gdb_p2m.structures.start_info_scan import FoundStartInfo
from gdb_p2m.structures.xen_pages import unfold_cr3
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, MachineAddress, Mfn

NEEDED = ("xen_p2m_addr", "xen_p2m_size", "p2m_missing", "p2m_identity")
MAX_CANDIDATES = 4096
StartInfos = Callable[[], Iterable[FoundStartInfo]]


@dataclass(frozen=True, slots=True)
class Found:
    """The guest's shared_info, how it was found, and the start_info page that names it, if one does."""

    record: Record
    evidence: str
    start_info: FoundStartInfo | None


def infer(guest: LinuxGuest, start_infos: StartInfos) -> None:
    """Fill guest.inferred where names are lacking; otherwise a note says why nothing could be inferred.

    Nothing is done for a guest whose names are known, or that has a P2M tree.
    """
    if guest.has("p2m_top") or all(guest.has(n) for n in NEEDED):
        return
    try:
        inferred = _infer(guest, start_infos)
    except P2mError as e:
        guest.names.notes.append(f"the P2M could not be inferred from shared_info: {e.message}")
        return
    guest.inferred = {name: found for name, found in inferred.items() if guest.names.symbol(name) is None}
    guest.names.notes += [f"inferred, not known by name: {n}: {i.evidence}" for n, i in guest.inferred.items()]


def touch(guest: LinuxGuest, start_infos: StartInfos) -> None:
    """Read again all that an inference rests on, for an excerpt from which it is to be made anew."""
    if guest.inferred:
        with suppress(P2mError):
            _infer(guest, start_infos)


def _infer(guest: LinuxGuest, start_infos: StartInfos) -> dict[str, Inferred]:
    found = _shared_info(guest, start_infos)
    info = found.record
    base = info.number("p2m_vaddr")
    root = Root(Mfn(unfold_cr3(info.number("p2m_cr3"), guest.width.bits)), "shared_info.p2m_cr3", guest.space.shape)
    space = VirtualSpace(guest.source, root.shape, root.address)
    ends = list_end(space, guest.width, base, info.number("max_pfn"))
    nr_pages = found.start_info.record.number("nr_pages") if found.start_info else None
    _must_agree(guest, "xen_p2m_addr", base)
    _must_agree(guest, "xen_p2m_size", ends.entries)
    leaves = shared_leaves(guest.source, guest.width, ends, info, nr_pages)
    guest.root, guest.space = root, space
    return _results(info, found, ends, leaves)


def _must_agree(guest: LinuxGuest, name: str, inferred: int) -> None:
    """Where some names are known they are the better source, and the inference has to fit them."""
    if guest.names.symbol(name) is not None and guest.variable(name) != inferred:
        raise NotUnderstood(f"{name} is {guest.variable(name):#x}, but shared_info and the list give {inferred:#x}")


def _results(info: Record, found: Found, ends: Ends, leaves: SharedLeaves) -> dict[str, Inferred]:
    out = {
        "HYPERVISOR_shared_info": Inferred(
            f"machine frame {info.address >> PAGE_SHIFT:#x}, {found.evidence}", None, Mfn(info.address >> PAGE_SHIFT)
        ),
        "xen_p2m_addr": Inferred(
            f"{info.number('p2m_vaddr'):#x}, shared_info.p2m_vaddr at machine address {info.address_of('p2m_vaddr'):#x}"
            + ("; p2m_generation is odd: the list was being changed" if info.number("p2m_generation") & 1 else ""),
            info.number("p2m_vaddr"),
            None,
            info.address_of("p2m_vaddr"),
        ),
        "xen_p2m_size": Inferred(ends.evidence, ends.entries),
        "p2m_missing": Inferred(leaves.missing_evidence, None, leaves.missing),
        "p2m_identity": Inferred(leaves.identity_evidence, None, leaves.identity),
    }
    if found.start_info is not None:
        mfn = found.start_info.mfn
        out["xen_start_info"] = Inferred(
            f"machine frame {mfn:#x}, the page with Xen's magic that names this shared_info", None, Mfn(mfn)
        )
    return out


def _shared_info(guest: LinuxGuest, start_infos: StartInfos) -> Found:
    """The one that leads to this guest's kernel. Raises NotFound."""
    why = "no start_info page and no page that reads as shared_info leads to this guest's kernel"
    for page in start_infos():
        guest.source.place_shared_info(page.shared_info)
        try:
            record = _record(guest, page.shared_info)
        except Unreadable:
            continue
        problem = _problem(guest, record)
        if not problem:
            return Found(record, f"named by start_info at machine frame {page.mfn:#x}", page)
        if record.number("p2m_cr3") == 0 and page.record.number("mfn_list") and not record.number("p2m_vaddr"):
            why = problem
    for mfn in _candidates(guest):
        record = _record(guest, mfn)
        if not _problem(guest, record):
            return Found(record, "the page whose p2m_cr3 is this kernel's page table and maps p2m_vaddr", None)
    raise NotFound(why)


def _record(guest: LinuxGuest, mfn: int) -> Record:
    layout = SHARED_INFO_64 if guest.width.bits == 64 else SHARED_INFO_32
    address = MachineAddress(mfn << PAGE_SHIFT)
    return parse(layout, bytes(guest.source.read(address, PAGE_SIZE)), address)


def _problem(guest: LinuxGuest, info: Record) -> str:
    """Why a page is not this guest's shared_info with a list that can be read; empty when it is."""
    vaddr, cr3 = info.number("p2m_vaddr"), info.number("p2m_cr3")
    if not vaddr or not cr3:
        return "shared_info.p2m_vaddr and p2m_cr3 are 0: this kernel does not publish its list (4.3 on), or not yet"
    if vaddr % PAGE_SIZE or not is_virtual_area(vaddr, guest.width.bits):
        return f"shared_info.p2m_vaddr {vaddr:#x} is no list in virtual space"
    mfn = unfold_cr3(cr3, guest.width.bits)
    if not (is_pae_l3 if guest.space.shape is I386_PAE else is_pv_l4)(guest.source, mfn):
        return f"shared_info.p2m_cr3 {cr3:#x} is no page-table root of a PV guest"
    root = Root(Mfn(mfn), "", guest.space.shape)
    mark = kernel_mark(guest.source, root)
    if mark is None or mark != kernel_mark(guest.source, guest.root):
        return f"shared_info.p2m_cr3 {cr3:#x} leads to another kernel"
    if not VirtualSpace(guest.source, root.shape, root.address).maps(vaddr):
        return f"shared_info.p2m_vaddr {vaddr:#x} is not mapped by p2m_cr3"
    return ""


def _candidates(guest: LinuxGuest) -> Iterable[int]:
    """Pages whose word at p2m_cr3 is a page-table root of a 64-bit guest, where no start_info names the page."""
    if guest.width.bits != 64:
        return
    layout = SHARED_INFO_64
    offset = layout.field("p2m_cr3").offset
    end, looked = np.uint64(guest.source.end()), 0
    for extent in guest.source.extents():
        first = -(-extent.start >> PAGE_SHIFT)
        words = guest.source.strided_u64(Extent(extent.start, extent.end), offset)
        likely = (words != 0) & (words < end) & ((words & np.uint64(PAGE_SIZE - 1)) == 0)
        for i in np.flatnonzero(likely).tolist():
            if looked >= MAX_CANDIDATES:
                return
            if is_pv_l4(guest.source, int(words[i]) >> PAGE_SHIFT):
                looked += 1
                yield first + i
