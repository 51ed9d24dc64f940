"""Target: one machine's memory with everything that was found in it. All caches live here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from gdb_p2m.domain import Domain
from gdb_p2m.errors import NotFound, NotSupported, P2mError, UsageError
from gdb_p2m.guest import LinuxGuest, open_guest, require_p2m
from gdb_p2m.layout.x86_pv import SIF_INITDOMAIN
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.sources.base import Source
from gdb_p2m.spaces import pv_roots
from gdb_p2m.spaces.pv_roots import Root
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.symbols.base import SymbolSource
from gdb_p2m.units import PAGE_SHIFT

if TYPE_CHECKING:
    from gdb_p2m.structures.domain_list import DomainList
    from gdb_p2m.structures.hypervisor import Hypervisor
    from gdb_p2m.structures.start_info_scan import FoundStartInfo
    from gdb_p2m.xen_riscv import RiscvDomain, XenRiscv


BY_OWNER = "frame table: its root belongs to"
"""How the evidence starts of an id that only Xen has."""


class Timing:
    """Seconds per stage, for --timing."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, float]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body under `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages.append((name, time.perf_counter() - start))


def _ways(guests: Iterable[LinuxGuest]) -> list[tuple[VirtualSpace, str]]:
    """Page tables that may lead to Xen, each with words for it."""
    return [(g.space, f"page table of the guest at machine frame {g.root.mfn:#x}") for g in guests]


def _in_order(found: dict[int, LinuxGuest]) -> list[LinuxGuest]:
    return sorted(found.values(), key=lambda g: (g.id is None, g.id or 0, g.root.mfn))


class Target:
    """A machine: its source, its guests. kernel/xen: files the user named, opened on first use.

    Nothing is decoded before it is asked for.
    """

    def __init__(
        self,
        source: Source,
        *,
        kernel: str | None = None,
        xen: str | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self.source = source
        self.kernel_path = kernel
        self.xen_path = xen
        self.progress = progress
        self.timing = Timing()
        self.warnings: list[str] = [f"{m} (at {a:#x})" for a, m in source.info.problems]
        self.notices: list[str] = []
        self._by_mark: dict[int, LinuxGuest] = {}
        self._searched = False
        self._xen: Hypervisor | P2mError | None = None
        self._wrong_kernels: list[P2mError] = []
        self._matched = False

    @property
    def is_riscv(self) -> bool:
        """Whether the memory is that of a RISC-V machine."""
        return self.source.info.machine == "riscv64"

    @cached_property
    def kernel_file(self) -> SymbolSource | None:
        """The --kernel file, opened. Raises what symtab.open_kernel_file raises."""
        if self.kernel_path is None:
            return None
        from gdb_p2m.symbols.symtab import open_kernel_file

        return open_kernel_file(self.kernel_path)

    @cached_property
    def xen(self) -> XenRiscv:
        """Xen on RISC-V. Raises NotSupported on other machines, and what open_xen raises."""
        if not self.is_riscv:
            raise NotSupported(f"{self.source.info.path}: not memory of a RISC-V machine")
        if self.kernel_path is not None:
            raise UsageError(
                "--kernel names a guest's kernel; the P2M of a RISC-V domain is Xen's",
                hint="give Xen's symbols with --xen xen-syms",
            )
        from gdb_p2m.xen_riscv import open_xen

        with self.timing.stage("find Xen and its symbols"):
            return open_xen(self.source, self.xen_path, self.progress)

    @cached_property
    def domain_list(self) -> DomainList:
        """Xen's list of domains (RISC-V), with what is wrong in it."""
        from gdb_p2m.structures.domain_list import read_domains

        with self.timing.stage("domain list"):
            return read_domains(self.xen)

    @property
    def domains(self) -> list[Domain]:
        """Every domain that was found: RISC-V from Xen's list, x86 all PV guests of the machine."""
        found: list[Domain] = []
        found.extend(self.domain_list.domains if self.is_riscv else self.all_guests)
        return found

    @cached_property
    def guests(self) -> list[LinuxGuest]:
        """The PV guests that CPUs run; when dom0 is not among them, all of the machine.

        Raises NotFound that says what was looked for.
        """
        if self.source.info.machine not in ("x86-64", "i386"):
            raise NotSupported(
                f"{self.source.info.path}: a dump of a {self.source.info.machine} machine, not x86",
                hint="x86 PV guests are read from x86-64 dumps",
            )
        found: dict[int, LinuxGuest] = {}
        with self.timing.stage("find guest and symbols"):
            self._open_roots(pv_roots.from_cpus(self.source), found)
            # A core of one domain holds no other guest that could be found.
            whole = self.source.info.core_table is None or not found
            if whole and not any(g.id == 0 for g in found.values()):
                self._open_roots(self._other_roots(found), found)
                self._name_by_owner(found.values())
        if not found:
            raise self._nothing_found()
        if self._wrong_kernels and not self._matched:
            raise self._wrong_kernels[0]
        self._by_mark = found
        return _in_order(found)

    @cached_property
    def all_guests(self) -> list[LinuxGuest]:
        """Every PV guest of the machine; those of `guests` are the same objects. Raises like `guests`."""
        quick = self.guests
        if self._searched or self.source.info.core_table is not None:
            return quick
        with self.timing.stage("find all guests"):
            self._open_roots(self._other_roots(self._by_mark), self._by_mark)
            self._name_by_owner(self._by_mark.values())
        return _in_order(self._by_mark)

    def _other_roots(self, found: dict[int, LinuxGuest]) -> Iterator[Root]:
        """Roots of the whole machine: those that the frame table knows, or else all that a scan finds."""
        self._searched = True
        try:
            roots = list(self._hypervisor(_ways(found.values())).roots())
        except P2mError:
            roots = []
        return iter(roots) if roots else pv_roots.from_scan(self.source, self.progress)

    @property
    def hypervisor(self) -> Hypervisor:
        """Xen's own view of an x86 machine. Raises NotFound with the reason when memory does not show it."""
        return self._hypervisor(_ways(self.guests))

    def hypervisor_through(self, guest: LinuxGuest) -> Hypervisor:
        """The same, without a search for guests: through this one's page table."""
        return self._hypervisor(_ways([guest]))

    def _hypervisor(self, spaces: list[tuple[VirtualSpace, str]]) -> Hypervisor:
        """Made once, also the failure."""
        if self._xen is None:
            from gdb_p2m.structures.hypervisor import open_hypervisor

            try:
                self._xen = open_hypervisor(self.source, spaces, self.xen_path)
            except P2mError as e:
                if not spaces:
                    raise  # a guest that is found later may lead to it
                self._xen = e
        if isinstance(self._xen, P2mError):
            raise self._xen
        return self._xen

    def _name_by_owner(self, guests: Iterable[LinuxGuest]) -> None:
        """Domain ids as Xen has them: of the domain that owns the guest's root table."""
        try:
            xen = self._hypervisor(_ways(guests))
            for guest in guests:
                owner = xen.owner(guest.root.mfn)
                if owner is None or owner.system:
                    continue
                if guest.id not in (None, owner.id):
                    self.notices.append(
                        f"the guest at root {guest.root.mfn:#x} says that it is domain {guest.id}, but its page table "
                        f"belongs to domain {owner.id}"
                    )
                    continue
                if guest.id is None:
                    guest.id = owner.id
                    guest.id_evidence = f"{BY_OWNER} the struct domain at {owner.address:#x}"
        except P2mError:
            if self.xen_path is not None:
                raise  # what the user named must not be passed over
            return  # ids stay unknown; `domains` says why

    def _open_roots(self, roots: Iterator[Root], found: dict[int, LinuxGuest]) -> None:
        for root in roots:
            mark = pv_roots.kernel_mark(self.source, root)
            key = -root.mfn if mark is None else mark
            if key not in found:
                guest = self._open_guest(root)
                self._infer(guest)
                self._identify(guest)
                found[key] = guest

    def _open_guest(self, root: Root) -> LinuxGuest:
        """The guest below a root; with the user's kernel file if that is its kernel."""
        file = self.kernel_file
        if file is None:
            return open_guest(self.source, root)
        from gdb_p2m.symbols.kernel_match import WrongKernel, match_kernel

        try:
            doubt = match_kernel(VirtualSpace(self.source, root.shape, root.address), file)
        except WrongKernel as e:
            self._wrong_kernels.append(e)
            guest = open_guest(self.source, root)
            guest.names.notes.append(e.message)
            return guest
        self._matched = True
        if doubt is not None:
            self.notices.append(doubt)
        return open_guest(self.source, root, file)

    def _infer(self, guest: LinuxGuest) -> None:
        """What shared_info alone says of the list of a guest whose names are not known."""
        if guest.has("p2m_top") or guest.has("p2m_identity"):
            return
        from gdb_p2m.structures.inferred import infer

        infer(guest, lambda: self._start_infos)
        if guest.inferred:
            self.notices.append(
                f"no kernel names for the guest at root {guest.root.mfn:#x}: its P2M is inferred from shared_info "
                "(`identify` says how)"
            )

    @cached_property
    def _start_infos(self) -> list[FoundStartInfo]:
        """Every start_info page of the machine, looked for once."""
        from gdb_p2m.structures.start_info_scan import start_info_pages

        return list(start_info_pages(self.source, self.progress))

    def _identify(self, guest: LinuxGuest) -> None:
        """Domain 0 is known by SIF_INITDOMAIN of its start_info; other ids are Xen's to tell."""
        from gdb_p2m.structures.xen_pages import start_info

        try:
            flags = start_info(guest).number("flags")
        except P2mError as e:
            guest.id_evidence = f"not known: start_info: {e.message}"
            return
        if flags & SIF_INITDOMAIN:
            guest.id = 0
            guest.id_evidence = f"start_info.flags {flags:#x} has SIF_INITDOMAIN"
        else:
            guest.id_evidence = f"start_info.flags {flags:#x} lacks SIF_INITDOMAIN: an unprivileged guest"

    def _nothing_found(self) -> NotFound:
        from gdb_p2m.spaces.fingerprint import what_else

        pages = sum(e.end - e.start for e in self.source.extents()) >> PAGE_SHIFT
        return NotFound(
            f"{self.source.info.path}: no Xen PV guest: none of {pages:,} pages is a page-table root that links "
            f"to itself in slot 258 and maps a kernel{what_else(self.source)}",
            hint="the P2M of a PV guest is what this program reads; HVM, PVH and bare-metal kernels have none",
        )

    def domain(self, number: int | None = None) -> Domain:
        """Domain `number`; by default dom0, else the first there is. Raises NotFound."""
        if self.is_riscv:
            return self._riscv_domain(number)
        guests = self.guests
        if number is None:
            require_p2m(guests[0])
            return guests[0]
        if not any(g.id == number for g in guests):
            guests = self.all_guests
        for guest in guests:
            if guest.id == number:
                require_p2m(guest)
                return guest
        known = ", ".join("?" if g.id is None else str(g.id) for g in guests)
        raise NotFound(
            f"domain {number} is not known; domains found: {known}",
            hint="`domains` shows what was found and how",
        )

    def _riscv_domain(self, number: int | None) -> RiscvDomain:
        found = self.domain_list
        by_id = {d.id: d for d in found.domains}
        if number is None and found.domains:
            return by_id.get(0, found.domains[0])
        if number in by_id:
            return by_id[number]
        broken = "".join(f"; the domain at {a:#x} cannot be read: {why}" for a, why in found.broken)
        ended = f"; the list ends early: {found.problem}" if found.problem else ""
        known = ", ".join(map(str, by_id)) or "none"
        wanted = "no domain" if number is None else f"domain {number}"
        raise NotFound(
            f"{wanted} is {'there' if number is None else 'not known'}; domains found: {known}{broken}{ended}",
            hint="`domains` lists what was found",
        )

    def close(self) -> None:
        """Release the source."""
        self.source.close()
