"""Bad input through the real command line, in a process of its own: exit code, message, and what to try.

Whatever a user passes: no traceback, nothing on standard output, one message that names the file.
"""

from __future__ import annotations

import gzip
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.command_line import Ran, run_cli, run_interpreter, run_process
from support.elf_files import EM_RISCV, ET_EXEC, ElfFile, Load, note, notes_of, write_machine
from support.kernels import system_map, vmlinux
from support.machine import Healthy
from support.places import DOM0, ODD, ROOT

FINE, FOUND, USAGE, INPUT = 0, 1, 2, 3
PAGE = bytes(4096)


def refused(ran: Ran, code: int, *words: str) -> None:
    """Assert one clear refusal that contains all `words`."""
    assert "Traceback" not in ran.err and "Error:" not in ran.err, ran.err
    assert ran.code == code, (ran.code, ran.err)
    assert ran.out == "", "nothing goes to standard output on failure"
    assert ran.err.startswith("gdb-p2m: ")
    for word in words:
        assert word in ran.err, f"{word!r} is not in: {ran.err}"
    assert ran.err.count("\n") <= 4, ran.err


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


# -- files that are no dump -----------------------------------------------------------------------------


def test_a_file_that_is_not_there(box: Path) -> None:
    refused(run_process("map", box / "nowhere.core"), INPUT, "nowhere.core", "No such file")


def test_a_directory(box: Path) -> None:
    refused(run_process("map", box), INPUT, str(box), "is a directory", "try:")


def test_an_empty_file(box: Path) -> None:
    (box / "empty.core").write_bytes(b"")
    refused(run_process("map", box / "empty.core"), INPUT, "empty.core", "the file is empty")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(box: Path) -> None:
    path = box / "secret.core"
    path.write_bytes(b"x")
    path.chmod(0)
    refused(run_process("map", path), INPUT, "secret.core", "Permission denied")


def test_a_fifo_is_not_waited_for(box: Path) -> None:
    os.mkfifo(box / "fifo")
    refused(run_process("map", box / "fifo", timeout=20), INPUT, "fifo", "device or pipe", "try:")


def test_a_device() -> None:
    refused(run_process("map", "/dev/zero", timeout=20), INPUT, "/dev/zero", "device or pipe")


def test_a_text_file(box: Path) -> None:
    (box / "notes.txt").write_text("dom0 crashed on Monday\n")
    refused(run_process("map", box / "notes.txt"), INPUT, "notes.txt", "64 6f 6d 30", "readable formats", "ELF vmcore")


def test_a_name_with_control_characters_cannot_steer_the_terminal(box: Path) -> None:
    ran = run_process("map", box / "evil\x1b[2J.core")
    assert ran.code == INPUT and "\x1b" not in ran.err and "\\x1b" in ran.err


def test_the_kernel_given_as_the_dump(box: Path) -> None:
    ElfFile([Load(0, PAGE)], type=ET_EXEC).write(box / "vmlinux")
    refused(run_process("map", box / "vmlinux"), INPUT, "vmlinux", "executable", "--kernel")


def test_an_elf_without_memory(box: Path) -> None:
    ElfFile([]).write(box / "nothing.core")
    refused(run_process("map", box / "nothing.core"), INPUT, "nothing.core", "without any memory", "try:")
    ElfFile([], notes=None).write(box / "headerless.core")
    assert run_process("map", box / "headerless.core").code == INPUT


def test_random_bytes_behind_an_elf_magic(box: Path) -> None:
    (box / "noise.core").write_bytes(b"\x7fELF" + random.Random(1).randbytes(5000))
    refused(run_process("map", box / "noise.core"), INPUT, "noise.core")


@pytest.mark.parametrize("length", [4, 16, 40, 63, 64, 100, 200])
def test_an_elf_cut_off_inside_its_headers(box: Path, dom0_core: Path, length: int) -> None:
    path = box / f"cut{length}.core"
    path.write_bytes(dom0_core.read_bytes()[:length])
    refused_in_process(path, "cut", "try:")


def refused_in_process(path: Path, *words: str) -> None:
    refused(run_cli("map", path), INPUT, path.name, *words)


# -- truncated and contradictory dumps ------------------------------------------------------------------


@pytest.fixture(scope="module")
def truncated(box: Path, dom0_core: Path) -> Path:
    path = box / "truncated.core"
    path.write_bytes(dom0_core.read_bytes()[: dom0_core.stat().st_size // 2])
    return path


def test_a_truncated_dump_is_not_answered_from(truncated: Path) -> None:
    refused(run_process("map", truncated), INPUT, "truncated.core", "damaged", "past the file's end", "--damaged")


def test_a_truncated_dump_is_answered_from_on_demand(truncated: Path) -> None:
    ran = run_process("map", truncated, "--fold", "--damaged")
    assert ran.code in (FINE, INPUT) and "Traceback" not in ran.err
    if ran.code == FINE:
        assert "unreadable" in ran.out and "warning" in ran.err


def test_check_reports_the_truncation(box: Path, dom0: Healthy) -> None:
    """Only the last segment is cut: the guest is found, DMP-001 says what is wrong, exit code 1."""
    path = write_machine(box / "tail.core", dom0.machine)
    os.truncate(path, path.stat().st_size - 2048)
    ran = run_process("check", path, "DMP", "--json")
    assert ran.code == FOUND, ran.err
    finding = ran.json["findings"][0]
    assert finding["rule"] == "DMP-001" and "past the file's end" in finding["message"]
    assert "warning" in ran.err
    assert run_cli("identify", path).code == FINE


def test_segments_that_contradict_each_other(box: Path, dom0: Healthy) -> None:
    loads = [Load(a, d) for a, d in dom0.machine.pieces.items()]
    loads.append(Load(dom0.entry(0x200) & ~0xFFF, b"\x55" * 4096))
    path = ElfFile(loads, notes_of(dom0.machine)).write(box / "contradiction.core")
    refused(run_cli("map", path), INPUT, "damaged", "overlap", f"{dom0.entry(0x200) & ~0xFFF:#x}")
    ran = run_cli("check", path, "DMP-001", "--json")
    assert ran.code == FOUND and "differ" in ran.json["findings"][0]["message"]


def test_segments_that_overlap_but_agree_do_no_harm(box: Path, dom0: Healthy) -> None:
    page = dom0.entry(0x200) & ~0xFFF
    loads = [Load(a, d) for a, d in dom0.machine.pieces.items()] + [Load(page, dom0.machine.read(page, 4096))]
    path = ElfFile(loads, notes_of(dom0.machine)).write(box / "agreement.core")
    assert run_cli("map", path, "--json").json["runs"] == run_cli("map", DOM0.path, "--json").json["runs"]


@pytest.mark.parametrize("suffix", [".zst", ".gz"])
def test_a_compressed_dump_that_was_cut_off(box: Path, dom0_core: Path, suffix: str) -> None:
    packed = DOM0.path.read_bytes() if suffix == ".zst" else gzip.compress(dom0_core.read_bytes()[:300_000], 1)
    path = box / f"cut.core{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    refused(run_process("map", path), INPUT, path.name, "stream is damaged or cut off", "try:")


@pytest.mark.parametrize("suffix", [".zst", ".gz"])
def test_a_compressed_dump_with_flipped_bytes(box: Path, dom0_core: Path, suffix: str) -> None:
    data = bytearray(DOM0.path.read_bytes() if suffix == ".zst" else gzip.compress(dom0_core.read_bytes()[:300_000], 1))
    for at in range(len(data) // 2, len(data) // 2 + 64):
        data[at] ^= 0xA5
    path = box / f"flipped.core{suffix}"
    path.write_bytes(data)
    ran = run_cli("map", path)
    assert ran.code == INPUT and "Traceback" not in ran.err


# -- memory without a PV guest --------------------------------------------------------------------------


def bare_metal(banner: bytes) -> ElfFile:
    """A machine that never saw Xen: a page with a banner, and a CPU note."""
    page = banner.ljust(4096, b"\0")
    desc = struct.pack("<II", 1, 440) + bytes(408) + struct.pack("<QQ", 0x2000, 0) + bytes(8)
    return ElfFile([Load(0, PAGE * 16), Load(0x100000, page)], note("QEMU", 0, desc))


def test_bare_metal_linux(box: Path) -> None:
    path = bare_metal(b"Linux version 6.1.0-9-amd64 (debian-kernel@lists.debian.org) (gcc)").write(box / "metal.core")
    refused(
        run_process("map", path), INPUT, "metal.core", "no Xen PV guest", "Linux 6.1.0-9-amd64", "none of Xen", "try:"
    )


def test_xen_without_a_pv_guest(box: Path) -> None:
    path = bare_metal(b"Xen version 4.17.3 (Debian 4.17.3) (pkg@x)").write(box / "pvh.core")
    refused(run_process("map", path), INPUT, "no Xen PV guest", "Xen 4.17.3", "HVM, PVH")


def test_memory_of_nothing_known(box: Path) -> None:
    path = ElfFile([Load(0x5000, random.Random(2).randbytes(65536))]).write(box / "random.core")
    refused(run_process("map", path), INPUT, "no Xen PV guest", "no banner")


def test_a_machine_of_another_kind(box: Path) -> None:
    path = ElfFile([Load(0, PAGE)], machine=183).write(box / "arm.core")
    refused(run_process("map", path), INPUT, "arm.core", "aarch64")


def test_riscv_memory_without_xen(box: Path) -> None:
    path = ElfFile([Load(0x80000000, PAGE * 8)], machine=EM_RISCV).write(box / "riscv.core")
    refused(run_process("map", path), INPUT, "riscv.core", "try:")


# -- memory with pages left out -------------------------------------------------------------------------


def test_all_p2m_pages_filtered_out(box: Path, dom0: Healthy) -> None:
    pages = {int(f) for f in dom0.views.get("linear").pages.frame[:512]}  # type: ignore[attr-defined]
    path = write_machine(box / "filtered.core", dom0.machine, pages)
    ran = run_process("map", path, "--fold")
    assert ran.code == FINE and "unreadable" in ran.out
    rows = [line.split() for line in ran.out.splitlines()]
    assert not any("mfn" in row or "missing" in row for row in rows if row[:1] == ["0x0"])
    ran = run_process("check", path)
    assert ran.code == FINE and "COULD NOT CHECK" in ran.out and "0 errors" in ran.out


def test_the_list_itself_not_there_names_structure_and_address(box: Path, dom0: Healthy) -> None:
    lost = dom0.at("xen_p2m_addr")
    path = write_machine(box / "no-variables.core", dom0.machine, {lost >> 12})
    refused(run_process("map", path), INPUT, "xen_p2m_addr", f"{lost:#x}", "not in the dump", "try:")
    lost = dom0.page("HYPERVISOR_shared_info")
    path = write_machine(box / "no-shared-info.core", dom0.machine, {lost >> 12})
    refused(run_process("shared-info", path), INPUT, "shared_info", f"{lost:#x}", "try:")


# -- kernel files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def symbols(dom0: Healthy) -> dict[str, int]:
    note = dom0.guest.names.sources[0]
    return {n: s.address for n in note.names() if (s := note.symbol(n)) is not None}


def test_the_right_kernel_is_accepted(box: Path, dom0_core: Path, symbols: dict[str, int]) -> None:
    expected = run_cli("map", dom0_core, "--json").json["runs"]
    for kernel in (vmlinux(box / "right", symbols, DOM0.build_id), system_map(box / "right.map", symbols)):
        ran = run_cli("map", dom0_core, "--kernel", kernel, "--json")
        assert (ran.code, ran.err) == (FINE, ""), ran.err
        assert ran.json["runs"] == expected


def test_a_kernel_with_another_build_id(box: Path, dom0_core: Path, symbols: dict[str, int]) -> None:
    kernel = vmlinux(box / "wrong", symbols, ODD.build_id)
    refused(run_process("map", dom0_core, "--kernel", kernel), INPUT, "wrong", ODD.build_id, DOM0.build_id, "try:")


def test_a_system_map_of_another_kernel(box: Path, dom0_core: Path, symbols: dict[str, int]) -> None:
    moved = {**symbols, "xen_p2m_addr": symbols["xen_p2m_addr"] + 64}
    kernel = system_map(box / "moved.map", moved)
    addresses = (f"{symbols['xen_p2m_addr']:#x}", f"{moved['xen_p2m_addr']:#x}")
    refused(run_process("map", dom0_core, "--kernel", kernel), INPUT, "moved.map", "xen_p2m_addr", *addresses, "try:")


def test_a_kernel_that_cannot_be_compared_is_used_with_a_warning(
    box: Path, dom0: Healthy, symbols: dict[str, int]
) -> None:
    machine = dom0.machine.copy()
    machine.info.notes = [n for n in machine.info.notes if n.name != "VMCOREINFO"]
    machine.set_u64(dom0.shared_info("p2m_vaddr"), 0)  # or it would be inferred
    path = write_machine(box / "unnamed.core", machine)
    refused(run_cli("map", path), INPUT, "its P2M is not known", "kallsyms", "--kernel")
    ran = run_cli("map", path, "--kernel", system_map(box / "unproved.map", symbols), "--fold")
    assert ran.code == FINE and "not proved" in ran.err and "102,400 mfn" in ran.out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("empty",)),
        (b"hello\n", ("not a kernel file",)),
        (b"\x7fELF" + bytes(100), ()),
        (b"KDUMP   " + bytes(100), ("dump",)),
    ],
)
def test_kernel_files_that_are_none(box: Path, dom0_core: Path, content: bytes, words: tuple[str, ...]) -> None:
    (box / "kernel").write_bytes(content)
    refused(run_cli("map", dom0_core, "--kernel", box / "kernel"), INPUT, "kernel", *words)


def test_a_kernel_file_that_is_not_there(box: Path, dom0_core: Path) -> None:
    refused(run_process("map", dom0_core, "--kernel", box / "absent"), INPUT, "absent", "No such file")
    refused(run_cli("map", dom0_core, "--kernel", box), INPUT, "is a directory")


# -- usage ----------------------------------------------------------------------------------------------


def test_no_verb_at_all() -> None:
    ran = run_process()
    assert ran.code == USAGE and ran.out == "" and "map" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mpa", "DUMP"], "did you mean 'map'"),
        (["bogus"], "no verb is called 'bogus'"),
        (["map"], "DUMP"),
        (["map", "DUMP", "--colour"], "--colour"),
        (["map", "DUMP", "--format", "yaml"], "yaml"),
        (["map", "DUMP", "--kind", "cheese"], "cheese"),
        (["map", "DUMP", "--range", "nonsense"], "not a range"),
        (["map", "DUMP", "--range", "5..2"], "empty range"),
        (["map", "DUMP", "--range", "5+0"], "empty range"),
        (["map", "DUMP", "--range", "0x8000000..0x8000001"], "out of range"),
        (["map", "DUMP", "--view", "sideways"], "no view is called 'sideways'"),
        (["map", "DUMP", "--domain", "x"], "--domain"),
        (["lookup", "DUMP"], "N"),
        (["lookup", "DUMP", "0x8000000"], "out of range"),
        (["lookup", "DUMP", "twelve"], "not a number: 'twelve'"),
        (["lookup", "DUMP", "-5"], "-5"),
        (["lookup", "DUMP", "99999999999999999999999"], "out of range"),
        (["walk", "DUMP", "0x8000000"], "out of range"),
        (["walk", "DUMP", "1", "2"], "2"),
        (["check", "DUMP", "XYZ"], "no rule or group is called 'XYZ'"),
        (["rules", "LIN-999"], "LIN-999"),
        (["list-list", "DUMP", "--top", "512"], "out of range"),
        (["symbols", "DUMP", "x", "--all"], "exclude each other"),
        (["map", "DUMP", "-o", "/nonexistent/out"], "cannot be written"),
        (["excerpt", "DUMP"], "OUT"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_wrong_usage(words: list[str], said: str, dom0_core: Path) -> None:
    ran = run_cli(*[str(dom0_core) if w == "DUMP" else w for w in words])
    refused(ran, USAGE, said)


def test_wrong_usage_in_a_process_of_its_own(dom0_core: Path) -> None:
    refused(run_interpreter("bogus"), USAGE, "no verb is called 'bogus'", "try:")
    refused(run_process("lookup", dom0_core, "0x8000000"), USAGE, "0x8000000", "out of range", "0..0x7ffffff")


def test_an_unknown_domain(dom0_core: Path) -> None:
    refused(run_interpreter("map", dom0_core, "--domain", "7"), INPUT, "domain 7", "domains found: 0", "try:")


def test_numbers_beyond_the_machine_are_answered_not_misread(dom0_core: Path) -> None:
    ran = run_cli("m2p", dom0_core, "0x11000000000", "0x3ffe0", str(1 << 70))
    assert ran.code == FINE and ran.out.count("past the M2P") == 3
    ran = run_cli("lookup", dom0_core, "--mfn", str(1 << 70), "0xffffffffff")
    assert ran.code == FINE and "in no entry" in ran.out


# -- output ---------------------------------------------------------------------------------------------


def test_the_dump_is_never_overwritten(box: Path, dom0_core: Path) -> None:
    path = box / "precious.core"
    path.write_bytes(dom0_core.read_bytes())
    link = box / "link.core"
    link.symlink_to(path)
    for words in (["map", path, "-o", path], ["map", path, "-o", link], ["excerpt", path, path, "--force"]):
        refused(run_cli(*words), USAGE, "precious.core" if words[-1] != link else "link.core")
    assert path.read_bytes() == dom0_core.read_bytes()


def test_a_full_disk_is_one_message(dom0_core: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gdb_p2m.cli", "map", str(dom0_core)],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=60,
            check=False,
        )
    assert done.returncode == INPUT
    assert b"No space left" in done.stderr and b"Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error(dom0_core: Path) -> None:
    command = f"{sys.executable} -m gdb_p2m.cli map {dom0_core} --json | head -c 10 >/dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (FINE, b"")


def test_success_is_exit_code_0_and_findings_1(box: Path, dom0: Healthy, dom0_core: Path) -> None:
    assert run_process("check", dom0_core).code == FINE
    machine = dom0.machine.copy()
    machine.set_u64(dom0.entry(0x200), 0x50000)
    ran = run_process("check", write_machine(box / "broken.core", machine))
    assert ran.code == FOUND and "ERROR ENT-002" in ran.out and ran.err == ""


def test_version_and_help() -> None:
    assert run_interpreter("--version").out.startswith("gdb-p2m ")
    ran = run_process("--help")
    assert ran.code == FINE and "exit codes: 0 fine" in ran.out


# -- hostile claims -------------------------------------------------------------------------------------


HOSTILE = {
    "a list of 2^33 entries": {"xen_p2m_size": 1 << 33, "xen_max_p2m_pfn": 1 << 33},
    "a list of 2^60 entries": {"xen_p2m_size": 1 << 60},
    "a list at the top of memory": {"xen_p2m_addr": (1 << 64) - 4096},
    "a list over the M2P": {"xen_p2m_addr": 0xFFFF800000000000},
    "a list over the user half": {"xen_p2m_addr": 0x1000},
    "a list across the hole": {"xen_p2m_addr": 0x7FFFFFFFF000},
    "an M2P of 2^32 frames": {"machine_to_phys_nr": 1 << 32},
    "an M2P of 2^63 frames": {"machine_to_phys_nr": 1 << 63},
    "an M2P elsewhere": {"machine_to_phys_mapping": 0xFFFFC90000000000},
    "a capacity of 2^64": {"xen_max_p2m_pfn": (1 << 64) - 1},
    "a remap chain into page tables": {"xen_remap_mfn": 0x34A1C},
    "a remap chain of one": {"xen_remap_mfn": 0},
}


@pytest.mark.parametrize("which", HOSTILE)
def test_hostile_variables_cost_bounded_time_and_memory(box: Path, dom0: Healthy, which: str) -> None:
    machine = dom0.machine.copy()
    for name, value in HOSTILE[which].items():
        machine.set_u64(dom0.at(name), value)
    path = write_machine(box / "hostile.core", machine)
    for words in (["map", path, "--fold"], ["check", path], ["stats", path]):
        started = time.process_time()
        ran = run_cli(*words)
        assert ran.code in (FINE, FOUND, INPUT) and "Traceback" not in ran.err
        assert time.process_time() - started < 15, words[0]


def test_an_excerpt_note_that_lies(box: Path, dom0: Healthy) -> None:
    for text in (
        b'{"extents": [[0, 1e400]]}',
        b'{"extents": [[-5, 3]]}',
        b'{"extents": [[0, 1267650600228229401496703205376]]}',
        b'{"extents": 5}',
        b'{"extents": "ab"}',
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b"",
    ):
        machine = dom0.machine.copy()
        machine.info.notes = [n for n in machine.info.notes if n.name != "GDB-P2M"]
        path = box / "lie.core"
        loads = [Load(a, d) for a, d in machine.pieces.items()]
        ElfFile(loads, notes_of(machine) + note("GDB-P2M", 1, text)).write(path)
        refused(run_cli("map", path), INPUT, "GDB-P2M note cannot be read")
        assert run_cli("check", path, "DMP").code == FOUND


def test_an_excerpt_note_that_exaggerates(box: Path, dom0: Healthy) -> None:
    """The machine is said to have 2^64 bytes: rules must not allocate for it."""
    machine = dom0.machine.copy()
    machine.info.notes = [n for n in machine.info.notes if n.name != "GDB-P2M"]
    machine.set_u64(dom0.at("machine_to_phys_nr"), 0)
    blob = notes_of(machine) + note("GDB-P2M", 1, b'{"extents": [[0, 18446744073709551616]]}')
    path = ElfFile([Load(a, d) for a, d in machine.pieces.items()], blob).write(box / "exaggeration.core")
    started = time.process_time()
    assert run_cli("check", path).code == FINE
    assert time.process_time() - started < 15
