"""What a fault is, and the small tools that faults share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gdb_p2m.model.description import Stage
from gdb_p2m.model.leaves import PRIVATE
from gdb_p2m.model.machine import Break, Machine
from gdb_p2m.model.pieces import Fate

Eras = Literal["all", "tree", "linear", "identity", "identity_tree", "mid_identity"]


class CannotApply(Exception):
    """This guest has nothing that the fault could break; says what is lacking."""


@dataclass(frozen=True, slots=True)
class Where:
    """What an `apply` changed: words, and the PFN or machine address if one stands for it."""

    what: str
    pfn: int | None = None
    address: int | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break a healthy machine.

    id: its name for `build(..., fault=)`. rule: the rule that guards what it breaks. eras: guests that it
    suits ("identity": eras with p2m_identity, "mid_identity": trees with p2m_mid_identity); width: only these
    entries. stage: the stage of the boot that it needs. also: rules that cannot but see it too.
    example: the file in fixtures/models/ (without suffix) that it certainly applies to.
    """

    id: str
    rule: str
    title: str
    apply: Callable[[Machine], Where]
    eras: Eras = "all"
    width: Literal[0, 32, 64] = 0
    stage: Stage = "final"
    also: tuple[str, ...] = ()
    example: str = "lab-dom0"

    def unsuited(self, machine: Machine) -> str | None:
        """Why it does not suit this machine, from its description alone; None when it does."""
        d = machine.description
        era = d.era
        fits = {
            "all": True,
            "tree": not era.linear,
            "linear": era.linear,
            "identity": era.identity,
            "identity_tree": era.identity and not era.linear,
            "mid_identity": era.mid_identity,
        }[self.eras]
        if not fits:
            return f"a fault of {self.eras} guests, not of {era.name}"
        if self.width and d.width.bits != self.width:
            return f"a fault of {self.width}-bit guests"
        if d.stage != self.stage:
            return f"a fault of stage {self.stage}, not {d.stage}"
        return None

    def broke(self, where: Where) -> Break:
        """The record that a broken machine carries."""
        return Break(self.id, self.rule, where.what, where.pfn, where.address)


def plain_pfns(m: Machine, count: int = 1) -> list[int]:
    """`count` PFNs with a frame that hold nothing of the kernel's, in one leaf. Raises CannotApply."""
    for start, end in reversed(m.kernel.free):
        top = end - 1
        if end - start >= count and (top - count + 1) // m.width.per_page == top // m.width.per_page:
            return list(range(end - count, end))
    raise CannotApply("no memory that the kernel does not use itself")


def mfn_of(m: Machine, pfn: int) -> int:
    """Machine frame of a PFN that has one."""
    return int(m.entries(pfn, pfn + 1)[0])


def replace_entry(m: Machine, pfn: int, raw: int, *, m2p: bool = True) -> int:
    """Write entry `raw`; the frame that it held is disowned in the M2P, the new one owned. Returns the old MFN.

    m2p: whether `raw` is an MFN whose M2P entry should name the PFN, so that only the P2M is wrong.
    """
    old = mfn_of(m, pfn)
    m.poke_m2p(old, (1 << 8 * m.xen.m2p_entry) - 1)
    m.poke_entry(pfn, raw)
    if m2p and raw < m.xen.max_frame:
        m.poke_m2p(raw, pfn)
    return old


def uniform_pages(m: Machine, fate: Fate) -> list[int]:
    """Leaf numbers of private leaves that hold only `fate`."""
    shape = m.shape
    assert shape is not None
    uniform = m.p2m.uniform(len(shape.leaves.flat), m.width.per_page)
    found: list[int] = np.flatnonzero((shape.leaves.flat == PRIVATE) & (uniform == fate)).tolist()
    return found


def clear_leaf(m: Machine) -> tuple[int, int]:
    """Balloon out a whole leaf that the kernel does not use; (leaf number, its frame). Raises CannotApply.

    The P2M and the M2P stay consistent: this is what ballooning leaves behind, legal and wasteful.
    """
    per = m.width.per_page
    for start, end in reversed(m.kernel.free):
        page = end // per - 1
        if page * per >= start:
            assert m.shape is not None
            for pfn in range(page * per, (page + 1) * per):
                replace_entry(m, pfn, m.width.invalid, m2p=False)
            m.p2m.set(page * per, (page + 1) * per, Fate.MISSING)
            return page, int(m.shape.leaf_mfn[page])
    raise CannotApply("no whole leaf that the kernel does not use")


def empty_leaves(m: Machine, count: int) -> list[int]:
    """`count` private leaves that hold only missing; leaves are ballooned out when there are too few."""
    pages = uniform_pages(m, Fate.MISSING)
    while len(pages) < count:
        page, _ = clear_leaf(m)
        pages.append(page)
        m.kernel.free = [(a, min(b, page * m.width.per_page)) for a, b in m.kernel.free if a < page * m.width.per_page]
    return pages[:count]


def list_slot(m: Machine, page: int) -> int | None:
    """Machine address of the frame lists' slot for leaf number `page`; None when a shared mid page covers it."""
    assert m.shape is not None
    top, slot = divmod(page, m.width.per_page)
    mid = m.shape.lists.get(top)
    return None if mid is None else m.word_in(mid.mfn, slot)
