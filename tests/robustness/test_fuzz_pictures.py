"""Random damage to real memory: drawings and pages are made, say what is lacking, or are refused in words; never a traceback.

Repeatable; FUZZ_SCALE=20 does more of it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from gdb_p2m.errors import P2mError
from gdb_p2m.pictures.model import Options
from gdb_p2m.pictures.registry import picture_of
from gdb_p2m.render.picture_svg import picture_svg
from gdb_p2m.render.picture_text import picture_text
from gdb_p2m.sources.probe import open_source
from gdb_p2m.target import Target
from gdb_p2m.views.base import View
from gdb_p2m.views.registry import Views
from support.machine import Machine
from support.places import BOTH, FIXTURES, SHARED_REAL
from support.report_pages import page_of, seen

SCALE = int(os.environ.get("FUZZ_SCALE", "1"))
MEMORIES = (BOTH[0].path, FIXTURES / "xen-riscv-sv39x4.core.zst", SHARED_REAL / "linux-3.16-tree.core.zst")
VALUES = (0, 1, (1 << 64) - 1, 1 << 63, 1 << 62, 1 << 52, 1 << 40, 1 << 32, 4096, 511)


def damages(machine: Machine, count: int) -> Iterator[Machine]:
    """The machine with a few words overwritten: nonsense, frames of its own, entries that lead to them."""
    dice = random.Random(7)
    frames = machine.frames()
    for _ in range(count):
        broken = machine.copy()
        for _ in range(dice.choice((1, 4, 40))):
            address = (dice.choice(frames) << 12) + 8 * dice.randrange(512)
            frame = dice.choice(frames)
            value = dice.choice(
                (
                    *VALUES,
                    dice.getrandbits(64),
                    frame,
                    frame << 12 | 0x67,
                    frame << 10 | 1,
                    broken.u64(address) ^ 1 << 12,
                )
            )
            broken.write(address, value.to_bytes(8, "little"))
        yield broken


@pytest.mark.parametrize("path", MEMORIES, ids=lambda p: p.name.removesuffix(".core.zst"))
def test_damaged_memory_is_drawn_reported_or_refused(path) -> None:  # type: ignore[no-untyped-def]
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the checkout (../shared/real)")
    drawn = 0
    for broken in damages(Machine.of(open_source(str(path))), 6 * SCALE):
        try:
            views = Views(Target(broken.source()).domain())
            found = [v for name, v in views.available() if isinstance(v, View) and name != "core-table"]
            for view in found:
                picture = picture_of(view, Options())
                assert max(map(len, picture_text(picture, 80).splitlines())) <= 80
                assert "<script" not in picture_svg(picture)
                drawn += 1
            assert seen(page_of(broken.source()).html).data["kinds"]
        except P2mError as e:
            assert e.message
    assert drawn
