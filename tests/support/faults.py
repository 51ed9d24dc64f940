"""One way (or several) to break a real dom0 for each rule, and what else may then be said with right.

Each fault is made in a copy of a bundled excerpt: some words of its memory, or of what its headers say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gdb_p2m.layout.x86_pv import WIDTH_64
from gdb_p2m.sources.base import Extent
from support.machine import Healthy, Machine
from support.places import DOM0, ODD, Truth

IDENTITY, FOREIGN, INVALID = WIDTH_64.identity_bit, WIDTH_64.foreign_bit, WIDTH_64.invalid
PRESENT_RW_ACCESSED = 0x63
RW = 0x2
Break = Callable[[Healthy, Machine], dict[str, int] | None]


@dataclass(frozen=True)
class Fault:
    """`rule` must fail and name `where` (what apply returned); `also` are exactly the other rules that fail.

    also_unchecked: rules that can then no longer look. why_also: why the others have a point, too.
    """

    rule: str
    name: str
    truth: Truth
    apply: Break
    also: frozenset[str]
    also_unchecked: frozenset[str]


FAULTS: list[Fault] = []
SWAPPED = {"M2P-003"}
"""An MFN vanished from the P2M while M2P still names its PFN: the frame looks as if it were another's."""


def fault(
    rule: str, *, also: set[str] | None = None, unchecked: set[str] | None = None, on: Truth = DOM0
) -> Callable[[Break], Break]:
    """Register a fault; its function's name and docstring say what it is."""

    def register(apply: Break) -> Break:
        name = f"{rule}: {(apply.__doc__ or '').strip().splitlines()[0]}"
        FAULTS.append(Fault(rule, name, on, apply, frozenset(also or ()), frozenset(unchecked or ())))
        return apply

    return register


def mfn_of(h: Healthy, pfn: int) -> int:
    """The machine frame of a PFN in the healthy memory."""
    frame = h.views.own().trace(pfn).frame
    assert frame is not None
    return frame


# -- ENT ------------------------------------------------------------------------------------------------


@fault("ENT-001")
def _identity_of_another(h: Healthy, m: Machine) -> dict[str, int]:
    """an identity entry names the next PFN"""
    at = h.entry(0xA0)
    m.set_u64(at, IDENTITY | 0xA1)
    return {"pfn": 0xA0, "address": at}


@fault("ENT-001")
def _identity_page_shifted(h: Healthy, m: Machine) -> dict[str, int]:
    """a whole stretch of identity entries is shifted, as Linux 3.19 did"""
    for pfn in range(0x9F, 0x100):
        m.set_u64(h.entry(pfn), IDENTITY | (pfn - 0x9F))
    return {"pfn": 0x9F, "count": 0x100 - 0x9F, "address": h.entry(0x9F)}


@fault("ENT-002", also={"DMP-002"} | SWAPPED)
def _past_the_machine(h: Healthy, m: Machine) -> dict[str, int]:
    """an MFN past the end of the machine's memory, which the dump cannot hold either"""
    m.set_u64(h.entry(0x200), 0x50000)
    return {"pfn": 0x200, "mfn": 0x50000, "count": 1}


@fault("ENT-003", also={"M2P-001"} | SWAPPED)
def _frame_twice(h: Healthy, m: Machine) -> dict[str, int]:
    """two PFNs hold one MFN; M2P has room for one of them"""
    m.set_u64(h.entry(0x200), mfn_of(h, 0x300))
    return {"pfn": 0x200, "mfn": mfn_of(h, 0x300), "count": 1}


@fault("ENT-004", also={"ENT-005", "M2P-001"}, on=ODD)
def _tail_of_the_odd_leaf(h: Healthy, m: Machine) -> dict[str, int]:
    """a slot past nr_pages is zero: it reads as MFN 0, which has another PFN in M2P"""
    pfn = h.truth.nr_pages + 0x80
    assert h.views.own().trace(pfn).kind.word == "missing"
    m.set_u64(h.entry(pfn), 0)
    return {"pfn": pfn, "address": h.entry(pfn)}


@fault("ENT-005", also={"M2P-001"} | SWAPPED)
def _frame_zero(h: Healthy, m: Machine) -> dict[str, int]:
    """an entry is 0; M2P does not give that PFN to machine frame 0"""
    m.set_u64(h.entry(0x200), 0)
    return {"pfn": 0x200, "mfn": 0}


@fault("ENT-006", also=SWAPPED)
def _both_flags(h: Healthy, m: Machine) -> dict[str, int]:
    """both flag bits are set, but it is not INVALID_P2M_ENTRY"""
    m.set_u64(h.entry(0x200), FOREIGN | IDENTITY | 0x1234)
    return {"pfn": 0x200, "address": h.entry(0x200)}


@fault("ENT-006", also=SWAPPED)
def _too_many_bits(h: Healthy, m: Machine) -> dict[str, int]:
    """a frame number with more bits than any machine address"""
    m.set_u64(h.entry(0x200), 1 << 40)
    return {"pfn": 0x200, "address": h.entry(0x200)}


# -- LIN ------------------------------------------------------------------------------------------------


@fault("LIN-001")
def _no_whole_page(h: Healthy, m: Machine) -> dict[str, int]:
    """xen_p2m_size is no multiple of 512"""
    m.set_u64(h.at("xen_p2m_size"), 0x8000000 - 1)
    return {"value": 0x8000000 - 1}


@fault("LIN-001", also={"FLL-005"})
def _more_in_use_than_there_is(h: Healthy, m: Machine) -> dict[str, int]:
    """xen_p2m_last_pfn lies past the list; shared_info.max_pfn was another"""
    m.set_u64(h.at("xen_p2m_last_pfn"), 0x8000001)
    return {"value": 0x8000001}


@fault("LIN-001")
def _larger_than_its_capacity(h: Healthy, m: Machine) -> dict[str, int]:
    """the list is larger than xen_max_p2m_pfn says it can be"""
    m.set_u64(h.at("xen_max_p2m_pfn"), 0x4000000)
    return {"value": 0x8000000}


NO_LIST = {"ENT-001", "ENT-002", "ENT-003", "ENT-005", "ENT-006", "LIN-002", "LIN-005", "LIN-006", "LIN-009"}
NO_LIST |= {"FLL-004", "M2P-001", "M2P-003", "DMP-002"}


@fault(
    "LIN-001",
    also={"FLL-006"},
    unchecked=NO_LIST | {"LIN-003", "LIN-004", "LIN-007", "LIN-008", "SIF-002", "SIF-003"},
)
def _list_inside_a_page(h: Healthy, m: Machine) -> dict[str, int]:
    """xen_p2m_addr is not page-aligned: no list at all, and neither what Xen nor start_info was told"""
    m.set_u64(h.at("xen_p2m_addr"), h.guest.variable("xen_p2m_addr") + 8)
    return {"address": h.guest.variable("xen_p2m_addr") + 8}


@fault("LIN-001", unchecked=NO_LIST | {"LIN-003", "LIN-004", "LIN-007", "LIN-008", "SIF-002", "SIF-003"})
def _absurd_size(h: Healthy, m: Machine) -> dict[str, int]:
    """xen_p2m_size is more than there is address space above the list"""
    m.set_u64(h.at("xen_p2m_size"), 1 << 61)
    return {"value": 1 << 61}


@fault("LIN-002", also=SWAPPED)
def _page_of_the_list_not_mapped(h: Healthy, m: Machine) -> dict[str, int]:
    """the PTE of a private list page is cleared: 512 PFNs are gone"""
    m.set_u64(h.table_entry(0x200, "L1"), 0)
    return {"pfn": 0x200, "count": 512}


@fault("LIN-002")
def _gigabyte_not_mapped(h: Healthy, m: Machine) -> dict[str, int]:
    """a PMD of the list is cleared where p2m_identity_pte was: 1 GiB of PFNs"""
    m.set_u64(h.table_entry(0x7000000, "L2"), 0)
    return {"pfn": 0x7000000, "count": 1 << 18}


@fault("LIN-003")
def _write_to_missing(h: Healthy, m: Machine) -> dict[str, int]:
    """a stray write to p2m_missing (nothing maps it in this dom0)"""
    m.set_u64(h.page("p2m_missing") + 8 * 5, 0x1234)
    return {"address": h.page("p2m_missing") + 8 * 5, "slot": 5}


@fault("LIN-003")
def _write_to_identity(h: Healthy, m: Machine) -> dict[str, int]:
    """a stray zero in p2m_identity, which 261,632 list pages share"""
    m.set_u64(h.page("p2m_identity"), 0)
    return {"address": h.page("p2m_identity"), "slot": 0}


@fault("LIN-004")
def _shared_table_of_missing(h: Healthy, m: Machine) -> dict[str, int]:
    """p2m_missing_pte maps another page (nothing uses it in this dom0)"""
    at = h.page("p2m_missing_pte") + 8 * 3
    m.set_u64(at, (h.page("p2m_identity")) | 0x61)
    return {"address": at, "slot": 3}


@fault("LIN-004")
def _shared_table_of_identity(h: Healthy, m: Machine) -> dict[str, int]:
    """p2m_identity_pte maps p2m_missing in one slot: 511 stretches of 512 PFNs change from identity"""
    at = h.page("p2m_identity_pte") + 8 * 7
    m.set_u64(at, h.page("p2m_missing") | 0x61)
    return {"address": at, "slot": 7}


@fault("LIN-005")
def _shared_page_writable(h: Healthy, m: Machine) -> dict[str, int]:
    """one slot of p2m_identity_pte is writable"""
    at = h.page("p2m_identity_pte") + 8 * 7
    m.set_u64(at, m.u64(at) | RW)
    return {"pfn": (1 << 18) + 7 * 512, "count": 512}


@fault("LIN-006", also={"ENT-003", "FLL-004", "M2P-001"} | SWAPPED)
def _list_page_twice(h: Healthy, m: Machine) -> dict[str, int]:
    """a list page is mapped at two places: all its MFNs occur twice, one page of MFNs is lost, Xen's lists differ"""
    m.set_u64(h.table_entry(0x400, "L1"), m.u64(h.table_entry(0x200, "L1")))
    return {"pfn": 0x400, "mfn": h.entry(0x200) >> 12}


@fault(
    "LIN-008",
    also={"ENT-001", "FLL-004", "FLL-006", "LIN-009", "M2P-001", "SIF-003"} | SWAPPED,
    # What maps the page after the list is not in the excerpt.
    unchecked={"ENT-002", "ENT-003", "ENT-005", "ENT-006", "LIN-002", "LIN-005", "LIN-006", "DMP-002"},
)
def _not_aligned(h: Healthy, m: Machine) -> dict[str, int]:
    """the list starts one page later: every PFN reads the entry of another, 512 on"""
    base = h.guest.variable("xen_p2m_addr") + 0x1000
    m.set_u64(h.at("xen_p2m_addr"), base)
    return {"address": base}


@fault("LIN-009", also=SWAPPED)
def _uniform_page(h: Healthy, m: Machine) -> dict[str, int]:
    """a private list page becomes all INVALID (frames are lost with that)"""
    m.write(h.entry(0x400) & ~0xFFF, b"\xff" * 4096)
    return {"pfn": 0x400, "count": 512}


# -- FLL ------------------------------------------------------------------------------------------------


@fault("FLL-001", also={"FLL-004"})
def _published_elsewhere(h: Healthy, m: Machine) -> dict[str, int]:
    """shared_info names another page: Xen follows that one and finds no leaf of ours"""
    at = h.shared_info("pfn_to_mfn_frame_list_list")
    m.set_u64(at, h.guest.page_of("p2m_mid_missing_mfn"))
    return {"address": at, "mfn": h.guest.page_of("p2m_mid_missing_mfn")}


@fault("FLL-001")
def _published_all_the_same(h: Healthy, m: Machine) -> dict[str, int]:
    """SIF_VIRT_P2M_4TOOLS is set, but there is a frame list list"""
    flags = h.start_info("flags")
    m.set_u64(flags, m.u64(flags) | 0x10)
    return {"address": h.shared_info("pfn_to_mfn_frame_list_list")}


@fault("FLL-002", also={"FLL-004"})
def _tops_differ(h: Healthy, m: Machine) -> dict[str, int]:
    """p2m_top_mfn[0] leads elsewhere than p2m_top_mfn_p[0]: so Xen finds other leaves"""
    at = h.page("p2m_top_mfn")
    m.set_u64(at, h.guest.page_of("p2m_mid_missing_mfn"))
    return {"address": at, "slot": 0}


@fault("FLL-002")
def _pointer_differs(h: Healthy, m: Machine) -> dict[str, int]:
    """p2m_top_mfn_p[9] points to another mid page; only the kernel goes that way"""
    at = h.page("p2m_top_mfn_p")
    m.set_u64(at + 8 * 9, m.u64(at))
    return {"address": h.page("p2m_top_mfn") + 8 * 9, "slot": 9}


@fault("FLL-003")
def _shared_mid(h: Healthy, m: Machine) -> dict[str, int]:
    """p2m_mid_missing_mfn names p2m_identity in one slot (which the frame lists may)"""
    at = h.page("p2m_mid_missing_mfn") + 8 * 3
    m.set_u64(at, h.guest.page_of("p2m_identity"))
    return {"address": at, "slot": 3}


@fault("FLL-003", also={"FLL-004"})
def _shared_mid_names_a_private_leaf(h: Healthy, m: Machine) -> dict[str, int]:
    """p2m_mid_missing_mfn names a private leaf: every hole of 1 GiB then has it"""
    at = h.page("p2m_mid_missing_mfn") + 8 * 3
    m.set_u64(at, h.entry(0x200) >> 12)
    return {"address": at, "slot": 3}


@fault("FLL-004")
def _another_leaf(h: Healthy, m: Machine) -> dict[str, int]:
    """the mid slot of PFN 0x200 names the leaf of PFN 0x400"""
    mid = int(h.views.get("list-list").lists.top[0])  # type: ignore[attr-defined]
    m.set_u64((mid << 12) + 8, h.entry(0x400) >> 12)
    return {"pfn": 0x200, "slot": 1, "mfn": h.entry(0x400) >> 12}


@fault("FLL-005")
def _max_pfn(h: Healthy, m: Machine) -> dict[str, int]:
    """shared_info.max_pfn is half of what is in use"""
    at = h.shared_info("max_pfn")
    m.set_u64(at, m.u64(at) // 2)
    return {"address": at, "pfn": m.u64(at)}


@fault("FLL-006")
def _other_list_published(h: Healthy, m: Machine) -> dict[str, int]:
    """p2m_vaddr is not xen_p2m_addr"""
    m.set_u64(h.shared_info("p2m_vaddr"), 0xFFFFC90000001000)
    return {"address": h.shared_info("p2m_vaddr")}


@fault("FLL-006")
def _other_table_published(h: Healthy, m: Machine) -> dict[str, int]:
    """p2m_cr3 is not the kernel's page table"""
    m.set_u64(h.shared_info("p2m_cr3"), 0x1234000)
    return {"address": h.shared_info("p2m_cr3"), "mfn": 0x1234}


@fault("FLL-006")
def _generation_odd(h: Healthy, m: Machine) -> dict[str, int]:
    """p2m_generation is odd: an update was under way"""
    m.set_u64(h.shared_info("p2m_generation"), m.u64(h.shared_info("p2m_generation")) | 1)
    return {"address": h.shared_info("p2m_generation")}


# -- M2P, SIF, DMP --------------------------------------------------------------------------------------


@fault("M2P-001")
def _m2p_names_another(h: Healthy, m: Machine) -> dict[str, int]:
    """M2P of an own frame names another PFN"""
    m.set_u64(h.m2p_entry(mfn_of(h, 0x200)), 0x201)
    return {"pfn": 0x200, "mfn": mfn_of(h, 0x200)}


@fault("M2P-001")
def _m2p_invalid(h: Healthy, m: Machine) -> dict[str, int]:
    """M2P of an own frame is INVALID_M2P_ENTRY"""
    m.set_u64(h.m2p_entry(mfn_of(h, 0x200)), INVALID)
    return {"pfn": 0x200, "mfn": mfn_of(h, 0x200)}


def foreign_frame(h: Healthy) -> int:
    """A frame of the machine that is in no entry of this dom0's P2M, and has an M2P entry that is held."""
    mapping = h.views.own().mapping()
    return next(
        mfn for mfn in range(0x100, h.truth.machine_frames) if all(r.kind.word != "mfn" for r in mapping.reverse(mfn))
    )


@fault("M2P-003")
def _stale_m2p(h: Healthy, m: Machine) -> dict[str, int]:
    """M2P of a frame that is not ours names PFN 0x200"""
    mfn = foreign_frame(h)
    m.set_u64(h.m2p_entry(mfn), 0x200)
    return {"pfn": 0x200, "mfn": mfn, "count": 1}


@fault("SIF-001")
def _magic(h: Healthy, m: Machine) -> dict[str, int]:
    """the magic is not Xen's"""
    m.write(h.start_info("magic"), b"Xfn-")
    return {"address": h.start_info("magic")}


@fault("SIF-001")
def _more_pages_than_the_machine(h: Healthy, m: Machine) -> dict[str, int]:
    """nr_pages is more than the machine has (and no multiple of 512 still)"""
    m.set_u64(h.start_info("nr_pages"), 1 << 30)
    return {"address": h.start_info("nr_pages")}


@fault("SIF-001")
def _other_shared_info(h: Healthy, m: Machine) -> dict[str, int]:
    """start_info.shared_info is not the page that the kernel uses"""
    m.set_u64(h.start_info("shared_info"), 0x1000)
    return {"address": h.start_info("shared_info")}


@fault("SIF-001")
def _too_few_frames(h: Healthy, m: Machine) -> dict[str, int]:
    """nr_p2m_frames cannot hold the list"""
    m.set_u64(h.start_info("nr_p2m_frames"), 3)
    return {"address": h.start_info("nr_p2m_frames")}


@fault("SIF-001", also={"SIF-003"})
def _no_list(h: Healthy, m: Machine) -> dict[str, int]:
    """mfn_list is 0, so it is not xen_p2m_addr either"""
    m.set_u64(h.start_info("mfn_list"), 0)
    return {"address": h.start_info("mfn_list")}


@fault("SIF-003")
def _old_list_still_named(h: Healthy, m: Machine) -> dict[str, int]:
    """mfn_list still names the builder's list"""
    m.set_u64(h.start_info("mfn_list"), 0x8000000000)
    return {"address": h.start_info("mfn_list")}


@fault("SIF-003")
def _old_slot_still_there(h: Healthy, m: Machine) -> dict[str, int]:
    """the top-level slot of the builder's list is not cleared"""
    at = (h.guest.root.mfn << 12) + 8
    m.set_u64(at, 0x1000 | 0x67)
    return {"address": at, "slot": 1}


@fault("DMP-001")
def _contradiction(h: Healthy, m: Machine) -> dict[str, int]:
    """opening the file found two segments that differ where they overlap (test_elf makes real ones)"""
    m.info.problems.append((0x5000, "segments at 0x4000 and 0x5000 overlap up to 0x6000 and differ"))
    return {"address": 0x5000}


@fault("DMP-002")
def _left_out(h: Healthy, m: Machine) -> dict[str, int]:
    """the dump holds the machine's memory only up to some frame of dom0"""
    mfn = mfn_of(h, 0x200)
    m.info.original = (Extent(0, mfn << 12), Extent((mfn + 1) << 12, h.truth.machine_frames << 12))
    return {"pfn": 0x200, "mfn": mfn, "count": 1}
