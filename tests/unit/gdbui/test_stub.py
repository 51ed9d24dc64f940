"""Packets in physical memory mode: right bytes, and the mode is put back on every path."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from gdb_p2m.errors import NotSupported, P2mError
from gdb_p2m.gdbui.stub import BATCH_PACKETS, CountingStub, PhysicalReader, interrupts_held, is_qemu_system
from gdb_p2m.sources.base import ReadCounters
from support.fake_qemu import FakeQemu, lost, memory

SPANS = [(0x1000, 4096), (0x2FF8, 16), (0x10000, 3 * 4096), (0x5000, 8)]


@pytest.mark.parametrize("mode", [b"0", b"1"])
def test_spans_are_read_and_the_mode_is_as_before(mode: bytes) -> None:
    qemu = FakeQemu(mode)
    assert PhysicalReader(qemu).read(SPANS) == [memory(a, n) for a, n in SPANS]
    assert qemu.mode == mode
    assert bool(qemu.sent("Qqemu")) == (mode == b"0"), "a mode that is on already is left alone"


def test_long_reads_go_in_batches_each_with_the_mode_put_back() -> None:
    qemu = FakeQemu()
    size = (2 * BATCH_PACKETS + 1) * 0x800
    assert PhysicalReader(qemu).read([(0x1000, size)]) == [memory(0x1000, size)]
    assert qemu.sent("Qqemu") == ["Qqemu.PhyMemMode:1", "Qqemu.PhyMemMode:0"] * 3


def test_nothing_is_sent_for_nothing() -> None:
    qemu = FakeQemu()
    assert PhysicalReader(qemu).read([]) == []
    assert qemu.log == []


def test_an_error_answer_names_the_address_and_the_mode_is_put_back() -> None:
    qemu = FakeQemu()
    answers = qemu._answer
    qemu._answer = lambda p: b"E14" if p.startswith("m3000") else answers(p)  # type: ignore[method-assign]
    with pytest.raises(P2mError, match="at machine address 0x3000"):
        PhysicalReader(qemu).read([(0x1000, 8), (0x3000, 8)])
    assert qemu.mode == b"0"


@pytest.mark.parametrize("answer", [b"", b"00", b"zz" * 8, b"00" * 9])
def test_an_answer_that_is_not_those_bytes_is_an_error_not_memory(answer: bytes) -> None:
    qemu = FakeQemu()
    answers = qemu._answer
    qemu._answer = lambda p: answer if p.startswith("m") else answers(p)  # type: ignore[method-assign]
    with pytest.raises(P2mError, match="does not read 8 bytes"):
        PhysicalReader(qemu).read([(0x1000, 8)])
    assert qemu.mode == b"0"


def interrupting(after: int) -> Callable[[str], None]:
    """A `before` that raises KeyboardInterrupt once."""
    left = [after]

    def before(sent: str) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise KeyboardInterrupt

    return before


@pytest.mark.parametrize("after", range(7))
def test_an_interrupt_at_any_packet_leaves_the_mode_as_it_was(after: int) -> None:
    qemu = FakeQemu()
    qemu.before = interrupting(after)
    with pytest.raises(KeyboardInterrupt):
        PhysicalReader(qemu).read([(0x1000, 4096), (0x3000, 4096)])
    assert qemu.mode == b"0"


@pytest.mark.parametrize("at", range(7))
@pytest.mark.parametrize("mode", [b"0", b"1"])
def test_answers_that_fall_behind_are_an_error_and_never_memory(mode: bytes, at: int) -> None:
    """A packet that GDB sent twice is answered twice: from there on every answer is one behind."""
    qemu = FakeQemu(mode)
    count = [0]

    def before(sent: str) -> None:
        count[0] += 1
        if count[0] == at + 1:
            qemu.behind.append(qemu._answer(sent))

    qemu.before = before
    # Equal sizes: an answer to the wrong question has the right length.
    with pytest.raises(P2mError, match="out of step"):
        PhysicalReader(qemu).read([(0x1000, 4096), (0x3000, 4096)])
        PhysicalReader(qemu).read([(0x1000, 4096), (0x3000, 4096)])


def test_one_stray_answer_is_noticed_and_the_batch_read_again() -> None:
    qemu = FakeQemu()
    answers = qemu._answer
    stray = [b"00" * 0x800]

    def answer(payload: str) -> bytes:
        good = answers(payload)
        return stray.pop() if payload == "Qqemu.PhyMemMode:0" and stray else good

    qemu._answer = answer  # type: ignore[method-assign]
    assert PhysicalReader(qemu).read([(0x1000, 4096)]) == [memory(0x1000, 4096)]
    assert qemu.mode == b"0" and not stray


def test_a_mode_that_is_not_put_back_is_an_error() -> None:
    qemu = FakeQemu()
    answers = qemu._answer
    qemu._answer = lambda p: b"E22" if p == "Qqemu.PhyMemMode:0" else answers(p)  # type: ignore[method-assign]
    with pytest.raises(P2mError, match="left in physical memory mode") as caught:
        PhysicalReader(qemu).read([(0x1000, 8)])
    assert caught.value.hint is not None and "maintenance packet Qqemu.PhyMemMode:0" in caught.value.hint


@pytest.mark.parametrize("after", range(1, 7))
def test_a_lost_connection_is_one_message_that_says_how_to_restore(after: int) -> None:
    qemu = FakeQemu()
    qemu.before = lost(after)
    with pytest.raises(P2mError) as caught:
        PhysicalReader(qemu).read([(0x1000, 4096), (0x3000, 4096)])
    assert "Remote connection closed" in caught.value.message
    assert caught.value.hint is not None and "maintenance packet Qqemu.PhyMemMode:0" in caught.value.hint


def test_a_stub_without_the_mode_is_refused_before_any_read() -> None:
    qemu = FakeQemu()
    qemu._answer = lambda p: b""  # type: ignore[method-assign]
    assert not is_qemu_system(qemu)
    with pytest.raises(NotSupported, match="no physical memory mode"):
        PhysicalReader(qemu).read([(0x1000, 8)])
    assert not qemu.sent("m") and not qemu.sent("Q")


def test_an_interrupt_waits_until_the_block_ends() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        signal.raise_signal(signal.SIGINT)  # to this thread: numpy's helpers would take a process's
        reached.append(1)
    assert reached
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_round_trips_are_counted() -> None:
    counters = ReadCounters()
    qemu = CountingStub(FakeQemu(), counters)
    qemu.packet("qqemu.PhyMemMode")
    qemu.monitor("info mtree -f")
    assert counters.requests == 2


def test_an_interrupted_monitor_command_is_followed_by_getting_in_step() -> None:
    qemu = FakeQemu()
    qemu.before = interrupting(0)
    with pytest.raises(KeyboardInterrupt):
        CountingStub(qemu, ReadCounters()).monitor("info mtree -f")
    assert qemu.log[-2:] == ["qqemu.sstepbits", "qqemu.PhyMemMode"]
