"""start_info, shared_info and Xen's M2P of real dom0s; records that keep their address; hostile text."""

from __future__ import annotations

import numpy as np
import pytest

from gdb_p2m.errors import NotFound, NotUnderstood
from gdb_p2m.layout.x86_pv import START_INFO_32, START_INFO_64
from gdb_p2m.structures.m2p import M2p, meaning
from gdb_p2m.structures.record import parse
from gdb_p2m.structures.xen_pages import flag_names, shared_info, start_info, unfold_cr3
from gdb_p2m.target import Target
from gdb_p2m.units import MachineAddress
from support.faults import foreign_frame, mfn_of
from support.machine import Healthy


def test_start_info_of_a_real_dom0(either: Healthy) -> None:
    info = start_info(either.guest)
    assert info.text("magic").startswith("xen-3.0-x86_64")
    assert info.number("nr_pages") == either.truth.nr_pages
    assert info.number("mfn_list") == either.guest.variable("xen_p2m_addr")
    assert info.number("shared_info") == shared_info(either.guest).address
    assert info.virtual == either.guest.variable("xen_start_info")
    assert "console=hvc0" in info.text("cmd_line")
    assert "SIF_INITDOMAIN" in flag_names(info.number("flags"))
    assert either.source.read_u64(info.address_of("nr_pages")) == either.truth.nr_pages


def test_shared_info_of_a_real_dom0(either: Healthy) -> None:
    info = shared_info(either.guest)
    assert info.number("pfn_to_mfn_frame_list_list") == either.guest.page_of("p2m_top_mfn")
    assert info.number("max_pfn") in (
        either.guest.variable("xen_p2m_last_pfn"),
        either.guest.variable("xen_p2m_last_pfn") - 1,
    )
    assert unfold_cr3(info.number("p2m_cr3"), 64) == either.guest.root.mfn
    assert info.number("p2m_vaddr") == either.guest.variable("xen_p2m_addr")


def test_a_pointer_into_nowhere_names_structure_pointer_and_address(dom0: Healthy) -> None:
    machine = dom0.machine.copy()
    machine.set_u64(dom0.at("xen_start_info"), 0xFFFF_8880_DEAD_0000)
    guest = Target(machine.source()).domain()
    with pytest.raises(NotUnderstood, match="struct start_info: xen_start_info = 0xffff8880dead0000") as error:
        start_info(guest)
    assert error.value.hint and guest.id is None and "not known" in guest.id_evidence


def test_flags_in_words() -> None:
    assert flag_names(0) == "none"
    assert flag_names(0b11) == "SIF_PRIVILEGED | SIF_INITDOMAIN"
    assert flag_names(0x310) == "SIF_VIRT_P2M_4TOOLS | SIF_PM_MASK=3"
    assert flag_names(1 << 20) == "0x100000"


def test_cr3_of_32_bit_guests_is_folded() -> None:
    assert unfold_cr3(0x12345678 << 12, 64) == 0x12345678
    assert unfold_cr3(0x00345678_000 & 0xFFFFFFFF | 0x0, 32) == 0x45678 | 0
    frame = 0x123456
    folded = (frame << 12 | frame >> 20) & 0xFFFFFFFF
    assert unfold_cr3(folded, 32) == frame


@pytest.mark.parametrize("layout", [START_INFO_64, START_INFO_32], ids=["64", "32"])
def test_fields_lie_inside_their_structure_and_apart(layout) -> None:  # type: ignore[no-untyped-def]
    size = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
    end = 0
    for f in layout.fields:
        assert f.offset >= end, f.name
        end = f.offset + (int(f.kind[4:]) if f.kind.startswith("char") else size[f.kind])
    assert end <= layout.size


def test_text_of_a_dump_cannot_carry_control_characters() -> None:
    data = bytearray(START_INFO_64.size)
    data[0:32] = b"xen\x1b[31m\x07\xff" + b"\0" + b"hidden".ljust(21, b"\0")
    data[128:1152] = b"A" * 1024  # without a NUL
    record = parse(START_INFO_64, bytes(data), MachineAddress(0x1000))
    assert record.text("magic") == "xen\\x1b[31m\\x07\\xff"
    assert record.text("cmd_line") == "A" * 1024
    assert record.address_of("flags") == 0x1000 + 48


def test_m2p_leads_back_from_every_frame(either: Healthy) -> None:
    table = either.m2p
    assert table.limit == either.truth.machine_frames and table.unread == 0
    for pfn in (0, 0x200, 0x300, either.truth.nr_pages - 1):
        mfn = mfn_of(either, pfn)
        entry = table.entry(mfn)
        assert entry.pfn == pfn and entry.meaning == f"PFN {pfn:#x}"
        assert either.source.read_u64(entry.address) == pfn
        values, ok = table.lookup(np.array([mfn, mfn], dtype=np.int64))
        assert values.tolist() == [pfn, pfn] and ok.all()


def test_m2p_of_frames_that_are_not_there(dom0: Healthy) -> None:
    table = dom0.m2p
    for mfn in (dom0.truth.machine_frames, 1 << 40, 1 << 70):
        with pytest.raises(NotFound, match="past the M2P"):
            table.entry(mfn)
    values, ok = table.lookup(np.array([dom0.truth.machine_frames, 1 << 40], dtype=np.int64))
    assert not ok.any() and (values == np.uint64(2**64 - 1)).all()


def test_m2p_entries_in_words() -> None:
    assert meaning(2**64 - 1) == "INVALID_M2P_ENTRY" and meaning(2**64 - 2) == "SHARED_M2P_ENTRY"
    assert meaning(1 << 63) == "not valid (top bit set)" and meaning(0) == "PFN 0x0"
    assert meaning(2**32 - 1, 32) == "INVALID_M2P_ENTRY"


def test_missing_pages_of_the_m2p_are_counted_and_the_rest_is_read(dom0: Healthy) -> None:
    lost = [dom0.m2p_entry(0x30100) >> 12, dom0.m2p_entry(0x100) >> 12]
    table = M2p(Target(dom0.machine.without(*lost)).domain())  # type: ignore[arg-type]
    assert table.unread == 2 * 512
    frames = np.arange(dom0.truth.machine_frames, dtype=np.int64)
    values, ok = table.lookup(frames)
    whole, _ = dom0.m2p.lookup(frames)
    assert np.count_nonzero(~ok) == 1024 and not ok[0x30100] and not ok[0x100]
    assert np.array_equal(values[ok], whole[ok])


def test_a_frame_of_another_domain_is_in_no_entry(dom0: Healthy) -> None:
    mfn = foreign_frame(dom0)
    assert [r for r in dom0.views.own().mapping().reverse(mfn) if r.kind.word == "mfn"] == []
