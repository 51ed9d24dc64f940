"""scripts/lab with a toolstack: domUs and what can be had of them. What boots a machine is marked `lab`."""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from elftools.elf.elffile import ELFFile

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from lablib import archive, crash, deliver, domus, elf, initramfs, labs, packages, toolstack  # noqa: E402
from lablib.errors import LabError, UsageError  # noqa: E402
from lablib.options import parser  # noqa: E402
from lablib.progress import Progress  # noqa: E402

Run = Callable[..., "subprocess.CompletedProcess[str]"]

MIB = 1 << 20


def _runner(environment: dict[str, str]) -> Run:
    def run(*arguments: str, code: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / "lab"), *arguments],
            env={**environment, **changes},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def lab(tmp_path: Path) -> Run:
    """A lab of its own: nothing cached, nothing running."""
    own = {"GDB_P2M_LAB_CACHE": str(tmp_path / "cache"), "GDB_P2M_LAB_RUN": str(tmp_path / "run")}
    return _runner({**os.environ, **own})


# --- the command line, without a machine


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["up", "--crashkernel", "320M"], 2, "needs --toolstack"),
        (["up", "--toolstack", "--crashkernel", "much"], 2, "--crashkernel much"),
        (["up", "--toolstack", "--crashkernel", "320M", "--suite", "bullseye"], 3, "bullseye's kexec cannot"),
        (["domu", "d1"], 2, "--memory"),
        (["domu", "Domain-0", "--memory", "128"], 2, "cannot be a domU's name"),
        (["domu", "1", "--memory", "128"], 2, "cannot be a domU's name"),
        (["domu", "x;reboot", "--memory", "128"], 2, "cannot be a domU's name"),
        (["domu", "d1", "--memory", "128", "--maxmem", "127"], 2, "--maxmem 127"),
        (["domu", "d1", "--memory", "0"], 2, "--memory 0"),
        (["domu", "d1", "--memory", "128", "--vcpus", "0"], 2, "--vcpus 0"),
        (["domu", "d1", "--memory", "128", "--kernel-args", 'a"b'], 2, "no quotation mark"),
        (["crash", "x.elf", "--format", "qcow2"], 2, "invalid choice: 'qcow2'"),
        (["balloon", "d1", "much"], 2, "invalid int value"),
    ],
)
def test_wrong_wishes_are_told(lab: Run, arguments: list[str], code: int, message: str) -> None:
    assert message in lab(*arguments, code=code).stderr


NEEDS_TOOLSTACK = [
    ["exec", "true"],
    ["domu", "d1", "--memory", "128"],
    ["pause", "d1"],
    ["unpause", "d1"],
    ["balloon", "d1", "100"],
    ["dump-core", "d1", "x.core"],
    ["mfndump", "d1", "x.txt"],
    ["mfndump", "x.txt"],
    ["save", "d1"],
    ["restore", "d1"],
    ["crash", "x.elf"],
]


@pytest.mark.parametrize("verb", NEEDS_TOOLSTACK, ids=lambda verb: verb[0])
def test_a_lab_without_a_toolstack_is_3_and_says_how_to_get_one(lab: Run, tmp_path: Path, verb: list[str]) -> None:
    directory = tmp_path / "run" / f"gdb-p2m-lab-{os.getuid()}" / "plain"
    directory.mkdir(parents=True)
    own = labs.Lab("plain", str(directory), "sid", os.getpid(), labs.start_ticks(os.getpid()), 1, "1G", "1G", 1, "", "")
    own.save()
    assert "scripts/lab up --toolstack" in lab(*verb, "--name", "plain", code=3).stderr


def test_the_sizes_that_are_not_said_depend_on_the_toolstack() -> None:
    parsed: argparse.Namespace = parser().parse_args(["up", "--toolstack"])
    assert (parsed.mem, parsed.dom0_mem) == (None, None)  # `up` fills them in: a size that was said counts


# --- the domU's configuration, and the scripts


def _guest(**changes: object) -> domus.Guest:
    facts = {"name": "d1", "memory": 131, "maxmem": 200, "vcpus": 2, "e820_host": True, "kernel_args": ""}
    return domus.Guest(**{**facts, **changes})  # type: ignore[arg-type]


def test_the_configuration_says_what_was_asked_for() -> None:
    text = _guest().configuration()
    for line in ("memory = 131", "maxmem = 200", "vcpus = 2", "e820_host = 1", 'name = "d1"', 'type = "pv"'):
        assert f"\n{line}\n" in text
    assert "\ne820_host = 0\n" in _guest(e820_host=False).configuration()


def test_kernel_arguments_are_no_shell_commands(tmp_path: Path) -> None:
    """The script as dom0's shell runs it, with programs of ours in place of xl and cat."""
    bad = f"$(touch {tmp_path}/bad) `touch {tmp_path}/bad`; touch {tmp_path}/bad '"
    _guest(kernel_args=bad).check()
    script = _guest(kernel_args=bad).configuration().replace("/run/", f"{tmp_path}/")
    subprocess.run(["sh", "-c", f"xl() {{ :; }}\n{script}"], check=True)
    assert not (tmp_path / "bad").exists()
    assert f"no_hash_pointers {bad}" in (tmp_path / "d1.cfg").read_text()


def test_a_domus_name_is_checked_in_the_library_too() -> None:
    with pytest.raises(UsageError):
        _guest(name="../x").check()


@pytest.mark.parametrize(
    ("form", "no_domus", "level", "command"),
    [
        ("elf", False, 0, "dd if=/proc/vmcore of=$out bs=256k 2> /dev/null"),
        ("elf", True, 0, "makedumpfile -E -d 0 -X /proc/vmcore $out"),
        ("kdump-zlib", False, 0, "makedumpfile -c -d 0 /proc/vmcore $out"),
        ("kdump-lzo", False, 1, "makedumpfile -l -d 1 /proc/vmcore $out"),
        ("flattened", True, 1, "makedumpfile -F -c -d 1 -X /proc/vmcore > $out"),
    ],
)
def test_the_crash_kernels_command(form: str, no_domus: bool, level: int, command: str) -> None:
    assert crash.Wanted(form, no_domus, level, "xen").command() == command


# --- what is taken out of the packages


def _elf(soname: str, *needed: str) -> bytes:
    """The smallest ELF file with a dynamic section."""
    names = ["", *needed, soname]
    strings = b"".join(name.encode() + b"\0" for name in names)
    at = {name: strings.index(b"\0" + name.encode() + b"\0") + 1 for name in names if name}
    tags = [(elf.DT_NEEDED, at[name]) for name in needed]
    tags += [(elf.DT_SONAME, at[soname])] if soname else []
    head = elf.EHDR.size + 2 * elf.PHDR.size
    tags += [(elf.DT_STRTAB, 0x1000 + head), (elf.DT_NULL, 0)]
    dynamic = b"".join(elf.DYN.pack(*tag) for tag in tags)
    size = head + len(strings) + len(dynamic)
    header = elf.EHDR.pack(b"\x7fELF", 2, 1, 1, 3, 62, 1, 0, elf.EHDR.size, 0, 0, 64, 56, 2, 0, 0, 0)
    load = elf.PHDR.pack(elf.PT_LOAD, 5, 0, 0x1000, 0x1000, size, size, 0x1000)
    where = head + len(strings)
    table = elf.PHDR.pack(elf.PT_DYNAMIC, 6, where, 0x1000 + where, 0, len(dynamic), len(dynamic), 8)
    return header + load + table + strings + dynamic


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """What unpacking gives: more programs, libraries and modules than dom0 needs."""
    files = {name.format(version="4.17"): _elf("", "liba.so.1") for name in packages.PROGRAMS}
    files["usr/lib/xen-4.17/bin/xentrace"] = _elf("", "libunknown.so.1")
    libraries = {"liba.so.1.2.3": ("liba.so.1", "libc.so.6"), "libc-2.31.so": ("libc.so.6",), "libz.so.9": ("libz.so",)}
    libraries |= {"libgcc_s.so.1": ("libgcc_s.so.1",), "libxenctrl.so.4.17.0": ("libxenctrl.so.4.17",)}
    files |= {f"{packages.LIBRARIES}/{name}": _elf(*linked) for name, linked in libraries.items()}
    modules = {name: b"" for name in packages.DOM0_MODULES} | {"9p": b"netfs,9pnet", "9pnet": b"", "netfs": b""}
    del modules["xenfs"]  # in the kernel
    for name, depends in modules.items():
        content = b"\x7fELF..license=GPL\0depends=" + depends + b"\0retpoline=Y\0"
        files[f"{packages.MODULES}/{name}.ko.xz"] = lzma.compress(content)
    files[f"{packages.MODULES}/modules.builtin"] = b"kernel/drivers/xen/xenfs/xenfs.ko\nkernel/fs/ext4/ext4.ko\n"
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if path.is_file()}


def test_only_what_is_needed_is_kept_under_the_names_it_is_looked_for_by(unpacked: Path) -> None:
    toolstack.arrange(unpacked, "4.17")
    needed = {"liba.so.1", "libc.so.6", "libgcc_s.so.1", "libxenctrl.so.4.17"}
    assert _names(unpacked / packages.LIBRARIES) == needed
    assert "xentrace" not in _names(unpacked / "usr")
    assert elf.linkage(unpacked / packages.LIBRARIES / "liba.so.1") == elf.Linkage("liba.so.1", ("libc.so.6",))


def test_modules_are_loaded_after_those_they_depend_on(unpacked: Path) -> None:
    toolstack.arrange(unpacked, "4.17")
    order = (unpacked / toolstack.MODULE_ORDER).read_text().split()
    assert order.index("netfs") < order.index("9p") and order.index("9pnet") < order.index("9p")
    assert "xenfs" not in order and "xen_evtchn" in order
    assert _names(unpacked / packages.MODULES) == {"order", *(f"{name}.ko" for name in order)}
    assert (unpacked / packages.MODULES / "9p.ko").read_bytes().startswith(b"\x7fELF")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("usr/sbin/kexec", "no program kexec"),
        (f"{packages.LIBRARIES}/libc-2.31.so", "no library libc.so.6"),
        (f"{packages.LIBRARIES}/libgcc_s.so.1", "no library libgcc_s.so.1"),
        (f"{packages.MODULES}/netfs.ko.xz", "no module netfs"),
        (f"{packages.MODULES}/modules.builtin", "no modules.builtin"),
        (f"{packages.MODULES}/xen-gntdev.ko.xz", "no module xen-gntdev"),
    ],
)
def test_what_is_missing_is_an_error_when_it_is_fetched(unpacked: Path, name: str, message: str) -> None:
    (unpacked / name).unlink()
    with pytest.raises(LabError, match=message):
        toolstack.arrange(unpacked, "4.17")


def test_linkage_as_readelf_sees_it() -> None:
    program = shutil.which("ls")
    if program is None or shutil.which("readelf") is None:
        pytest.skip("no ls or no readelf to compare with")
    said = subprocess.run(["readelf", "-dW", program], capture_output=True, text=True, check=True).stdout
    link = elf.linkage(Path(program))
    assert link is not None
    assert list(link.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", said)


def test_what_is_no_elf_file_has_no_linkage(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert elf.linkage(tmp_path / "script") is None


def test_library_and_module_names_of_all_suites_match() -> None:
    closure = packages.TOOLSTACK.closure
    assert closure is not None
    kept = re.compile(closure.kept)
    for name in ("libc6", "libxenmisc4.17", "libdw1t64", "zlib1g", "xen-utils-4.20", "kexec-tools", "libyajl2"):
        assert kept.fullmatch(name), name
    for name in ("python3.11", "perl-base", "libperl5.36", "libpython3.13-stdlib", "xen-utils-common", "udev", "tar"):
        assert not kept.fullmatch(name), name
    libraries = next(file for file in closure.files if file.key == "libraries").matcher("4.17")
    for path in ("lib/x86_64-linux-gnu/libc-2.31.so", "usr/lib/x86_64-linux-gnu/libdw-0.188.so", "lib64/ld-2.31.so"):
        assert libraries.fullmatch(path), path
    assert libraries.fullmatch("usr/lib/xen-4.17/lib/x86_64-linux-gnu/libxenlight.so.4.17.0")
    assert not libraries.fullmatch("usr/lib/x86_64-linux-gnu/perl5/auto/x.so")


# --- dom0's initramfs


def test_cpio_reads_the_toolstacks_initramfs(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("cpio is not installed: no independent reader of the archive")
    file = tmp_path / "file"
    file.write_bytes(b"content")
    tools = {"usr/lib/xen-4.17/bin/xl": file, "lib/modules/order": file}
    entries = initramfs.toolstack_entries(file, "4.17", tools, vmlinuz=file, domu=file)
    archive.write_initramfs(tmp_path / "a.img", entries)
    data = subprocess.run(["gzip", "-dc", tmp_path / "a.img"], capture_output=True, check=True).stdout
    listed = subprocess.run(["cpio", "-t"], input=data, capture_output=True, check=True).stdout.decode().splitlines()
    assert len(listed) == len(set(listed))
    assert all(str(Path(name).parent) in (".", *listed[:at]) for at, name in enumerate(listed))
    init = subprocess.run(["cpio", "-i", "--to-stdout", "init"], input=data, capture_output=True, check=True).stdout
    assert subprocess.run(["sh", "-n"], input=init, check=False).returncode == 0
    assert b"{version}" not in init and b"/usr/lib/xen-4.17/bin" in init


# --- files on their way


def test_a_file_that_could_not_be_made_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "x.core"
    file.write_text("old")

    def make(raw: Path) -> None:
        raw.write_text("half")
        raise LabError("no")

    with pytest.raises(LabError, match="no"):
        deliver.deliver(file, 0, make, Progress())
    assert file.read_text() == "old"
    assert _names(tmp_path) == {"x.core"}


def test_a_core_with_sections_that_end_behind_the_file_is_refused(tmp_path: Path) -> None:
    header = (b"\x7fELF", 2, 1, 1, elf.ET_CORE, elf.EM_X86_64, 1, 0, 0, 64, 0, 64, 56, 0, 64, 1, 0)
    section = elf.SHDR.pack(0, 1, 0, 0, 128, 1000, 0, 0, 1, 0)
    (tmp_path / "core").write_bytes(elf.EHDR.pack(*header) + section + bytes(999))
    with pytest.raises(LabError, match="not whole"):
        elf.check_core(tmp_path / "core")
    with (tmp_path / "core").open("ab") as stream:
        stream.write(b"\0")
    elf.check_core(tmp_path / "core")


# --- one real machine with two domUs


class Machine:
    """A lab with domUs d1 (128 MiB) and d2 (131 of 200 MiB)."""

    def __init__(self, run: Run, directory: Path) -> None:
        self.run = run
        self.directory = directory

    def xl_list(self, name: str) -> list[str]:
        """The fields of one line of `xl list`: name, id, memory, vcpus, state, time."""
        return self.run("exec", f"xl list {name}").stdout.splitlines()[-1].split()

    def p2m(self, name: str) -> dict[int, int]:
        """Xen's own reading of a domU's P2M; invalid entries are left out."""
        file = self.directory / "p2m.txt"
        self.run("mfndump", name, str(file))
        found = re.findall(r"pfn=0x([0-9a-f]+) ==> mfn=0x([0-9a-f]+)", file.read_text())
        file.unlink()
        return {int(pfn, 16): mfn for pfn, text in found if (mfn := int(text, 16)) < 1 << 40}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    directory = tmp_path_factory.mktemp("machine")
    if shutil.disk_usage(directory).free < 8 << 30:
        pytest.skip("less than 8 GiB free")
    run = _runner({**os.environ, "GDB_P2M_LAB_RUN": str(directory)})
    try:
        run("fetch", "--toolstack")
    except AssertionError as error:
        pytest.skip(f"the toolstack cannot be downloaded: {error}")
    run("up", "--toolstack", "--crashkernel", crash.CRASHKERNEL)
    try:
        assert "domid 1, 128 MiB of 128" in run("domu", "d1", "--memory", "128").stdout
        facts = json.loads(run("domu", "d2", "--memory", "131", "--maxmem", "200", "--json").stdout)
        assert (facts["domid"], facts["maxmem"]) == (2, 200)
        yield Machine(run, directory)
    finally:
        run("down", "--all")
        shutil.rmtree(directory)


@pytest.mark.lab
@pytest.mark.slow
def test_exec_passes_output_and_exit_code_on(machine: Machine) -> None:
    done = machine.run("exec", "echo out; echo err >&2; cat /proc/xen/capabilities; exit 7", code=7)
    assert (done.stdout, done.stderr) == ("out\ncontrol_d\n", "err\n")
    began = time.monotonic()
    assert "has not finished after 2 s" in machine.run("exec", "sleep 987", "--timeout", "2", code=3).stderr
    assert time.monotonic() - began < 30
    assert "sleep 987" not in machine.run("exec", "ps -o args | grep -v grep").stdout  # it was killed
    assert list((machine.directory / f"gdb-p2m-lab-{os.getuid()}/default/share/jobs").iterdir()) == []


@pytest.mark.lab
@pytest.mark.slow
def test_commands_run_side_by_side_and_a_stopped_machine_is_told(machine: Machine) -> None:
    command = [sys.executable, str(SCRIPTS / "lab"), "exec", "sleep 5; echo slow"]
    environment = {**os.environ, "GDB_P2M_LAB_RUN": str(machine.directory)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as slow:
        assert machine.run("exec", "echo fast").stdout == "fast\n"
        assert slow.poll() is None
        assert slow.communicate()[0] == "slow\n"
    machine.run("stop")
    assert "is paused: dom0 cannot answer" in machine.run("exec", "true", code=3).stderr
    machine.run("cont")


@pytest.mark.lab
@pytest.mark.slow
def test_domus_are_there_and_tell_about_their_memory(machine: Machine) -> None:
    assert machine.xl_list("d1")[:3] == ["d1", "1", "128"]
    assert machine.xl_list("d2")[:3] == ["d2", "2", "131"]
    assert "there is a domU 'd1' already" in machine.run("domu", "d1", "--memory", "64", code=3).stderr
    told = machine.run("console", "--domu", "d2").stdout
    assert initramfs.DOMU_READY in told and f"{initramfs.BEGIN} kallsyms\n" in told and " xen_p2m_addr\n" in told
    assert "is an invalid domain" in machine.run("pause", "d9", code=3).stderr
    assert "d9" in machine.run("mfndump", "d9", str(machine.directory / "no"), code=3).stderr
    assert not (machine.directory / "no").exists()


def _core_p2m(core: Path) -> npt.NDArray[np.uint64]:
    """.xen_p2m of a domU's core: rows of PFN and MFN."""
    with core.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".xen_p2m")
        return np.frombuffer(section.data(), dtype="<u8").reshape(-1, 2)


@pytest.mark.lab
@pytest.mark.slow
def test_the_core_of_a_paused_domu_agrees_with_xens_own_reading(machine: Machine) -> None:
    machine.run("pause", "d2")
    assert "p" in machine.xl_list("d2")[4]
    core, table = machine.directory / "d2.core.zst", machine.directory / "m2p.txt"
    machine.run("dump-core", "d2", str(core))
    subprocess.run(["zstd", "-qd", "--rm", core], check=True)
    p2m = machine.p2m("d2")
    machine.run("mfndump", str(table))
    machine.run("unpause", "d2")
    assert "p" not in machine.xl_list("d2")[4]
    assert len(p2m) == 131 * MIB // 4096
    assert {int(pfn): int(mfn) for pfn, mfn in _core_p2m(core.with_suffix(""))} == p2m
    m2p = dict(re.findall(r"mfn=(0x[0-9a-f]+) ==> pfn=(0x[0-9a-f]+)", table.read_text()))
    assert all(m2p[hex(mfn)] == hex(pfn) for pfn, mfn in p2m.items())
    assert core.with_suffix("").stat().st_size > 131 * MIB


@pytest.mark.lab
@pytest.mark.slow
def test_balloon_takes_and_gives_frames(machine: Machine) -> None:
    before = machine.p2m("d2")
    machine.run("balloon", "d2", "120")
    small = machine.p2m("d2")
    assert machine.xl_list("d2")[2] == "120" and len(small) == 120 * MIB // 4096
    assert small.items() < before.items()
    machine.run("balloon", "d2", "150")
    assert len(machine.p2m("d2")) == 150 * MIB // 4096
    assert "cannot give domU 'd2' 300 MiB" in machine.run("balloon", "d2", "300", code=3).stderr


@pytest.mark.lab
@pytest.mark.slow
def test_a_restored_domu_has_other_frames(machine: Machine) -> None:
    before = machine.p2m("d1")
    assert "saved" in machine.run("save", "d1").stdout
    assert "d1" not in machine.run("exec", "xl list").stdout
    assert "no domU 'd2' was saved" in machine.run("restore", "d2", code=3).stderr
    assert "restored, domid 3" in machine.run("restore", "d1").stdout
    after = machine.p2m("d1")
    assert before.keys() == after.keys()
    assert sum(before[pfn] == after[pfn] for pfn in before) < len(before) // 100
    assert machine.run("restore", "d1", code=3).stderr  # the file is used up


NOTE = struct.Struct("<III")


@pytest.mark.lab
@pytest.mark.slow
def test_a_crash_gives_a_xen_core_and_ends_the_lab(machine: Machine) -> None:
    """Last in this module: it ends the machine."""
    file = machine.directory / "vmcore.elf"
    assert "cannot compress with zstd" in machine.run("crash", str(file), "--format", "kdump-zstd", code=3).stderr
    assert machine.run("exec", "echo alive").stdout == "alive\n"
    assert "has ended" in machine.run("crash", str(file)).stdout
    with file.open("rb") as stream:
        core = ELFFile(stream)
        loads = [segment for segment in core.iter_segments() if segment["p_type"] == "PT_LOAD"]
        held = sum(segment["p_filesz"] for segment in loads)
        notes = b"".join(segment.data() for segment in core.iter_segments() if segment["p_type"] == "PT_NOTE")
    kept = int(crash.CRASHKERNEL[:-1]) * MIB
    assert 2048 * MIB - kept - 16 * MIB < held <= 2048 * MIB - kept
    assert NOTE.pack(4, 80, 0x1000001) + b"Xen\0" in notes and b"VMCOREINFO_XEN\0" in notes
    assert "'default': dead" in machine.run("status").stdout
    assert "the crash kernel is up" in machine.run("console").stdout
    assert "is dead" in machine.run("exec", "true", code=3).stderr


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("suite", [suite for suite in packages.SUITES if suite != packages.DEFAULT_SUITE])
def test_every_suites_toolstack_makes_a_domu(tmp_path: Path, suite: str) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    run = _runner({**os.environ, "GDB_P2M_LAB_RUN": str(tmp_path)})
    try:
        run("fetch", "--toolstack", "--suite", suite)
    except AssertionError as error:
        pytest.skip(f"{suite} cannot be downloaded: {error}")
    try:
        run("up", "--toolstack", "--suite", suite)
        run("domu", "d1", "--memory", "160", "--e820-host")
        run("dump-core", "d1", str(tmp_path / "d1.core"))
        run("mfndump", "d1", str(tmp_path / "d1.txt"))
        found = re.findall(r"pfn=0x([0-9a-f]+) ==> mfn=0x([0-9a-f]+)", (tmp_path / "d1.txt").read_text())
        xen = {int(pfn, 16): int(mfn, 16) for pfn, mfn in found if int(mfn, 16) < 1 << 40}
        assert {int(pfn): int(mfn) for pfn, mfn in _core_p2m(tmp_path / "d1.core")} == xen
        assert len(xen) == 160 * MIB // 4096
    finally:
        run("down", "--all")
