"""Large stretches of memory through QEMU's monitor: `pmemsave` into a file that we map and remove.

Ten to a hundred times faster than packets (docs/gdb.md has the numbers), but only where QEMU and GDB see the
same files. That is found out by trying: QEMU is given a path in a directory that was just made for it, with a
name nobody else knows; the file that turns up must have the right size, and samples of it must be what the
stub reads at the same addresses. Where it does not work, packets serve. Facts (QEMU 7.2): the path must be
quoted; errors come back as text only; reads past RAM "succeed", so the caller stays within RAM.
"""

from __future__ import annotations

import mmap
import os
import tempfile

from gdb_p2m.gdbui.stub import PhysicalReader, Stub
from gdb_p2m.units import MIB

MOST = 64 * MIB
"""Bytes a command: QEMU does nothing else meanwhile, and Ctrl-C waits for it. Its size argument has 31 bits."""
SAMPLE = 64
"""Bytes compared with the stub at both ends of what was written."""


def directories() -> list[str]:
    """Where to let QEMU write, best first: memory, then wherever temporary files go."""
    return [d for d in dict.fromkeys(("/dev/shm", tempfile.gettempdir())) if os.access(d, os.W_OK | os.X_OK)]


class Pmemsave:
    """`save` gives memory, or None once it is known not to work; then `why_not` says why."""

    def __init__(self, stub: Stub, reader: PhysicalReader, allowed: bool = True) -> None:
        self.stub = stub
        self.reader = reader
        self.why_not = "" if allowed else "switched off"
        self._directories = directories() if allowed else []

    @property
    def usable(self) -> bool:
        """Whether it works, or has not been tried yet."""
        return bool(self._directories)

    def save(self, address: int, size: int) -> memoryview | None:
        """`size` bytes (at most MOST) of RAM at `address`. Raises P2mError only when the connection is lost."""
        while self._directories:
            try:
                return self._save_in(self._directories[0], address, size)
            except (OSError, ValueError) as e:
                self.why_not = str(e)
                del self._directories[0]
        return None

    def _save_in(self, parent: str, address: int, size: int) -> memoryview:
        """Raises OSError or ValueError that says what did not work."""
        with tempfile.TemporaryDirectory(prefix="gdb-p2m-", dir=parent, ignore_cleanup_errors=True) as directory:
            path = os.path.join(directory, "memory")
            answer = self.stub.monitor(f"pmemsave {address:#x} {size} {quoted(path)}").strip()
            if answer:
                raise ValueError(f"QEMU's pmemsave says: {answer}")
            with open(path, "rb") as file:
                written = os.fstat(file.fileno()).st_size
                if written != size:
                    raise ValueError(f"QEMU's pmemsave wrote {written} bytes of {size}")
                view = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
        self._compare(view, address, size)
        return view

    def _compare(self, view: memoryview, address: int, size: int) -> None:
        sample = min(SAMPLE, size)
        first, last = self.reader.read([(address, sample), (address + size - sample, sample)])
        if view[:sample] != first or view[-sample:] != last:
            raise ValueError(f"QEMU's pmemsave wrote other bytes than the stub reads at {address:#x}")


def quoted(path: str) -> str:
    """A path as the monitor reads it (QEMU monitor/hmp.c, get_str). Raises ValueError for a newline."""
    if any(ord(ch) < 32 for ch in path):
        raise ValueError(f"QEMU's monitor cannot take the path {path!r}")
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
