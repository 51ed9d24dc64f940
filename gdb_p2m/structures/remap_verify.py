"""Whether a recorded remap chain was carried out: P2M[target + i] = mfns[i], and M2P back (RMP-006)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.structures.m2p import M2p, meaning
from gdb_p2m.structures.remap import Chain

LISTED = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """One page that is not where the plan says."""

    pfn: int
    expected: int
    found: str
    message: str


@dataclass
class Verification:
    """pages: compared; m2p_unread: pages whose M2P entry cannot be read. differences: the first few."""

    pages: int = 0
    p2m_agrees: int = 0
    m2p_agrees: int = 0
    m2p_unread: int = 0
    differences: list[Difference] = field(default_factory=list)

    def differs(self, pfn: int, mfn: int, found: str, message: str) -> None:
        """Keep the first few."""
        if len(self.differences) < LISTED:
            self.differences.append(Difference(pfn, mfn, found, message))


def verify_chain(chain: Chain, mapping: Mapping, m2p: M2p) -> Verification:
    """Compare a recorded chain with the P2M and the M2P of now."""
    result = Verification()
    for chunk in chain.chunks:
        start, count = int(chunk.target_pfn), len(chunk.mfns)
        if not count:
            continue
        kinds, frames = mapping.expand(start, start + count)
        good = (kinds == Kind.MFN) & (frames == chunk.mfns)
        raw, read = m2p.lookup(chunk.mfns)
        back = read & (raw == np.arange(start, start + count, dtype=np.uint64))
        result.pages += count
        result.p2m_agrees += int(np.count_nonzero(good))
        result.m2p_agrees += int(np.count_nonzero(back))
        result.m2p_unread += int(np.count_nonzero(~read))
        for i in np.flatnonzero(~good | (read & ~back))[:LISTED].tolist():
            _note(result, start + i, int(chunk.mfns[i]), Kind(int(kinds[i])), int(frames[i]), int(raw[i]))
    return result


def _note(result: Verification, pfn: int, mfn: int, kind: Kind, frame: int, raw: int) -> None:
    found = kind.word + (f" {frame:#x}" if frame >= 0 else "")
    if kind is not Kind.MFN or frame != mfn:
        result.differs(pfn, mfn, found, f"PFN {pfn:#x} should be MFN {mfn:#x} by the chain, but is {found}")
    else:
        result.differs(
            pfn, mfn, meaning(raw), f"M2P[{mfn:#x}] should be PFN {pfn:#x} by the chain, but is {meaning(raw)}"
        )
