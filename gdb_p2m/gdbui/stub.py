"""QEMU's gdbstub as we use it: one packet, one answer; and its physical memory mode.

The mode (packet Qqemu.PhyMemMode) belongs to QEMU, not to the connection: it survives detach, disconnect
and the death of GDB, and while it is on, every read of the user's would be physical too. So it is on only
within one short batch of reads, during which SIGINT waits, and what it was before is restored on every path.
(QEMU docs/system/gdb.rst, gdbstub.c; seen with QEMU 7.2 and GDB 13.)

The reads are raw `m` packets: nothing of theirs ends up in GDB's own caches, and GDB's memory attributes,
`trust-readonly-sections` and breakpoint shadows, which speak of virtual addresses, cannot touch them.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from gdb_p2m.errors import NotSupported, P2mError
from gdb_p2m.sources.base import ReadCounters
from gdb_p2m.units import KIB

CHUNK = 2 * KIB
"""Bytes a packet can ask for: PacketSize is 0x1000 and a byte takes two digits."""
BATCH_PACKETS = 128
"""Packets while SIGINT waits: 128 of 83 us are 11 ms."""
SENTINEL, SENTINEL_ANSWER = "qqemu.sstepbits", b"ENABLE="
"""Answered by every QEMU in a way that no other answer begins with."""
QUERY_MODE = "qqemu.PhyMemMode"
SET_MODE = "Qqemu.PhyMemMode:"
MODES = (b"0", b"1")
ATTEMPTS = 6


class Stub(Protocol):
    """The connection. Both raise P2mError when it is lost."""

    def packet(self, payload: str) -> bytes:
        """The answer to one remote-protocol packet."""

    def monitor(self, command: str) -> str:
        """What QEMU's human monitor says to one command."""


@contextmanager
def interrupts_held() -> Iterator[None]:
    """SIGINT waits until the block ends; one that had come already is raised here, before the block begins."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_qemu_system(stub: Stub) -> bool:
    """Whether this is the gdbstub of a whole machine: QEMU's user mode and other stubs lack the mode."""
    return stub.packet(QUERY_MODE) in MODES


def resynchronise(stub: Stub) -> None:
    """After an interrupted exchange: make sure that answers belong to questions again. Raises P2mError.

    GDB drops a late answer when it comes before the acknowledgement of the next packet. When a packet was sent
    twice, because QEMU stood still for longer than `remotetimeout`, all answers are one behind for good.
    """
    for _ in range(ATTEMPTS):
        if stub.packet(SENTINEL).startswith(SENTINEL_ANSWER) and stub.packet(QUERY_MODE) in MODES:
            return
    raise P2mError(
        "QEMU's gdbstub answers out of step: what it says belongs to earlier questions",
        hint="`disconnect`, then `target remote` again",
    )


class PhysicalReader:
    """Reads of machine memory by packets."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub

    def read(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes of each (machine address, size), all of them RAM. Raises P2mError."""
        pieces = [
            (a, min(CHUNK, address + size - a))
            for address, size in spans
            for a in range(address, address + size, CHUNK)
        ]
        parts: list[bytes] = []
        for first in range(0, len(pieces), BATCH_PACKETS):
            parts += self._batch(pieces[first : first + BATCH_PACKETS])
        out, at = [], 0
        for _, size in spans:
            count = -(-size // CHUNK)
            out.append(parts[at] if count == 1 else b"".join(parts[at : at + count]))
            at += count
        return out

    def _batch(self, pieces: Sequence[tuple[int, int]]) -> list[bytes]:
        for _ in range(2):
            data = self._try_batch(pieces)
            if data is not None:
                return data
        raise P2mError("QEMU's gdbstub answers out of step", hint="`disconnect`, then `target remote` again")

    def _try_batch(self, pieces: Sequence[tuple[int, int]]) -> list[bytes] | None:
        """None when the answers may not have belonged to the questions."""
        in_step = False
        with interrupts_held():
            before = self._mode()
            data: list[bytes] | None = None
            try:
                if before != b"1":
                    self._set_mode(b"1")
                data = [self._piece(address, size) for address, size in pieces]
            finally:
                in_step = self._restore(before, data is not None)
        return data if in_step else None

    def _piece(self, address: int, size: int) -> bytes:
        answer = self.stub.packet(f"m{address:x},{size:x}")
        try:
            data = bytes.fromhex(answer.decode("ascii"))
        except ValueError:
            data = b""
        if len(data) != size:
            raise P2mError(
                f"QEMU's gdbstub does not read {size} bytes at machine address {address:#x}: it answers {answer[:16]!r}"
            )
        return data

    def _mode(self) -> bytes:
        """b"0" or b"1"."""
        answer = self.stub.packet(QUERY_MODE)
        if answer and answer not in MODES:
            resynchronise(self.stub)
            answer = self.stub.packet(QUERY_MODE)
        if answer not in MODES:
            raise NotSupported(
                f"this gdbstub has no physical memory mode: it answers {answer[:16]!r} to {QUERY_MODE}",
                hint="QEMU 4.1 or newer, as a whole machine; else take a dump and `p2m open` it",
            )
        return answer

    def _set_mode(self, mode: bytes) -> None:
        answer = self.stub.packet(SET_MODE + mode.decode())
        if answer != b"OK":
            raise NotSupported(f"QEMU's gdbstub does not set its physical memory mode: {answer[:16]!r}")

    def _restore(self, mode: bytes, clean: bool) -> bool:
        """Put the mode back, whatever happened before; whether all answers were in step until then.

        clean: all went well so far. Then the answer to this exchange, which no read gives, proves it. SIGINT
        waits, but one may be on its way already.
        """
        in_step, interrupted = clean, False
        trouble: P2mError | None = None
        for _ in range(ATTEMPTS):
            try:
                if not in_step:
                    resynchronise(self.stub)
                if self._put_back(mode):
                    trouble = None
                    break
                in_step = False
            except KeyboardInterrupt:
                interrupted, in_step = True, False
            except P2mError as e:
                trouble, in_step = e, False
        else:
            trouble = trouble or P2mError("QEMU's gdbstub does not confirm it")
        if trouble is not None:
            raise P2mError(
                f"QEMU may have been left in physical memory mode: {trouble.message}",
                hint=f"when you are connected again: maintenance packet {SET_MODE}{mode.decode()}",
            )
        if interrupted:
            raise KeyboardInterrupt
        return in_step

    def _put_back(self, mode: bytes) -> bool:
        if mode == b"1":  # it was on: only ask
            return self.stub.packet(QUERY_MODE) == mode
        return self.stub.packet(SET_MODE + mode.decode()) == b"OK"


class CountingStub:
    """Passes on to `inner`, counts the round trips, and keeps in step when a monitor command is interrupted."""

    def __init__(self, inner: Stub, counters: ReadCounters) -> None:
        self.inner = inner
        self.counters = counters

    def packet(self, payload: str) -> bytes:
        """See Stub."""
        self.counters.requests += 1
        return self.inner.packet(payload)

    def monitor(self, command: str) -> str:
        """See Stub. SIGINT does not wait here: a command that writes a file can take long."""
        self.counters.requests += 1
        try:
            return self.inner.monitor(command)
        except KeyboardInterrupt:
            with interrupts_held():
                resynchronise(self.inner)
            raise
