"""domain_list: every domain that Xen knows, in the order of domids."""

from __future__ import annotations

from dataclasses import dataclass, field

from gdb_p2m.errors import NotUnderstood, P2mError
from gdb_p2m.structures.p2m_domain import read_domain
from gdb_p2m.structures.page_info import FrameTable
from gdb_p2m.xen_riscv import RiscvDomain, XenRiscv

MAX_DOMAINS = 0x7FF0
"""DOMID_FIRST_RESERVED (public/xen.h): no domain on the list has a higher id."""


@dataclass
class DomainList:
    """domains: those whose P2M could be read. broken: (address of the struct domain, why not).

    problem: why the walk of the list ended early; "" when it reached its end.
    """

    domains: list[RiscvDomain] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    problem: str = ""


def read_domains(xen: XenRiscv) -> DomainList:
    """Follow domain_list -> next_in_list.

    Raises NotFound, NotUnderstood when the list's head or the frame table cannot be read; what is wrong
    further on is in the result.
    """
    table = FrameTable(xen)
    found = DomainList()
    seen: set[int] = set()
    address = xen.variable("domain_list")
    next_offset = xen.facts.offset("domain.next_in_list")
    while address:
        if address in seen:
            found.problem = (
                f"domain_list is a cycle: the domain at {address:#x} is reached again after {len(seen)} domains"
            )
            break
        if len(seen) >= MAX_DOMAINS:
            found.problem = f"domain_list has more than {MAX_DOMAINS} elements"
            break
        if address % 8:
            found.problem = f"domain_list leads to {address:#x}, which is not aligned"
            break
        seen.add(address)
        try:
            domain = read_domain(xen, table, address)
        except P2mError as e:
            found.broken.append((address, e.message))
        else:
            if any(d.id == domain.id for d in found.domains):
                found.broken.append((address, f"a second domain with id {domain.id}"))
            else:
                found.domains.append(domain)
        try:
            address = xen.space.read_named("domain.next_in_list", address + next_offset)
        except NotUnderstood as e:
            found.problem = e.message
            break
    return found
