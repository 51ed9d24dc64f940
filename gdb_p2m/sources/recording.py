"""A source that remembers which pages were asked for: what an excerpt must hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gdb_p2m.sources.base import Extent, Source
from gdb_p2m.units import PAGE_SHIFT, FrameArray


class RecordingSource(Source):
    """Passes everything on to `inner` and keeps the frames touched, as intervals."""

    def __init__(self, inner: Source) -> None:
        super().__init__()
        self.inner = inner
        self.info = inner.info
        self._touched: set[tuple[int, int]] = set()

    def extents(self) -> tuple[Extent, ...]:
        return self.inner.extents()

    def missing_reason(self, address: int) -> str:
        return self.inner.missing_reason(address)

    def audit(self) -> list[tuple[int, str]]:
        return self.inner.audit()

    def frames_below(self, frames: FrameArray) -> FrameArray:
        return self.inner.frames_below(frames)

    def _read(self, address: int, size: int) -> bytes | memoryview:
        data = self.inner.read(address, size)
        self._touched.add((address >> PAGE_SHIFT, (address + size - 1) >> PAGE_SHIFT))
        return data

    def strided_u64(self, extent: Extent, offset: int) -> npt.NDArray[np.uint64]:
        """A scan over all of memory touches nothing: what it finds is read in the ordinary way."""
        return self.inner.strided_u64(extent, offset)

    def frames(self) -> FrameArray:
        """Every frame that was read, in rising order."""
        parts = [np.arange(a, b + 1, dtype=np.int64) for a, b in self._touched]
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
