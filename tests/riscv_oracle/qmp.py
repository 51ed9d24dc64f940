"""QEMU's control socket, as much of it as the machine needs. Specification: QEMU, docs/interop/qmp-spec."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class QmpError(Exception):
    """QEMU refused, or went away."""


class Qmp:
    """One session; use as a context manager. timeout: seconds for each answer."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
            self._stream = self._socket.makefile("rw", encoding="utf-8", newline="\n")
            self._stream.readline()  # the greeting
            self.execute("qmp_capabilities")
        except OSError as error:
            self._socket.close()
            raise QmpError(f"cannot reach QEMU at {path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def execute(self, command: str, **arguments: object) -> Any:
        """Run a command and return its result; events that come between are passed over."""
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while line := self._stream.readline():
            message = json.loads(line)
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise QmpError(f"QEMU refuses {command}: {message['error']['desc']}")
        raise QmpError(f"QEMU closed the connection during {command}")
