"""The story of a GFN of a RISC-V domain: where its type lies, and why it may lie outside the entry.

Facts: documented in docs/layout.md and docs/riscv.md; functions as in xen/arch/riscv/p2m.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from gdb_p2m.layout import pagetables as pt
from gdb_p2m.layout.xen_riscv import PTE_T
from gdb_p2m.mapping import Kind
from gdb_p2m.stories.base import Story
from gdb_p2m.units import PAGE_SHIFT, human_size
from gdb_p2m.views.base import Trace, TraceStep
from gdb_p2m.views.gstage import GstageView

MEANS = {
    Kind.RAM_RW: ("ram_rw", "memory of the domain: it may read, write and execute it"),
    Kind.MMIO_DIRECT_IO: (
        "mmio_direct_io",
        "a page of a device's registers, which the domain was given: it may read and write them, uncached",
    ),
    Kind.MAP_FOREIGN_RW: ("map_foreign_rw", "a frame of another domain, mapped to read and write"),
    Kind.MAP_FOREIGN_RO: ("map_foreign_ro", "a frame of another domain, mapped to read only"),
    Kind.INVALID: ("invalid", "a hole: nothing is mapped, and an access faults into Xen"),
    Kind.UNREADABLE: ("unreadable", "unknown: what would tell is not in this dump"),
    Kind.CORRUPT: ("corrupt", "corrupt: what should tell makes no sense"),
}
MAPPED = (Kind.RAM_RW, Kind.MMIO_DIRECT_IO, Kind.MAP_FOREIGN_RW, Kind.MAP_FOREIGN_RO)


@dataclass(frozen=True)
class GuestFrame:
    """One GFN, the domain's G-stage and the trace through it."""

    view: GstageView
    trace: Trace

    @property
    def kind(self) -> Kind:
        """What the table says."""
        return self.trace.kind

    @cached_property
    def entry(self) -> TraceStep | None:
        """The last page-table entry that was read."""
        entries = [s for s in self.trace.steps if s.where.startswith("L") and s.raw is not None]
        return entries[-1] if entries else None

    @property
    def external(self) -> bool:
        """Whether the answer was looked for in metadata."""
        return any(s.where.startswith("page_info") for s in self.trace.steps)

    @property
    def level(self) -> int:
        """Xen's number of the level at which the walk ended (0: 4 KiB)."""
        names = [s.where for s in self.trace.steps if s.where.startswith("L")]
        return int(names[-1][1]) if names else self.view.mode.root_level

    @property
    def case(self) -> str:
        """`ram_rw-pte`, `map_foreign_ro-metadata`, `invalid-hole`, `invalid-past-end`, `corrupt`."""
        if self.kind in MAPPED:
            return f"{self.kind.word}-{'metadata' if self.external else 'pte'}"
        if self.kind is Kind.INVALID:
            return "invalid-past-end" if self.trace.number >= self.view.limit else "invalid-hole"
        return self.kind.word


def story_of(frame: GuestFrame, steps: Story) -> Story:
    """The whole story."""
    story = Story(frame.case)
    story.add("what", f"What GFN {frame.trace.number:#x} is", _what(frame), ("riscv",))
    story.sections += steps.sections
    story.add("entry", "What the bits of the entry say", _bits(frame), ("hgatp", "riscv-p2m.c"))
    decides, sources = _decides(frame)
    story.add("decides", "Which code in Xen decides it", decides, sources)
    story.add("origin", "How it came to be so", _origin(frame), ("riscv-p2m.c",))
    story.add("why", "Why it is made this way", _why(frame), ("riscv-v5", "riscv"))
    story.bullets("eras", "In other versions of Xen", _versions(frame), ("riscv-v5", "md_t", "used", "modes"))
    return story


def _span(level: int) -> str:
    return human_size(1 << (PAGE_SHIFT + 9 * level))


def _what(frame: GuestFrame) -> list[str]:
    n, kind, trace = frame.trace.number, frame.kind, frame.trace
    word, means = MEANS[kind]
    out = [
        f"GFN {n:#x} of domain {frame.view.domain.id} is {means}" + (f" (type p2m_{word})." if kind in MAPPED else ".")
    ]
    if kind in MAPPED:
        out.append(f"The domain calls it guest frame {n:#x}; the machine frame behind it is {trace.frame:#x}.")
        if trace.order:
            inside = n & ((1 << trace.order) - 1)
            out.append(
                f"One entry maps {human_size(1 << (trace.order + PAGE_SHIFT))} here, a superpage: the GFN is page "
                f"{inside:,} "
                f"of {1 << trace.order:,} in it, so {inside:#x} is added to the entry's frame, "
                f"{trace.frame - inside:#x}."
                if trace.frame is not None
                else ""
            )
    elif kind is Kind.INVALID:
        if n >= frame.view.limit:
            out.append(
                f"{frame.view.mode.name} has guest frames 0..{frame.view.limit - 1:#x} only; the hardware faults."
            )
        elif frame.level:
            out.append(
                f"The hole is larger than a page: the entry of level {frame.level} that is empty stands for "
                f"{_span(frame.level)}, "
                "and no table exists below it."
            )
    else:
        out.append(f"The reason: {trace.reason or trace.read_what}.")
        out.append(_broken(kind))
    return out


def _broken(kind: Kind) -> str:
    if kind is Kind.UNREADABLE:
        return (
            "So nothing is said of this GFN. That matters here more than elsewhere: an unmapped physical read that "
            "returns zero "
            "would look like an empty entry, a hole, and may not be one."
        )
    return "The hardware or Xen would refuse it, or act on a wrong frame; `check` looks for the rule that it breaks."


def _bits(frame: GuestFrame) -> list[str]:
    entry = frame.entry
    if entry is None or entry.raw is None:
        return []
    raw = entry.raw
    if not raw & pt.RISCV_V:
        rest = "all of it is zero" if not raw else f"the rest of {raw:#x} means nothing then, also if it names a frame"
        return [f"V, bit 0, is clear: to the hardware the entry does not exist, and {rest}."]
    if not raw & (pt.RISCV_R | pt.RISCV_W | pt.RISCV_X):
        return []
    types = frame.view.types
    rsw = (raw & pt.RISCV_RSW_MASK) >> pt.RISCV_RSW_SHIFT
    flags = "".join(c for c, bit in (("R", pt.RISCV_R), ("W", pt.RISCV_W), ("X", pt.RISCV_X)) if raw & bit)
    text = (
        f"V is set, and so {'are' if len(flags) > 1 else 'is'} {' and '.join(flags)}: the entry maps memory, with "
        "these rights. "
    )
    text += (
        "U is set, as it must be: the hardware takes all accesses of a guest as those of user mode. "
        if raw & pt.RISCV_U
        else ""
    )
    if raw & pt.RISCV_PBMT_MASK:
        text += "PBMT says IO: uncached and strongly ordered, as device registers need. "
    text += f"RSW, bits 9:8, which the hardware leaves to software, is {types.title(rsw)}"
    if rsw == types.external:
        text += ": the type is not in the entry but in the metadata of its table."
    elif frame.kind in MAPPED:
        text += ": the whole type, nothing else needs to be read."
    else:
        text += "."
    return [text]


def _decides(frame: GuestFrame) -> tuple[list[str], tuple[str, ...]]:
    sources: tuple[str, ...] = ("riscv-p2m.c",)
    n, d = frame.trace.number, frame.view.domain
    if n >= frame.view.limit:
        return [f"The hardware: hgatp says {frame.view.mode.name}, and wider guest addresses fault."], ("hgatp",)
    bounds, inside = "", True
    if d.lowest_mapped_gfn is not None and d.max_mapped_gfn is not None:
        inside = d.lowest_mapped_gfn <= n <= d.max_mapped_gfn
        bounds = (
            f" It compares the GFN with lowest_mapped_gfn {d.lowest_mapped_gfn:#x} and max_mapped_gfn "
            f"{d.max_mapped_gfn:#x} first: "
            + ("inside, so it walks." if inside else "outside, so it does not walk at all: a hole.")
        )
        if not inside and frame.kind is not Kind.INVALID:
            bounds += " The hardware finds an entry there all the same; `check` has a rule for this."
    out = [
        "The hardware walks this table on each access of the guest and looks at V, R, W, X and U only; it knows no "
        "types. Xen "
        f"asks p2m_get_entry(), which walks the same table from level {frame.view.mode.root_level} down.{bounds}"
    ]
    if not inside:
        return out, sources
    if frame.kind in MAPPED and frame.external:
        out.append(
            "At the entry p2m_get_type() finds p2m_ext_storage in RSW. It takes the struct page_info of the table "
            "page, "
            "follows v.md.pg to the metadata page, maps that, and returns the type in the slot of the same index "
            "as the entry."
        )
        sources += ("riscv-v5",)
    elif frame.kind in MAPPED:
        out.append("At the entry p2m_get_type() returns RSW as it is.")
    elif frame.kind is Kind.INVALID:
        out.append(
            "The walk ends at an entry that is not valid, and p2m_get_entry() returns INVALID_MFN and p2m_invalid."
        )
    if d.xen.has("p2m_get_type"):
        out.append("`disasm p2m_get_entry` and `disasm p2m_get_type` show that code as it lies in this memory.")
    return out, sources


def _origin(frame: GuestFrame) -> list[str]:
    if frame.kind not in MAPPED:
        return []
    text = (
        "p2m_set_entry() chose the largest page size that GFN, frame and length allow"
        + (" (here one that fits a superpage)" if frame.trace.order else "")
        + "; p2m_pte_from_mfn() made the entry, p2m_set_permission() gave it the rights of its type, p2m_set_type() "
        "stored the type."
    )
    if frame.external:
        text += (
            " As the type does not fit into RSW, p2m_set_type() wrote p2m_ext_storage there and the type into the "
            "metadata "
            "page of the table, which is allocated when the first such entry of the table is made."
        )
        if not frame.trace.order:
            text += (
                " Had it been part of a superpage before, p2m_split_superpage() would have filled the new table's "
                "metadata "
                "with the old type, slot by slot."
            )
    return [text]


def _why(frame: GuestFrame) -> list[str]:
    if frame.kind is Kind.INVALID or frame.kind not in MAPPED:
        return []
    out = [
        "A type says what Xen may do with a page (hand it out, count references, let the guest execute it), and "
        "the rights in "
        "the entry do not tell all types apart. A RISC-V entry leaves two bits to software, RSW, and those have "
        "four values: "
        "two types of mapped pages, invalid, and one that says: look elsewhere."
    ]
    if frame.external:
        out.append(
            "Elsewhere is a page beside the table, with a slot for each of its 512 entries. It hangs off the "
            "page_info of "
            "the table because that costs no memory: table pages belong to no domain, so the field that would name "
            "the owner "
            "is free. Most tables hold no such type and have no metadata page."
        )
        out.append(
            "A slot counts only while its entry is valid and says p2m_ext_storage. Unmapping and splitting leave "
            "old slots "
            "behind, so metadata must never be read without its entry."
        )
    else:
        out.append(
            f"p2m_{frame.kind.word} is one of the frequent types, which got the places in the entry, so nothing "
            "else is read."
        )
    return out


def _versions(frame: GuestFrame) -> list[tuple[str, str]]:
    fmt = frame.view.metadata.format
    here = "This Xen has " + (
        "slots of type pte_t, 8 bytes, as in the series' version 5."
        if fmt is PTE_T
        else f"slots of type struct {fmt.name}, {fmt.slot_bytes} bytes, of which 4 bits are the type."
    )
    form = {
        "globals": "the mode is in the globals gstage_mode and gstage_root_level",
        "embedded": "the mode is a struct inside p2m_domain",
        "pointer": "p2m_domain points to the descriptor of its mode",
    }.get(frame.view.domain.xen.facts.mode_form, "")
    out = [("-", here + (f" And {form}." if form else ""))]
    if fmt is PTE_T:
        out.append(("-", "4.22 on: slots are struct md_t, 4 bytes, so that they fill half of the metadata page only."))
        out.append(("-", "4.22 on: used slots are counted in the metadata page's page_info (u.md.used_entries)."))
    else:
        out.append(
            (
                "-",
                "Version 5 of the series: a slot was a whole pte_t, 8 bytes, whose value was the type; no count of "
                "them.",
            )
        )
    out.append(
        (
            "-",
            "Before that series only types that fit into RSW existed, and the entry alone decided.",
        )
    )
    return out
