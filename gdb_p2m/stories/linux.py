"""The story of a PFN of a Linux PV guest, for every way in which its fate can be stored, in every era.

Facts: documented in docs/layout.md; kernel functions as in arch/x86/xen/{p2m,setup}.c and asm/xen/page.h of
the era.
"""

from __future__ import annotations

from gdb_p2m.mapping import Kind
from gdb_p2m.stories import linux_eras, linux_who
from gdb_p2m.stories.base import Story
from gdb_p2m.stories.scene import ENTRY, LEAF, PAST, TABLE, Scene, span_text

MEANS = {
    Kind.MFN: "an ordinary frame of this guest's memory",
    Kind.FOREIGN: "foreign: its entry marks it as a frame of another domain",
    Kind.IDENTITY: "identity: it stands for the machine frame of the same number",
    Kind.MISSING: "missing: no machine frame is behind it",
    Kind.UNREADABLE: "unknown: what would tell is not in this dump",
    Kind.CORRUPT: "corrupt: what should tell makes no sense",
}


def story_of(scene: Scene, steps: Story) -> Story:
    """The whole story; `steps` are the sections of the views, told after the answer."""
    story = Story(scene.case)
    story.add("what", f"What PFN {scene.number:#x} is", _what(scene), _section(scene))
    story.sections += steps.sections
    story.bullets("leaf", "What else is in that page", _neighbours(scene))
    story.add("invalid", "Why the content reads INVALID", _invalid(scene), _invalid_sources(scene))
    decides, sources = linux_who.who_decides(scene)
    story.add("decides", "Which code in the kernel decides it", decides, sources)
    put, sources = linux_who.who_put_it(scene)
    story.add("origin", "How it came to be so", put, sources)
    why, sources = _why(scene)
    story.add("why", "Why it is made this way", why, sources)
    eras, sources = linux_eras.other_eras(scene)
    story.bullets("eras", "In other eras", eras, sources)
    return story


# -- the answer -----------------------------------------------------------------------------------------------


def _what(scene: Scene) -> list[str]:
    number, kind, trace = scene.number, scene.kind, scene.trace
    first = f"PFN {number:#x} is {MEANS[kind]}."
    if kind is Kind.MFN:
        first += f" The guest calls it {number:#x}; the hardware calls it machine frame {trace.frame:#x}."
    elif kind is Kind.FOREIGN:
        first += f" It is machine frame {trace.frame:#x}, and this guest has it mapped, or lets another one map it."
    elif kind is Kind.IDENTITY:
        first += (
            f" Whoever maps PFN {number:#x} gets machine address {number << 12:#x}: a device's registers, firmware "
            "tables or a reserved range, not memory of the guest."
        )
    elif kind is Kind.MISSING:
        first += " Nothing may be mapped there until somebody gives the guest a frame for it."
    out = [first, _stored(scene)]
    if kind in (Kind.CORRUPT, Kind.UNREADABLE):
        return [first, f"The reason: {trace.reason or trace.read_what}.", _broken(kind)]
    run = scene.run
    if run is not None and run.count > 1:
        alike = "of consecutive machine frames" if kind.has_frame else "of the same kind"
        out.append(f"It is one of a run {alike}: {span_text(run)}.")
    return out


def _stored(scene: Scene) -> str:
    """How the answer is stored, in one sentence."""
    word, shared = scene.kind.word, f"p2m_{'identity' if scene.kind is Kind.IDENTITY else 'missing'}"
    if scene.storage == ENTRY:
        return "This is said by the entry itself, in a page of entries that belongs to this stretch of PFNs alone."
    if scene.storage == LEAF:
        return (
            f"This is not said by the entry but by the page it lies in: {shared}, one page that stands for every "
            "stretch "
            f"of {scene.leaf_span} that is {word} throughout."
        )
    if scene.storage == TABLE:
        above = f"{shared}_pte" if scene.linear else shared.replace("p2m_", "p2m_mid_")
        what = "page table" if scene.linear else "middle page"
        return (
            f"This is not said by the entry but by the page it lies in, {shared}; and one level higher already: the "
            f"{what} "
            f"{above}, of which every slot leads to {shared}, stands for {scene.table_span} of PFNs that are {word} "
            "throughout."
        )
    if scene.storage == PAST:
        return "No entry says so: the PFN lies past the end of the P2M, and a rule of the kernel decides."
    return ""


def _broken(kind: Kind) -> str:
    if kind is Kind.UNREADABLE:
        return (
            "So nothing is known of this PFN: it may be a frame, identity or missing. A dump that left pages out (a "
            "filtered or truncated one) is the usual cause; reading what is absent as zero would make it machine "
            "frame 0, "
            "and reading it as INVALID would make it missing, and both may be wrong."
        )
    return (
        "The kernel itself would use what is there without a check, and would act on a wrong frame. Stray writes "
        "into a "
        "page that is shared, and entries of the wrong PFN, are the faults that real kernels had; `check` looks "
        "for the "
        "rules that this breaks."
    )


def _neighbours(scene: Scene) -> list[tuple[str, str]]:
    """The page of entries in a few runs: a boundary leaf shows where two kinds meet."""
    leaf = scene.leaf
    if not leaf:
        return []
    at = scene.trace.read_at
    assert at is not None
    if len(leaf) == 1:
        if scene.kind in (Kind.MISSING, Kind.IDENTITY):
            return [
                (
                    "",
                    f"All {leaf[0].count:,} entries of the page at machine frame {at >> 12:#x} are "
                    f"{scene.kind.word}: the "
                    f"shared page p2m_{scene.kind.word} could stand for it. It was made for a change inside it, or "
                    "is kept "
                    "for one to come, and pages that become uniform are not folded back.",
                )
            ]
        return []
    intro = (
        f"The page at machine frame {at >> 12:#x} is a boundary leaf: in it one kind ends and another begins, so no "
        "shared "
        "page could stand for it, and each entry has to say what it is."
    )
    shown = [("-", f"{span_text(r)}: {r.kind.word}") for r in leaf[:8]]
    if len(leaf) > 8:
        shown.append(("-", f"and {len(leaf) - 8:,} more changes of kind"))
    return [("", intro), *shown]


# -- INVALID -----------------------------------------------------------------------------------------------


def _invalid(scene: Scene) -> list[str]:
    if scene.kind is not Kind.IDENTITY or scene.storage not in (LEAF, TABLE):
        return []
    bits = scene.guest.width.bits
    out = [
        f"The slot holds {scene.guest.width.invalid:#x}, INVALID_P2M_ENTRY, which in a page of its own would mean "
        "missing. "
        "In p2m_identity it means nothing: all slots of that page and all of p2m_missing hold the same, and the "
        "two pages "
        "differ in their address only. Identity is a property of the page, not of the entry. A reader that looks at "
        "values alone calls every such range missing.",
        f"It could not be otherwise. One page stands for any number of stretches, so its slot "
        f"{scene.number % scene.guest.width.per_page} "
        f"would have to hold IDENTITY_FRAME of many PFNs at once. And Xen's toolstack, which reads these pages when "
        "it saves "
        f"or dumps a guest, knows machine frames and INVALID only: bit {bits - 2}, the identity flag, would be a "
        "part of a frame "
        "number to it. With INVALID it leaves the range out, which is right, for it holds no memory of the guest.",
    ]
    return out


def _invalid_sources(scene: Scene) -> tuple[str, ...]:
    return ("layout: entries", "linear" if scene.linear else "identity")


def _section(scene: Scene) -> tuple[str, ...]:
    """The sections of docs/layout.md that describe what was found."""
    return ("layout: entries", "layout: list" if scene.linear else "layout: tree")


# -- why ---------------------------------------------------------------------------------------------------


def _why(scene: Scene) -> tuple[list[str], tuple[str, ...]]:
    out: list[str] = []
    if scene.kind in (Kind.CORRUPT, Kind.UNREADABLE):
        return [], ()
    if scene.kind is Kind.IDENTITY:
        out.append(
            "A PV guest writes machine frames into its own page tables, so each physical address that a driver "
            "maps goes "
            "through the P2M first. For the registers of a device at address A the machine frame is A's own; with "
            "identity "
            "in the P2M, the kernel's common code maps them without knowing that Xen is there."
        )
    elif scene.kind is Kind.FOREIGN:
        out.append(
            "The flag tells the kernel that the frame is not its own: Xen's table from frame to PFN names the "
            "owner's PFN "
            "there, so that the usual test M2P[P2M[pfn]] = pfn need not hold."
        )
    elif scene.kind is Kind.MFN:
        out.append(
            "Xen shares out machine memory as it has it, so the frames behind consecutive PFNs need not be "
            "consecutive. "
            "The P2M lets the guest count from 0 and still fill its page tables with the frames that the hardware "
            "wants."
        )
    if scene.linear and scene.storage != PAST and not scene.initial:
        out.append(
            "The list is one virtual array, so that the common lookup is one load, xen_p2m_addr[pfn], instead of a "
            "walk in "
            f"software; the processor's own page-table walk finds the page. It spans {_area(scene)}, of which only the "
            "private pages cost memory: holes are the same two pages over and over, and where a hole fills "
            f"{scene.table_span}, one page-table page over and over."
        )
    elif scene.storage in (LEAF, TABLE, ENTRY) and not scene.linear:
        out.append(
            f"The tree keeps a sparse map small: top, middle and leaf page with {scene.guest.width.per_page:,} "
            "slots each reach "
            f"2^{(scene.guest.width.max_p2m_pfn).bit_length() - 1} PFNs, and whatever is alike throughout costs one "
            "pointer to a "
            "page that exists once."
        )
    if scene.storage == ENTRY and scene.kind in (Kind.IDENTITY, Kind.MISSING) and not scene.initial:
        out.append(
            f"A shared page speaks of {scene.leaf_span} at a time. Where a range does not begin or end on that "
            "grain the rest "
            "needs entries of its own: such pages are made at the two ends of a range, never inside it."
        )
    return out, (*_section(scene), "linear" if scene.linear else "3-levels")


def _area(scene: Scene) -> str:
    from gdb_p2m.units import human_size

    size = getattr(scene.view, "size", 0)
    return f"{human_size(size * scene.guest.width.bytes)} of addresses for {size:#x} PFNs"
