"""What the P2M's pages are and where they lie: the part that tree and list share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gdb_p2m.model.kernel import Kernel
from gdb_p2m.model.leaves import IDENTITY, MISSING, PRIVATE, Leaves
from gdb_p2m.units import FrameArray


@dataclass(frozen=True, slots=True)
class Placed:
    """One page of the kernel's: PFN, machine frame, and the address in the pointer that leads to it."""

    pfn: int
    mfn: int
    va: int


@dataclass
class P2mShape:
    """The P2M's pages of a built guest.

    shared: the shared pages by their kernel names. leaf_mfn: machine frame of every leaf slot, shared ones
    included; leaf_va: their addresses (trees only). late: leaf numbers that became private after the frame lists were
    built. early: the leaves' state when the frame lists were built (linear, 3.18).
    mids: private mid pages of the tree by top slot; lists: private mid_mfn pages by top slot. listed: leaf
    slots whose private leaf the frame lists name (a 3.18 tree leaves out what lies past xen_max_p2m_pfn).
    """

    leaves: Leaves
    early: Leaves
    late: FrameArray
    shared: dict[str, Placed] = field(default_factory=dict)
    leaf_mfn: FrameArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    leaf_va: FrameArray | None = None
    mids: dict[int, Placed] = field(default_factory=dict)
    lists: dict[int, Placed] = field(default_factory=dict)
    listed: np.ndarray[tuple[int], np.dtype[np.bool_]] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    area: int = 0
    size: int = 0
    max_p2m_pfn: int = 0
    last_pfn: int = 0
    late_updates: int = 0

    def shared_name(self, kind: int) -> str:
        """Kernel name of the shared leaf of `kind`."""
        return "p2m_missing" if kind == MISSING else "p2m_identity"

    def fill_leaf_mfns(self, pages: FrameArray, mfns: FrameArray) -> None:
        """Frames of all leaf slots: `mfns` for the private `pages`, the shared pages' elsewhere."""
        flat = self.leaves.flat
        self.leaf_mfn = np.full(len(flat), -1, dtype=np.int64)
        self.leaf_mfn[pages] = mfns
        for kind in (MISSING, IDENTITY):
            if (placed := self.shared.get(self.shared_name(kind))) is not None:
                self.leaf_mfn[flat == kind] = placed.mfn


def place(kernel: Kernel, *, image: bool = False) -> Placed:
    """A fresh page: in the direct map, or (image) behind the kernel's end like brk."""
    pfn = int((kernel.take_image(1) if image else kernel.take(1))[0])
    mfn = kernel.frames.mfn(pfn)
    kernel.memory.page(mfn)
    return Placed(pfn, mfn, kernel.kernel_va(pfn) if image else kernel.direct_va(pfn))


def fill_invalid(kernel: Kernel, placed: Placed) -> Placed:
    """A page of INVALID_P2M_ENTRY."""
    kernel.memory.page(placed.mfn)[:] = 0xFF
    return placed


__all__ = ["IDENTITY", "MISSING", "PRIVATE", "P2mShape", "Placed", "fill_invalid", "place"]
