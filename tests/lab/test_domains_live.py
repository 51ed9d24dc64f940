"""A real machine with two domUs: what is decoded from each kind of its dumps, against xen-mfndump, Xen's own tool."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.places import ROOT

pytestmark = pytest.mark.lab
MIB = 1 << 20
SIZES = {"d1": 128, "d2": 131}
IDS = {"d1": 1, "d2": 2}


class Machine:
    """A lab with d1 (128 MiB) and d2 (131 of 200 MiB, the host's E820), and the files of one instant of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ, "GDB_P2M_LAB_RUN": str(directory)}

    def lab(self, *arguments: str) -> str:
        """scripts/lab; its standard output."""
        command = [sys.executable, str(ROOT / "scripts" / "lab"), *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def path(self, name: str) -> Path:
        """A file of this machine."""
        return self.directory / name

    def p2m(self, name: str) -> dict[int, int]:
        """What xen-mfndump read of a domU's frame lists: PFN to MFN, without the invalid ones."""
        found = re.findall(r"pfn=0x([0-9a-f]+) ==> mfn=0x([0-9a-f]+)", self.path(name).read_text())
        # Identity entries have the second highest bit set in what the tool prints.
        return {int(pfn, 16): mfn for pfn, text in found if (mfn := int(text, 16)) < 1 << 40}


def tool(*arguments: object, code: int = 0) -> str:
    """gdb-p2m in a process of its own."""
    command = [sys.executable, "-m", "gdb_p2m.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, f"{arguments}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr}"
    return done.stdout


def frames(document: str) -> dict[int, int]:
    """PFN to MFN of a `map --json`."""
    runs = [r for r in json.loads(document)["runs"] if r["kind"] == "mfn"]
    return {r["start"] + i: r["frame"] + i for r in runs for i in range(r["count"])}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    directory = tmp_path_factory.mktemp("domains")
    if shutil.disk_usage(directory).free < 8 << 30:
        pytest.skip("less than 8 GiB free")
    m = Machine(directory)
    try:
        m.lab("fetch", "--toolstack")
    except AssertionError as error:
        pytest.skip(f"the toolstack cannot be downloaded: {error}")
    try:
        m.lab("up", "--toolstack", "--crashkernel", "320M")
        m.lab("domu", "d1", "--memory", "128")
        m.lab("domu", "d2", "--memory", "131", "--maxmem", "200", "--e820-host")
        one_instant(m)
        yield m
    finally:
        m.lab("down", "--all")
        shutil.rmtree(directory)


def one_instant(m: Machine) -> None:
    """Everything about the machine while its domUs are paused."""
    for name in SIZES:
        m.lab("pause", name)
        m.lab("mfndump", name, str(m.path(f"{name}.txt")))
        m.lab("dump-core", name, str(m.path(f"{name}.core")))
    m.lab("mfndump", str(m.path("m2p.txt")))
    m.lab("dump", str(m.path("host.elf")))
    for name in SIZES:
        m.lab("unpause", name)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("view", ["linear", "list-list"])
def test_every_frame_of_a_domu_is_what_xen_mfndump_says(machine: Machine, name: str, view: str) -> None:
    said = machine.p2m(f"{name}.txt")
    assert len(said) == SIZES[name] * MIB // 4096
    whole = tool("map", machine.path("host.elf"), "--domain", IDS[name], "--view", view, "--json")
    assert frames(whole) == said


@pytest.mark.parametrize("name", SIZES)
def test_the_domus_core_holds_the_same_map(machine: Machine, name: str) -> None:
    core = machine.path(f"{name}.core")
    said = machine.p2m(f"{name}.txt")
    assert frames(tool("map", core, "--json")) == said
    assert frames(tool("map", core, "--view", "core-table", "--json")) == said
    assert "0 errors, 0 warnings" in tool("check", core)


def test_m2p_is_what_xen_mfndump_says_for_every_frame_of_the_domus(machine: Machine) -> None:
    said = re.findall(r"mfn=0x([0-9a-f]+) ==> pfn=0x([0-9a-f]+)", machine.path("m2p.txt").read_text())
    table = {int(mfn, 16): int(pfn, 16) for mfn, pfn in said}
    for name in SIZES:
        mfns = sorted(machine.p2m(f"{name}.txt").values())
        some = [mfns[i] for i in np.linspace(0, len(mfns) - 1, 400).astype(int).tolist()]
        answers = json.loads(tool("m2p", machine.path("host.elf"), *some, "--json"))["entries"]
        assert [a["pfn"] for a in answers] == [table[mfn] for mfn in some]


def test_the_hypervisors_list_has_all_three_with_their_pages(machine: Machine) -> None:
    listed: dict[int, Any] = {
        d["id"]: d for d in json.loads(tool("domains", machine.path("host.elf"), "--json"))["domains"]
    }
    assert sorted(listed) == [0, 1, 2]
    for name, size in SIZES.items():
        domain = listed[IDS[name]]
        assert (domain["kind"], domain["pages"], domain["state"]) == ("pv", size * MIB // 4096, "paused")


def test_no_domain_breaks_a_rule_and_all_views_agree(machine: Machine) -> None:
    assert "3 domains checked, 0 could not be read: 0 errors, 0 warnings" in tool(
        "check", machine.path("host.elf"), "--all-domains"
    )
    for name in SIZES:
        compared = json.loads(tool("compare", machine.path("host.elf"), "--domain", IDS[name], "--json"))
        assert compared["disagree"] == 0 and compared["agree_in_all"] == compared["pfns"], compared["disagreements"]
        assert all(view["compared"] for view in compared["views"])


def test_a_frame_of_a_domu_is_named_with_its_owner(machine: Machine) -> None:
    pfn, mfn = next(iter(machine.p2m("d2.txt").items()))
    (answer,) = json.loads(tool("lookup", machine.path("host.elf"), "--mfn", mfn, "--json"))["answers"]
    assert (answer["owner"]["domain"], answer["owner"]["pfn"]) == (2, pfn), answer
    assert "domain 2" in tool("page-info", machine.path("host.elf"), mfn)


def test_a_domu_that_was_saved_and_restored_keeps_its_pfns_and_moves_its_frames(machine: Machine) -> None:
    before = machine.p2m("d1.txt")
    machine.lab("save", "d1")
    assert "domid 3" in machine.lab("restore", "d1")
    machine.lab("pause", "d1")
    after_core = machine.path("d1-restored.core")
    machine.lab("mfndump", "d1", str(machine.path("d1-restored.txt")))
    machine.lab("dump-core", "d1", str(after_core))
    machine.lab("unpause", "d1")
    after = machine.p2m("d1-restored.txt")
    totals = json.loads(tool("diff", machine.path("d1.core"), after_core, "--json", code=1))["totals"]
    changes = {what: total["count"] for what, total in totals.items()}
    moved = sum(mfn != after.get(pfn) for pfn, mfn in before.items() if pfn in after)
    assert changes["moved"] == moved > len(before) * 0.9
    assert changes["gone"] == len(before.keys() - after.keys()) and changes["new"] == len(after.keys() - before.keys())


def test_the_crash_kernels_dump_shows_the_same_domus(machine: Machine) -> None:
    """Last in this module: it ends the machine."""
    machine.lab("pause", "d2")
    machine.lab("mfndump", "d2", str(machine.path("d2.txt")))
    machine.lab("crash", str(machine.path("vmcore.elf")))
    vmcore = machine.path("vmcore.elf")
    assert "Xen" in tool("identify", vmcore)
    assert frames(tool("map", vmcore, "--domain", 2, "--json")) == machine.p2m("d2.txt")
    assert "0 could not be read: 0 errors, 0 warnings" in tool("check", vmcore, "--all-domains")
