"""A remote-protocol server that is not QEMU: enough for GDB to connect to and to read registers of."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self


class RspServer:
    """Listens on `port` of 127.0.0.1 in a thread until the block ends. answers: payload -> answer; else empty.

    packets: everything that GDB sent.
    """

    def __init__(self, answers: dict[str, str] | None = None) -> None:
        self.answers = {
            "?": "T05thread:01;",
            "qfThreadInfo": "m1",
            "qsThreadInfo": "l",
            "qC": "QC1",
            "qAttached": "1",
            "g": "00" * 560,
            **(answers or {}),
        }
        self.packets: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection:
            pending = b""
            while data := connection.recv(65536):
                pending += data
                while b"#" in pending and len(pending.partition(b"#")[2]) >= 2:
                    head, _, tail = pending.partition(b"#")
                    pending = tail[2:]
                    self._answer(connection, head.rpartition(b"$")[2].decode("latin-1"))

    def _answer(self, connection: socket.socket, payload: str) -> None:
        self.packets.append(payload)
        answer = self.answers.get(payload, "OK" if payload[:1] in "HD" else "").encode()
        connection.sendall(b"+$%s#%02x" % (answer, sum(answer) & 0xFF))
