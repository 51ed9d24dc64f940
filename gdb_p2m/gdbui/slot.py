"""Where the entry of one PFN lies, as a virtual address of its guest's kernel: what a watchpoint needs. No GDB here."""

from __future__ import annotations

from dataclasses import dataclass

from gdb_p2m.commands.base import Context
from gdb_p2m.errors import NotSupported, P2mError, UsageError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.mapping import Kind
from gdb_p2m.views.base import Trace
from gdb_p2m.views.entry_runs import classify_entry
from gdb_p2m.views.linear import LinearView
from gdb_p2m.views.tree import TreeView

SHARED = {Kind.IDENTITY: "p2m_identity", Kind.MISSING: "p2m_missing"}
ALLOCATORS = ("xen_alloc_p2m_entry", "alloc_p2m")


@dataclass(frozen=True)
class Slot:
    """The entry of `pfn`: virtual address in the kernel, machine address, raw value when it was looked at."""

    pfn: int
    virtual: int
    machine: int
    raw: int
    width: EntryWidth

    def meaning(self, raw: int) -> str:
        """An entry in words: `0x30100: mfn, MFN 0x30100`."""
        kind, frame, reason = classify_entry(raw, self.pfn, self.width)
        return (
            f"{raw:#x}: {kind.word}"
            + (f", MFN {frame:#x}" if frame is not None else "")
            + (f" ({reason})" if reason else "")
        )


def slot_of(context: Context, pfn: int) -> Slot:
    """The entry to watch. Raises NotSupported (RISC-V; a shared page), UsageError (out of range), P2mError."""
    if not isinstance(context.domain, LinuxGuest):
        raise NotSupported(
            "p2m watch follows entries of x86 PV guests; a RISC-V domain's P2M is written by Xen, through "
            "addresses of its own",
            hint="`p2m walk GFN` shows where the entry lies",
        )
    guest, view = context.domain, context.views.own()
    if pfn >= view.limit or (isinstance(view, LinearView) and pfn >= view.size):
        raise UsageError(f"p2m watch: PFN {pfn:#x} has no entry: it lies past the end of the P2M")
    trace = view.trace(pfn)
    if trace.read_what not in ("P2M entry", "leaf entry") or trace.read_at is None or trace.steps[-1].raw is None:
        raise _no_entry(guest, trace)
    if isinstance(view, LinearView):
        virtual = view.base + pfn * guest.width.bytes
    else:
        assert isinstance(view, TreeView)
        # The step before the entry is the middle page's slot: a pointer to the leaf.
        leaf = trace.steps[-2].raw
        assert leaf is not None
        virtual = leaf + pfn % guest.width.per_page * guest.width.bytes
    return Slot(pfn, virtual, trace.read_at, trace.steps[-1].raw, guest.width)


def _no_entry(guest: LinuxGuest, trace: Trace) -> P2mError:
    """Why a PFN has no entry of its own."""
    shared = SHARED.get(trace.kind)
    if shared is None or shared not in trace.read_what:
        return P2mError(
            f"p2m watch: PFN {trace.number:#x} has no entry that can be watched: {trace.reason or trace.read_what}"
        )
    where = "" if trace.read_at is None else f" at machine address {trace.read_at:#x}"
    found = next((s for n in ALLOCATORS if (s := guest.names.symbol(n)) is not None), None)
    hint = "watch again when the PFN has a page of its own"
    if found is not None:
        hint = f"hbreak *{found.address:#x} stops at {found.name}, which makes that page; watch again afterwards"
    return NotSupported(
        f"p2m watch: the slot of PFN {trace.number:#x} lies in the shared page {shared}, which all such PFNs share "
        "and nobody "
        f"writes. When the PFN gets a frame, what leads to the page changes first: "
        f"{trace.read_what.split(':')[0]}{where}",
        hint=hint,
    )
