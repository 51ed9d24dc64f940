"""What the verbs look at: the open dump, else the live machine as long as it stands still."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdb_p2m.errors import P2mError
from gdb_p2m.gdbui.session import Machine, Session
from gdb_p2m.sources.fake import FakeSource
from support.places import DOM0


class Live:
    """A live machine whose state a test changes."""

    def __init__(self) -> None:
        self.state = "paused 1"
        self.made = 0

    def make(self) -> Machine:
        """A new look at it."""
        self.made += 1
        return Machine(FakeSource({0: bytes(4096)}))

    def session(self) -> Session:
        """A session over it."""
        return Session(self.make, lambda: self.state)


def test_a_machine_that_stands_still_is_looked_at_once() -> None:
    live = Live()
    session = live.session()
    assert session.machine() is session.machine()
    assert live.made == 1


def test_a_machine_that_has_run_is_looked_at_anew() -> None:
    live = Live()
    session = live.session()
    first = session.machine()
    live.state = "paused 2"
    assert session.machine() is not first
    session.drop_live()
    session.machine()
    assert live.made == 3


def test_an_open_dump_comes_before_the_live_machine_until_it_is_closed() -> None:
    live = Live()
    session = live.session()
    running = session.machine()
    dump = session.open(str(DOM0.path))
    assert session.machine() is dump
    assert session.close_dump() and not session.close_dump()
    assert session.machine() is running


def test_a_dump_that_cannot_be_opened_leaves_the_open_one_alone(tmp_path: Path) -> None:
    session = Live().session()
    dump = session.open(str(DOM0.path))
    with pytest.raises(P2mError):
        session.open(str(tmp_path / "none"))
    with pytest.raises(P2mError, match="vmlinux: cannot be read"):
        session.open(str(DOM0.path), kernel=str(tmp_path / "vmlinux"))
    assert session.machine() is dump
    assert dump.source.read(dump.source.extents()[0].start, 8)


def test_decoding_is_kept_between_verbs_and_timing_starts_again() -> None:
    machine = Live().session().open(str(DOM0.path))
    target = machine.target(None, None)
    with target.timing.stage("x"):
        machine.context(target, None).views.own().mapping()
    assert machine.source.counters.pages > 0
    again = machine.target(None, None)
    assert again is target and again.timing.stages == [] and machine.source.counters.pages == 0
    assert machine.context(again, None) is machine.context(again, None)
    machine.context(again, None).views.own().mapping()
    assert machine.source.counters.pages == 0


def test_other_symbol_files_are_another_target() -> None:
    machine = Live().session().open(str(DOM0.path), kernel=str(DOM0.path))
    assert machine.kernel == str(DOM0.path)
    assert machine.target("/other", None) is not machine.target(None, None)
    assert machine.target("/other", None).kernel_path == "/other"


def test_after_an_error_in_the_middle_nothing_half_decoded_is_used() -> None:
    machine = Live().session().open(str(DOM0.path))
    target = machine.target(None, None)
    context = machine.context(target, None)
    machine.forget(target)
    assert machine.target(None, None) is not target
    assert machine.context(machine.target(None, None), None) is not context


def test_symbols_for_completion_are_collected_once() -> None:
    machine = Live().session().open(str(DOM0.path))
    target = machine.target(None, None)
    names = machine.symbol_names(target)
    assert "xen_p2m_addr" in names and machine.symbol_names(target) is names
