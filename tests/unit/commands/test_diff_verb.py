"""`diff`: two moments of one guest, real, made by the model, and pairs that make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gdb_p2m.commands.diff_sides import Side, doubts
from gdb_p2m.mapping import Kind
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from support.command_line import Ran, run_cli
from support.elf_files import write_machine
from support.machine import Healthy
from support.places import DOM0, FIXTURES, ODD

BEFORE = "guest g\nnr_pages 0x4000\nmax_pages 0x8000\n"
BALLOONED = "ballooned 0x2200+100\n"


def made(folder: Path, name: str, text: str, stage: str | None = None) -> Path:
    path = folder / f"{name}.core"
    build(parse(text, name), stage=stage).write_elf(str(path))
    return path


def changes(ran: Ran) -> list[tuple[int, int, str, str, str]]:
    """(start, count, change, kind before, kind after)."""
    return [(r["start"], r["count"], r["change"], r["before"]["kind"], r["after"]["kind"]) for r in ran.json["runs"]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A guest, and the same one after 100 pages were ballooned out."""
    folder = tmp_path_factory.mktemp("pair")
    return made(folder, "before", BEFORE), made(folder, "after", BEFORE + BALLOONED)


def test_ballooned_pages_are_gone_and_come_back(pair: tuple[Path, Path]) -> None:
    before, after = pair
    ran = run_cli("diff", before, after, "--json")
    assert ran.code == 1
    assert changes(ran) == [(0x2200, 100, "gone", "mfn", "missing")]
    assert ran.json["frames"]["left"] == 100 and ran.json["frames"]["arrived"] == 0
    assert ran.json["doubts"] == [] and ran.json["equal"] is False
    back = run_cli("diff", after, before, "--json")
    assert changes(back) == [(0x2200, 100, "new", "missing", "mfn")]
    reverse = run_cli("diff", after, before, "--reverse", "--json")
    assert reverse.json["runs"] == ran.json["runs"]
    assert [s["path"] for s in reverse.json["sides"]] == [str(before), str(after)]


def test_the_text_says_the_same(pair: tuple[Path, Path]) -> None:
    text = run_cli("diff", *pair).out
    row = next(line.split() for line in text.splitlines() if line.lstrip().startswith("0x2200"))
    assert row[:4] == ["0x2200", "0x2263", "100", "gone"] and row[4] == "mfn" and row[-1] == "missing"
    assert "100 only before, 0 only after. The maps differ in 100 frame numbers." in text


def test_a_dump_does_not_differ_from_itself() -> None:
    ran = run_cli("diff", DOM0.path, DOM0.path, "--json")
    assert ran.code == 0 and ran.json["equal"] and ran.json["runs"] == []
    totals = {k: v["count"] for k, v in ran.json["totals"].items() if v["count"]}
    assert totals == {"kept": DOM0.totals["mfn"], "same": DOM0.totals["identity"] + DOM0.totals["missing"]}
    assert "No difference was found." in run_cli("diff", DOM0.path, DOM0.path).out


def test_remapping_at_boot_brings_the_frames_from_under_the_hole_back(tmp_path: Path) -> None:
    """What two dumps of one real boot show, at xen_remap_memory and after it: 97 pages at PFN 0x19000."""
    text = (FIXTURES / "models" / "lab-dom0.model").read_text()
    planned, final = (made(tmp_path, s, text, s) for s in ("planned", "final"))
    ran = run_cli("diff", planned, final, "--json")
    assert changes(ran) == [(0x19000, 97, "new", "missing", "mfn")]
    initial = made(tmp_path, "initial", text, "initial")
    kinds = changes(run_cli("diff", initial, planned, "--json"))
    assert kinds == [
        (0x9F, 97, "kind", "mfn", "identity"),
        (0x19000, 0x3FFE0 - 0x19000, "kind", "identity", "missing"),  # room for extra memory has been made
    ]


def test_a_single_real_entry_that_changed_is_found(dom0: Healthy, dom0_core: Path, tmp_path: Path) -> None:
    machine = dom0.machine.copy()
    swap = [dom0.entry(pfn) for pfn in (0x200, 0x300)]
    values = [machine.u64(a) for a in swap]
    for address, value in zip(swap, reversed(values), strict=True):
        machine.set_u64(address, value)
    machine.set_u64(dom0.entry(0x400), dom0.guest.width.invalid)
    other = write_machine(tmp_path / "later.core", machine)
    ran = run_cli("diff", dom0_core, other, "--json")
    assert [c[:3] for c in changes(ran)] == [(0x200, 1, "moved"), (0x300, 1, "moved"), (0x400, 1, "gone")]
    moved = ran.json["runs"][0]
    assert (moved["before"]["frame"], moved["after"]["frame"]) == tuple(values)
    assert ran.json["frames"] == {"common": DOM0.totals["mfn"] - 1, "left": 1, "arrived": 0}


def test_what_cannot_be_read_is_never_called_unchanged(dom0: Healthy, dom0_core: Path, tmp_path: Path) -> None:
    lost = dom0.entry(0x400) >> 12
    other = write_machine(tmp_path / "lacking.core", dom0.machine, {lost})
    ran = run_cli("diff", dom0_core, other, "--json")
    assert ran.code == 1 and not ran.json["equal"]
    assert {c[2] for c in changes(ran)} == {"unknown"} and sum(c[1] for c in changes(ran)) == 0x200
    assert {c[4] for c in changes(ran)} == {Kind.UNREADABLE.word}
    assert "No difference was found; 512 could not be compared." in run_cli("diff", dom0_core, other).out


def test_range_change_and_fold(pair: tuple[Path, Path]) -> None:
    ran = run_cli("diff", *pair, "--range", "0x2250..0x2300", "--json")
    assert changes(ran) == [(0x2250, 20, "gone", "mfn", "missing")]
    assert sum(t["count"] for t in ran.json["totals"].values()) == 0x2301 - 0x2250
    kept = run_cli("diff", *pair, "--change", "kept", "--json")
    assert {r["change"] for r in kept.json["runs"]} == {"kept"} and kept.code == 1
    folded = run_cli("diff", *pair, "--change", "kept", "--fold").out
    assert "first PFN" in folded and "runs" in folded
    assert run_cli("diff", *pair, "--range", "0x9000000..").code == 2


def test_other_views_can_be_compared(pair: tuple[Path, Path]) -> None:
    ran = run_cli("diff", *pair, "--view", "list-list", "--json")
    assert ran.json["view"] == "list-list"
    assert changes(ran) == [(0x2200, 100, "gone", "mfn", "missing")]


def test_two_kernels_and_two_sizes_are_doubted() -> None:
    doubts: list[Any] = run_cli("diff", DOM0.path, ODD.path, "--json").json["doubts"]
    assert [d.split(":")[0] for d in doubts] == ["different kernels", "start_info.nr_pages 102,400 became 150,250"]
    assert "doubt: different kernels" in run_cli("diff", DOM0.path, ODD.path, "--fold").out


def test_what_makes_no_sense_is_refused(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    riscv = FIXTURES / "xen-riscv-sv39x4.core.zst"
    machines = run_cli("diff", DOM0.path, riscv)
    assert machines.code == 2 and "of a x86-64 machine" in machines.err and "of a riscv64 machine" in machines.err
    pae = made(tmp_path, "pae", BEFORE + "width pae\n")
    assert "has 64 bits" in run_cli("diff", pair[0], pae).err
    tree = made(tmp_path, "tree", BEFORE + "era tree-3.18\n")
    eras = run_cli("diff", pair[0], tree)
    assert eras.code == 2 and "different eras" in eras.err and "list-list" in eras.err
    assert run_cli("diff", pair[0], tree, "--view", "list-list").code == 0
    missing = run_cli("diff", pair[0], tmp_path / "none.core")
    assert missing.code == 3 and "none.core: cannot be opened" in missing.err
    same = run_cli("diff", *pair, "-o", pair[1])
    assert same.code == 2 and "is an input" in same.err


def test_errors_about_the_other_file_name_it(pair: tuple[Path, Path]) -> None:
    ran = run_cli("diff", pair[0], DOM0.path, "--view", "core-table")
    assert ran.code == 3 and ".xen_p2m" in ran.err
    lost = run_cli("diff", DOM0.path, pair[0], "--other-domain", "77")
    assert lost.code == 3 and str(pair[0]) in lost.err and "domain 77 is not known" in lost.err


def test_a_damaged_other_dump_is_refused_unless_asked_for(dom0_core: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.core"
    cut.write_bytes(dom0_core.read_bytes()[:-8192])
    ran = run_cli("diff", dom0_core, cut)
    assert ran.code == 3 and "cut.core: the dump is damaged" in ran.err
    assert run_cli("diff", dom0_core, cut, "--damaged").code in (0, 1)


def test_riscv_domains_are_compared_by_gfn_and_order() -> None:
    path = FIXTURES / "xen-riscv-sv39x4.core.zst"
    ran = run_cli("diff", path, path, "--json")
    assert ran.code == 0 and ran.json["view"] == "gstage" and ran.json["totals"]["kept"]["count"] > 0
    other = run_cli("diff", path, FIXTURES / "xen-riscv-sv48x4.core.zst", "--json").json
    assert other["doubts"][0].startswith("different hypervisors")
    assert {r["change"] for r in other["runs"]} == {"gone", "new"}


def side(**facts: Any) -> Side:
    known: dict[str, Any] = {
        "path": "x", "machine": "x86-64", "domain": 1, "kind": "pv", "view": "linear", "limit": 1, "word_bits": 64,
        "release": "6.1", "build_id": "ab", "boot_id": None, "nr_pages": 100,
    }  # fmt: skip
    return Side(**{**known, **facts})


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({}, None),
        ({"boot_id": "b"}, "two boots"),
        ({"build_id": "cd"}, "different kernels: build id ab"),
        ({"build_id": None, "release": "6.2"}, "different kernels: 6.1 and 6.2"),
        ({"build_id": None, "release": None}, "not proved to be one kernel"),
        ({"domain": 2}, "domain 1 became domain 2"),
        ({"domain": None}, None),
        ({"domain": 0}, "dom0 keeps its id"),
        ({"nr_pages": 200}, "nr_pages 100 became 200"),
        ({"nr_pages": None}, None),
    ],
    ids=str,
)
def test_what_speaks_against_two_moments_of_one_guest(other: dict[str, Any], words: str | None) -> None:
    found = doubts(side(boot_id="a" if "boot_id" in other else None), side(**other))
    assert [words in f for f in found] == [True] if words else found == []


def test_a_core_of_one_domain_needs_no_domain_number() -> None:
    """Its domain has no id there, and --domain is about the machine."""
    domu = FIXTURES / "linux-6.1-domu-131M-of-200M.core.zst"
    ran = run_cli("diff", DOM0.path, domu, "--domain", "0", "--json")
    assert ran.code == 1 and [s["domain"] for s in ran.json["sides"]] == [0, None]
