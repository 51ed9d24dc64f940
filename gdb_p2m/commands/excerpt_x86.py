"""`excerpt` of an x86 machine: Xen's own view of the domains, and the names of each guest's kernel."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from gdb_p2m.errors import P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout import xen_x86 as layout
from gdb_p2m.mapping import Kind
from gdb_p2m.sources.base import Note
from gdb_p2m.sources.notes import EXCERPT_GUEST, EXCERPT_NOTE
from gdb_p2m.sources.recording import RecordingSource
from gdb_p2m.spaces.pv_roots import kernel_mark
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.structures.hypervisor import Hypervisor
from gdb_p2m.structures.x86_domains import STRUCT_BYTES
from gdb_p2m.symbols.xen_memory import XEN_NOTE
from gdb_p2m.target import Target
from gdb_p2m.units import FrameArray
from gdb_p2m.views.registry import Views

MAX_FOREIGN_RUNS = 4096


def record_hypervisor(
    target: Target, recording: RecordingSource, chosen: LinuxGuest, guests: list[LinuxGuest]
) -> Note | None:
    """Record every struct domain and the frame table's records that tell who is who; returns VMCOREINFO_XEN.

    chosen: a guest over the dump itself; guests: those of the excerpt, over the recording source. None, and nothing
    recorded, when memory does not show Xen's own view. The records of the guests' own frames are read
    by rule M2P-002.
    """
    try:
        xen = target.hypervisor_through(chosen)
        domains = xen.domains
    except P2mError:
        return None
    # Through the page table of a guest that comes along: another one's root would look like one more guest.
    space = guests[0].space if guests[0].width.bits == 64 else VirtualSpace(recording, xen.space.shape, xen.space.root)
    over = Hypervisor(space, xen.evidence)
    survey = xen.frames.survey
    marks: list[int] = [g.root.mfn for g in guests]
    for d in (*domains.guests, *domains.system):
        with suppress(P2mError):
            over.space.read(d.address, STRUCT_BYTES)
        mine = survey.roots[survey.root_owners == d.frame]
        marks += [d.frame, *mine[:1].tolist(), *([] if d.shared_info is None else [d.shared_info])]
    over.frames.owners(np.array(marks, dtype=np.int64))
    for guest in guests:
        with suppress(P2mError):
            over.frames.owners(_foreign(guest))
    lines = ["PAGESIZE=4096"]
    head = xen.names.symbol("domain_list")
    if head is not None:
        with suppress(P2mError):
            over.space.read_word(head.address)
            lines.append(f"SYMBOL(domain_list)={head.address:x}")
    lines.append(f"SIZE(page_info)={layout.PAGE_INFO_SIZE}")
    lines += [f"OFFSET(domain.{n})={o.value}" for n, o in domains.offsets.items() if o.value is not None]
    return Note(XEN_NOTE, 0, ("\n".join(lines) + "\n").encode("ascii"))


def _foreign(guest: LinuxGuest) -> FrameArray:
    """Frames of the guest's foreign entries."""
    runs = Views(guest).own().mapping().only({Kind.FOREIGN})
    first, count = runs.frame[:MAX_FOREIGN_RUNS], np.minimum(runs.count[:MAX_FOREIGN_RUNS], MAX_FOREIGN_RUNS)
    return np.repeat(first, count) + np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)


def guest_note(guest: LinuxGuest, names: str) -> Note:
    """The names of one of several kernels: known by what all its page tables have in common."""
    mark = kernel_mark(guest.source, guest.root)
    assert mark is not None, "a guest that was found maps its kernel"
    return Note(EXCERPT_NOTE, EXCERPT_GUEST, f"KERNEL_MARK={mark:x}\n{names}".encode())
