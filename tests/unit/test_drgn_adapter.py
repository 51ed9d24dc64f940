"""drgn on our memory: the library opens an export as a Linux core, and reads a dump through the adapter."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gdb_p2m.api import open_dump
from gdb_p2m.errors import NotSupported
from gdb_p2m.sources.probe import open_source
from support.command_line import run_cli
from support.elf_files import write_machine
from support.machine import Healthy
from support.models import holed
from support.places import DOM0, FIXTURES

LIST = (0, 0x9E, 0x100, 0x200, 0x19060)
KEXEC = FIXTURES / "linux-6.1-dom0-600M-kexec.core.zst"
DOMU = FIXTURES / "linux-6.1-domu-131M-of-200M.core.zst"


@pytest.fixture(scope="module")
def drgn() -> Any:
    return pytest.importorskip("drgn", reason="drgn is not installed (extra drgn)")


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 6.1 dom0's excerpt, exported."""
    out = tmp_path_factory.mktemp("drgn") / "dom0.elf"
    assert run_cli("export", DOM0.path, "--elf", out).code == 0
    return out


def test_drgn_takes_an_export_for_a_linux_kernel_and_walks_its_page_tables(
    drgn: Any, core: Path, dom0: Healthy
) -> None:
    """The P2M list lies in vmalloc space: only a walk through the rewritten tables leads there."""
    prog = drgn.Program()
    prog.set_core_dump(str(core))
    assert prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
    assert prog.platform == drgn.Platform(drgn.Architecture.X86_64)
    base = dom0.guest.variable("xen_p2m_addr")
    mapping = dom0.views.own().mapping()
    for pfn in LIST:
        found = mapping.lookup(pfn)
        assert found is not None and prog.read_u64(base + 8 * pfn) == found.frame
    with pytest.raises(drgn.FaultError):
        prog.read_u64(0xFFFF_8000_0000_0000)  # Xen's M2P is no memory of the guest


def test_physical_kernel_and_direct_map_addresses_show_one_page(drgn: Any, core: Path, dom0: Healthy) -> None:
    prog = drgn.Program()
    prog.set_core_dump(str(core))
    address = dom0.guest.names.require("xen_p2m_addr").address
    physical = address - 0xFFFF_FFFF_8000_0000
    value = dom0.guest.variable("xen_p2m_addr")
    assert prog.read_u64(address) == prog.read_u64(physical, True) == value
    assert prog.read_u64(0xFFFF_8880_0000_0000 + physical) == value


@pytest.mark.parametrize("path", [DOM0.path, DOMU, KEXEC], ids=["dom0", "domU", "kexec"])
def test_the_adapter_reads_what_our_own_decoders_read(drgn: Any, path: Path) -> None:
    import gdb_p2m.drgn

    with open_dump(str(path)) as machine:
        prog = gdb_p2m.drgn.program(machine)
        assert prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
        guest = machine.context.guest
        base, mapping = guest.variable("xen_p2m_addr"), machine.map()
        for run in list(mapping)[:40:7]:
            if run.frame is not None and run.kind.word == "mfn":
                assert prog.read_u64(base + 8 * run.start) == run.frame
        at = guest.names.require("xen_p2m_size").address
        assert prog.read_u64(at) == prog.read_u64(at - 0xFFFF_FFFF_8000_0000, True) == guest.variable("xen_p2m_size")


def test_page_tables_hold_pfns_in_both_of_the_adapters_spaces(drgn: Any, dom0_core: Path) -> None:
    import gdb_p2m.drgn

    with open_dump(str(dom0_core)) as machine:
        prog = gdb_p2m.drgn.program(machine)
        guest = machine.context.guest
        pgd = guest.names.require("init_top_pgt").address
        slot = 8 * ((guest.variable("xen_p2m_addr") >> 39) & 511)
        raw, shown = guest.space.read_word(pgd + slot), prog.read_u64(pgd + slot)
        assert shown == prog.read_u64(pgd - 0xFFFF_FFFF_8000_0000 + slot, True) != raw
        pfn = (shown >> 12) & 0xFF_FFFF_FFFF
        run = machine.lookup(pfn)
        assert run is not None and run.frame == (raw >> 12) & 0xFF_FFFF_FFFF


def test_without_any_name_the_export_opens_all_the_same(drgn: Any, dom0: Healthy, tmp_path: Path) -> None:
    """The list is inferred, the kernel's own page table is p2m_cr3, and its place in the image follows.

    The excerpt holds no page with the kernel's banner; drgn insists on a release, so it is given one.
    """
    machine = dom0.machine.copy()
    machine.info.notes = [n for n in machine.info.notes if n.name != "VMCOREINFO"]
    bare, out = write_machine(tmp_path / "bare.core", machine), tmp_path / "bare.elf"
    ran = run_cli("export", bare, "--elf", out, "--json")
    assert any("drgn needs OSRELEASE" in n for n in ran.json["files"][0]["notes"])
    note = next(n.desc for n in open_source(str(out)).info.notes if n.name == "VMCOREINFO")
    assert f"SYMBOL(swapper_pg_dir)={dom0.guest.names.require('init_top_pgt').address:x}".encode() in note
    prog = drgn.Program(vmcoreinfo=b"OSRELEASE=6.1.0\n" + note)
    prog.set_core_dump(str(out))
    for pfn in LIST:
        found = dom0.views.own().mapping().lookup(pfn)
        assert found is not None and prog.read_u64(dom0.guest.variable("xen_p2m_addr") + 8 * pfn) == found.frame


def test_faults_say_why(drgn: Any, dom0_core: Path) -> None:
    import gdb_p2m.drgn

    prog = gdb_p2m.drgn.program(str(dom0_core))
    with pytest.raises(drgn.FaultError, match="PFN 0x30000 is missing"):
        prog.read(0x30000 << 12, 8, True)
    with pytest.raises(drgn.FaultError, match="PFN 0xfee00 is identity"):
        prog.read(0xFEE00 << 12, 8, True)
    with pytest.raises(drgn.FaultError, match="not in the dump"):
        prog.read(0x5000 << 12, 8, True)
    with pytest.raises(drgn.FaultError):
        prog.read(0xFFFF_C000_0000_0000, 8)


def test_guests_that_the_adapter_cannot_serve_are_refused(drgn: Any, tmp_path: Path) -> None:
    import gdb_p2m.drgn

    with pytest.raises(NotSupported, match="64-bit x86"):
        gdb_p2m.drgn.program(str(FIXTURES / "xen-riscv-sv39x4.core.zst"))
    path = tmp_path / "pae.core"
    holed("linear", "pae").write_elf(str(path))
    with pytest.raises(NotSupported, match="64-bit x86"):
        gdb_p2m.drgn.program(str(path))


def test_without_the_library_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import gdb_p2m.drgn

    monkeypatch.setitem(sys.modules, "drgn", None)
    with pytest.raises(NotSupported) as caught:
        gdb_p2m.drgn.program(str(DOM0.path))
    assert 'pip install "gdb-p2m[drgn]"' in str(caught.value)
