"""Kernels and Xens of real distributions, as the lab downloads them, against independent readers.

`scripts/lab fetch SUITE` fills the cache that these tests look into. The second reader of kallsyms is
kallsyms-finder of the vmlinux-to-elf package, where that is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gdb_p2m.symbols.kallsyms import Kallsyms
from gdb_p2m.symbols.symtab import Symtab, kernel_xen_notes, open_elf_file, open_kernel_file
from gdb_p2m.symbols.xen_symbols import XenSymbols
from gdb_p2m.units import VirtualAddress

SUITES = ("bullseye", "bookworm", "trixie", "sid")
XEN_VIRT_START = 0xFFFF82D040000000
NEEDED = (
    "xen_p2m_addr",
    "xen_p2m_size",
    "xen_max_p2m_pfn",
    "p2m_missing",
    "p2m_identity",
    "p2m_missing_pte",
    "p2m_identity_pte",
    "p2m_top_mfn",
    "p2m_mid_missing_mfn",
    "HYPERVISOR_shared_info",
    "xen_start_info",
    "xen_remap_mfn",
    "vmcoreinfo_data",
)

every_suite = pytest.mark.parametrize("suite", SUITES)


def cached(suite: str, pattern: str) -> Path:
    """The first file of the lab's cache that matches, or the test is skipped."""
    base = os.environ.get("GDB_P2M_LAB_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "gdb-p2m", "lab"
    )
    found = sorted(Path(base, suite, "current").glob(pattern))
    if not found:
        pytest.skip(f"no {pattern} of {suite} in the lab's cache: run scripts/lab fetch {suite}")
    return found[0]


@every_suite
def test_a_distributions_vmlinuz_names_the_p2m(suite: str) -> None:
    path = cached(suite, "vmlinuz-*")
    source = open_kernel_file(str(path))
    assert isinstance(source, Kallsyms)
    assert source.release == path.name.removeprefix("vmlinuz-")
    assert source.build_id is not None and len(source.build_id) == 40
    found = source.symbols(NEEDED)
    assert found.keys() == set(NEEDED)
    assert all(s.address > 0xFFFFFFFF81000000 and "one of" not in s.source for s in found.values())
    names, addresses = source.all()
    assert len(set(names)) > 80_000
    for name in NEEDED:
        assert [a for n, a in zip(names, addresses.tolist(), strict=True) if n == name] == [found[name].address]


@pytest.mark.slow
@every_suite
def test_kallsyms_finder_reads_the_same(suite: str) -> None:
    tool = shutil.which("kallsyms-finder")
    if tool is None:
        pytest.skip("kallsyms-finder of vmlinux-to-elf is not installed")
    path = cached(suite, "vmlinuz-*")
    listing = subprocess.run([tool, str(path)], capture_output=True, text=True, check=True).stdout
    source = open_kernel_file(str(path))
    assert isinstance(source, Kallsyms)
    names, addresses = source.all()
    theirs = [(int(line.split()[0], 16), line.split()[2]) for line in listing.splitlines()]
    assert theirs == list(zip(addresses.tolist(), names, strict=True))


@every_suite
def test_a_distributions_kernel_asks_for_its_p2m_outside_the_initial_mapping(suite: str) -> None:
    notes = {n.type: n.desc for n in kernel_xen_notes(str(cached(suite, "vmlinuz-*")))}
    assert notes[15] == (0x8000000000).to_bytes(8, "little")


@every_suite
def test_xens_own_table_says_what_xen_syms_says(suite: str) -> None:
    """The boot image holds Xen's memory at physical addresses; Xen links it to XEN_VIRT_START plus these."""
    symtab = open_kernel_file(str(cached(suite, "xen-syms-*")))
    assert isinstance(symtab, Symtab)
    boot = open_elf_file(str(cached(suite, "xen-[0-9]*")))
    load = next(s for s in boot.segments if s.type == "PT_LOAD")
    source = XenSymbols(boot.bytes_of(load), VirtualAddress(XEN_VIRT_START + load.address))
    assert source.build_id == symtab.build_id
    names, addresses = source.all()
    assert len(names) > 6000
    for name, address in zip(names, addresses.tolist(), strict=True):
        if not name.startswith("."):  # section symbols, which some versions list
            assert address in symtab.addresses(name.rpartition("#")[2]), name
    for name in ("domain_list", "idle_pg_table", "max_page", "domain_hash"):
        assert source.addresses(name) == symtab.addresses(name)
