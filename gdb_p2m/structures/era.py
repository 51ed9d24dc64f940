"""Which era's P2M a guest has, decided by the symbols that are there, never by a version."""

from __future__ import annotations

from dataclasses import dataclass

from gdb_p2m.guest import LinuxGuest


@dataclass(frozen=True, slots=True)
class Era:
    """name: "linear" or "tree..." or "unknown"; evidence and conflicts are sentences for people."""

    name: str
    title: str
    evidence: tuple[str, ...]
    conflicts: tuple[str, ...]


def era_of(guest: LinuxGuest) -> Era:
    """The era by symbols: xen_p2m_addr is the linear list (3.19 on), p2m_top the tree (2.6.37 to 3.18)."""
    linear = guest.names.symbol("xen_p2m_addr")
    tree = guest.names.symbol("p2m_top")
    identity = guest.names.symbol("p2m_identity")
    mid_identity = guest.names.symbol("p2m_mid_identity")
    evidence = [f"{s.name} at {s.address:#x} ({s.source})" for s in (linear, tree, identity, mid_identity) if s]
    conflicts = []
    if linear and tree:
        conflicts.append("both xen_p2m_addr (3.19 on) and p2m_top (before 3.19) are named: symbols of two kernels?")
    if linear:
        return Era("linear", "linear virtual list (Linux 3.19 on)", tuple(evidence), tuple(conflicts))
    if tree and mid_identity:
        name, title = "tree-mid-identity", "three-level tree with p2m_mid_identity (Linux 3.16 to 3.18)"
    elif tree and identity:
        name, title = "tree-identity", "three-level tree with p2m_identity (Linux 2.6.39 to 3.15)"
    elif tree:
        name, title = "tree", "three-level tree without identity (Linux 2.6.37 and 2.6.38)"
    else:
        name, title = "unknown", "no P2M symbol is known"
    return Era(name, title, tuple(evidence), tuple(conflicts))
