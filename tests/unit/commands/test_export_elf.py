"""`export --elf`: the guest's memory as an ordinary machine's, proved by walking its page tables in PFN order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gdb_p2m.errors import Unreadable
from gdb_p2m.layout.pagetables import I386_PAE, X86_64_4LEVEL
from gdb_p2m.layout.x86_pv import DIRECT_MAP_BASES_64, LINEAR_PT_SLOT
from gdb_p2m.mapping import Kind
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.model.machine import Machine as Model
from gdb_p2m.sources.elf import ElfSource
from gdb_p2m.sources.probe import open_source
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.structures.pfn_tables import PfnOfFrame, pfn_tables
from gdb_p2m.symbols.vmcoreinfo import VmcoreInfo
from gdb_p2m.target import Target
from gdb_p2m.units import PAGE_SHIFT, MachineAddress
from gdb_p2m.views.registry import Views
from support.command_line import run_cli
from support.elf_files import write_machine
from support.machine import Healthy
from support.models import HOLED, holed
from support.places import DOM0, FIXTURES


def exported(core: Path, out: Path, *options: str) -> ElfSource:
    ran = run_cli("export", core, "--elf", out, *options)
    assert ran.code == 0, ran.err
    source = open_source(str(out))
    assert isinstance(source, ElfSource)
    return source


def model_core(folder: Path, era: str = "linear", width: str = "64") -> tuple[Model, Path]:
    machine = holed(era, width)
    path = folder / f"{era}-{width}.core"
    machine.write_elf(str(path))
    return machine, path


@pytest.mark.parametrize(("era", "width"), [("linear", "64"), ("tree-3.16", "64"), ("linear", "pae")])
def test_every_mapped_address_leads_to_the_pfn_of_its_frame(tmp_path: Path, era: str, width: str) -> None:
    """Same virtual address, two walks: through MFNs in machine memory and through PFNs in the export."""
    _, core = model_core(tmp_path, era, width)
    target = Target(open_source(str(core)))
    guest = target.guests[0]
    mapping = Views(guest).own().mapping()
    out = exported(core, tmp_path / "out.elf")
    shape = I386_PAE if width == "pae" else X86_64_4LEVEL
    root = mapping.reverse(guest.root.mfn)[0].start
    ordinary = VirtualSpace(out, shape, MachineAddress(root << PAGE_SHIFT))
    base = guest.variable("xen_p2m_addr") if era == "linear" else guest.variable("p2m_top")
    starts = [base, guest.names.require("xen_start_info").address, guest.variable("xen_start_info")]
    pages = [(s & ~0xFFF) + (i << PAGE_SHIFT) for s in starts for i in range(0, 32)]
    compared = 0
    for address in pages:
        if not guest.space.maps(address):
            continue
        pfn = ordinary.translate(address) >> PAGE_SHIFT
        run = mapping.lookup(pfn)
        assert run is not None and run.kind is Kind.MFN and run.frame == guest.frame_of(address), hex(address)
        compared += 1
    assert compared > 30


def test_pages_are_the_guests_own_and_only_tables_differ(tmp_path: Path) -> None:
    _, core = model_core(tmp_path)
    target = Target(open_source(str(core)))
    guest = target.guests[0]
    mapping = Views(guest).own().mapping()
    out = exported(core, tmp_path / "out.elf")
    tables = set(pfn_tables(guest, mapping).tables.tolist())
    differ, same = set(), 0
    for run in mapping.only({Kind.MFN}):
        assert run.frame is not None
        for i in range(0, run.count, 97):
            mfn = run.frame + i
            here = bytes(out.read((run.start + i) << PAGE_SHIFT, 4096))
            there = bytes(guest.source.read(mfn << PAGE_SHIFT, 4096))
            if here == there:
                same += 1
            else:
                differ.add(mfn)
    assert same > 50 and differ <= tables
    root = mapping.reverse(guest.root.mfn)[0].start
    assert out.read_u64((root << PAGE_SHIFT) + LINEAR_PT_SLOT * 8) == 0, "Xen's own slots lead nowhere"


def test_only_own_pages_are_there_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    machine, core = model_core(tmp_path)
    document = run_cli("export", core, "--elf", tmp_path / "out.elf", "--json").json
    (file,) = document["files"]
    totals = {k: sum(c for _, c, kind, _ in _runs(machine) if kind == k) for k in ("mfn", "foreign", "identity")}
    assert file["pages"] == totals["mfn"] and file["left_out"] == {
        "foreign": totals["foreign"],
        "identity": totals["identity"],
    }
    out = open_source(str(tmp_path / "out.elf"))
    assert sum(e.end - e.start for e in out.extents()) >> PAGE_SHIFT == totals["mfn"]
    with pytest.raises(Unreadable):
        out.read(0x2200 << PAGE_SHIFT, 8)  # ballooned out
    with pytest.raises(Unreadable):
        out.read(0x3000 << PAGE_SHIFT, 8)  # another domain's
    foreign = exported(core, tmp_path / "foreign.elf", "--foreign")
    source = Target(open_source(str(core))).source
    assert bytes(foreign.read(0x3000 << PAGE_SHIFT, 64)) == bytes(source.read(0x8000 << PAGE_SHIFT, 64))


def _runs(machine: Model) -> list[tuple[int, int, str, int | None]]:
    return machine.truth().words()


def test_the_notes_are_those_of_a_linux_core(tmp_path: Path, dom0: Healthy, dom0_core: Path) -> None:
    out = exported(dom0_core, tmp_path / "out.elf")
    notes = {n.name: n for n in out.info.notes}
    info = VmcoreInfo.parse(notes["VMCOREINFO"].desc, "note", "")
    assert info.values["OSRELEASE"] == DOM0.release and info.values["BUILD-ID"] == DOM0.build_id
    assert info.values["PAGESIZE"] == "4096" and info.values["KERNELOFFSET"] == "0"
    assert info.numbers["phys_base"] == 0
    symbol = dom0.guest.names.require("init_top_pgt").address
    assert info.symbols["swapper_pg_dir"] == symbol
    assert notes["CORE"].type == 1 and len(notes["CORE"].desc) == 336


def test_an_excerpt_gives_what_it_holds(tmp_path: Path, dom0: Healthy, dom0_core: Path) -> None:
    ran = run_cli("export", dom0_core, "--elf", tmp_path / "out.elf", "--json")
    (file,) = ran.json["files"]
    own = PfnOfFrame(dom0.views.own().mapping())
    held = np.array(dom0.machine.frames(), dtype=np.int64)
    assert file["pages"] == int((own(held) >= 0).sum())
    assert file["left_out"]["not in the dump"] == DOM0.totals["mfn"] - file["pages"]
    assert file["direct_map"] == DIRECT_MAP_BASES_64[0] and file["phys_base"] == 0
    out = open_source(str(tmp_path / "out.elf"))
    root = int(own(np.array([dom0.guest.root.mfn]))[0])
    space = VirtualSpace(out, X86_64_4LEVEL, MachineAddress(root << PAGE_SHIFT))
    base = dom0.guest.variable("xen_p2m_addr")
    for pfn in (0, 0x100, 0x200, 0x19060):
        found = dom0.views.own().mapping().lookup(pfn)
        assert found is not None and space.read_word(base + 8 * pfn) == found.frame
    assert space.walk(base).address != dom0.guest.space.walk(base).address


class _Failing(ElfSource):
    """A dump that promises pages which cannot be read when it comes to it (a page that does not decompress)."""

    failing: frozenset[int] = frozenset()

    def _read(self, address: int, size: int) -> bytes | memoryview:
        for mfn in self.failing:
            if address < (mfn + 1) << PAGE_SHIFT and mfn << PAGE_SHIFT < address + size:
                raise Unreadable(mfn << PAGE_SHIFT, "does not decompress")
        return super()._read(address, size)


def test_pages_that_fail_while_they_are_read_are_left_out_and_never_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, core = model_core(tmp_path)
    lookup = {pfn: mfn for pfn, _, kind, mfn in _runs(machine) if kind == "mfn"}
    pfn, mfn = next((p, m) for p, m in lookup.items() if p > 0x2000 and m is not None)
    monkeypatch.setattr(_Failing, "failing", frozenset({mfn + 3}))
    monkeypatch.setattr("gdb_p2m.sources.probe.ElfSource", _Failing)
    ran = run_cli("export", core, "--elf", tmp_path / "out.elf", "--json")
    monkeypatch.undo()
    assert ran.code == 0 and ran.json["files"][0]["left_out"]["unreadable in the dump"] == 1
    out = open_source(str(tmp_path / "out.elf"))
    assert len(out.read((pfn + 2) << PAGE_SHIFT, 4096)) == 4096
    with pytest.raises(Unreadable):
        out.read((pfn + 3) << PAGE_SHIFT, 8)


def test_for_crash_hides_xen_and_nothing_else(tmp_path: Path, dom0: Healthy, dom0_core: Path) -> None:
    plain = exported(dom0_core, tmp_path / "plain.elf")
    crash = exported(dom0_core, tmp_path / "crash.elf", "--for-crash")
    own = PfnOfFrame(dom0.views.own().mapping())
    at = dom0.at("xen_start_info")
    address = (int(own(np.array([at >> PAGE_SHIFT]))[0]) << PAGE_SHIFT) + (at & 0xFFF)
    assert plain.read_u64(address) == dom0.guest.variable("xen_start_info") and crash.read_u64(address) == 0
    differ = [
        e.start + i
        for e in plain.extents()
        for i in np.flatnonzero(
            np.frombuffer(plain.read(e.start, e.end - e.start), "<u8")
            != np.frombuffer(crash.read(e.start, e.end - e.start), "<u8")
        )
        * 8
    ]
    assert differ == [address]


def test_tables_that_lead_in_circles_or_nowhere_end(tmp_path: Path, dom0: Healthy) -> None:
    """A root slot that leads back to the root, and one far past the machine's memory."""
    machine = dom0.machine.copy()
    root = dom0.guest.root.mfn << PAGE_SHIFT
    machine.write(root + 8 * 5, (root | 0x67).to_bytes(8, "little"))
    machine.write(root + 8 * 6, ((1 << 51) | 0x67).to_bytes(8, "little"))
    out = exported(write_machine(tmp_path / "hostile.core", machine), tmp_path / "out.elf")
    own = PfnOfFrame(dom0.views.own().mapping())
    at = int(own(np.array([dom0.guest.root.mfn]))[0]) << PAGE_SHIFT
    assert out.read_u64(at + 8 * 5) == at | 0x67, "the root's own PFN"
    assert out.read_u64(at + 8 * 6) == 0, "no PFN stands for it"


def test_a_p2m_that_repeats_one_frame_does_not_fill_the_disk(tmp_path: Path, dom0: Healthy) -> None:
    """All list pages but a few are p2m_identity: its page full of one MFN asks for 512 GiB."""
    machine = dom0.machine.copy()
    mfn = dom0.guest.root.mfn
    for pfn in range(0x200, 0x8000, 512):
        machine.write(dom0.entry(pfn), mfn.to_bytes(8, "little") * 512)
    path = write_machine(tmp_path / "hostile.core", machine)
    ran = run_cli("export", path, "--elf", tmp_path / "out.elf")
    assert ran.code == 3 and "many PFNs share frames" in ran.err and not (tmp_path / "out.elf").exists()


def test_a_dump_without_any_page_of_the_domain_is_refused(tmp_path: Path) -> None:
    """The RISC-V excerpts hold Xen's tables only."""
    ran = run_cli("export", FIXTURES / "xen-riscv-sv39x4.core.zst", "--elf", tmp_path / "out.elf")
    assert ran.code == 3 and "787,508 pages is in the dump" in ran.err and not list(tmp_path.iterdir())


def test_riscv_domains_need_no_translation(tmp_path: Path) -> None:
    path = tmp_path / "riscv.core"
    assert run_cli("model", FIXTURES / "models" / "riscv-two-domains.model", "-o", path).code == 0
    ran = run_cli("export", path, "--elf", tmp_path / "out.elf", "--json")
    assert ran.code == 0, ran.err
    (file,) = ran.json["files"]
    assert file["tables"] is None and "no VMCOREINFO" in file["notes"][0]
    source, out = open_source(str(path)), open_source(str(tmp_path / "out.elf"))
    assert out.info.machine == "riscv64"
    runs = [r for r in run_cli("map", path, "--json").json["runs"] if r["kind"] == "ram_rw"]
    assert file["pages"] <= sum(r["count"] for r in runs)
    compared = 0
    for r in runs:
        if out.holds(r["start"] << PAGE_SHIFT, 4096):
            assert bytes(out.read(r["start"] << PAGE_SHIFT, 4096)) == bytes(source.read(r["frame"] << PAGE_SHIFT, 4096))
            compared += 1
    assert compared


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to export"),
        (["--elf", "-"], "not standard output"),
        (["--csv", "x", "--for-crash"], "are about --elf"),
        (["--elf", "same", "--csv", "same"], "two exports have the same name"),
    ],
)
def test_wrong_usage(
    options: list[str], message: str, dom0_core: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run_cli("export", dom0_core, *options)
    assert ran.code == 2 and message in ran.err and not list(tmp_path.iterdir())


def test_inputs_and_files_that_are_there_are_not_overwritten(dom0_core: Path, tmp_path: Path) -> None:
    assert "is an input" in run_cli("export", dom0_core, "--elf", dom0_core, "--force").err
    there = tmp_path / "there.csv"
    there.write_text("mine")
    assert "is there already" in run_cli("export", dom0_core, "--csv", there).err and there.read_text() == "mine"
    assert run_cli("export", dom0_core, "--csv", there, "--force").code == 0 and there.read_text() != "mine"


def test_compressed_by_its_name(dom0_core: Path, tmp_path: Path) -> None:
    assert run_cli("export", dom0_core, "--elf", tmp_path / "out.elf.zst").code == 0
    assert open_source(str(tmp_path / "out.elf.zst")).info.format.startswith("ELF")


def test_a_description_of_every_kind_is_used_here() -> None:
    kinds = {kind for _, _, kind, _ in _runs(build(parse(HOLED.format(era="linear", width="64"), "x")))}
    assert kinds == {"mfn", "foreign", "identity", "missing"}
