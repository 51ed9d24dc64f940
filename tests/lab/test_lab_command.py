"""scripts/lab. What boots a machine is marked `lab`; the rest needs neither QEMU nor a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from lablib import archive, elf, initramfs, labs, livedump, packages, sources  # noqa: E402
from lablib.errors import LabError  # noqa: E402

Run = Callable[..., "subprocess.CompletedProcess[str]"]

GIB = 1 << 30


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A lab of its own: nothing cached, nothing running."""
    return {
        **os.environ,
        "GDB_P2M_LAB_CACHE": str(tmp_path / "cache"),
        "GDB_P2M_LAB_RUN": str(tmp_path / "run"),
    }


@pytest.fixture
def lab(environment: dict[str, str]) -> Run:
    """Run scripts/lab as a user does, with the Python it names itself."""
    return _runner(environment)


def _runner(environment: dict[str, str]) -> Run:
    def run(*arguments: str, code: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / "lab"), *arguments],
            env={**environment, **changes},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


# --- the command line, without a machine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "VERB"),
        (["fly"], "invalid choice: 'fly'"),
        (["up", "--suite", "potato"], "invalid choice: 'potato'"),
        (["up", "--kernel-args", "earlyprintk=xen,keep"], "has a comma"),
        (["up", "--mem", "much"], "--mem much"),
        (["up", "--mem", "0G"], "--mem 0G"),
        (["up", "--dom0-mem", "400 M"], "--dom0-mem 400 M"),
        (["up", "--dom0-mem", "400M,max"], "--dom0-mem 400M,max"),
        (["up", "--cpus", "0"], "--cpus 0"),
        (["up", "--port", "65536"], "--port 65536"),
        (["up", "--name", "../evil"], "cannot be a lab's name"),
        (["down", "--name", "-"], "cannot be a lab's name"),
        (["dump"], "FILE"),
        (["up", "--na", "x"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_2_and_says_what(lab: Run, arguments: list[str], message: str) -> None:
    assert message in lab(*arguments, code=2).stderr


@pytest.mark.parametrize("sizes", ["400M", "401001K", "3500M,max:3500M", "min:1G,max:2g,1536m", "1048576B"])
def test_dom0_mem_as_xen_takes_it(lab: Run, sizes: str) -> None:
    """Without QEMU in PATH the options are checked first, then QEMU is missed: no usage error."""
    assert "qemu" in lab("up", "--dom0-mem", sizes, code=3, PATH="/nonexistent").stderr


def test_status_with_no_lab(lab: Run) -> None:
    assert lab("status").stdout == "no lab is running\n"
    assert json.loads(lab("status", "--json").stdout) == {"schema": "gdb-p2m-lab/status/1", "labs": []}
    assert lab("down", "--all").stdout == ""


@pytest.mark.parametrize(
    "verb", [["dump", "x.elf"], ["stop"], ["cont"], ["monitor", "info version"], ["down"], ["console"]]
)
def test_a_lab_that_is_not_there_is_3(lab: Run, verb: list[str]) -> None:
    assert "no lab named 'gone'" in lab(*verb, "--name", "gone", code=3).stderr


def test_paths_of_a_suite_that_is_not_cached(lab: Run) -> None:
    assert "scripts/lab fetch --suite sid" in lab("paths", "--suite", "sid", code=3).stderr


def test_without_qemu_the_message_says_how_to_get_it(lab: Run, tmp_path: Path) -> None:
    assert "apt install qemu-system-x86" in lab("up", code=3, PATH="/nonexistent").stderr
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


def test_without_apt_nothing_can_be_fetched(lab: Run) -> None:
    assert "apt-get is not installed" in lab("fetch", code=3, PATH="/nonexistent").stderr


def test_a_run_directory_of_somebody_else_is_refused(lab: Run, tmp_path: Path) -> None:
    if shutil.which(packages_qemu := "qemu-system-x86_64") is None:
        pytest.skip(f"{packages_qemu} is not installed")
    (tmp_path / "run").mkdir()
    root = tmp_path / "run" / f"gdb-p2m-lab-{os.getuid()}"
    root.mkdir()
    root.chmod(0o777)
    assert "only you can write to" in lab("up", code=3).stderr


def test_the_documentation_names_every_verb_and_option(lab: Run) -> None:
    text = (SCRIPTS.parent / "docs" / "lab.md").read_text()
    verbs = re.findall(r"^    ([a-z][a-z-]*)\b", lab("--help").stdout, re.MULTILINE)
    assert {"up", "dump", "status", "paths", "dump-core"} <= set(verbs)
    for verb in verbs:
        options = set(re.findall(r"--[a-z][a-z0-9-]*", lab(verb, "--help").stdout)) - {"--help"}
        assert f"`{verb}" in text
        assert {option for option in options if not re.search(rf"[` ]{option}[` ]", text)} == set()


# --- what happens when packages cannot be had


def _apt_configuration(tmp_path: Path, line: str) -> str:
    """An apt configuration whose only source is `line`, through the variable that apt itself reads."""
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is not installed")
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "only.list").write_text(line + "\n")
    configuration = tmp_path / "apt.conf"
    configuration.write_text(f'Dir::Etc::sourcelist "{tmp_path}/none";\nDir::Etc::sourceparts "{parts}";\n')
    return str(configuration)


def test_a_mirror_that_cannot_be_reached(lab: Run, tmp_path: Path) -> None:
    configuration = _apt_configuration(tmp_path, "deb [trusted=yes] file:///nonexistent/debian bookworm main")
    said = lab("fetch", "--suite", "trixie", code=3, APT_CONFIG=configuration).stderr
    assert "cannot find package linux-image-amd64 from suite trixie; apt said:" in said
    assert "/nonexistent/debian" in said
    lab("paths", "--suite", "trixie", code=3)  # nothing half is taken as whole


def test_a_machine_without_a_debian_source(lab: Run, tmp_path: Path) -> None:
    configuration = _apt_configuration(tmp_path, "deb http://mirror.example/ubuntu jammy main")
    said = lab("fetch", "--suite", "trixie", code=3, APT_CONFIG=configuration).stderr
    assert "none of this machine's apt sources is a Debian archive" in said


# --- apt sources

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
# a comment inside
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
Enabled: no
URIs: http://old.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://src.example/debian
Suites: bookworm
Components: main
"""


def test_deb822_stanzas_are_read_as_apt_reads_them() -> None:
    main, security = sources.parse_deb822(DEB822)
    assert main.uris == ("http://mirror.example/debian",)
    assert main.suites == ("bookworm", "bookworm-updates")
    assert main.option("signed-by") == "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert security.suites == ("bookworm-security",)
    assert security.option("signed-by").splitlines()[1:3] == [" -----BEGIN PGP PUBLIC KEY BLOCK-----", " ."]


def test_one_line_sources_with_options() -> None:
    (source,) = sources.parse_one_line(
        "# deb http://no.example/debian bookworm main\n"
        "deb-src http://no.example/debian bookworm main\n"
        "deb [ arch=amd64,arm64 signed-by=/k/a.gpg,/k/b.gpg ] http://a.example/debian bookworm main # why\n"
    )
    assert source.uris == ("http://a.example/debian",)
    assert source.components == ("main",)
    assert source.options == (("signed-by", "/k/a.gpg /k/b.gpg"),)


def test_another_suite_from_the_same_mirrors() -> None:
    text = sources.sources_for("trixie", sources.parse_deb822(DEB822))
    again = sources.parse_deb822(text)
    assert [(source.uris, source.suites) for source in again] == [
        (("http://mirror.example/debian",), ("trixie",)),
        (("http://mirror.example/debian-security",), ("trixie-security",)),
    ]
    assert again[1].option("signed-by").endswith("-----END PGP PUBLIC KEY BLOCK-----")


def test_sid_has_no_security_archive() -> None:
    assert "security" not in sources.sources_for("sid", sources.parse_deb822(DEB822))


def test_third_parties_that_use_debian_suite_names_are_left_out() -> None:
    lines = "deb http://vendor.example/apt bookworm main\ndeb http://mirror.example/debian bookworm main\n"
    assert "vendor" not in sources.sources_for("sid", sources.parse_one_line(lines))


def test_no_debian_source_is_an_error() -> None:
    with pytest.raises(LabError, match="Debian archive"):
        sources.sources_for("sid", sources.parse_one_line("deb http://mirror.example/ubuntu noble main\n"))


def test_sources_are_read_from_both_kinds_of_file(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian bookworm main\n")
    (parts / "b.sources").write_text(DEB822)
    (parts / "c.list").write_text("deb http://c.example/debian bookworm main\n")
    (parts / "d.list.disabled").write_text("deb http://d.example/debian bookworm main\n")
    found = [source.uris[0] for source in sources.read_sources(tmp_path / "sources.list", parts)]
    assert [uri.split("/")[2] for uri in found] == [
        "a.example",
        "mirror.example",
        "mirror.example",
        "c.example",
    ]


# --- choosing packages


def test_the_newest_hypervisor_by_number_not_by_text() -> None:
    names = ["xen-hypervisor-4.9-amd64", "xen-hypervisor-4.17-amd64", "xen-hypervisor-4.17-amd64-dbg"]
    assert packages.newest_xen([*names, "xen-hypervisor-common"], "bookworm") == "4.17"


@pytest.mark.parametrize(
    ("depends", "release"),
    [
        ("linux-image-6.1.0-56-amd64 (= 6.1.192-2)", "6.1.0-56-amd64"),
        ("linux-base-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-amd64 (= 7.2.13-1)", "7.2.13+deb14-amd64"),
    ],
)
def test_the_kernel_the_meta_package_depends_on(depends: str, release: str) -> None:
    assert packages.newest_linux(depends, "a suite") == release


# --- the initramfs and the dump, by other people's readers where there are any


def test_cpio_reads_the_initramfs(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("cpio is not installed: no independent reader of the archive")
    (tmp_path / "busybox").write_bytes(b"odd")
    archive.write_initramfs(tmp_path / "a.img", initramfs.dom0_entries(tmp_path / "busybox"))
    unpacked = subprocess.run(["gzip", "-dc", tmp_path / "a.img"], capture_output=True, check=True).stdout
    listed = subprocess.run(["cpio", "-tv"], input=unpacked, capture_output=True, check=True).stdout.decode()
    rows = [line.split() for line in listed.splitlines()]
    assert {row[-1]: row[0] for row in rows if row[-1] in ("init", "dev/console", "bin")} == {
        "init": "-rwxr-xr-x",
        "dev/console": "crw-------",
        "bin": "drwxr-xr-x",
    }
    init = subprocess.run(
        ["cpio", "-i", "--to-stdout", "init"], input=unpacked, capture_output=True, check=True
    )
    assert subprocess.run(["sh", "-n"], input=init.stdout, check=False).returncode == 0


def _core(tmp_path: Path, *, held: int, kind: int = elf.ET_CORE) -> Path:
    path = tmp_path / "core"
    ident = (b"\x7fELF", 2, 1, 1)
    header = elf.EHDR.pack(*ident, kind, elf.EM_X86_64, 1, 0, elf.EHDR.size, 0, 0, 64, 56, 1, 0, 0, 0)
    path.write_bytes(
        header + elf.PHDR.pack(elf.PT_LOAD, 0, 4096, 0, 0, 8192, 8192, 0) + bytes(4096 - 120 + held)
    )
    return path


def test_a_whole_core_passes(tmp_path: Path) -> None:
    elf.check_core(_core(tmp_path, held=8192), 8192)


def test_a_truncated_core_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="not whole"):
        elf.check_core(_core(tmp_path, held=8191), 8192)


def test_less_memory_than_the_machine_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="not whole"):
        elf.check_core(_core(tmp_path, held=8192), 8193)


def test_another_elf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no x86-64 core"):
        elf.check_core(_core(tmp_path, held=8192, kind=2), 8192)


MTREE = """\
FlatView #0
 AS "I/O", root: io
  0000000000000000-0000000000000007 (prio 0, ram): not this one
FlatView #1
 AS "memory", root: system
 Root memory region: system
  0000000000000000-00000000000c2fff (prio 0, ram): pc.ram
  00000000000c3000-00000000000e7fff (prio 0, rom): pc.ram @00000000000c3000
  00000000000e8000-00000000bfffffff (prio 0, ram): pc.ram @00000000000e8000
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic
  0000000100000000-000000017fffffff (prio 0, ram): pc.ram @00000000c0000000
"""


def test_ram_ranges_are_joined_and_skip_devices() -> None:
    assert livedump.ram_ranges(MTREE) == [(0, 0xC0000000), (0x100000000, 0x180000000)]


# --- processes: only ever our own


def _fake_lab(root: Path, pid: int, ticks: int) -> None:
    directory = root / "run" / f"gdb-p2m-lab-{os.getuid()}" / "fake"
    directory.mkdir(parents=True)
    facts = {"name": "fake", "suite": "sid", "mem": "1G", "dom0_mem": "400M", "cpus": 1, "port": 1}
    facts |= {"xen_args": "", "kernel_args": "", "directory": "", "pid": pid, "start_ticks": ticks}
    facts |= {"versions": {"xen": "4.20", "linux": "7.2"}, "files": {"vmlinuz": "/v", "xen": "/x"}}
    (directory / "lab.json").write_text(json.dumps(facts))


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_a_process_that_got_the_same_id_is_not_touched(
    lab: Run, tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    _fake_lab(tmp_path, bystander.pid, labs.start_ticks(bystander.pid) - 1)
    assert "'fake': dead" in lab("status").stdout
    assert "is dead" in lab("stop", "--name", "fake", code=3).stderr
    assert "was dead already" in lab("down", "--name", "fake").stdout
    assert bystander.poll() is None


@pytest.mark.thorough
def test_a_qemu_that_does_not_answer_is_ended_by_a_signal(
    lab: Run, tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    _fake_lab(tmp_path, bystander.pid, labs.start_ticks(bystander.pid))
    assert "'fake': busy" in lab("status").stdout
    assert "ended by SIGTERM" in lab("down", "--name", "fake").stdout
    assert bystander.wait() == -signal.SIGTERM
    assert lab("status").stdout == "no lab is running\n"


def test_a_broken_pipe_is_no_failure(environment: dict[str, str], tmp_path: Path) -> None:
    _fake_lab(tmp_path, 1, 0)
    log = tmp_path / "run" / f"gdb-p2m-lab-{os.getuid()}" / "fake" / "serial.log"
    log.write_bytes(b"line\r\n" * 100_000)
    command = [sys.executable, str(SCRIPTS / "lab"), "console", "--name", "fake"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


# --- real machines


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Run]:
    """Labs that run from the user's own cache (a download is made once) in a run directory of this test."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    run = _runner({**os.environ, "GDB_P2M_LAB_RUN": str(tmp_path / "run")})
    yield run
    run("down", "--all")


@pytest.fixture
def dumps(tmp_path: Path) -> Iterator[Path]:
    """A directory for gigabytes: gone after the test, also when it failed."""
    directory = tmp_path / "dumps"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


def _fetched(run: Run, suite: str) -> None:
    try:
        run("fetch", "--suite", suite)
    except AssertionError as error:
        pytest.skip(f"{suite} cannot be downloaded: {error}")


def _up(run: Run, *arguments: str, suite: str = "bookworm") -> dict[str, Any]:
    _fetched(run, suite)
    facts: dict[str, Any] = json.loads(run("up", "--json", "--suite", suite, *arguments).stdout)
    assert facts["schema"] == "gdb-p2m-lab/up/1"
    return facts


def _block(console: str, name: str) -> list[str]:
    """The lines of one block of the console."""
    return (
        console.partition(f"{initramfs.BEGIN} {name}\n")[2].partition(f"\n{initramfs.END}\n")[0].splitlines()
    )


def _state(run: Run, name: str = "default") -> str:
    found = json.loads(run("status", "--json").stdout)["labs"]
    return next(str(lab["state"]) for lab in found if lab["name"] == name)


@pytest.mark.lab
@pytest.mark.parametrize("suite", packages.SUITES)
def test_every_suite_boots_and_dumps(real: Run, dumps: Path, suite: str) -> None:
    facts = _up(real, suite=suite)
    assert facts["state"] == "running" and facts["suite"] == suite
    assert f"target remote 127.0.0.1:{facts['port']}" in facts["gdb"]
    paths = json.loads(real("paths", "--suite", suite).stdout)
    assert all(Path(paths[key]).is_file() for key in ("xen", "vmlinuz", "config", "busybox"))
    assert (paths["xen_syms"] is None) == (suite == "bullseye")
    assert Path(paths["xen"]).read_bytes()[:4] == b"\x7fELF"
    console = real("console").stdout
    assert f"Linux {facts['versions']['linux']}" in console.partition(initramfs.READY)[2]
    symbols = {line.split()[2]: int(line.split()[0], 16) for line in _block(console, "kallsyms")}
    assert all(symbols[name] >> 31 == 0x1FFFFFFFF for name in ("xen_p2m_addr", "xen_p2m_size", "p2m_top_mfn"))
    assert any(re.search(r"Remapped \d+ page", line) for line in _block(console, "dmesg"))
    assert any("System RAM" in line for line in _block(console, "iomem"))
    real("dump", str(dumps / "machine.elf"))
    elf.check_core(dumps / "machine.elf", GIB)
    assert "quit" in real("down").stdout
    assert labs.start_ticks(facts["pid"]) == -1
    assert real("status").stdout == "no lab is running\n"


@pytest.mark.lab
def test_two_labs_side_by_side(real: Run, dumps: Path) -> None:
    first, second = _up(real, "--name", "first"), _up(real, "--name", "second", "--cpus", "2")
    assert first["port"] != second["port"]
    assert "already running" in real("up", "--name", "first", code=3).stderr
    assert "cannot be used" in real("up", "--name", "third", "--port", str(first["port"]), code=3).stderr
    real("stop", "--name", "first")
    assert (_state(real, "first"), _state(real, "second")) == ("paused", "running")
    assert "paused" in real("monitor", "info status", "--name", "first").stdout
    real("cont", "--name", "first")
    assert _state(real, "first") == "running"
    os.kill(second["pid"], signal.SIGKILL)  # QEMU dies behind our back
    deadline = time.monotonic() + 5
    while labs.start_ticks(second["pid"]) != -1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _state(real, "second") == "dead"
    assert "is dead" in real("dump", str(dumps / "no.elf"), "--name", "second", code=3).stderr
    assert initramfs.READY in real("console", "--name", "second").stdout
    assert _up(real, "--name", "second")["pid"] != second["pid"]  # a dead lab is in nobody's way
    assert len(real("down", "--all").stdout.splitlines()) == 2


@pytest.mark.lab
def test_dumps_compressed_live_and_refused(real: Run, dumps: Path) -> None:
    _up(real)
    odd = dumps / 'a "quoted", name.elf'
    real("dump", str(odd))
    elf.check_core(odd, GIB)
    real("dump", "--live", str(dumps / "live.elf"))
    elf.check_core(dumps / "live.elf", GIB)
    assert _differing_pages(odd, dumps / "live.elf") < 50_000  # the same machine, seconds later
    if shutil.which("zstd"):
        real("dump", str(dumps / "small.elf.zst"))
        subprocess.run(["zstd", "-qt", dumps / "small.elf.zst"], check=True)
        assert (dumps / "small.elf.zst").stat().st_size < GIB // 4
    assert "No such file" in real("dump", "/nonexistent/x.elf", code=3).stderr
    assert "is a directory" in real("dump", str(dumps), code=3).stderr
    assert "unknown command" in real("monitor", "fly", code=3).stderr
    assert _state(real) == "running"
    assert sorted(path.name for path in dumps.iterdir() if path.name.startswith(".")) == []


def _differing_pages(one: Path, other: Path) -> int:
    """Pages that differ between the first PT_LOAD of two cores."""
    streams = [one.open("rb"), other.open("rb")]
    for stream in streams:
        fields = elf.EHDR.unpack(stream.read(elf.EHDR.size))
        stream.seek(fields[elf.EHDR_PHOFF] + elf.PHDR.size)
        stream.seek(elf.PHDR.unpack(stream.read(elf.PHDR.size))[2])
    differing = 0
    for _ in range(GIB >> 20):
        left, right = (stream.read(1 << 20) for stream in streams)
        if left != right:
            differing += sum(left[at : at + 4096] != right[at : at + 4096] for at in range(0, 1 << 20, 4096))
    for stream in streams:
        stream.close()
    return differing


@pytest.mark.lab
def test_an_odd_size_on_a_large_machine(real: Run, dumps: Path) -> None:
    if shutil.disk_usage(dumps).free < 8 * GIB:
        pytest.skip("less than 8 GiB free")
    _up(real, "--mem", "5G", "--dom0-mem", "401001K")
    real("dump", str(dumps / "large.elf"))
    elf.check_core(dumps / "large.elf", 5 * GIB)


@pytest.mark.lab
def test_stopped_is_before_the_first_instruction(real: Run) -> None:
    _up(real, "--stopped")
    assert _state(real) == "not begun"
    assert real("console").stdout == ""
    assert re.search(r"RIP=0*fff0|EIP=0*fff0", real("monitor", "info registers").stdout)
    real("cont")
    deadline = time.monotonic() + 120
    while initramfs.READY not in real("console").stdout and time.monotonic() < deadline:
        time.sleep(1)
    assert initramfs.READY in real("console").stdout


@pytest.mark.lab
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dom0-mem", "24M"], "allocation is too small"),
        (["--kernel-args", "rdinit=/none"], "Kernel panic"),
        (["--timeout", "0.5"], "not ready after 0.5 s"),
        (["--mem", "9999999G"], "QEMU ended with exit code 1"),
    ],
)
def test_what_cannot_boot_says_why_and_leaves_no_qemu(real: Run, arguments: list[str], message: str) -> None:
    _fetched(real, "bookworm")
    assert message in real("up", *arguments, code=3).stderr
    assert _state(real) == "dead"


@pytest.mark.lab
def test_a_deep_run_directory_is_no_obstacle(tmp_path: Path) -> None:
    """A socket's path may have 107 bytes; QEMU and we go around that."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    run = _runner({**os.environ, "GDB_P2M_LAB_RUN": str(tmp_path / ("deep, " * 30))})
    facts = _up(run, "--stopped")
    try:
        assert len(facts["qmp_socket"]) > 107
        with socket.create_connection(("127.0.0.1", facts["port"]), timeout=5):
            pass
    finally:
        run("down")
