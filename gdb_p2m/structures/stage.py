"""How far a PV kernel has come with its P2M: which list it uses now.

During boot the list lives at three places: the domain builder's list, a copy in the virtual area that
is being built, and the finished linear list. The kernel's own variables tell which.
"""

from __future__ import annotations

from dataclasses import dataclass

from gdb_p2m.errors import P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.x86_pv import START_KERNEL_MAP
from gdb_p2m.structures.remap import read_chain
from gdb_p2m.structures.xen_pages import start_info

VMALLOC_32 = 0xE000_0000
"""Below it a 32-bit kernel's list is the builder's (lowmem); vmalloc space lies above 896 MiB + PAGE_OFFSET."""


@dataclass(frozen=True, slots=True)
class Stage:
    """name: "entry", "initial", "moving", "linear" or "unknown"; title and evidence are for people."""

    name: str
    title: str
    evidence: str


def is_virtual_area(base: int, bits: int) -> bool:
    """Whether a list at `base` is the virtual area: not in the kernel's image mapping nor at a user address."""
    if bits == 32:
        return base >= VMALLOC_32
    return 1 << 63 <= base < START_KERNEL_MAP


def stage_of(guest: LinuxGuest) -> Stage:
    """The stage of a guest of the linear era; never raises."""
    if not guest.has("xen_p2m_addr"):
        return Stage("unknown", "no linear list in this kernel", "xen_p2m_addr is not known")
    try:
        base = guest.variable("xen_p2m_addr")
        told = start_info(guest).number("mfn_list")
    except P2mError as e:
        return Stage("unknown", "the stage cannot be told", e.message)
    seen = f"xen_p2m_addr = {base:#x}, start_info.mfn_list = {told:#x}"
    if base == 0:
        return Stage("entry", "dom0's entry: the kernel has not looked at the builder's list yet", seen)
    if not is_virtual_area(base, guest.width.bits):
        return Stage("initial", f"initial list: the domain builder's, {_where(base)}", seen)
    if told != base:
        return Stage("moving", "list being moved: the virtual area is built, the builder's list is still there", seen)
    return Stage("linear", f"linear list{_remapping(guest)}", seen)


def _where(base: int) -> str:
    if base >= START_KERNEL_MAP:
        return "inside the initial mapping"
    return "outside the initial mapping, in a top-level slot of its own"


def _remapping(guest: LinuxGuest) -> str:
    """Whether memory is still to be remapped."""
    try:
        chain = read_chain(guest)
    except P2mError:
        return ""
    return {
        "planned": f"; {chain.pages:,} pages are still to be remapped",
        "empty": "; nothing is left to be remapped",
        "done": "; boot is over",
    }[chain.state]
