"""Pages as arrays of a guest's unsigned longs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gdb_p2m.layout.x86_pv import EntryWidth
from gdb_p2m.units import U64Array

MAX_MFN_BITS = 40
"""x86 physical addresses have at most 52 bits: no frame number has more than 40."""


def words_of(pages: npt.NDArray[np.uint8], width: EntryWidth) -> U64Array:
    """(n, 4096) page bytes as (n, per_page) words of the guest, widened to uint64."""
    whole = np.ascontiguousarray(pages)
    if width.bits == 64:
        return whole.view("<u8")
    return whole.view("<u4").astype(np.uint64)
