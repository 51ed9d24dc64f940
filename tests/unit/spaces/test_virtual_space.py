"""Virtual addresses of a real dom0: translation, reads across pages, errors that name what failed."""

from __future__ import annotations

import numpy as np
import pytest

from gdb_p2m.errors import NotUnderstood, Untranslatable
from gdb_p2m.layout.pagetables import X86_64_4LEVEL
from gdb_p2m.spaces.radix import Status
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.units import MachineAddress
from support.machine import Healthy


def test_variables_are_where_the_symbols_say(dom0: Healthy) -> None:
    space = dom0.guest.space
    address = dom0.guest.names.require("xen_p2m_addr").address
    assert space.read_word(address) == 0xFFFFC90000000000
    assert space.translate(address) % 4096 == address % 4096
    assert space.maps(address) and not space.maps(0xFFFF_9000_0000_0000_0000)


def test_a_read_crosses_pages_that_are_not_neighbours(dom0: Healthy) -> None:
    """Two list pages that follow each other in the list but not in the machine."""
    space, base = dom0.guest.space, dom0.guest.variable("xen_p2m_addr")
    frames = [space.translate(base + i * 4096) >> 12 for i in range(8)]
    assert any(b != a + 1 for a, b in zip(frames, frames[1:], strict=False))
    whole = space.read(base + 100, 7 * 4096)
    parts = b"".join(bytes(dom0.source.read(f << 12, 4096)) for f in frames)
    assert whole == parts[100 : 100 + 7 * 4096]


def test_a_walk_keeps_its_steps_also_when_it_fails(dom0: Healthy) -> None:
    space = dom0.guest.space
    good = space.walk(dom0.guest.variable("xen_p2m_addr"))
    assert [s.level.name for s in good.steps] == ["L4", "L3", "L2", "L1"]
    assert all(dom0.source.read_u64(s.address) == s.pte.raw for s in good.steps)
    with pytest.raises(Untranslatable) as error:
        space.walk(0x80_0000_0000)  # the slot of the builder's list, cleared since
    assert not error.value.unreadable and error.value.steps
    with pytest.raises(Untranslatable, match="not canonical"):
        space.walk(0x8000_0000_0000)


def test_a_missing_table_is_unreadable_not_unmapped(dom0: Healthy) -> None:
    address = dom0.guest.variable("xen_p2m_addr")
    table = dom0.guest.space.walk(address).steps[2].table
    lacking = VirtualSpace(dom0.machine.without(table >> 12), X86_64_4LEVEL, dom0.guest.space.root)
    with pytest.raises(Untranslatable) as error:
        lacking.translate(address)
    assert error.value.unreadable and len(error.value.steps) == 2
    assert f"{table:#x}" in error.value.message and "not in the dump" in error.value.message
    assert not lacking.maps(address)


def test_errors_at_a_symbol_name_it(dom0: Healthy) -> None:
    with pytest.raises(NotUnderstood, match="symbol p2m_nothing at 0x1000 cannot be read") as error:
        dom0.guest.space.read_named("p2m_nothing", 0x1000)
    assert error.value.hint and "symbols" in error.value.hint


def test_many_addresses_at_once_are_the_single_ones(dom0: Healthy) -> None:
    space, base = dom0.guest.space, dom0.guest.variable("xen_p2m_addr")
    addresses = np.array(
        [base, base + 8 * 0x200, base + 8 * 0x7000000, 0x1000, 0xFFFF800000000000, 1 << 47, base + 4095],
        dtype=np.uint64,
    )
    found = space.translate_many(addresses)
    for address, frame, status in zip(addresses.tolist(), found.frame.tolist(), found.status.tolist(), strict=True):
        try:
            assert (space.translate(address) >> 12, Status.OK) == (frame, status)
        except Untranslatable:
            assert frame == -1 and status != Status.OK


def test_translations_are_kept_but_not_without_bound(dom0: Healthy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gdb_p2m.spaces.virtual.MAX_CACHED", 2)
    source = dom0.machine.source()
    space = VirtualSpace(source, X86_64_4LEVEL, MachineAddress(dom0.guest.space.root))
    base = dom0.guest.variable("xen_p2m_addr")
    first = [space.translate(base + i * 4096) for i in range(5)]
    reads = source.counters.requests
    assert [space.translate(base + i * 4096) for i in range(5)] == first
    assert source.counters.requests - reads == 3 * 4, "two of five were remembered"
