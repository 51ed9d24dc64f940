"""Finding the page table of a 32-bit PV guest in the memory of a 64-bit machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdb_p2m.errors import NotFound
from gdb_p2m.layout.pagetables import I386_PAE, X86_64_4LEVEL
from gdb_p2m.layout.x86_pv import LINEAR_PT_SLOT, WIDTH_32
from gdb_p2m.mapping import Kind
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.structs import fold_cr3
from gdb_p2m.sources.base import CpuState
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.spaces import pv_roots
from gdb_p2m.target import Target
from gdb_p2m.units import PAGE_SHIFT
from gdb_p2m.views.linear import linear_view
from support.models import guest_of, holed, source_of

FREE = 0x7FFFF
"""A frame that no model machine here uses."""


@pytest.fixture(scope="module")
def machine() -> Machine:
    return holed("linear", "pae")


def with_l4(machine: Machine, l3: int, *, cpu: bool) -> FakeSource:
    """The machine as a 64-bit Xen runs it: its own L4, linked to itself, with the guest's L3 in slot 0."""
    source = source_of(machine, cr3=FREE << PAGE_SHIFT if cpu else 0)
    words = np.zeros(512, dtype=np.uint64)
    words[0] = l3 << PAGE_SHIFT | 0x27
    words[LINEAR_PT_SLOT] = 0x8000_0000_0000_0063 | FREE << PAGE_SHIFT
    pieces: dict[int, bytes | bytearray] = dict(source._pieces)
    pieces[FREE << PAGE_SHIFT] = words.tobytes()
    made = FakeSource(pieces)
    made.info = source.info
    return made


def decoded(source: FakeSource, machine: Machine) -> str:
    """How the root was found, after its map was checked against the model's."""
    (guest,) = Target(source).guests
    assert guest.root.shape is I386_PAE and guest.width.bits == 32
    totals = linear_view(guest).mapping().totals()
    truth = machine.truth()
    assert totals[Kind.MFN] == int(truth.count[truth.kind == 0].sum())
    return guest.root.evidence


def test_a_plain_cr3_names_the_l3(machine: Machine) -> None:
    evidence = decoded(source_of(machine), machine)
    assert f"CR3 {machine.cr3:#x} of CPU 0" in evidence and "folded" not in evidence


def test_xens_l4_of_a_32_bit_cpu_leads_to_the_l3_in_slot_0(machine: Machine) -> None:
    """Seen: Xen 4.16 with a Linux 4.9 PAE dom0. QEMU's note has the physical CPU's CR3, which is that L4."""
    evidence = decoded(with_l4(machine, machine.tables.root, cpu=True), machine)
    assert "whose slot 0 leads to the L3 of a 32-bit guest" in evidence and "CR3" in evidence


def test_without_cpu_notes_a_scan_finds_the_l4(machine: Machine) -> None:
    evidence = decoded(with_l4(machine, machine.tables.root, cpu=False), machine)
    assert "scan" in evidence and "slot 258" in evidence


def test_without_an_l4_a_scan_finds_the_l3_itself(machine: Machine) -> None:
    assert "an L3 of four entries" in decoded(source_of(machine, cr3=0), machine)


def test_a_folded_cr3_names_an_l3_above_4_gib(machine: Machine) -> None:
    """The low 12 bits of a 32-bit CR3 carry the frame's high part (xen_pfn_to_cr3)."""
    high = 0x12_3456
    source = source_of(machine, cr3=fold_cr3(high, WIDTH_32))
    pieces: dict[int, bytes | bytearray] = dict(source._pieces)
    pieces[high << PAGE_SHIFT] = pieces.pop(machine.cr3)
    moved = FakeSource(pieces)
    moved.info = source.info
    (guest,) = Target(moved).guests
    assert guest.width.bits == 32 and "folded" in guest.root.evidence


@given(st.integers(0, (1 << 32) - 1))
def test_folding_loses_nothing(mfn: int) -> None:
    assert pv_roots.unfold_cr3(fold_cr3(mfn, WIDTH_32)) == mfn


def test_a_64_bit_l4_is_never_taken_for_an_l3() -> None:
    machine = holed("linear", "64")
    source = source_of(machine)
    assert not pv_roots.is_pae_l3(source, machine.tables.root)
    (guest,) = Target(source).guests
    assert guest.root.shape is X86_64_4LEVEL and guest.width.bits == 64


def test_four_entries_that_map_no_kernel_are_no_root(machine: Machine) -> None:
    source = source_of(machine, cr3=FREE << PAGE_SHIFT)
    pieces = dict(source._pieces)
    empty = FREE + 1
    words = np.zeros(512, dtype=np.uint64)
    words[:4] = empty << PAGE_SHIFT | 0x27
    pieces[FREE << PAGE_SHIFT] = words.tobytes()
    pieces[empty << PAGE_SHIFT] = bytes(4096)
    made = FakeSource({a: b for a, b in pieces.items() if a >> PAGE_SHIFT in (FREE, empty)})
    made.info = source.info
    assert pv_roots.is_pae_l3(made, FREE)
    assert list(pv_roots.from_cpus(made)) == [] and list(pv_roots.from_scan(made)) == []
    with pytest.raises(NotFound):
        _ = Target(made).guests


@pytest.mark.parametrize("slot", [4, 100, 511])
def test_a_page_with_a_fifth_entry_is_no_l3(machine: Machine, slot: int) -> None:
    source = source_of(machine)
    page = bytearray(source.read(machine.cr3, 4096))
    page[slot * 8] = 0x67
    assert pv_roots.is_pae_l3(source, machine.tables.root)
    assert not pv_roots.is_pae_l3(FakeSource({machine.cr3: page}), machine.tables.root)


def test_the_kernels_own_table_replaces_a_processs(machine: Machine) -> None:
    """A process has the same kernel through L2s of its own: known by the text's page table."""
    source = source_of(machine)
    pieces: dict[int, bytes | bytearray] = dict(source._pieces)
    own = np.frombuffer(source.read(machine.cr3, 4096), dtype=np.uint64).copy()
    l2 = int(own[3]) >> PAGE_SHIFT & 0xFFFFF
    own[3] = FREE + 1 << PAGE_SHIFT | 0x27
    pieces[FREE << PAGE_SHIFT] = own.tobytes()
    pieces[FREE + 1 << PAGE_SHIFT] = bytes(source.read(l2 << PAGE_SHIFT, 4096))
    made = FakeSource(pieces)
    made.info = source.info
    made.info.cpus = [CpuState(0, {"cr3": FREE << PAGE_SHIFT})]
    (guest,) = Target(made).guests
    assert guest.root.mfn == machine.tables.root and "swapper_pg_dir" in guest.root.evidence
    process, kernel = (pv_roots.Root(m, "", I386_PAE) for m in (FREE, machine.tables.root))  # type: ignore[arg-type]
    assert pv_roots.kernel_mark(made, process) == pv_roots.kernel_mark(made, kernel) is not None


def test_a_kernel_root_of_other_symbols_is_not_used(machine: Machine) -> None:
    """swapper_pg_dir of another kernel points anywhere: the CPU's table stays, and that is said."""
    other = holed("linear", "pae")
    source = source_of(other)
    note = next(n for n in source.info.notes if n.name == "VMCOREINFO")
    wrong = note.desc.replace(
        f"SYMBOL(swapper_pg_dir)={other.symbols['swapper_pg_dir']:x}".encode(),
        f"SYMBOL(swapper_pg_dir)={other.symbols['_text']:x}".encode(),
    )
    assert wrong != note.desc
    source.info.notes = [type(note)(note.name, note.type, wrong)]
    (guest,) = Target(source).guests
    assert guest.root.mfn == other.tables.root and "CR3" in guest.root.evidence
    assert any("another kernel" in n for n in guest.names.notes)


def test_an_excerpt_may_lack_the_page_table_of_the_kernels_text(machine: Machine) -> None:
    """It is not missing from the guest, only from the dump."""
    text = guest_of(machine).space.walk(pv_roots.kernel_text(I386_PAE)).steps[-1].table >> PAGE_SHIFT
    source = source_of(machine, without=[text])
    assert pv_roots.maps_kernel(source, machine.tables.root, I386_PAE)
