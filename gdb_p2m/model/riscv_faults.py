"""Faults of a RISC-V machine: for every GST rule at least one memory on which it fails.

Each fault changes one thing in a healthy machine, the way a bug or a stray write would. `also` names rules that
cannot but see it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gdb_p2m.errors import UsageError
from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.xen_riscv import DECLARED_TYPES, PGC_ALLOCATED
from gdb_p2m.model.riscv_p2m import EXTERNAL, Table
from gdb_p2m.model.riscv_xen import (
    LIST_HEAD_NEXT,
    RiscvDomainModel,
    RiscvXen,
    free_frame,
    member,
    relink,
    write_mode,
)

FOREIGN_RW, FOREIGN_RO = DECLARED_TYPES["p2m_map_foreign_rw"], DECLARED_TYPES["p2m_map_foreign_ro"]
Apply = Callable[[RiscvXen, RiscvDomainModel], str]


class CannotApply(Exception):
    """This machine has nothing that the fault could break; says what is lacking."""


@dataclass(frozen=True, slots=True)
class RiscvFault:
    """One way to break a healthy machine. rule: the one that guards it; also: others that see it too.

    unusable: the P2M cannot be decoded at all afterwards, only the rule can say why. example: a model in
    fixtures/models that it can be built into.
    """

    id: str
    rule: str
    title: str
    apply: Apply
    also: tuple[str, ...] = ()
    unusable: bool = False
    example: str = "riscv-two-domains"


def _leaf(m: RiscvDomainModel, kinds: tuple[str, ...], level: int | None = None) -> tuple[Table, int]:
    """(table, slot) of the first leaf of one of these types (and level). Raises CannotApply."""
    for leaf in sorted(m.p2m.leaves.values(), key=lambda leaf: leaf.gfn):
        if leaf.type in kinds and (level is None or leaf.order == 9 * level):
            found = m.p2m.find(leaf.gfn, leaf.order // 9)
            assert found is not None
            return found
    raise CannotApply(f"no leaf of type {' or '.join(kinds)}" + ("" if level is None else f" at level {level}"))


_ANY = ("p2m_ram_rw", "p2m_mmio_direct_io", "p2m_map_foreign_rw", "p2m_map_foreign_ro")
_FOREIGN = ("p2m_map_foreign_rw", "p2m_map_foreign_ro")


def _change(m: RiscvDomainModel, at: tuple[Table, int], *, set_bits: int = 0, clear: int = 0) -> str:
    table, slot = at
    old = m.p2m.entry(table, slot)
    new = old & ~clear | set_bits
    m.p2m.put(table, slot, new)
    return f"slot {slot} of the L{table.level} table at frame {table.mfn:#x}: {old:#x} -> {new:#x}"


def _child(m: RiscvDomainModel) -> tuple[Table, int, Table]:
    """(table, slot, child) of some pointer to a table. Raises CannotApply."""
    for table in m.p2m.tables():
        for slot, child in table.children.items():
            return table, slot, child
    raise CannotApply("the P2M has no table but its root")


def _with_metadata(m: RiscvDomainModel) -> Table:
    """A table with metadata and a live slot. Raises CannotApply."""
    for table in m.p2m.tables():
        if table.md and m.p2m.live_slots(table):
            return table
    raise CannotApply("no table has a metadata page in use")


def _root_unaligned(x: RiscvXen, m: RiscvDomainModel) -> str:
    member(x, m, "root", x.info_virtual(m.p2m.root_mfn + 1))
    return f"p2m->root points to frame {m.p2m.root_mfn + 1:#x}"


def _root_off_element(x: RiscvXen, m: RiscvDomainModel) -> str:
    member(x, m, "root", x.info_virtual(m.p2m.root_mfn) + 8)
    return "p2m->root points into a page_info"


def _mode_level(x: RiscvXen, m: RiscvDomainModel) -> str:
    mode = x.description.mode
    write_mode(x, m, mode.number, 5 - mode.root_level if mode.root_level != 4 else 3)
    return "the mode's level belongs to another mode"


def _pointer_accessed(x: RiscvXen, m: RiscvDomainModel) -> str:
    table, slot, _ = _child(m)
    return _change(m, (table, slot), set_bits=pt.RISCV_A)


def _pointer_software_bits(x: RiscvXen, m: RiscvDomainModel) -> str:
    table, slot, _ = _child(m)
    return _change(m, (table, slot), set_bits=1 << pt.RISCV_RSW_SHIFT)


def _reserved_bits(x: RiscvXen, m: RiscvDomainModel) -> str:
    return _change(m, _leaf(m, _ANY), set_bits=1 << 57)


def _pointer_in_last_level(x: RiscvXen, m: RiscvDomainModel) -> str:
    clear = pt.RISCV_R | pt.RISCV_W | pt.RISCV_X | pt.RISCV_U | pt.RISCV_RSW_MASK | pt.RISCV_PBMT_MASK
    return _change(m, _leaf(m, _ANY, 0), clear=clear)


def _misaligned(x: RiscvXen, m: RiscvDomainModel) -> str:
    return _change(m, _leaf(m, _ANY, 1), set_bits=1 << pt.RISCV_PPN_SHIFT)


def _leaf_too_high(x: RiscvXen, m: RiscvDomainModel) -> str:
    root = m.p2m.roots[0]
    if root.level < 3:
        raise CannotApply("the root of Sv39x4 may hold leaves")
    m.p2m.put(root, 511, pt.RISCV_V | pt.RISCV_R | pt.RISCV_W | pt.RISCV_X | pt.RISCV_U | 1 << pt.RISCV_RSW_SHIFT)
    return f"slot 511 of the root holds a leaf of level {root.level}"


def _slot_cleared(x: RiscvXen, m: RiscvDomainModel) -> str:
    table, slot = _leaf(m, _FOREIGN)
    m.p2m.set_slot(table, slot, 0)
    return f"metadata slot {slot} of table {table.mfn:#x} is p2m_invalid"


def _slot_unknown(x: RiscvXen, m: RiscvDomainModel) -> str:
    table, slot = _leaf(m, _FOREIGN)
    m.p2m.set_slot(table, slot, 9)
    return f"metadata slot {slot} of table {table.mfn:#x} holds type 9"


def _no_metadata(x: RiscvXen, m: RiscvDomainModel) -> str:
    table = _with_metadata(m)
    x.set_metadata(table.mfn, 0)
    m.p2m.pages.remove(table.md)
    relink(x, m)
    return f"v.md.pg of table {table.mfn:#x} is NULL"


def _writable_ro(x: RiscvXen, m: RiscvDomainModel) -> str:
    return _change(m, _leaf(m, ("p2m_map_foreign_ro",)), set_bits=pt.RISCV_W)


def _device_without_pbmt(x: RiscvXen, m: RiscvDomainModel) -> str:
    return _change(m, _leaf(m, ("p2m_mmio_direct_io",)), clear=pt.RISCV_PBMT_MASK)


def _not_user(x: RiscvXen, m: RiscvDomainModel) -> str:
    return _change(m, _leaf(m, ("p2m_ram_rw",)), clear=pt.RISCV_U)


def _valid_invalid(x: RiscvXen, m: RiscvDomainModel) -> str:
    return _change(m, _leaf(m, ("p2m_ram_rw",)), clear=pt.RISCV_RSW_MASK)


def _point_metadata(x: RiscvXen, m: RiscvDomainModel, pointer: Callable[[Table], int], keep: bool = False) -> str:
    table = _with_metadata(m)
    value = pointer(table)
    x.set_info(table.mfn, x.v_at, value)
    if not keep:
        m.p2m.pages.remove(table.md)
        relink(x, m)
    return f"v.md.pg of table {table.mfn:#x} is {value:#x}"


def _md_off_element(x: RiscvXen, m: RiscvDomainModel) -> str:
    return _point_metadata(x, m, lambda t: x.info_virtual(t.md) + 16)


def _md_outside(x: RiscvXen, m: RiscvDomainModel) -> str:
    return _point_metadata(x, m, lambda t: x.info_virtual(x.end + 100))


def _md_is_table(x: RiscvXen, m: RiscvDomainModel) -> str:
    return _point_metadata(x, m, lambda t: x.info_virtual(m.p2m.root_mfn + 3))


def _md_shared(x: RiscvXen, m: RiscvDomainModel) -> str:
    table = _with_metadata(m)
    other = next((t for t in m.p2m.tables() if t is not table and not t.md), None)
    if other is None:
        raise CannotApply("every table has a metadata page")
    x.set_metadata(other.mfn, table.md)
    return f"tables {table.mfn:#x} and {other.mfn:#x} have the same metadata page"


def _owned_table(x: RiscvXen, m: RiscvDomainModel) -> str:
    _, _, child = _child(m)
    x.set_info(child.mfn, x.count_at, PGC_ALLOCATED | 1)
    return f"table {child.mfn:#x} has count_info of an owned page"


def _unlisted(x: RiscvXen, m: RiscvDomainModel) -> str:
    _, _, child = _child(m)
    m.p2m.pages.remove(child.mfn)
    relink(x, m)
    return f"table {child.mfn:#x} is not on p2m->pages"


def _stranger(x: RiscvXen, m: RiscvDomainModel) -> str:
    mfn = free_frame(x)
    m.p2m.pages.append(mfn)
    relink(x, m)
    return f"frame {mfn:#x} is on p2m->pages"


def _list_cycle(x: RiscvXen, m: RiscvDomainModel) -> str:
    first, last = m.p2m.pages[0], m.p2m.pages[-1]
    x.set_info(last, x.list_at + LIST_HEAD_NEXT, x.info_virtual(first) + x.list_at)
    return f"the last element of p2m->pages leads to the first, {first:#x}"


def _count_drifts(x: RiscvXen, m: RiscvDomainModel) -> str:
    table = _with_metadata(m)
    if x.used_at is None:
        raise CannotApply("the layout does not count used entries")
    x.add_used(table.mfn, 3)
    return f"used_entries of table {table.mfn:#x} is 3 too high"


def _limit_too_low(x: RiscvXen, m: RiscvDomainModel) -> str:
    if m.p2m.highest <= m.p2m.lowest:
        raise CannotApply("fewer than two GFNs are mapped")
    member(x, m, "max_mapped_gfn", m.p2m.highest - 1)
    return f"max_mapped_gfn is {m.p2m.highest - 1:#x}"


def _unused_metadata(x: RiscvXen, m: RiscvDomainModel) -> str:
    table = _with_metadata(m)
    for slot in m.p2m.live_slots(table):
        m.p2m.put(table, slot, 0)
    return f"no entry of table {table.mfn:#x} uses its metadata"


def _root_page_confused(x: RiscvXen, m: RiscvDomainModel) -> str:
    """The type of a leaf in page 1..3 of the root is written to the metadata of page 0."""
    for page in m.p2m.roots[1:]:
        for slot in m.p2m.live_slots(page):
            first = m.p2m.roots[0]
            if not first.md:
                first.md = page.md
                page_md = m.p2m.frames.take()
                m.p2m.pages.insert(0, page_md)
                x.memory.page(page_md)
                value = m.p2m.slot(page, slot)
                page.md = page_md
                x.set_metadata(first.mfn, first.md)
                x.set_metadata(page.mfn, page.md)
                relink(x, m)
            else:
                value = m.p2m.slot(page, slot)
            m.p2m.set_slot(first, slot, value)
            m.p2m.set_slot(page, slot, 0)
            return f"the type of root entry {page.gfn >> page.order | slot} is in the metadata of root page 0"
    raise CannotApply("pages 1..3 of the root hold no leaf of external type (Sv39x4 with 1 GiB foreign pages)")


def _split_forgets(x: RiscvXen, m: RiscvDomainModel) -> str:
    """One slot of a table that came from a split still has the type of nothing."""
    for table in m.p2m.tables():
        live = m.p2m.live_slots(table)
        if len(live) > 300 and table.level < 2:
            m.p2m.set_slot(table, live[-1], 0)
            return f"slot {live[-1]} of table {table.mfn:#x} lost its type in the split"
    raise CannotApply("no superpage of external type was split")


def _loop(x: RiscvXen, m: RiscvDomainModel) -> str:
    table, _, child = _child(m)
    m.p2m.put(child, 511, table.mfn << pt.RISCV_PPN_SHIFT | pt.RISCV_V)
    return f"slot 511 of table {child.mfn:#x} leads back to table {table.mfn:#x}"


def _table_outside(x: RiscvXen, m: RiscvDomainModel) -> str:
    root = m.p2m.roots[0]
    slot = next(s for s in range(511, -1, -1) if not m.p2m.entry(root, s))
    m.p2m.put(root, slot, x.end + 0x1000 << pt.RISCV_PPN_SHIFT | pt.RISCV_V)
    return f"slot {slot} of the root leads to frame {x.end + 0x1000:#x}, past RAM"


RISCV_FAULTS = (
    RiscvFault("root-unaligned", "GST-001", "the root is not aligned to 16 KiB", _root_unaligned, unusable=True),
    RiscvFault("root-off-element", "GST-001", "p2m->root is no page_info", _root_off_element, unusable=True),
    RiscvFault("mode-level", "GST-001", "mode and root level disagree", _mode_level, unusable=True),
    RiscvFault("pointer-accessed", "GST-002", "A is set in a pointer to a table", _pointer_accessed, ("GST-007",)),
    RiscvFault("pointer-software-bits", "GST-002", "RSW is set in a pointer to a table", _pointer_software_bits),
    RiscvFault("reserved-bits", "GST-002", "a reserved bit is set in a leaf", _reserved_bits),
    RiscvFault("pointer-last-level", "GST-002", "a pointer in the last level", _pointer_in_last_level),
    RiscvFault("superpage-misaligned", "GST-003", "a superpage's low PPN bits are set", _misaligned),
    RiscvFault("leaf-too-high", "GST-003", "a leaf above level 2", _leaf_too_high, example="riscv-sv48x4"),
    RiscvFault("type-cleared", "GST-004", "the slot of a live entry is p2m_invalid", _slot_cleared),
    RiscvFault("type-unknown", "GST-004", "the slot of a live entry holds no type", _slot_unknown),
    RiscvFault("metadata-null", "GST-004", "external leaves without a metadata page", _no_metadata),
    RiscvFault("ro-writable", "GST-005", "W is set in a map_foreign_ro entry", _writable_ro),
    RiscvFault("mmio-cached", "GST-005", "PBMT is not IO in an mmio_direct_io entry", _device_without_pbmt),
    RiscvFault("not-user", "GST-005", "U is clear in a leaf", _not_user),
    RiscvFault("valid-invalid", "GST-005", "a valid entry of type p2m_invalid", _valid_invalid),
    RiscvFault("metadata-off-element", "GST-006", "v.md.pg points into a page_info", _md_off_element),
    RiscvFault("metadata-outside", "GST-006", "v.md.pg points past the frame table", _md_outside),
    RiscvFault("metadata-is-table", "GST-006", "v.md.pg names a table", _md_is_table),
    RiscvFault("metadata-shared", "GST-006", "two tables have one metadata page", _md_shared),
    RiscvFault("table-owned", "GST-007", "a table page has an owner's count_info", _owned_table),
    RiscvFault("table-unlisted", "GST-007", "a table page is not on p2m->pages", _unlisted),
    RiscvFault("list-stranger", "GST-007", "another page is on p2m->pages", _stranger),
    RiscvFault("list-cycle", "GST-007", "p2m->pages misses its head", _list_cycle),
    RiscvFault("count-drifts", "GST-008", "used_entries is wrong", _count_drifts),
    RiscvFault("limit-too-low", "GST-009", "a GFN is mapped above max_mapped_gfn", _limit_too_low),
    RiscvFault("metadata-unused", "GST-010", "a metadata page that no entry uses", _unused_metadata, ("GST-008",)),
    RiscvFault("root-page-confused", "GST-011", "a type of another root page", _root_page_confused, ("GST-004",)),
    RiscvFault("split-forgets", "GST-012", "a piece of a split superpage lost its type", _split_forgets, ("GST-004",)),
    RiscvFault("table-loop", "GST-013", "a table leads back to one above it", _loop),
    RiscvFault("table-outside", "GST-013", "a table outside RAM", _table_outside),
)  # fmt: skip


def break_riscv(xen: RiscvXen, fault: RiscvFault | str, domain: int = 0) -> str:
    """Build a fault into the domain at position `domain`; returns what was changed. Raises UsageError."""
    chosen = riscv_fault(fault) if isinstance(fault, str) else fault
    try:
        xen.broken = chosen.apply(xen, xen.domains[domain])
    except CannotApply as e:
        raise UsageError(f"fault {chosen.id} cannot be built into {xen.description.name}: {e}") from None
    return xen.broken


def riscv_fault(name: str) -> RiscvFault:
    """The fault of this id, or the first one of a rule. Raises UsageError."""
    for fault in RISCV_FAULTS:
        if name in (fault.id, fault.rule, fault.rule.lower()):
            return fault
    raise UsageError(f"no fault is called {name!r}", hint=f"faults: {', '.join(f.id for f in RISCV_FAULTS)}")


__all__ = ["EXTERNAL", "RISCV_FAULTS", "RiscvFault", "break_riscv", "riscv_fault"]
