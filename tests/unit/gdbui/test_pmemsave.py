"""Bulk reads by pmemsave: proved before they are believed, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdb_p2m.errors import P2mError
from gdb_p2m.gdbui import pmemsave
from gdb_p2m.gdbui.pmemsave import Pmemsave, quoted
from gdb_p2m.gdbui.stub import PhysicalReader
from support.fake_qemu import FakeQemu, lost, memory


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two directories where files may be written, instead of the machine's own."""
    found = [tmp_path / "first", tmp_path / 'se"co\\nd']
    for path in found:
        path.mkdir()
    monkeypatch.setattr(pmemsave, "directories", lambda: [str(p) for p in found])
    return found


def bulk(qemu: FakeQemu, allowed: bool = True) -> Pmemsave:
    """Pmemsave over a fake."""
    return Pmemsave(qemu, PhysicalReader(qemu), allowed)


def test_memory_comes_through_a_file_that_is_gone_afterwards(places: list[Path]) -> None:
    qemu = FakeQemu()
    data = bulk(qemu).save(0x10000, 0x9000)
    assert data is not None and bytes(data) == memory(0x10000, 0x9000)
    assert len(qemu.sent("pmemsave")) == 1
    assert not any(list(p.iterdir()) for p in places)


@pytest.mark.parametrize("what", ["error", "short", "other", "nowhere"])
def test_what_cannot_be_proved_is_not_believed_and_not_tried_again(what: str, places: list[Path]) -> None:
    qemu = FakeQemu(pmemsave=what)
    saver = bulk(qemu)
    assert saver.save(0x10000, 0x9000) is None
    assert not saver.usable and saver.why_not
    assert len(qemu.sent("pmemsave")) == 2, "once in each directory"
    assert saver.save(0x10000, 0x9000) is None
    assert len(qemu.sent("pmemsave")) == 2
    assert not any(list(p.iterdir()) for p in places)
    assert qemu.mode == b"0"


def test_a_directory_that_qemu_cannot_write_to_is_passed_over(places: list[Path]) -> None:
    qemu = FakeQemu()
    answer = qemu._save
    qemu._save = lambda a, n, p: "Error: no\r\n" if "first" in str(p) else answer(a, n, p)  # type: ignore[method-assign]
    saver = bulk(qemu)
    for _ in range(2):
        data = saver.save(0x1000, 4096)
        assert data is not None and bytes(data) == memory(0x1000, 4096)
    assert len(qemu.sent("pmemsave")) == 3
    assert '\\"co' in qemu.sent("pmemsave")[-1], "quotes in a path are escaped for the monitor"


def test_switched_off_asks_qemu_nothing() -> None:
    qemu = FakeQemu()
    saver = bulk(qemu, allowed=False)
    assert saver.save(0x1000, 4096) is None
    assert qemu.log == [] and saver.why_not == "switched off"


def test_a_lost_connection_is_an_error_not_a_reason_to_use_packets(places: list[Path]) -> None:
    qemu = FakeQemu()
    qemu.before = lost(0)
    with pytest.raises(P2mError, match="closed"):
        bulk(qemu).save(0x1000, 4096)
    assert not any(list(p.iterdir()) for p in places)


def test_an_interrupt_leaves_no_file(places: list[Path]) -> None:
    qemu = FakeQemu()

    def before(sent: str) -> None:
        if sent.startswith("m"):
            raise KeyboardInterrupt

    qemu.before = before
    with pytest.raises(KeyboardInterrupt):
        bulk(qemu).save(0x1000, 4096)
    assert not any(list(p.iterdir()) for p in places) and qemu.mode == b"0"


def test_a_path_with_a_newline_is_not_given_to_the_monitor() -> None:
    with pytest.raises(ValueError, match="cannot take the path"):
        quoted("/tmp/a\nb")
