"""Which machine addresses are RAM, from QEMU's own text."""

from __future__ import annotations

import pytest

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.gdbui.mtree import ram_extents
from gdb_p2m.sources.base import Extent
from support.fake_qemu import MTREE, RAM

Q35 = """\
FlatView #0
 AS "cpu-smm-0", root: memory
 Root memory region: memory
  0000000000000000-00000000bfffffff (prio 0, ram): wrong.view

FlatView #1
 AS "memory", root: system
 AS "virtio-net-pci", root: bus master container
 Root memory region: system
  0000000000000000-000000007fffffff (prio 0, ram): pc.ram KVM
  0000000080000000-000000008fffffff (prio 0, nv-ram): pmem
  00000000b0000000-00000000bfffffff (prio 0, i/o): pcie-mmcfg-mmio
  00000000fd000000-00000000fdffffff (prio 1, ramd): vga.vram
  00000000ffc00000-00000000ffffffff (prio 0, romd): system.flash0
  0000000100000000-000000017fffffff (prio 0, ram): pc.ram @0000000080000000 KVM
"""


def test_ram_and_rom_that_touch_are_one_extent() -> None:
    assert ram_extents(MTREE) == tuple(Extent(a, b) for a, b in RAM)


def test_carriage_returns_of_the_monitor_do_no_harm() -> None:
    assert ram_extents(MTREE.replace("\n", "\r\n")) == tuple(Extent(a, b) for a, b in RAM)


def test_only_what_a_dump_holds_counts_flash_device_memory_and_pmem_do_not() -> None:
    assert ram_extents(Q35) == (Extent(0, 0x8000_0000), Extent(0x1_0000_0000, 0x1_8000_0000))


@pytest.mark.parametrize(
    "text",
    ["", "unknown command: 'info mtree -f'\r\n", MTREE.replace('"memory"', '"other"'), Q35.replace("ram", "i/o")],
)
def test_a_text_without_ram_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(NotUnderstood) as caught:
        ram_extents(text)
    assert (text.split() or ["nothing"])[0] in caught.value.message
    assert caught.value.hint is not None and "p2m open" in caught.value.hint
