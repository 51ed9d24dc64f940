"""Cores of `xl dump-core`: pages at their machine addresses, CR3 of both word sizes, shared_info, damage."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from gdb_p2m.errors import NotFound, NotSupported, NotUnderstood, Unreadable
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.writers import image_of
from gdb_p2m.model.writers_xen import CoreOptions, domain_pages, write_xen_core
from gdb_p2m.sources.probe import open_source
from gdb_p2m.sources.xen_core import XenCoreSource
from gdb_p2m.structures.xen_pages import shared_info
from gdb_p2m.target import Target
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE
from gdb_p2m.views.core_table import CoreTableView
from gdb_p2m.views.registry import Views
from support.dump_files import all_pages, model, system_map, tiny

BOTH_WIDTHS = pytest.mark.parametrize("name", ["tiny-domu", "pae-tree-domu"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_xen_core(tmp_path / "core", tiny())
    return tmp_path / "core"


def opened(path: Path) -> XenCoreSource:
    source = open_source(str(path))
    assert isinstance(source, XenCoreSource)
    return source


def guest_of(machine: Machine, folder: Path, options: CoreOptions | None = None) -> LinuxGuest:
    write_xen_core(folder / "core", machine, options)
    names = system_map(machine, folder / "System.map")
    (guest,) = Target(open_source(str(folder / "core")), kernel=str(names)).guests
    return guest


def section(path: Path, name: str) -> tuple[int, int]:
    """(position of its header, file offset of its content)."""
    data = path.read_bytes()
    shoff, shnum, strndx = *struct.unpack_from("<Q", data, 40), *struct.unpack_from("<HH", data, 60)
    names_at = struct.unpack_from("<Q", data, shoff + 64 * strndx + 24)[0]
    for i in range(shnum):
        at = shoff + 64 * i
        offset = names_at + struct.unpack_from("<I", data, at)[0]
        if data[offset:].startswith(name.encode() + b"\0"):
            return at, struct.unpack_from("<Q", data, at + 24)[0]
    raise AssertionError(name)


def patch(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def texts(source: XenCoreSource) -> str:
    return "; ".join(text for _, text in source.info.problems)


# -- the healthy core -------------------------------------------------------------------------------------------


def test_the_format_its_version_and_what_it_loses_are_named(path: Path) -> None:
    info = opened(path).info
    assert info.format == "Xen domain core, format version 1"
    assert "4.17.0-model" in info.writer
    assert any("identity and foreign" in text for text in info.loses)
    assert info.problems == []


@BOTH_WIDTHS
def test_the_guest_is_found_through_the_vcpus_cr3(name: str, tmp_path: Path) -> None:
    machine = model(name)
    guest = guest_of(machine, tmp_path)
    assert guest.width.bits == machine.width.bits
    assert guest.root.mfn == machine.tables.root
    assert guest.id is None
    assert "CR3" in guest.root.evidence


@BOTH_WIDTHS
def test_the_views_of_the_core_are_those_of_the_whole_machine(name: str, tmp_path: Path) -> None:
    machine = model(name)
    views = Views(guest_of(machine, tmp_path))
    whole = tmp_path / "whole.elf"
    machine.write_elf(whole)
    (guest,) = Target(open_source(str(whole))).guests
    for view in ("list-list", None):
        ours, theirs = views.get(view).mapping(), Views(guest).get(view).mapping()
        assert list(ours) == list(theirs)


@BOTH_WIDTHS
def test_the_table_lists_the_frames_and_nothing_else(name: str, tmp_path: Path) -> None:
    machine = model(name)
    guest = guest_of(machine, tmp_path, CoreOptions(padding=3))
    view = Views(guest).get("core-table")
    pfns, mfns = domain_pages(machine)
    kinds, frames = view.mapping().expand(0, int(pfns.max()) + 10)
    assert np.array_equal(np.flatnonzero(kinds == Kind.MFN), pfns)
    assert np.array_equal(frames[pfns], mfns)
    assert set(np.unique(kinds).tolist()) <= {int(Kind.MFN), int(Kind.MISSING)}
    last = view.mapping().run(len(view.mapping()) - 1)
    assert last.end == view.limit == guest.width.max_p2m_pfn
    own = Views(guest).own().mapping().expand(0, machine.description.nr_pages)
    assert np.array_equal(frames[: len(own[1])][own[0] == Kind.MFN], own[1][own[0] == Kind.MFN])


def test_pfn_0_has_a_frame_and_its_trace_says_where_it_stands(path: Path, tmp_path: Path) -> None:
    view = CoreTableView(guest_of(tiny(), tmp_path))
    trace = view.trace(0)
    assert (trace.kind, trace.frame) == (Kind.MFN, tiny().frames.mfn(0))
    _, offset = section(tmp_path / "core", ".xen_p2m")
    assert f"{offset:#x}" in trace.steps[0].meaning
    lost = view.trace(0xA0)
    assert (lost.kind, lost.frame) == (Kind.MISSING, None)
    assert "identity or foreign" in lost.reason + lost.steps[0].meaning


def test_storage_counts_pairs_and_padding(tmp_path: Path) -> None:
    pfns, _ = domain_pages(tiny())
    storage = CoreTableView(guest_of(tiny(), tmp_path, CoreOptions(padding=7))).storage()
    assert [line.count for line in storage.lines[:2]] == [len(pfns), 7]
    assert storage.bytes_used == 16 * (len(pfns) + 7)


def test_shared_info_is_served_where_the_guest_maps_it(tmp_path: Path) -> None:
    guest = guest_of(tiny(), tmp_path)
    info = shared_info(guest)
    assert info.address == tiny().shared_info
    assert info.number("pfn_to_mfn_frame_list_list") == tiny().page("p2m_top_mfn")
    page = all_pages(image_of(tiny()))[tiny().shared_info >> PAGE_SHIFT]
    pages, ok = guest.source.read_pages(np.array([tiny().shared_info >> PAGE_SHIFT, tiny().frames.mfn(0)]))
    assert ok.all()
    assert np.array_equal(pages[0], page)
    assert any(e.start <= tiny().shared_info < e.end for e in guest.source.extents())


def test_shared_info_never_hides_a_page_of_the_domain(path: Path) -> None:
    source = opened(path)
    own = tiny().frames.mfn(17)
    before = bytes(source.read(own << PAGE_SHIFT, PAGE_SIZE))
    assert not source.place_shared_info(own)
    assert bytes(source.read(own << PAGE_SHIFT, PAGE_SIZE)) == before


def test_other_dumps_have_no_core_table(tmp_path: Path) -> None:
    tiny().write_elf(tmp_path / "dump")
    (guest,) = Target(open_source(str(tmp_path / "dump"))).guests
    with pytest.raises(NotFound, match=r"\.xen_p2m"):
        CoreTableView(guest)


def test_frames_outside_the_domain_say_so(path: Path) -> None:
    with pytest.raises(Unreadable, match="one domain"):
        opened(path).read(tiny().xen.m2p_first << PAGE_SHIFT, 8)


# -- damage and lies --------------------------------------------------------------------------------------------


def test_a_table_longer_than_the_pages_is_a_problem_and_the_rest_reads(tmp_path: Path) -> None:
    write_xen_core(tmp_path / "core", tiny(), CoreOptions(extra_pairs=5))
    source = opened(tmp_path / "core")
    assert "entries" in texts(source)
    _, mfns = domain_pages(tiny())
    _, ok = source.read_pages(mfns)
    assert ok.all()


def test_pairs_behind_the_last_page_are_unreadable(path: Path) -> None:
    at, _ = section(path, ".xen_pages")
    patch(path, at + 32, struct.pack("<Q", 100 * PAGE_SIZE))
    source = opened(path)
    assert "pages" in texts(source)
    _, mfns = domain_pages(tiny())
    _, ok = source.read_pages(mfns)
    assert ok.tolist() == [True] * 100 + [False] * (len(mfns) - 100)


@pytest.mark.parametrize("name", [".xen_p2m", ".xen_pages", ".xen_prstatus", ".note.Xen"])
def test_sections_past_the_end_of_the_file(path: Path, name: str) -> None:
    at, _ = section(path, name)
    patch(path, at + 24, struct.pack("<Q", 1 << 50))
    try:
        source = opened(path)
    except NotUnderstood:
        return
    assert "past the file's end" in texts(source)


def test_two_pairs_with_one_frame_are_a_problem(path: Path) -> None:
    _, offset = section(path, ".xen_p2m")
    patch(path, offset + 16 * 7 + 8, struct.pack("<Q", tiny().frames.mfn(3)))
    source = opened(path)
    assert f"MFN {tiny().frames.mfn(3):#x} more than once" in texts(source)
    first = all_pages(image_of(tiny()))[tiny().frames.mfn(3)]
    assert bytes(source.read(tiny().frames.mfn(3) << PAGE_SHIFT, PAGE_SIZE)) == first.tobytes()


def test_two_pairs_with_one_pfn_are_a_problem(path: Path) -> None:
    _, offset = section(path, ".xen_p2m")
    patch(path, offset + 16 * 7, struct.pack("<Q", 3))
    source = opened(path)
    assert "PFN 0x3 more than once" in texts(source)
    assert source.info.core_table is not None
    assert (np.diff(source.info.core_table.pfn) > 0).all()


def test_numbers_that_are_no_frames_are_a_problem(path: Path) -> None:
    _, offset = section(path, ".xen_p2m")
    patch(path, offset + 16 * 9, struct.pack("<QQ", 9, 1 << 50))
    assert ".xen_p2m[9]" in texts(opened(path))


@pytest.mark.parametrize("options", [CoreOptions(format_version=2), CoreOptions(magic=0x1234)])
def test_unknown_notes_are_a_problem(tmp_path: Path, options: CoreOptions) -> None:
    write_xen_core(tmp_path / "core", tiny(), options)
    assert "version" in texts(opened(tmp_path / "core")) or "magic" in texts(opened(tmp_path / "core"))


def test_hvm_cores_are_not_supported_with_the_reason(tmp_path: Path) -> None:
    write_xen_core(tmp_path / "core", tiny(), CoreOptions(magic=0xF00FEBEE))
    with pytest.raises(NotSupported, match="auto-translated"):
        open_source(str(tmp_path / "core"))


def test_a_core_with_xen_pfn_is_not_supported_with_the_reason(path: Path) -> None:
    _, names = section(path, ".shstrtab")
    strings = path.read_bytes()[names : names + 100]
    patch(path, names + strings.index(b".xen_p2m"), b".xen_pfn")
    with pytest.raises(NotSupported, match=r"\.xen_pfn"):
        open_source(str(path))


def test_contexts_of_another_size_are_a_problem_and_the_guest_is_found_all_the_same(tmp_path: Path) -> None:
    write_xen_core(tmp_path / "core", tiny())
    at, _ = section(tmp_path / "core", ".xen_prstatus")
    patch(tmp_path / "core", at + 32, struct.pack("<Q", 5000))
    source = opened(tmp_path / "core")
    assert "5000 bytes" in texts(source)
    names = system_map(tiny(), tmp_path / "System.map")
    (guest,) = Target(source, kernel=str(names)).guests
    assert guest.root.mfn == tiny().tables.root


@pytest.mark.parametrize("strndx", [99, 6])
def test_section_names_from_elsewhere(path: Path, strndx: int) -> None:
    patch(path, 62, struct.pack("<H", strndx))
    with pytest.raises(NotUnderstood):
        open_source(str(path))


def test_a_domain_of_scattered_frames_has_a_bounded_number_of_extents(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gdb_p2m.sources import xen_core

    monkeypatch.setattr(xen_core, "MAX_EXTENTS", 8)
    _, offset = section(path, ".xen_p2m")
    count = len(domain_pages(tiny())[0])
    pairs = np.stack((np.arange(count), 1000 + 3 * np.arange(count)), axis=1).astype("<u8")
    patch(path, offset, pairs.tobytes())
    source = opened(path)
    assert len(source.extents()) <= 8
    _, ok = source.read_pages(np.array([1000, 1001, 1003]))
    assert ok.tolist() == [True, False, True]
