"""The machine agrees with itself: what it built, what its hardware answered, what is in its memory.

Nothing here uses the decoder: these tests say that the oracle may be believed.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from .conftest import built
from .core import Core
from .machine import Machine, MachineError
from .report import Answer, Domain, Leaves, Probe, Report
from .stub import Stub

pytestmark = pytest.mark.riscv

FETCH_GUEST_FAULT, LOAD_GUEST_FAULT, STORE_GUEST_FAULT = 20, 21, 23
FETCH_PAGE_FAULT = 12
ALL_ONES = (1 << 64) - 1
EXECUTABLE, WRITABLE = {"ram_rw"}, {"ram_rw", "mmio_direct_io", "map_foreign_rw"}
RSW = {"ram_rw": 1, "mmio_direct_io": 2, "map_foreign_rw": 3, "map_foreign_ro": 3}
SLOT = {"map_foreign_rw": 4, "map_foreign_ro": 5}
RISCV_PPN = (1 << 44) - 1


def sound_probes(report: Report, domain: int) -> list[Probe]:
    """The domain's probes, those of the root's upper half by their sign-extended alias where QEMU needs it."""
    aliases = {p.gfn: p for p in report.uart_probes(domain, alias=True)}
    signed = takes_gpas_for_signed(report)
    return [aliases[p.gfn] if signed and p.gfn in aliases else p for p in report.uart_probes(domain)]


def takes_gpas_for_signed(report: Report) -> bool:
    """QEMU 7.2 sign-extends guest physical addresses: an upper-half mapping answers only at its alias."""
    upper = [p for p in report.uart_probes(1) if report.intended(1, p.gfn) and p.gfn >= report.gfn_limit // 2]
    return all(p.read.cause for p in upper)


def mapped(report: Report) -> Iterator[tuple[Probe, Leaves, int]]:
    """(probe, leaves, intended MFN) for every probe of a mapped page, of all domains."""
    for domain in report.domains:
        for probe in sound_probes(report, domain.id):
            if found := report.intended(domain.id, probe.gfn):
                yield probe, *found


def in_ram(report: Report, mfn: int) -> bool:
    """Whether the frame holds a stamp (frames below RAM are a bus without devices)."""
    return report.header["start_page"] <= mfn < report.header["max_page"]


def test_every_mapped_page_reads_its_own_frame_number(machine: Machine) -> None:
    report = machine.report
    wrong = [
        (probe, f"{mfn:#x}")
        for probe, _, mfn in mapped(report)
        if probe.read.value != (mfn if in_ram(report, mfn) else ALL_ONES)
    ]
    assert not wrong
    proved = sum(in_ram(report, mfn) for _, _, mfn in mapped(report))
    assert proved > 1500


def test_every_hole_faults_for_all_accesses(machine: Machine) -> None:
    report = machine.report
    holes = [
        p for d in report.domains for p in sound_probes(report, d.id) if report.intended(d.id, p.gfn) is None
    ]
    assert len(holes) > 800
    assert {p.read.cause for p in holes} == {LOAD_GUEST_FAULT}
    assert {p.write.cause for p in holes} == {STORE_GUEST_FAULT}
    assert {p.run.cause for p in holes} == {FETCH_GUEST_FAULT}
    assert {p.hlvx.cause for p in holes} <= {LOAD_GUEST_FAULT, FETCH_PAGE_FAULT}


def test_the_type_decides_who_may_write(machine: Machine) -> None:
    report = machine.report
    for probe, leaves, mfn in mapped(report):
        if leaves.type in WRITABLE:
            assert probe.write == Answer(word="ok" if in_ram(report, mfn) else "same"), probe
        else:
            assert probe.write == Answer(cause=STORE_GUEST_FAULT), probe


def test_a_guest_can_run_only_in_ram_and_sees_its_own_frame(machine: Machine) -> None:
    for probe, leaves, mfn in mapped(machine.report):
        expected = Answer(value=mfn) if leaves.type in EXECUTABLE else Answer(cause=FETCH_GUEST_FAULT)
        assert probe.run == expected, probe


def test_hlvx_obeys_x_always_or_never(machine: Machine) -> None:
    """QEMU 7.2 never does; QEMU 10 does, with the fetch's cause 12 where the specification wants 21."""
    allowed: Counter[bool] = Counter()
    for probe, leaves, mfn in mapped(machine.report):
        low = (mfn if in_ram(machine.report, mfn) else ALL_ONES) & 0xFFFF
        if leaves.type in EXECUTABLE:
            assert probe.hlvx == Answer(value=low), probe
        elif probe.hlvx.cause is None:
            assert probe.hlvx == Answer(value=low), probe
            allowed[True] += 1
        else:
            assert probe.hlvx.cause in (LOAD_GUEST_FAULT, FETCH_PAGE_FAULT), probe
            allowed[False] += 1
    assert len(allowed) == 1


def test_the_upper_half_of_the_root_answers_somewhere(machine: Machine) -> None:
    """At the address itself, or (QEMU 7.2) only at its sign-extended alias; never at both, never at none."""
    report = machine.report
    aliases = {p.gfn: p for p in report.uart_probes(1, alias=True)}
    upper = [p for p in report.uart_probes(1) if p.gfn in aliases and report.intended(1, p.gfn)]
    assert len(upper) > 20
    assert {(p.read.cause is None, aliases[p.gfn].read.cause is None) for p in upper} in (
        {(True, False)},
        {(False, True)},
    )


def test_every_leaf_was_asked_at_both_ends(machine: Machine) -> None:
    """All but the 2 MiB leaves of RAM above 3 GiB, of which every 16th holds stamps, and the UART."""
    report = machine.report
    high = 0xC0000
    for domain in report.domains:
        asked = {p.gfn for p in report.uart_probes(domain.id)}
        for run in (r for r in report.leaves if r.domain == domain.id):
            for i in range(run.count):
                gfn, mfn = run.gfn + (i << run.order), run.mfn + (i << run.order)
                if (run.order == 9 and mfn >= high) or mfn == 0x10000:
                    continue
                assert gfn in asked and gfn + (1 << run.order) - 1 in asked, (run, i)


def test_all_types_occur_in_all_sizes_and_root_pages(machine: Machine) -> None:
    report = machine.report
    big = report.header["max_page"] > 0xC0000
    orders = {kind: {r.order for r in report.leaves if r.type == kind} for kind in RSW}
    huge = {18} if big else set()
    assert orders["mmio_direct_io"] == {0, 9, 18}
    for kind in ("ram_rw", "map_foreign_rw", "map_foreign_ro"):
        assert orders[kind] == {0, 9} | huge, kind
    quarter = report.gfn_limit // 4
    for kind in ("ram_rw", "map_foreign_rw", "map_foreign_ro"):
        assert {r.gfn // quarter for r in report.leaves if r.type == kind and r.domain == 1} == {0, 1, 2, 3}
    assert report.intended(1, 0) is not None and report.intended(1, report.gfn_limit - 1) is not None


def test_a_split_superpage_keeps_its_type_and_loses_what_was_changed(machine: Machine) -> None:
    report = machine.report
    around = [report.intended(1, gfn) for gfn in (0x8264F, 0x82650, 0x82651, 0x82660, 0x82661)]
    assert [found and found[0].type for found in around] == [
        "map_foreign_ro",
        "ram_rw",
        "map_foreign_ro",
        None,
        "map_foreign_ro",
    ]
    assert {found[0].order for found in around if found} == {0}
    asked = {p.gfn: p for p in report.uart_probes(1)}
    assert asked[0x82660].read.cause == LOAD_GUEST_FAULT
    assert asked[0x82650].write.word == "ok" and asked[0x82651].write.cause == STORE_GUEST_FAULT


def test_a_real_device_answers_through_its_mapping(machine: Machine) -> None:
    """0x60: transmitter empty, holding register empty; nothing was typed."""
    assert machine.report.devices == [(1, 0x10000005, Answer(value=0x60))]


def test_the_empty_domain_maps_nothing(machine: Machine) -> None:
    report = machine.report
    (third,) = (d for d in report.domains if d.id == 3)
    assert (third.lowest_gfn, third.highest_gfn) == (ALL_ONES, 0)
    assert not [r for r in report.leaves if r.domain == 3]
    assert {t.level for t in report.tables if t.domain == 3} == {report.header["root_level"]}


def test_bounds_of_a_domain_hold_every_leaf(machine: Machine) -> None:
    report = machine.report
    for domain in report.domains[:2]:
        runs = [r for r in report.leaves if r.domain == domain.id]
        assert domain.lowest_gfn == min(r.gfn for r in runs)
        assert domain.highest_gfn == max(r.gfn + r.frames for r in runs) - 1


@pytest.fixture(scope="module")
def core(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    path = tmp_path_factory.mktemp("riscv") / f"{machine.program.variant}.core"
    machine.dump(path)
    yield Core(path)
    path.unlink()


def test_the_dump_is_the_machine(machine: Machine, core: Core) -> None:
    """RAM whole, the image where phys_offset says, a stamp in its frame."""
    report = machine.report
    start, end = report.header["start_page"] << 12, report.header["max_page"] << 12
    assert [(at, size) for at, size, _ in core.loads if at == start] == [(start, end - start)]
    text = (0xFFFFFFFFC0000000 + report.header["phys_offset"]) & ALL_ONES
    assert text == 0x80200000
    assert core.read(text, 4096) == machine.program.elf.read_bytes()[4096:8192]
    (first,) = (r for r in report.leaves if r.domain == 1 and r.gfn == 0)
    assert core.u64(first.mfn << 12) == first.mfn


class Entries:
    """Entries and metadata slots of a dump, found by the T lines and not by walking."""

    def __init__(self, report: Report, core: Core) -> None:
        self._core = core
        self._slot_bytes = 8 if any(t.used is None for t in report.tables) else 4
        self._tables = {(t.domain, t.level, t.first_gfn): t for t in report.tables}
        self._root_level = report.header["root_level"]

    def at(self, domain: int, gfn: int, level: int) -> tuple[int, int | None]:
        """(entry, slot) of gfn in the table of `level`; slot None when the table has no metadata."""
        span = 512 << (9 * level)
        table = self._tables[domain, level, gfn // span * span]
        index = gfn % span >> (9 * level)
        entry = self._core.u64((table.mfn << 12) + 8 * index)
        if table.metadata_mfn is None:
            return entry, None
        slot = self._core.read((table.metadata_mfn << 12) + self._slot_bytes * index, self._slot_bytes)
        return entry, int.from_bytes(slot, "little") & (0xF if self._slot_bytes == 4 else ALL_ONES)


def test_entries_and_slots_are_as_documented(machine: Machine, core: Core) -> None:
    """Every leaf: V, frame, two bits of type, PBMT, and the type in the slot of an external one."""
    entries = Entries(machine.report, core)
    for run in machine.report.leaves:
        for i in range(run.count):
            entry, slot = entries.at(run.domain, run.gfn + (i << run.order), run.order // 9)
            where = (run, i, hex(entry), slot)
            assert entry & 1 and entry >> 10 & RISCV_PPN == run.mfn + (i << run.order), where
            assert entry >> 8 & 3 == RSW[run.type], where
            assert entry >> 61 == (2 if run.type == "mmio_direct_io" else 0), where
            assert run.type not in SLOT or slot == SLOT[run.type], where


def test_what_was_left_behind_is_there_and_means_nothing(machine: Machine, core: Core) -> None:
    entries, report = Entries(machine.report, core), machine.report
    assert {z.what for z in report.leftovers} == {
        "slot-of-split-superpage",
        "slot-behind-ram",
        "slot-behind-zero",
        "slot-behind-invalid",
        "invalid-with-ppn",
        "empty-table",
    }
    for leftover in report.leftovers:
        level = 0
        if leftover.what == "slot-of-split-superpage":
            level = 1 if leftover.gfn % (1 << 18) else 2
        entry, slot = entries.at(leftover.domain, leftover.gfn, level)
        looks_live = bool(entry & 1) and entry >> 8 & 3 == 3
        assert not looks_live, leftover
        if leftover.what.startswith("slot"):
            assert slot in SLOT.values(), leftover
        if leftover.what in ("slot-behind-invalid", "invalid-with-ppn"):
            assert not entry & 1 and entry >> 10 & RISCV_PPN, leftover
        if leftover.what == "slot-of-split-superpage":
            assert entry & 0x3FF == 1, leftover


class FrameTable:
    """struct page_info of a dump by frame, at the documented offsets."""

    SIZE = 48

    def __init__(self, report: Report, core: Core) -> None:
        self._core, self._header = core, report.header

    def word(self, mfn: int, offset: int) -> int:
        """The 8 bytes at `offset` of the frame's struct page_info."""
        first = self._header["frametable_maddr"]
        return self._core.u64(first + (mfn - self._header["start_page"]) * self.SIZE + offset)

    def frame(self, address: int) -> int | None:
        """The frame whose struct page_info is at this virtual address; None when none is."""
        mfn, rest = divmod((address - self._header["frametable_virt_start"]) & ALL_ONES, self.SIZE)
        return None if rest or not self._header["start_page"] <= mfn < self._header["max_page"] else mfn

    def list_from(self, mfn: int) -> set[int]:
        """All frames of the circular list that the frame is on, its head left out."""
        found = {mfn}
        for link in (0, 8):  # forwards and backwards to the head
            at = self.frame(self.word(mfn, link))
            while at is not None:
                assert at not in found, "a list without a head"
                found.add(at)
                at = self.frame(self.word(at, link))
        return found


def test_tables_have_metadata_and_no_owner_and_are_on_one_list(machine: Machine, core: Core) -> None:
    report, frames = machine.report, FrameTable(machine.report, core)
    for domain in report.domains:
        tables = [t for t in report.tables if t.domain == domain.id]
        for table in tables:
            md = frames.word(table.mfn, 32)
            assert (frames.frame(md) if md else None) == table.metadata_mfn, table
            assert table.used is None or frames.word(table.mfn, 24) == table.used, table
        pages = {t.mfn for t in tables} | {t.metadata_mfn for t in tables if t.metadata_mfn is not None}
        assert frames.list_from(domain.root_mfn) == pages
        assert {frames.word(mfn, 16) for mfn in pages} == {0}
        assert [t.mfn - domain.root_mfn for t in tables[:4]] == [0, 1, 2, 3]


def test_frames_belong_to_the_domain_that_has_them_as_ram(machine: Machine, core: Core) -> None:
    """And foreign frames to the other one."""
    report, frames = machine.report, FrameTable(machine.report, core)
    address = {d.id: d.address for d in report.domains}
    for run in report.leaves:
        for mfn in (run.mfn, run.mfn + run.frames - 1):
            if not in_ram(report, mfn):
                continue
            owner = {"ram_rw": address[run.domain], "mmio_direct_io": 0}.get(
                run.type, address[3 - run.domain]
            )
            assert frames.word(mfn, 32) == owner, run
            assert bool(frames.word(mfn, 16)) == bool(owner), run


def test_a_running_guest_hides_the_hypervisor(guest_machine: Machine) -> None:
    """V=1, the guest's own satp, and it makes progress."""
    assert guest_machine.report.guest
    registers = guest_machine.monitor("info registers")
    assert re.search(r"^ V\s+=\s+1$", registers, re.M)
    found = guest_machine.report.intended(1, 0x80000)
    assert found is not None
    counter = (found[1] << 12) + 0x200
    before = guest_machine.monitor(f"xp /gx {counter:#x}")
    assert re.fullmatch(rf"0*{counter:x}: 0x\w+\n", before)
    deadline = time.monotonic() + 30
    while guest_machine.monitor(f"xp /gx {counter:#x}") == before:
        assert time.monotonic() < deadline, "the guest does not count"
        time.sleep(0.05)


def symbol(machine: Machine, name: str) -> int:
    with machine.program.elf.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        (found,) = table.get_symbol_by_name(name) or []
        return int(found["st_value"])


def test_a_debugger_reads_the_hypervisor_while_no_guest_runs(machine: Machine) -> None:
    names = ("frametable_virt_start", "directmap_virt_start", "phys_offset", "max_page", "start_page")
    with Stub(machine.port) as stub:
        assert "PacketSize" in stub.ask("qSupported")
        for name in names:
            assert stub.read_u64(symbol(machine, name)) == machine.report.header[name], name
        assert stub.read_u64(symbol(machine, "domain_list")) == machine.report.domains[0].address


def test_a_debugger_silently_reads_the_guest_while_one_runs(guest_machine: Machine) -> None:
    """No error, another value: why a decoder must not use virtual reads."""
    at = symbol(guest_machine, "domain_list")
    found = guest_machine.report.intended(1, 0x84000 + (at >> 12 & 0x1FF))
    assert found is not None
    with Stub(guest_machine.port) as stub:
        assert stub.read_u64(at) != guest_machine.report.domains[0].address
        assert stub.read_u64(at & ~0xFFF) == found[1]


def test_a_machine_that_fails_tells_its_last_words() -> None:
    program = built("sv39x4")
    with (
        pytest.raises(MachineError, match="PANIC no Svpbmt: start QEMU with svpbmt=true"),
        Machine(program, memory="256M", cpu="rv64,h=true,svpbmt=false"),
    ):
        pass


def test_qemu_that_refuses_its_arguments_is_quoted() -> None:
    program = built("sv39x4")
    with pytest.raises(MachineError, match="QEMU ended with 1"), Machine(program, cpu="no-such-cpu"):
        pass


def test_hgatp_names_the_root(machine: Machine) -> None:
    """MODE, VMID and PPN; the register itself took it, or the machine would have panicked."""

    def fields(domain: Domain) -> tuple[int, int, int]:
        return domain.hgatp >> 60, domain.hgatp >> 44 & 0x3FFF, domain.hgatp & RISCV_PPN

    level = machine.report.header["root_level"]
    assert [fields(d) for d in machine.report.domains] == [
        (level + 6, d.id, d.root_mfn) for d in machine.report.domains
    ]
    assert all(d.root_mfn % 4 == 0 for d in machine.report.domains)
