"""The virtual address that `p2m watch` watches is that of the entry, in every era and width; what has none is refused."""

from __future__ import annotations

import pytest

from gdb_p2m.commands.base import Context
from gdb_p2m.errors import NotSupported, P2mError, UsageError
from gdb_p2m.gdbui.slot import slot_of
from gdb_p2m.mapping import Kind
from gdb_p2m.target import Target
from support.models import holed, source_of
from support.riscv import ModelSource, model

ERAS = ("tree-2.6.37", "tree-2.6.39", "tree-3.16", "tree-3.18", "linear")


def context(era: str, width: str, **damage: object) -> Context:
    return Context(Target(source_of(holed(era, width), **damage)))  # type: ignore[arg-type]


@pytest.mark.parametrize("width", ["64", "pae"])
@pytest.mark.parametrize("era", ERAS)
def test_the_virtual_address_leads_to_the_machine_address_that_was_read(era: str, width: str) -> None:
    ctx = context(era, width)
    seen = set()
    for run in ctx.views.own().mapping():
        for pfn in (run.start, run.end - 1):
            try:
                slot = slot_of(ctx, pfn)
            except (NotSupported, UsageError):
                continue
            assert ctx.guest.space.translate(slot.virtual) == slot.machine
            assert ctx.guest.space.read_word(slot.virtual, slot.width.bytes) == slot.raw
            assert slot.meaning(slot.raw).startswith(f"{slot.raw:#x}: {run.kind.word}")
            seen.add(run.kind)
    assert {Kind.MFN, Kind.MISSING, Kind.FOREIGN} <= seen


@pytest.mark.parametrize("era", ERAS)
def test_a_shared_slot_is_refused_and_names_the_page(era: str) -> None:
    ctx = context(era, "64")
    with pytest.raises(NotSupported, match=r"lies in the shared page p2m_(missing|identity), .* changes first: "):
        slot_of(ctx, 0x100000)


def test_past_the_end_and_what_cannot_be_read_have_no_slot() -> None:
    ctx = context("linear", "64")
    with pytest.raises(UsageError, match="past the end"):
        slot_of(ctx, 1 << 40)
    leaf = slot_of(ctx, 0x200).machine >> 12
    with pytest.raises(P2mError, match="no entry that can be watched: .*not in the dump"):
        slot_of(context("linear", "64", without=[leaf]), 0x200)


def test_risc_v_is_refused() -> None:
    with pytest.raises(NotSupported, match="RISC-V"):
        slot_of(Context(Target(ModelSource(model("riscv-v5").xen))), 0x80000)
