"""QEMU's control socket: QMP, and the human monitor through it.

QMP rather than the text of the human monitor, because its errors are errors, paths need no quoting and
nothing is echoed. Specification: QEMU, docs/interop/qmp-spec.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .errors import LabError

_SOCKET_PATH_MAX = 107  # struct sockaddr_un: sun_path[108] with its final zero


class QmpError(LabError):
    """QEMU refused a command, or does not answer."""


class QmpTimeout(QmpError):
    """QEMU is there but does not answer in time: it is busy with somebody else's command."""


def connect_unix(path: Path, timeout: float) -> socket.socket:
    """Connect to a socket, through a descriptor of its directory when the path is too long for the kernel."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    directory = -1
    try:
        address = str(path)
        if len(os.fsencode(address)) > _SOCKET_PATH_MAX:
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
            address = f"/proc/self/fd/{directory}/{path.name}"
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    finally:
        if directory >= 0:
            os.close(directory)
    return connection


class Qmp:
    """One session; use as a context manager. QEMU serves one session at a time, so keep it short."""

    def __init__(self, path: Path, *, timeout: float = 10.0) -> None:
        self._path = path
        try:
            self._socket = connect_unix(path, timeout)
        except OSError as error:
            raise QmpError(f"cannot reach QEMU at {path}: {error.strerror or error}") from error
        self._stream = self._socket.makefile("rw", encoding="utf-8", newline="\n")
        try:
            self._receive()  # the greeting
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session; the machine goes on as it is."""
        with suppress(OSError):  # QEMU went away with a command of ours unsent: the caller knows already
            self._stream.close()
        self._socket.close()

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._stream.readline()
        except TimeoutError as error:
            raise QmpTimeout(
                f"QEMU does not answer at {self._path}",
                hint="it may be busy with another command, such as a dump: wait for that one to end",
            ) from error
        except OSError as error:
            raise QmpError(f"QEMU at {self._path} went away: {error}") from error
        if not line:
            raise QmpError(f"QEMU at {self._path} closed the connection")
        message: dict[str, Any] = json.loads(line)
        return message

    def execute(self, command: str, **arguments: object) -> Any:
        """Run a command and return what it returns; events that arrive meanwhile are not ours to handle."""
        try:
            self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self._stream.flush()
        except OSError as error:
            raise QmpError(f"QEMU at {self._path} went away: {error}") from error
        while True:
            message = self._receive()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise QmpError(f"QEMU refuses {command}: {message['error']['desc']}")

    def human(self, line: str) -> str:
        """The human monitor's answer to one line, as text; it has no errors, only words."""
        answer = self.execute("human-monitor-command", **{"command-line": line})
        return str(answer).replace("\r\n", "\n")
