"""A QEMU in memory: answers the packets and monitor commands that we send, faithfully or not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gdb_p2m.errors import P2mError

MTREE = """\
FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-000000000000ffff (prio 0, i/o): io

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000c0000-00000000000dffff (prio 0, rom): pc.ram @00000000000c0000
  00000000000e0000-00000000001fffff (prio 0, ram): pc.ram @00000000000e0000
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
"""
RAM = ((0, 0xA0000), (0xC0000, 0x200000), (0xFFFC0000, 0x100000000))


def memory(address: int, size: int) -> bytes:
    """Bytes of the fake machine, no two neighbouring pages alike; zeros outside RAM, as QEMU gives them."""
    at = np.arange(address, address + size, dtype=np.uint64)
    held = np.zeros(size, dtype=bool)
    for start, end in RAM:
        held |= (at >= np.uint64(start)) & (at < np.uint64(end))
    value = at * np.uint64(7) + (at >> np.uint64(12)) * np.uint64(13) + (at >> np.uint64(20))
    return np.where(held, value, 0).astype(np.uint8).tobytes()


class FakeQemu:
    """A Stub. mode: the physical memory mode. log: every packet and monitor command.

    before: called with each of them first; it may raise. pmemsave: what happens to the file: "right", "short",
    "other" bytes, "error" text, or "nowhere" (QEMU writes to another machine's disk).
    """

    def __init__(self, mode: bytes = b"0", pmemsave: str = "right") -> None:
        self.mode = mode
        self.pmemsave = pmemsave
        self.log: list[str] = []
        self.before: Callable[[str], None] = lambda sent: None
        self.mtree = MTREE
        self.behind: list[bytes] = []

    def packet(self, payload: str) -> bytes:
        """See Stub. With answers in `behind`, every answer belongs to an earlier question."""
        self.log.append(payload)
        self.before(payload)
        answer = self._answer(payload)
        if self.behind:
            self.behind.append(answer)
            return self.behind.pop(0)
        return answer

    def _answer(self, payload: str) -> bytes:
        if payload == "qqemu.sstepbits":
            return b"ENABLE=1,NOIRQ=2,NOTIMER=4"
        if payload == "qqemu.PhyMemMode":
            return self.mode
        if payload.startswith("Qqemu.PhyMemMode:"):
            self.mode = payload[-1].encode()
            return b"OK"
        if m := re.fullmatch(r"m([0-9a-f]+),([0-9a-f]+)", payload):
            address, size = int(m[1], 16), int(m[2], 16)
            if self.mode != b"1" or size > 0x800:
                return b"E14"
            return memory(address, size).hex().encode()
        return b""

    def monitor(self, command: str) -> str:
        """See Stub."""
        self.log.append(command)
        self.before(command)
        if command == "info mtree -f":
            return self.mtree
        m = re.fullmatch(r'pmemsave (0x[0-9a-f]+) (\d+) "(.*)"', command)
        assert m is not None, command
        return self._save(int(m[1], 16), int(m[2]), Path(m[3].replace('\\"', '"').replace("\\\\", "\\")))

    def _save(self, address: int, size: int, path: Path) -> str:
        if self.pmemsave == "error":
            return f"Error: Could not open '{path}': Permission denied\r\n"
        if self.pmemsave == "nowhere":
            return ""
        data = memory(address, size)
        if self.pmemsave == "short":
            data = data[:-1]
        if self.pmemsave == "other":
            data = bytes(b ^ 1 for b in data)
        path.write_bytes(data)
        return ""

    def sent(self, start: str) -> list[str]:
        """What was sent and begins so."""
        return [s for s in self.log if s.startswith(start)]


def lost(after: int) -> Callable[[str], None]:
    """A `before` that loses the connection after so many exchanges."""
    left = [after]

    def before(sent: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise P2mError("QEMU's gdbstub does not answer: Remote connection closed")

    return before
