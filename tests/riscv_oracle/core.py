"""A few lines to read a machine's own dump in these tests, so that they need nothing of the decoder."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_PT_LOAD = 1


class Core:
    """QEMU's ELF core: machine memory by address."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (offset,) = struct.unpack_from("<Q", self._data, 32)
        size, count = struct.unpack_from("<HH", self._data, 54)
        headers = (struct.unpack_from("<IIQQQQQ", self._data, offset + i * size) for i in range(count))
        self.loads = [(h[4], h[5], h[2]) for h in headers if h[0] == _PT_LOAD]
        """(machine address, bytes, offset in the file) of each PT_LOAD."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at machine address. Raises ValueError outside the dump."""
        for start, length, offset in self.loads:
            if start <= address and address + size <= start + length:
                return self._data[offset + address - start : offset + address - start + size]
        raise ValueError(f"machine address {address:#x} is not in the dump")

    def u64(self, address: int) -> int:
        """The word at machine address."""
        return int.from_bytes(self.read(address, 8), "little")
