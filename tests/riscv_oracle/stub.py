"""The least of GDB's remote protocol: read virtual memory as a debugger would, then let the machine go on."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self


class Stub:
    """A connection to a gdbstub; the machine stands still while it is open."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.ask("D")
        finally:
            self._socket.close()

    def ask(self, packet: str) -> str:
        """The answer to a packet. Raises ConnectionError when the stub hangs up."""
        self._socket.sendall(f"${packet}#{sum(packet.encode()) & 0xFF:02x}".encode())
        while True:
            start, end = self._received.find(b"$"), self._received.find(b"#")
            if 0 <= start < end and len(self._received) >= end + 3:
                answer = self._received[start + 1 : end]
                self._received = self._received[end + 3 :]
                self._socket.sendall(b"+")
                if answer[:1] in (b"T", b"S") and packet != "?":
                    continue  # "stopped", which QEMU 7.2 says unasked when somebody connects
                return answer.decode("latin-1")
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError(f"the gdbstub hung up during {packet!r}")
            self._received += data

    def read_u64(self, address: int) -> int:
        """The word at a virtual address of the CPU as it stands. Raises ValueError for an error answer."""
        return int.from_bytes(bytes.fromhex(self.ask(f"m{address:x},8")), "little")
