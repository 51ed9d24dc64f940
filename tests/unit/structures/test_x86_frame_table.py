"""struct page_info of x86: flags and owners of every version, the survey, and a table of a model's machine."""

from __future__ import annotations

import numpy as np
import pytest

from gdb_p2m.errors import NotFound, NotUnderstood
from gdb_p2m.layout import xen_x86 as layout
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.model.machine import Machine
from gdb_p2m.sources.base import Source
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.structures.x86_frame_table import (
    NO_OWNER,
    NOT_KNOWN,
    NoFrameTable,
    X86FrameTable,
    X86PageInfo,
    _free_marks,
    owners_of,
)
from gdb_p2m.target import Target
from gdb_p2m.units import MachineAddress, Mfn
from support.machine_of_domains import PAGES, ROOTS, STRUCT_DOMAINS, target
from support.models import source_of
from support.places import FIXTURES

ALLOCATED = layout.PGC_ALLOCATED


def record(count: int, kind: int = 0, owner: int = 0, shift: int = 58) -> X86PageInfo:
    return X86PageInfo(Mfn(1), MachineAddress(32), (0, count, kind, owner), shift)


@pytest.mark.parametrize(
    ("info", "flags", "state", "owner"),
    [
        (record(ALLOCATED | 3, 0, 0x1234), ["PGC_allocated"], "inuse", 0x1234),
        (record(ALLOCATED | 1 << 62 | 2, 0, 0x1234), ["PGC_allocated", "PGC_xen_heap"], "inuse", 0x1234),
        (record(3 << 58, 0, 7), ["PGC_state_free"], "free", 0),
        (record(ALLOCATED | 3 << 58, 0, 7), ["PGC_need_scrub", "PGC_state_free"], "free", 0),
        (record(1 << 62, 0, 7), ["PGC_xen_heap"], "inuse", 0),
        (record(2, 0, 0x1234), [], "inuse", 0x1234),
        (record(3 << 55, 0, 7, shift=55), ["PGC_state_free"], "free", 0),
        (record(ALLOCATED | 1 << 61 | 1, 0, 9, shift=55), ["PGC_allocated", "PGC_page_table"], "inuse", 9),
        (record(ALLOCATED | 1 << 58 | 1, 0, 9), ["PGC_allocated", "PGC_state_offlining"], "offlining", 9),
    ],
)  # fmt: skip
def test_count_info_in_words(info: X86PageInfo, flags: list[str], state: str, owner: int) -> None:
    assert (info.flags, info.state, info.owner) == (flags, state, owner)


def test_type_info_in_words() -> None:
    info = record(1, 0x8C00_0000_0000_0001)
    assert (info.type_name, info.type_flags, info.type_count) == (
        "PGT_l4_page_table", ["PGT_pinned", "PGT_validated"], 1,
    )  # fmt: skip


def test_the_upper_half_of_the_owners_word_belongs_to_another_member() -> None:
    assert record(ALLOCATED | 1, 0, 0x8111_0003_AA74).owner == 0x3AA74


def test_a_record_of_all_ones_is_no_frame() -> None:
    ones = np.full((1, 4), (1 << 64) - 1, dtype=np.uint64)
    assert owners_of(ones, 58).tolist() == [NOT_KNOWN] and owners_of(np.zeros((1, 4), np.uint64), 58).tolist() == [NO_OWNER]


def test_the_place_of_pgc_state_shows_in_free_frames() -> None:
    new = np.array([[0, 3 << 58, 0, 0], [0, ALLOCATED | 3 << 58, 0, 0], [0, ALLOCATED | 1, 0, 5]], dtype=np.uint64)
    old = np.array([[0, 3 << 55, 0, 0], [0, ALLOCATED | 2, 0, 5]], dtype=np.uint64)
    assert _free_marks(new) == [2, 0] and _free_marks(old) == [0, 1]


# -- a real table, of which an excerpt holds a part -------------------------------------------------------------


def test_the_census_of_a_real_machine() -> None:
    table = target().hypervisor.frames
    assert table.state_shift == 58
    for domain, frame in STRUCT_DOMAINS.items():
        counted = table.survey.census[frame]
        assert counted.pages == PAGES[domain] == sum(counted.types.values())
        mine = table.survey.root_owners == frame
        assert ROOTS[domain] in table.survey.roots[mine].tolist()


def test_records_one_by_one_and_in_bulk_are_the_same() -> None:
    table = target().hypervisor.frames
    mfns = np.array([*ROOTS.values(), *ROOTS.values(), 0x7FFFFF, -1], dtype=np.int64)
    records, ok = table.records(mfns)
    assert ok.tolist() == [True] * 8 + [False] * 2
    for mfn, raw in zip(mfns[:8].tolist(), records[:8].tolist(), strict=True):
        assert table.read(mfn).raw == tuple(raw)
    owners, _ = table.owners(mfns[:4])
    assert owners.tolist() == list(STRUCT_DOMAINS.values())


def test_runs_of_owners_cover_what_could_be_read_without_overlap() -> None:
    survey = target().hypervisor.frames.survey
    assert (survey.start[1:] >= survey.start[:-1] + survey.count[:-1]).all() and (survey.count > 0).all()
    end = target().hypervisor.frames.end
    assert int(survey.count.sum()) + survey.unread <= end


def test_a_frame_past_the_table_is_an_error_that_says_where_it_ends() -> None:
    with pytest.raises(NotUnderstood, match="the machine's frames end at 0x7ffff"):
        target().hypervisor.frames.read(1 << 30)


# -- the model ------------------------------------------------------------------------------------------------


def made() -> Machine:
    path = FIXTURES / "models" / "frame-table-domu.model"
    return build(parse(path.read_text(), path.name))


def test_a_models_domains_and_the_owners_of_its_foreign_frames() -> None:
    on = Target(source_of(made()))
    xen = on.hypervisor
    assert [(d.id, d.kind, d.census.pages, d.problems) for d in xen.domains.guests] == [
        (8, "pv", 12_000, []), (9, "not pv", 8, []),
    ]  # fmt: skip
    owner = xen.owner(0x5003)
    assert on.domain(8) is on.guests[0] and owner is not None and owner.id == 9


def test_a_model_without_a_frame_table_has_none() -> None:
    with pytest.raises(NoFrameTable, match="is not mapped"):
        _ = Target(source_of(build(parse("guest plain\nera linear\nnr_pages 8192\n", "plain")))).hypervisor


def test_a_table_that_is_mapped_but_not_there_is_said_to_be_missing() -> None:
    machine = made()
    source: Source = source_of(machine)
    space = Target(source).guests[0].space
    table = X86FrameTable(space, 1 << 20)
    assert table.survey.census
    with pytest.raises(NotFound, match="none of its pages is in the dump"):
        X86FrameTable(_without(source, space, table), 1 << 20)


def _without(source: Source, space, table: X86FrameTable):  # type: ignore[no-untyped-def]
    from support.machine import Lacking

    frames = {int(f) for _, part in table._page_frames() for f in part if f >= 0}
    return VirtualSpace(Lacking(source, frames), space.shape, space.root)


def test_page_tables_that_map_one_page_over_and_over_end_in_an_error() -> None:
    """Every L3 slot of the table's part of the L4 led to one L2: 512 GiB of records out of a few MiB."""
    machine = made()
    source = source_of(machine)
    space = Target(source).guests[0].space
    l3_step, pieces = 1 << 30, machine.pieces()
    walk = space.walk(layout.FRAMETABLE_VIRT)
    first = walk.steps[1]
    assert first.level.name == "L3"
    at = int(first.address)
    writable = {start: bytearray(data) for start, data in pieces.items()}
    data, base = next((d, s) for s, d in writable.items() if s <= at < s + len(d))
    for i in range(64):
        data[at - base + i * 8 : at - base + i * 8 + 8] = int(first.pte.raw).to_bytes(8, "little")
    hostile = FakeSource({s: bytes(d) for s, d in writable.items()})
    table = X86FrameTable(VirtualSpace(hostile, space.shape, space.root), 64 * l3_step // layout.PAGE_INFO_SIZE)
    with pytest.raises(NotUnderstood, match="more pages than the memory has"):
        _ = table.survey
