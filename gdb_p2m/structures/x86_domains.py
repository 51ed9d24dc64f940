"""Xen's domains on x86-64: who owns frames, struct domain, and domain_list.

Debian's xen-syms has no debug information and VMCOREINFO_XEN names few members, so the offsets that nothing names
are found on the spot: shared_info is the pointer that in every struct domain leads to a page of Xen's heap that this very
domain owns; tot_pages is the number that in each equals the frames that the frame table counts for it; next_in_list is
the pointer that leads from the first domain through all others, in the order of their ids, to NULL. An offset that does
not hold for every domain, or holds at several places, is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from gdb_p2m.errors import NotFound, P2mError, Unreadable, Untranslatable
from gdb_p2m.layout import xen_x86 as layout
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.structures.x86_frame_table import Census, X86FrameTable
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from gdb_p2m.symbols.xen_memory import XenNames

STRUCT_BYTES = 2048
"""How much of struct domain is searched: the members that matter lie in the first hundreds of bytes (seen)."""
SHARED_INFO_WITHIN = 256
MAX_DOMAINS = 0x7FF0
MAX_CANDIDATES = 1 << 13


@dataclass(frozen=True, slots=True)
class Offset:
    """Where a member of struct domain lies, and who says so. value None: `source` says why it is not known."""

    value: int | None
    source: str


@dataclass
class XenDomain:
    """One struct domain. address: Xen's pointer; frame: machine frame. raw: its first bytes.

    shared_info: machine frame. listed: whether it is on domain_list, None when the list was not walked.
    state: "running", "paused", "shut down", "dying", "dead" or "unknown", with its evidence. problems: contradictions.
    """

    id: int
    address: int
    frame: int
    raw: bytes
    census: Census
    shared_info: int | None = None
    listed: bool | None = None
    state: str = "unknown"
    state_evidence: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def system(self) -> bool:
        """DOMID_XEN, DOMID_IO...: owners of frames that are no guests."""
        return self.id >= layout.DOMID_FIRST_RESERVED

    @property
    def name(self) -> str:
        """d1, or DOMID_XEN."""
        return layout.DOMID_NAMES.get(self.id, f"d{self.id}")

    @property
    def kind(self) -> str:
        """ "pv" by its page tables: only frames of PV guests are typed as such (mm.c); else "not pv"."""
        types = self.census.types
        return "pv" if types.get(layout.PGT_L4) or types.get(layout.PGT_L3) else "not pv"

    def word(self, offset: int, size: int = 8) -> int:
        """A member of `raw`."""
        return int.from_bytes(self.raw[offset : offset + size], "little")


@dataclass
class XenDomains:
    """guests in the order of ids, system domains, and what is wrong or not known."""

    guests: list[XenDomain] = field(default_factory=list)
    system: list[XenDomain] = field(default_factory=list)
    offsets: dict[str, Offset] = field(default_factory=dict)
    broken: list[tuple[int, str]] = field(default_factory=list)
    list_problem: str = ""
    list_source: str = ""

    def by_frame(self, frame: int) -> XenDomain | None:
        """The owner with its struct domain at machine frame `frame`."""
        return next((d for d in (*self.guests, *self.system) if d.frame == frame), None)

    def by_id(self, number: int) -> XenDomain | None:
        """The guest with this id."""
        return next((d for d in self.guests if d.id == number), None)


def find_domains(space: VirtualSpace, table: X86FrameTable, names: XenNames) -> XenDomains:
    """All domains that own frames or are on domain_list. Raises NotFound when no owner reads as a domain."""
    search = _Search(space, table, names)
    return search.run()


class _Search:
    def __init__(self, space: VirtualSpace, table: X86FrameTable, names: XenNames) -> None:
        self.space, self.table, self.names = space, table, names
        self.found = XenDomains()

    def run(self) -> XenDomains:
        found = self.found
        for domain in self._owners():
            (found.system if domain.system else found.guests).append(domain)
        found.guests.sort(key=lambda d: (d.id, d.frame))
        found.offsets["domain_id"] = self._named("domain_id") or Offset(layout.DOMAIN_ID, "declared: asm/config.h")
        self._shared_info()
        if not found.guests:
            raise NotFound(
                "no owner of a frame reads as a struct domain",
                hint="is the frame table that of a 64-bit Xen without CONFIG_BIGMEM?",
            )
        self._walk_list()
        found.guests.sort(key=lambda d: (d.id, d.frame))
        for one, two in pairwise(found.guests):
            if one.id == two.id:
                two.problems.append(f"a second domain with id {two.id}: which of them --domain means cannot be told")
        self._tot_pages()
        return found

    def _owners(self) -> Iterator[XenDomain]:
        """Those who own frames, by the frame table."""
        census = self.table.survey.census
        largest = sorted(census.items(), key=lambda item: -(item[1].pages + item[1].heap + item[1].other))
        for frame, counted in largest[:MAX_CANDIDATES]:
            domain = self._read(layout.DIRECTMAP_VIRT + (frame << PAGE_SHIFT), counted)
            if domain is not None:
                yield domain

    def _read(self, address: int, census: Census | None = None) -> XenDomain | None:
        """The struct domain at Xen's pointer `address`; None (and broken) when it cannot be one."""
        frame = (address - layout.DIRECTMAP_VIRT) >> PAGE_SHIFT
        try:
            raw = self.space.read(address, STRUCT_BYTES)
        except (Untranslatable, Unreadable) as e:
            self.found.broken.append((address, e.message))
            return None
        number = int.from_bytes(raw[layout.DOMAIN_ID : layout.DOMAIN_ID + 2], "little")
        if number > 0x7FFF:
            self.found.broken.append((address, f"owner of frames, but {number:#x} is no domain id"))
            return None
        return XenDomain(number, address, frame, raw, census or self.table.survey.census.get(frame, Census()))

    def _named(self, member: str) -> Offset | None:
        fact = self.names.type_fact("OFFSET", f"domain.{member}")
        return None if fact is None or not 0 <= fact[0] <= STRUCT_BYTES - 8 else Offset(*fact)

    # -- shared_info --------------------------------------------------------------------------------------

    def _shared_info(self) -> None:
        """Keeps as guests those whose struct leads to a shared_info page of their own."""
        named = self._named("shared_info")
        places = [set(self._own_heap_pages(d)) for d in self.found.guests]
        common = set.intersection(*places) if places else set()
        if not common and places:
            # An owner that is no struct domain spoils the intersection: the place that most agree on.
            votes = sorted({k for p in places for k in p}, key=lambda k: (-sum(k in p for p in places), k))
            common = set(votes[:1])
        if named is not None and named.value is not None:
            common = {named.value}
        if not common:
            self.found.offsets["shared_info"] = Offset(None, "no pointer leads to a heap page that the domain owns")
            return
        at = min(common)
        proof = "on the spot: it leads to a heap page that the domain owns, in every struct domain"
        self.found.offsets["shared_info"] = named or Offset(at, proof)
        kept = []
        for domain, place in zip(self.found.guests, places, strict=True):
            if at in place:
                domain.shared_info = (domain.word(at) - layout.DIRECTMAP_VIRT) >> PAGE_SHIFT
                kept.append(domain)
            else:
                why = f"owner of {domain.census.pages:,} pages, but no shared_info page of its own at offset {at}"
                self.found.broken.append((domain.address, why))
        self.found.guests = kept

    def _own_heap_pages(self, d: XenDomain) -> Iterator[int]:
        """Offsets of pointers to pages of Xen's heap that this domain owns."""
        words = np.frombuffer(d.raw[:SHARED_INFO_WITHIN], dtype="<u8")
        offset = words - np.uint64(layout.DIRECTMAP_VIRT)
        good = (offset < np.uint64(layout.DIRECTMAP_END - layout.DIRECTMAP_VIRT)) & (offset % np.uint64(PAGE_SIZE) == 0)
        at = np.flatnonzero(good)
        frames = (offset[at] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        records, ok = self.table.records(frames)
        owners, _ = self.table.owners(frames)
        heap = (records[:, 1] & np.uint64(layout.PGC_XEN_HEAP)) != 0
        for i in np.flatnonzero(ok & heap & (owners == d.frame)).tolist():
            yield int(at[i]) * 8

    # -- tot_pages ----------------------------------------------------------------------------------------

    def _tot_pages(self) -> None:
        named = self._named("tot_pages")
        at = named.value if named else None
        if named is None:
            hits = self._common(lambda d: {i * 4 for i in _equal(d.raw, d.census.pages, 4)})
            at = hits[0] if len(hits) == 1 else None
            told = "on the spot: equal to the frames that the frame table counts for the domain, in every struct domain"
            why = "no member" if not hits else f"{len(hits)} members"
            named = Offset(at, told if at is not None else f"{why} of every struct domain equal the frames counted")
        self.found.offsets["tot_pages"] = named
        if at is None:
            return
        for d in self.found.guests:
            if d.word(at, 4) != d.census.pages and not self.table.survey.unread:
                d.problems.append(f"tot_pages is {d.word(at, 4):,}, the frame table counts {d.census.pages:,} frames")

    def _common(self, places: Callable[[XenDomain], set[int]]) -> list[int]:
        """Offsets that every guest has, ascending."""
        sets = [places(d) for d in self.found.guests]
        return sorted(set.intersection(*sets)) if sets else []

    # -- domain_list --------------------------------------------------------------------------------------

    def _walk_list(self) -> None:
        """Follow domain_list; without next_in_list the owners stand for it."""
        found = self.found
        link = self._named("next_in_list") or self._solve_next()
        found.offsets["next_in_list"] = link
        head, source = self._head()
        if link.value is None:
            found.list_problem = f"domain_list was not walked: {link.source}"
            return
        if head is None:
            found.list_problem = f"domain_list was not walked: {source}"
            return
        found.list_source = source
        seen: list[int] = []
        address = head
        while address and len(seen) < MAX_DOMAINS:
            if address in seen:
                found.list_problem = f"domain_list is a cycle: {address:#x} is reached again after {len(seen)} domains"
                break
            seen.append(address)
            domain = next((d for d in found.guests if d.address == address), None) or self._newcomer(address)
            if domain is None:
                found.list_problem = f"domain_list ends early, at {address:#x}"
                break
            address = domain.word(link.value)
        self._mark_listed(set(seen))

    def _newcomer(self, address: int) -> XenDomain | None:
        """A domain of the list that owns no frame: being made or torn down."""
        if address & 7 or not layout.DIRECTMAP_VIRT <= address < layout.DIRECTMAP_END:
            return None
        domain = self._read(address)
        if domain is None or domain.system:
            return None
        domain.problems.append("on domain_list, but it owns no frame")
        self.found.guests.append(domain)
        return domain

    def _mark_listed(self, addresses: set[int]) -> None:
        whole = not self.found.list_problem
        for d in self.found.guests:
            d.listed = d.address in addresses if whole or d.address in addresses else None
            if d.listed is False:
                d.problems.append("owns frames, but is not on domain_list: it is being destroyed, or the list is broken")

    def _head(self) -> tuple[int | None, str]:
        """(pointer to the first domain, where from)."""
        symbol = self.names.symbol("domain_list")
        if symbol is None:
            return None, "; ".join(self.names.notes) or "no source of symbols names domain_list"
        try:
            return self.space.read_named("domain_list", symbol.address), f"domain_list at {symbol.address:#x} ({symbol.source})"
        except P2mError as e:
            return None, e.message

    def _solve_next(self) -> Offset:
        guests = self.found.guests
        if len(guests) < 2:
            return Offset(None, "OFFSET(domain.next_in_list) is not named, and one domain alone does not show it")
        hits = [at for at in range(0, STRUCT_BYTES - 7, 8) if self._links_all(at)]
        if len(hits) == 1:
            proof = "on the spot: it leads from the first domain through all others, in the order of ids, to NULL"
            return Offset(hits[0], proof)
        return Offset(None, f"OFFSET(domain.next_in_list) is not named, and {len(hits)} members lead through all domains")

    def _links_all(self, at: int) -> bool:
        """Whether the word at `at` links all known guests in the order of ids (others may lie between)."""
        known = {d.address: d for d in self.found.guests}
        at_domain = self.found.guests[0]
        met, address = 1, at_domain.word(at)
        for _ in range(MAX_DOMAINS):
            if not address:
                break
            following = known.get(address)
            if following is None or following.id <= at_domain.id:
                return False
            met, at_domain, address = met + 1, following, following.word(at)
        return met == len(known)


def _equal(raw: bytes, value: int, size: int) -> list[int]:
    """Indices of little-endian members of `size` bytes that equal `value`."""
    return np.flatnonzero(np.frombuffer(raw, dtype=f"<u{size}") == value).tolist()
