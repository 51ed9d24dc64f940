"""Which era's P2M a guest has, decided by what is there (names, and memory where names leave it open).

A release string is never used to decide: distributions backport, and a dump's symbols may be another
kernel's. When it contradicts what was found that is told as a note.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from gdb_p2m.errors import P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.spaces.words import words_of
from gdb_p2m.structures.p2m_tree import P2mTree, read_tree
from gdb_p2m.units import PAGE_SIZE

LINEAR = "linear"
TREE_MID_IDENTITY = "tree-mid-identity"
TREE_IDENTITY = "tree-identity"
TREE = "tree"
TREE_TWO_LEVELS = "tree-two-levels"
UNKNOWN = "unknown"

_TITLES = {
    LINEAR: "linear virtual list (Linux 3.19 on)",
    TREE_MID_IDENTITY: "three-level tree with p2m_mid_identity (Linux 3.16 to 3.18)",
    TREE_IDENTITY: "three-level tree with p2m_identity (Linux 2.6.39 to 3.15)",
    TREE: "three-level tree without identity (Linux 2.6.37 and 2.6.38)",
    TREE_TWO_LEVELS: "two-level tree of arrays (Linux before 2.6.37), which is not decoded",
    UNKNOWN: "no P2M symbol is known",
}
_RELEASES = {
    LINEAR: ((3, 19), (99, 0)),
    TREE_MID_IDENTITY: ((3, 16), (3, 18)),
    TREE_IDENTITY: ((2, 39), (3, 15)),
    TREE: ((2, 37), (2, 38)),
    TREE_TWO_LEVELS: ((2, 0), (2, 36)),
}
"""First and last release of an era; 2.6.N is (2, N)."""
_EVIDENCE = ("xen_p2m_addr", "p2m_top", "p2m_mid_missing", "p2m_identity", "p2m_mid_identity")


@dataclass(frozen=True, slots=True)
class Era:
    """name: one of the words above; title, evidence, conflicts, notes: sentences for people.

    conflicts are contradictions in the memory or its names; notes are worth knowing and harmless.
    """

    name: str
    title: str
    evidence: tuple[str, ...]
    conflicts: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_tree(self) -> bool:
        """Whether the guest's own P2M is the three-level tree."""
        return self.name in (TREE, TREE_IDENTITY, TREE_MID_IDENTITY)

    @property
    def identity_past_end(self) -> bool:
        """What a PFN past MAX_P2M_PFN is: identity from 3.16 on, missing before (get_phys_to_machine)."""
        return self.name in (LINEAR, TREE_MID_IDENTITY)


def era_of(guest: LinuxGuest) -> Era:
    """The era of the guest's P2M: the linear list has xen_p2m_addr, the tree p2m_top."""
    known = {n: s for n in _EVIDENCE if (s := guest.names.symbol(n)) is not None}
    evidence = [f"{s.name} at {s.address:#x} ({s.source})" for s in known.values()]
    conflicts: list[str] = []
    notes: list[str] = []
    linear = "xen_p2m_addr" in known or "xen_p2m_addr" in guest.inferred
    evidence += [f"{n} inferred: {guest.inferred[n].evidence}" for n in _EVIDENCE if n in guest.inferred]
    if linear and "p2m_top" in known:
        linear = _settle(guest, conflicts)
    if linear:
        name = LINEAR
    elif "p2m_top" in known:
        name = _which_tree(guest, set(known), evidence, conflicts, notes)
    else:
        name = UNKNOWN
    _compare_release(guest, name, notes)
    return Era(name, _TITLES[name], tuple(evidence), tuple(conflicts), tuple(notes))


def _settle(guest: LinuxGuest, conflicts: list[str]) -> bool:
    """Both roots are named: True for the linear list, the one whose variable leads somewhere."""
    usable = {name: _leads_somewhere(guest, name) for name in ("xen_p2m_addr", "p2m_top")}
    what = "; ".join(f"{n} {'leads to a mapped page' if ok else 'leads nowhere'}" for n, ok in usable.items())
    conflicts.append(
        f"both xen_p2m_addr (3.19 on) and p2m_top (before 3.19) are named, as by symbols of two kernels: {what}"
    )
    return usable["xen_p2m_addr"] or not usable["p2m_top"]


def _leads_somewhere(guest: LinuxGuest, name: str) -> bool:
    try:
        pointer = guest.variable(name)
        return pointer != 0 and pointer % PAGE_SIZE == 0 and guest.space.maps(pointer)
    except P2mError:
        return False


def _which_tree(
    guest: LinuxGuest, known: set[str], evidence: list[str], conflicts: list[str], notes: list[str]
) -> str:
    """Which of the tree's eras, by its shared pages."""
    if "p2m_mid_missing" not in known:
        # Two levels have no middle pages, and p2m_top is the page-aligned array itself, not a pointer.
        if guest.names.require("p2m_top").address % PAGE_SIZE == 0:
            evidence.append("p2m_mid_missing is not named, and p2m_top is itself a page")
            return TREE_TWO_LEVELS
        notes.append("p2m_mid_missing is not named; its page is read like any other middle page")
    if "p2m_mid_identity" in known:
        if (wrong := _mid_identity_problem(guest)) is not None:
            conflicts.append(wrong)
        return TREE_MID_IDENTITY
    if (brk := guest.names.symbol(".brk.p2m_mid_identity")) is not None:
        notes.append(
            f"{brk.name} at {brk.address:#x} is the name of reserved brk space, "
            "not of the page p2m_mid_identity (3.16 on)"
        )
    if "p2m_identity" not in known:
        return TREE
    if (mfn := _unnamed_mid_identity(guest)) is not None:
        evidence.append(f"the page at machine frame {mfn:#x} is p2m_mid_identity in all but name")
        return TREE_MID_IDENTITY
    return TREE_IDENTITY


def _mid_identity_problem(guest: LinuxGuest) -> str | None:
    """Why what p2m_mid_identity points to is not that page, or None when it is."""
    try:
        pointer = guest.variable("p2m_mid_identity")
        identity = guest.variable("p2m_identity")
        data = guest.space.read(pointer, PAGE_SIZE)
    except P2mError as e:
        return f"p2m_mid_identity is named, but what it points to cannot be compared: {e.message}"
    slots = words_of(np.frombuffer(data, dtype=np.uint8).reshape(1, PAGE_SIZE), guest.width)[0]
    other = int(np.count_nonzero(slots != np.uint64(identity)))
    if not other:
        return None
    return (
        f"p2m_mid_identity = {pointer:#x}, but {other} of {len(slots)} slots of that page do not point to "
        f"p2m_identity = {identity:#x}"
    )


def _unnamed_mid_identity(guest: LinuxGuest) -> int | None:
    """Frame of a middle page of nothing but p2m_identity that several top slots share, if there is one."""
    try:
        tree = read_tree(guest)
        identity = guest.variable("p2m_identity")
    except P2mError:
        return None
    return _shared_mid_full_of(tree, identity)


def _shared_mid_full_of(tree: P2mTree, pointer: int) -> int | None:
    full = (tree.slots == np.uint64(pointer)).all(axis=1) & tree.mid_ok & (tree.uses() > 1)
    found = np.flatnonzero(full)
    return int(tree.mid[found[0]]) if len(found) else None


def _compare_release(guest: LinuxGuest, name: str, notes: list[str]) -> None:
    """A note when the release string lies outside the era's releases."""
    release = guest.names.release
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release or "")
    if match is None or name not in _RELEASES:
        return
    major, minor, patch = int(match[1]), int(match[2]), int(match[3] or 0)
    number = (2, patch) if (major, minor) == (2, 6) else (major, minor)
    first, last = _RELEASES[name]
    if not first <= number <= last:
        notes.append(f"the release {release} is not of this era; what is in memory decides")


__all__ = ["LINEAR", "TREE", "TREE_IDENTITY", "TREE_MID_IDENTITY", "UNKNOWN", "Era", "era_of"]
