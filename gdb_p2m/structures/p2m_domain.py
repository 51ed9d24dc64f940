"""struct p2m_domain of a RISC-V domain: the root, its mode, its limits, the pages that it is made of."""

from __future__ import annotations

from dataclasses import dataclass

from gdb_p2m.errors import NotFound, NotUnderstood, P2mError, Unreadable, Untranslatable
from gdb_p2m.layout.xen_riscv import ROOT_PAGES
from gdb_p2m.structures.page_info import FrameTable
from gdb_p2m.units import Mfn, VirtualAddress
from gdb_p2m.xen_riscv import RiscvDomain, XenRiscv


@dataclass(frozen=True, slots=True)
class ModeFields:
    """hgatp.MODE and the level of the root as Xen stores them, and where they were read."""

    number: int
    root_level: int
    source: str


def read_mode(xen: XenRiscv, p2m: int) -> ModeFields:
    """The mode of the P2M at virtual `p2m`: through a pointer, embedded, or from the globals.

    Raises NotFound, NotUnderstood (unreadable, or a pointer that leads out of the image).
    """
    facts = xen.facts
    if facts.mode_form == "globals":
        number, level = xen.variable("gstage_mode"), xen.variable("gstage_root_level")
        return ModeFields(number, level, "globals gstage_mode and gstage_root_level")
    at = p2m + facts.offset("p2m_domain.mode")
    source = f"p2m_domain.mode, embedded at {at:#x}"
    if facts.mode_form == "pointer":
        desc = xen.space.read_named("p2m_domain.mode", at, 8)
        source = f"p2m_domain.mode -> gstage_mode_desc at {desc:#x}"
        if desc == 0:
            raise NotFound("p2m_domain.mode is NULL: the P2M of this domain is not set up")
        at = desc
    try:
        number = xen.space.read_word(at + facts.offset("gstage_mode_desc.mode"), 1)
        level = xen.space.read_word(at + facts.offset("gstage_mode_desc.paging_levels"), 4)
    except (Untranslatable, Unreadable) as e:
        raise NotUnderstood(f"{source} cannot be read: {e.message}") from None
    return ModeFields(number, level, source)


def read_domain(xen: XenRiscv, table: FrameTable, address: int) -> RiscvDomain:
    """The domain whose struct domain is at virtual `address`.

    Raises NotFound, NotUnderstood when what every P2M needs cannot be read. A wrong root pointer is kept
    with its problem, for the rules.
    """
    facts, space = xen.facts, xen.space
    domain_id = space.read_named("domain.domain_id", address + facts.offset("domain.domain_id"), 2)
    p2m = address + facts.offset("domain.arch.p2m")
    root = space.read_named("p2m_domain.root", p2m + facts.offset("p2m_domain.root"))
    mode = read_mode(xen, p2m)
    root_mfn, problem = _root_mfn(table, root)

    def optional(path: str) -> int | None:
        offset = facts.maybe_offset(path)
        return None if offset is None else space.read_named(path, p2m + offset)

    return RiscvDomain(
        xen,
        domain_id,
        VirtualAddress(address),
        VirtualAddress(p2m),
        root,
        root_mfn,
        problem,
        mode.number,
        mode.root_level,
        mode.source,
        optional("p2m_domain.max_mapped_gfn"),
        optional("p2m_domain.lowest_mapped_gfn"),
        optional("p2m_domain.domain"),
        _tot_pages(xen, address),
        f"struct domain at {address:#x}: domain_id {domain_id}",
    )


def _tot_pages(xen: XenRiscv, address: int) -> int | None:
    """domain.tot_pages, an unsigned int."""
    offset = xen.facts.maybe_offset("domain.tot_pages")
    if offset is None:
        return None
    return xen.space.read_named("domain.tot_pages", address + offset, xen.facts.member_size("domain.tot_pages", 4))


def _root_mfn(table: FrameTable, root: int) -> tuple[Mfn | None, str]:
    if root == 0:
        return None, "p2m_domain.root is NULL: the domain has no P2M (yet)"
    problem = table.problem(root)
    if problem:
        return None, f"p2m_domain.root: {problem}"
    mfn = table.mfn(root)
    if not table.holds(mfn + ROOT_PAGES - 1):
        return None, f"p2m_domain.root: frame {mfn:#x} and the three after it are not all RAM"
    return mfn, ""


@dataclass(frozen=True)
class PageList:
    """p2m->pages as walked: frames in order; problem: why the walk ended early, "" when it closed.

    unreadable: the problem is a page_info that the dump does not hold.
    """

    frames: tuple[int, ...]
    problem: str = ""
    unreadable: bool = False


def read_pages(domain: RiscvDomain, table: FrameTable, limit: int) -> PageList:
    """Follow p2m->pages, a circular list through page_info.list (list_head: next 0, prev 8).

    Ends after `limit` elements, at a pointer that is no page_info, at a wrong back link or a repetition.
    """
    xen = domain.xen
    offset = xen.facts.maybe_offset("p2m_domain.pages")
    if offset is None:
        raise NotFound("OFFSET(p2m_domain.pages) is not known")
    head = domain.p2m + offset
    before, at = head, xen.space.read_named("p2m_domain.pages", head)
    frames: list[int] = []
    seen: set[int] = set()
    while at != head:
        where = f"p2m->pages, element {len(frames)}"
        problem = table.problem(at - table.list_offset)
        if problem:
            return PageList(tuple(frames), f"{where}: {problem}")
        mfn = table.mfn(at - table.list_offset)
        if mfn in seen:
            return PageList(tuple(frames), f"{where}: frame {mfn:#x} again: the list is a cycle that misses its head")
        if len(frames) >= limit:
            return PageList(tuple(frames), f"{where}: more than {limit} elements")
        try:
            info = table.read(mfn)
        except P2mError as e:
            return PageList(tuple(frames), f"{where}: {e.message}", unreadable=True)
        frames.append(mfn)
        seen.add(mfn)
        if info.prev != before:
            return PageList(tuple(frames), f"{where}: frame {mfn:#x} points back to {info.prev:#x}, not to {before:#x}")
        before, at = at, info.next
    return PageList(tuple(frames))
