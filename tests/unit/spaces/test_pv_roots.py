"""Page-table roots of PV guests: the CPU's, and when that is of no use all that a scan finds."""

from __future__ import annotations

from gdb_p2m.sources.base import CpuState
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.spaces import pv_roots
from gdb_p2m.spaces.fingerprint import OVERLAP, STEP, what_else
from gdb_p2m.target import Target
from support.machine import Healthy, Machine


def with_cr3(h: Healthy, *values: int) -> Machine:
    machine = Machine(h.machine.pieces, h.machine.copy().info)
    machine.info.cpus = [CpuState(i, {"cr3": v}) for i, v in enumerate(values)]
    return machine


def test_the_cpus_root_is_a_pv_root(either: Healthy) -> None:
    roots = list(pv_roots.from_cpus(either.source))
    cr3 = either.machine.info.cpus[0].cr3
    assert cr3 is not None and [r.mfn for r in roots] == [cr3 >> 12]
    assert f"{cr3:#x}" in roots[0].evidence and "CPU 0" in roots[0].evidence


def test_a_scan_finds_the_kernels_root_without_any_cpu(either: Healthy) -> None:
    machine = with_cr3(either)
    assert list(pv_roots.from_cpus(machine.source())) == []
    mfns = {r.mfn for r in pv_roots.from_scan(machine.source())}
    assert either.guest.root.mfn in mfns
    guest = Target(machine.source()).domain()
    assert guest.root.mfn == either.guest.root.mfn and "scan" in guest.root.evidence


def test_cr3_values_that_are_no_pv_root_lead_to_the_scan(dom0: Healthy) -> None:
    """CPU 0 in Xen, a CPU that was never started (0), one with PCID bits and nonsense above."""
    for values in ((0x1000,), (0,), (dom0.page("p2m_missing"),), ((1 << 63) | 0x1234567000,), (0, 0x1000, 1 << 51)):
        machine = with_cr3(dom0, *values)
        assert list(pv_roots.from_cpus(machine.source())) == []
        guest = Target(machine.source()).domain()
        assert guest.root.mfn == dom0.guest.root.mfn


def test_flag_bits_of_cr3_do_not_hide_the_root(dom0: Healthy) -> None:
    cr3 = dom0.machine.info.cpus[0].cr3
    assert cr3 is not None
    machine = with_cr3(dom0, cr3 | 0x18)
    assert [r.mfn for r in pv_roots.from_cpus(machine.source())] == [cr3 >> 12]


def test_a_page_that_links_to_itself_but_maps_no_kernel_is_no_root(dom0: Healthy) -> None:
    """The L4 of user mode has the same slot 258 and an empty kernel half."""
    machine = with_cr3(dom0).copy()
    page = dom0.entry(0x200) & ~0xFFF
    machine.write(page, bytes(4096))
    machine.set_u64(page + 258 * 8, page | 0x63)
    assert pv_roots.is_pv_l4(machine.source(), page >> 12)
    assert not pv_roots.maps_kernel(machine.source(), page >> 12)
    assert page >> 12 not in {r.mfn for r in pv_roots.from_scan(machine.source())}


def test_the_scan_sees_every_page_of_memory_that_begins_inside_one(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Pages at the edges of the scan's steps, in an extent that is not page-aligned."""
    monkeypatch.setattr(pv_roots, "SCAN_STEP", 4 * 4096)
    frames = range(1, 23)
    start = 0x800
    data = bytearray(23 * 4096 - start)
    for mfn in frames:
        at = (mfn << 12) + 258 * 8 - start
        data[at : at + 8] = (mfn << 12 | 1).to_bytes(8, "little")
    source = FakeSource({start: bytes(data)})
    seen = list(pv_roots._scan(source, lambda what, total: _quiet(), "", pv_roots._self_linked))
    assert seen == list(frames)


class _quiet:
    def __enter__(self):  # type: ignore[no-untyped-def]
        return lambda done: None

    def __exit__(self, *_: object) -> None:
        pass


def test_banners_are_found_also_across_the_steps_of_the_search() -> None:
    data = bytearray(STEP + 0x1000)
    banner = b"Linux version 6.1.0-56-amd64 (someone@somewhere) "
    at = STEP - 20
    data[at : at + len(banner)] = banner
    assert len(banner) < OVERLAP
    assert what_else(FakeSource({0: data})) == "; it holds the banner of Linux 6.1.0-56-amd64 but none of Xen"
    data[100:125] = b"Xen version 4.17.5 (abc@d)"[:25]
    assert what_else(FakeSource({0: data})) == "; it holds the banners of Xen 4.17.5 and Linux 6.1.0-56-amd64"
    assert "no banner" in what_else(FakeSource({0: bytes(4096)}))
