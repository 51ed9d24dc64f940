"""A QEMU that stands still with the memory of an excerpt: live memory to read, without booting anything.

The RAM is a file that QEMU and the test share, so a test can change memory behind GDB's back, as a running
machine would.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from gdb_p2m.sources.base import Source
from gdb_p2m.units import GIB

QEMU = "qemu-system-x86_64"


class QemuMemory:
    """Use as a context manager. ram: the file behind the first GiB; port: the gdbstub's, on 127.0.0.1."""

    def __init__(self, source: Source, folder: Path, cpus: int = 1) -> None:
        self.ram = folder / "ram"
        self.folder = folder
        self.cpus = cpus
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        with open(self.ram, "wb") as file:
            file.truncate(GIB)  # sparse: pages that the excerpt lacks read as zeros
            for extent in source.extents():
                file.seek(extent.start)
                file.write(source.read(extent.start, extent.end - extent.start))
        assert self.ram.stat().st_size == GIB, "the excerpt's memory must fit below the hole of a PC"

    def __enter__(self) -> Self:
        for _ in range(5):
            self._start()
            if self._listens():
                return self
            self.stop()
        raise AssertionError((self.folder / "qemu.log").read_text())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def write(self, address: int, value: bytes) -> bytes:
        """Change memory behind everybody's back; returns what was there."""
        with open(self.ram, "r+b") as file:
            file.seek(address)
            before = file.read(len(value))
            file.seek(address)
            file.write(value)
        return before

    @property
    def pid(self) -> int:
        """QEMU's process."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """End QEMU."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        path = shutil.which(QEMU)
        assert path is not None
        command = [
            path,
            *("-no-user-config", "-nodefaults", "-display", "none", "-accel", "tcg", "-cpu", "max", "-S"),
            *("-object", f"memory-backend-file,id=ram,size=1G,mem-path={self.ram},share=on"),
            *("-machine", "pc,memory-backend=ram", "-m", "1G", "-smp", str(self.cpus)),
            *("-gdb", f"tcp:127.0.0.1:{self.port}"),
        ]
        with open(self.folder / "qemu.log", "wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _listens(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                # Binding fails once QEMU listens; connecting would be taken for a debugger.
                try:
                    probe.bind(("127.0.0.1", self.port))
                except OSError:
                    return True
            time.sleep(0.05)
        return False
