"""The same guest through every format: equal maps, equal to what the model says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.model.machine import Machine
from gdb_p2m.target import Target
from gdb_p2m.views.registry import Views
from support.dump_files import FORMATS, Writer, model, system_map

GUESTS = ("tiny-domu", "pae-tree-domu")


@pytest.fixture(scope="module", params=GUESTS)
def machine(request: pytest.FixtureRequest) -> Machine:
    return model(request.param)


@pytest.mark.thorough
@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_the_map_is_the_models(machine: Machine, write: Writer, tmp_path: Path) -> None:
    written = write(tmp_path, machine)
    source = written.open()
    names = system_map(machine, tmp_path / "System.map")
    target = Target(source, kernel=str(names))
    (guest,) = target.guests
    views = Views(guest)
    truth = machine.truth()
    assert _words(views.own().mapping()) == truth.words()
    assert _words(views.get("list-list").mapping()) == machine.list_list_truth().words()
    assert guest.width.bits == machine.width.bits
    target.close()


def _words(mapping: Mapping) -> list[tuple[int, int, str, int | None]]:
    assert Kind.UNREADABLE not in mapping.totals()
    return [(r.start, r.count, r.kind.word, r.frame) for r in mapping]
