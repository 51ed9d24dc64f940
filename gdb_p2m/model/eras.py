"""What each era of the x86 PV P2M does, as data: the differences that the builders ask for.

Sources: the seeds' commits (compact identity ranges: 3.16; linear list: 3.19; delayed remapping: 3.19;
initial list outside the mapping: 4.x), Linux arch/x86/xen/{p2m,setup,mmu}.c of the versions named, and
real memory of 3.16.0, 3.18.20, 6.1 and later dom0s ("seen").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class EraFacts:
    """One era. `release` is the kernel release that a guest of this era names when its description does not.

    linear: xen_p2m_addr[] in its own virtual area instead of p2m_top. identity: p2m_identity exists.
    mid_identity: p2m_mid_identity exists. mid_identity_mfn: p2m_mid_identity_mfn exists.
    holes: what happens to RAM that lies in a hole of the E820: moved up, or given back to Xen.
    identity_past_e820: everything behind the last E820 entry becomes identity.
    revectors: 64-bit kernels copy the builder's list to their own memory before they free it.
    late_list_list: the frame lists are built after the P2M has its final shape (3.18 on; on 3.16 they
    grow with the private mid pages, so identity never shows in them).
    page_offset: start of the direct map of 64-bit kernels.
    """

    name: str
    title: str
    release: str
    linear: bool
    identity: bool
    mid_identity: bool
    mid_identity_mfn: bool
    holes: Literal["remap", "release"]
    identity_past_e820: bool
    revectors: bool
    late_list_list: bool
    page_offset: int


_OLD_OFFSET = 0xFFFF_8800_0000_0000
_NEW_OFFSET = 0xFFFF_8880_0000_0000
"""PAGE_OFFSET moved in 4.20 (d52888aa2753, room for the LDT remap area)."""

ERAS: tuple[EraFacts, ...] = (
    EraFacts(
        "linear", "linear virtual list (3.19 on)", "6.1.0-model",
        True, True, False, False, "remap", True, True, True, _NEW_OFFSET,
    ),
    EraFacts(
        "tree-2.6.37", "three-level tree without identity (2.6.37, 2.6.38)", "2.6.37-model",
        False, False, False, False, "release", False, False, False, _OLD_OFFSET,
    ),
    EraFacts(
        "tree-2.6.39", "three-level tree with p2m_identity (2.6.39 to 3.15)", "2.6.39-model",
        False, True, False, False, "release", False, False, False, _OLD_OFFSET,
    ),
    EraFacts(
        "tree-3.16", "three-level tree with p2m_mid_identity (3.16, 3.17)", "3.16.0-model",
        False, True, True, True, "remap", True, True, False, _OLD_OFFSET,
    ),
    EraFacts(
        "tree-3.18", "three-level tree with p2m_mid_identity, without its mfn page (3.18)", "3.18.0-model",
        False, True, True, False, "remap", True, True, True, _OLD_OFFSET,
    ),
)  # fmt: skip
ERA_BY_NAME = {e.name: e for e in ERAS}
