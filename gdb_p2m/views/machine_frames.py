"""Machine frames of an x86 machine from all sides: Xen's frame table, the M2P, and the P2M of every PV guest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gdb_p2m.errors import P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.xen_x86 import DOMID_FIRST_RESERVED, PGT_L4
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.structures.hypervisor import Hypervisor
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.structures.x86_frame_table import NO_OWNER, X86PageInfo
from gdb_p2m.target import Target
from gdb_p2m.views.registry import Views


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a frame. domain: its id, None for nobody and when it cannot be told. name: for people.

    pfn: what the M2P calls the frame. confirmed: whether the owner's P2M leads from there back to the frame; None: not
    known, `reason` says why.
    """

    domain: int | None
    name: str
    pfn: int | None = None
    confirmed: bool | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """`d1, PFN 0x100` with what is to be doubted."""
        if self.pfn is None:
            return self.name + (f" ({self.reason})" if self.reason else "")
        doubt = {True: "", None: f" ({self.reason})"}.get(self.confirmed, f" by the M2P, but not in its P2M: {self.reason}")
        return f"{self.name}, PFN {self.pfn:#x}{doubt}"


@dataclass(frozen=True, slots=True)
class Use:
    """An entry of a guest's P2M that leads to a frame. kind: mfn, foreign, identity."""

    domain: int | None
    pfn: int
    kind: Kind


class MachineFrames:
    """Answers for any number of frames. Guests are opened, and their P2Ms made, when they are asked for.

    near: the chosen guest and its views, which are made already.
    """

    def __init__(self, target: Target, near: Views | None = None, progress: Progress = no_progress) -> None:
        self.target = target
        self.near_views = near
        self.near = near.domain if near is not None and isinstance(near.domain, LinuxGuest) else None
        self.progress = progress
        self._mappings: dict[int, Mapping | P2mError] = {}
        self._m2p: M2p | None = None

    @property
    def xen(self) -> Hypervisor:
        """Xen's own view. Raises NotFound."""
        return self.target.hypervisor if self.near is None else self.target.hypervisor_through(self.near)

    @property
    def m2p(self) -> M2p:
        """The M2P through the nearest guest."""
        if self._m2p is None:
            self._m2p = M2p(self.near or self.target.guests[0])
        return self._m2p

    def mapping(self, guest: LinuxGuest) -> Mapping:
        """A guest's own view as runs, made once. Raises what making it raises."""
        key = int(guest.root.mfn)
        if key not in self._mappings:
            try:
                views = self.near_views if guest is self.near else None
                self._mappings[key] = (views or Views(guest, self.progress)).own().mapping()
            except P2mError as e:
                self._mappings[key] = e
        found = self._mappings[key]
        if isinstance(found, P2mError):
            raise found
        return found

    def owner(self, mfn: int) -> Owner:
        """Who owns frame `mfn`. Raises NotFound when Xen's view is not there, NotUnderstood past its end."""
        info = self.xen.frames.read(mfn)
        if info.absent:
            return Owner(None, "nobody: the machine has no such frame")
        if info.owner == NO_OWNER:
            return Owner(None, "nobody: free" if info.state == "free" else "nobody: Xen's own")
        try:
            number = self.xen.domain_id(info.owner)
            name = self.xen.domain_name(info.owner)
        except P2mError as e:
            return Owner(None, f"the domain whose struct domain is at frame {info.owner:#x}", reason=e.message)
        if number >= DOMID_FIRST_RESERVED:
            return Owner(None, name)
        return self._place(number, name, mfn)

    def _place(self, number: int, name: str, mfn: int) -> Owner:
        try:
            pfn = self.m2p.entry(mfn).pfn
        except P2mError as e:
            return Owner(number, name, reason=f"its M2P entry cannot be read: {e.message}")
        if pfn is None:
            return Owner(number, name, reason="the M2P gives it no PFN")
        try:
            run = self.mapping(self._guest(number)).lookup(pfn)
        except P2mError as e:
            return Owner(number, name, pfn, None, f"its P2M cannot be read: {e.message}")
        if run is None or run.kind is Kind.UNREADABLE:
            return Owner(number, name, pfn, None, "that entry of its P2M cannot be read")
        same = run.kind is Kind.MFN and run.frame == mfn
        where = f"{run.kind.word}" + ("" if run.frame is None else f" {run.frame:#x}")
        return Owner(number, name, pfn, same, "" if same else f"its entry is {where}")

    def _guest(self, number: int) -> LinuxGuest:
        if self.near is not None and self.near.id == number:
            return self.near
        guest = self.target.domain(number)
        assert isinstance(guest, LinuxGuest)
        return guest

    def uses(self, mfn: int) -> Iterator[Use]:
        """Every entry of every guest's P2M that leads to frame `mfn`; `unseen` tells whose could not be looked into."""
        for guest in self.target.all_guests:
            try:
                mapping = self.mapping(guest)
            except P2mError:
                continue
            for run in mapping.reverse(mfn):
                if run.kind is not Kind.IDENTITY:
                    yield Use(guest.id, run.start, run.kind)

    def unseen(self) -> list[tuple[int | None, str]]:
        """Guests whose P2M could not be made, and why."""
        lost: list[tuple[int | None, str]] = []
        for guest in self.target.all_guests:
            try:
                self.mapping(guest)
            except P2mError as e:
                lost.append((guest.id, e.message))
        return lost

    def used_as(self, info: X86PageInfo, owner: Owner) -> str:
        """What a frame is in use as, in words."""
        for d in (*self.xen.domains.guests, *self.xen.domains.system):
            if info.mfn in (d.frame, d.shared_info):
                return f"{'struct domain' if info.mfn == d.frame else 'shared_info'} of {d.name}"
        if info.absent or owner.name.startswith("nobody"):
            return owner.name
        if info.type_info >> 61 in range(1, PGT_L4 + 1) and "PGT_validated" in info.type_flags:
            root = ", a root" if "PGT_pinned" in info.type_flags else ""
            return f"L{info.type_info >> 61} page table of {owner.name}{root}"
        if "PGC_xen_heap" in info.flags:
            return f"Xen heap, shared with {owner.name}"
        return f"memory of {owner.name}" + ("" if "PGC_allocated" in info.flags else ", which gave it back; still referenced")
