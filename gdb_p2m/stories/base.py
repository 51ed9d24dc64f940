"""The parts of a story, and the sources that it cites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Cited:
    """A source: key, title (a subject as its authors gave it, or what it is about), where it is to be found.

    commit: the first 12 digits of the commit, "" where only its subject and release are known to us.
    """

    key: str
    title: str
    where: str
    commit: str = ""

    @property
    def line(self) -> str:
        """One line of the list of sources."""
        return f"[{self.key}] {self.title}; {self.where}" + (f", commit {self.commit}" if self.commit else "")


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part. id: its name in JSON; marks are the numbers or bullets before paragraphs, "" for none."""

    id: str
    title: str
    items: tuple[tuple[str, str], ...]
    sources: tuple[str, ...] = ()


@dataclass
class Story:
    """Sections in reading order. case: in one word how the frame's fate is stored."""

    case: str
    sections: list[Section] = field(default_factory=list)

    def add(self, id: str, title: str, paragraphs: Sequence[str], sources: Sequence[str] = ()) -> None:
        """A section of plain paragraphs; nothing when there are none."""
        if paragraphs:
            self.sections.append(Section(id, title, tuple(("", p) for p in paragraphs), tuple(sources)))

    def bullets(self, id: str, title: str, items: Sequence[tuple[str, str]], sources: Sequence[str] = ()) -> None:
        """A section of marked items."""
        if items:
            self.sections.append(Section(id, title, tuple(items), tuple(sources)))

    @property
    def cited(self) -> list[Cited]:
        """All sources that the sections cite, in order of first use."""
        keys = dict.fromkeys(k for s in self.sections for k in s.sources)
        return [SOURCES[k] for k in keys]


_ALL = (
    *(
        Cited(key, f'Layout: the facts, "{section}"', "docs/layout.md")
        for key, section in (
            ("layout: entries", "Entries (Linux x86 PV)"),
            ("layout: list", "The linear list (3.19 on)"),
            ("layout: tree", "The three-level tree (2.6.37 to 3.18)"),
            ("layout: frame lists", "The frame list list"),
            ("layout: start", "start_info and the initial list"),
            ("layout: remap", "The remap list (3.19 on)"),
            ("layout: M2P", "M2P"),
        )
    ),
    Cited("riscv", "Xen on RISC-V", "docs/riscv.md"),
    Cited("page.h", "arch/x86/include/asm/xen/page.h", "Linux: __pfn_to_mfn, pfn_to_mfn, the flag bits of entries"),
    Cited("p2m.c", "arch/x86/xen/p2m.c", "Linux: the P2M and its long comment"),
    Cited("setup.c", "arch/x86/xen/setup.c", "Linux: memory setup, identity ranges, extra memory, remapping"),
    Cited("grant", "set_foreign_p2m_mapping, m2p_add_override", "Linux: arch/x86/xen/p2m.c"),
    Cited("balloon.c", "drivers/xen/balloon.c", "Linux: giving frames back to Xen and getting them"),
    Cited("3-levels", "xen: convert p2m to a 3 level tree", "Linux 2.6.37"),
    Cited("identity", "xen/mmu: Add the notion of identity (1-1) mapping.", "Linux 2.6.39"),
    Cited(
        "mid-identity",
        "x86/xen: compactly store large identity ranges in the p2m",
        "Linux 3.16",
        "3cb83e46d032",
    ),
    Cited("linear", "xen: switch to linear virtual mapped sparse p2m list", "Linux 3.19", "054954eb051f"),
    Cited("remap", "xen: Delay remapping memory of pv-domain", "Linux 3.19", "1f3ac86b4c45"),
    Cited("initial", "xen: eliminate scalability issues from initial mapping setup", "Linux 4.3"),
    Cited("virt-4tools", "xen: save linear p2m list address in shared info structure", "Linux 4.3"),
    Cited("riscv-v5", "xen/riscv: introduce metadata table to store P2M type", "Xen on RISC-V, series for 4.22, v5"),
    Cited("md_t", "metadata slots become struct md_t", "Xen 4.22", "df31e3163d"),
    Cited("used", "used metadata slots are counted (u.md.used_entries)", "Xen 4.22", "1055177445"),
    Cited("modes", "G-stage modes become a table of descriptors", "Xen 4.23-unstable", "551e864360"),
    Cited("riscv-p2m.c", "xen/arch/riscv/p2m.c", "Xen: p2m_get_entry, p2m_get_type, p2m_set_type"),
    Cited("hgatp", "The RISC-V Instruction Set Manual, volume II, hypervisor extension", 'section "hgatp"'),
)
SOURCES = {c.key: c for c in _ALL}
