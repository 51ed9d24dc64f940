"""An excerpt gives the same answers as what it was made from, and so does an excerpt of an excerpt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gdb_p2m.errors import UsageError
from gdb_p2m.sources.probe import open_source
from support.command_line import run_cli
from support.elf_files import ElfFile, Load, notes_of
from support.machine import Healthy, examine
from support.places import ROOT
from support.verbs import same_json_everywhere


def excerpt(source: Path, out: Path, *words: str) -> Path:
    ran = run_cli("excerpt", source, out, *words)
    assert ran.code == 0, ran.err
    return out


def renamed(path: Path, name: str = "dump"):  # type: ignore[no-untyped-def]
    """The source with a fixed path, which some answers quote."""
    source = open_source(str(path))
    source.info.path = name
    return source


@pytest.fixture(scope="module", params=["dom0_core", "odd_core"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A bundled excerpt, its excerpt, and the excerpt of that."""
    folder = tmp_path_factory.mktemp("chain")
    original: Path = request.getfixturevalue(request.param)
    first = excerpt(original, folder / "first.core")
    return [original, first, excerpt(first, folder / "second.core")]


@pytest.mark.thorough
def test_all_answers_are_the_same_bytes(chain: list[Path]) -> None:
    original, first, second = chain
    # What the dump holds is different; what it says of the guest is not.
    same_answers(original, first)
    same_json_everywhere(renamed(first), renamed(second))


def same_answers(a: Path, b: Path) -> None:
    from support.verbs import run_every_verb

    one, two = run_every_verb(renamed(a), "json"), run_every_verb(renamed(b), "json")
    for command, text in one.items():
        if not command.startswith(("identify", "symbols")):
            assert str(text) == str(two[command]), command
        elif command.startswith("symbols"):
            assert str(text).count('"value"') == str(two[command]).count('"value"')


def test_the_second_excerpt_is_the_first_byte_by_byte(chain: list[Path]) -> None:
    assert chain[1].read_bytes() == chain[2].read_bytes()


def test_rules_say_the_same_of_an_excerpt(chain: list[Path]) -> None:
    before, after = (examine(renamed(p)).results for p in (chain[0], chain[2]))
    assert before == after


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", [".zst", ".gz"])
def test_compressed_by_its_name(dom0_core: Path, tmp_path: Path, suffix: str) -> None:
    plain = excerpt(dom0_core, tmp_path / "out.core")
    packed = excerpt(dom0_core, tmp_path / f"out.core{suffix}")
    assert packed.stat().st_size < plain.stat().st_size / 3
    assert packed.read_bytes() == excerpt(dom0_core, tmp_path / f"again.core{suffix}").read_bytes(), "reproducible"
    same_json_everywhere(renamed(plain), renamed(packed))


def test_an_excerpt_holds_only_what_is_needed_of_a_larger_machine(dom0: Healthy, tmp_path: Path) -> None:
    """The dom0 inside 64 MiB more of random memory: none of that comes along."""
    noise = np.random.default_rng(5).integers(0, 256, 64 << 20, dtype=np.uint8).tobytes()
    loads = [*(Load(a, d) for a, d in dom0.machine.pieces.items()), Load(0x8000000, noise)]
    big = ElfFile(loads, notes_of(dom0.machine)).write(tmp_path / "big.core")
    small = excerpt(big, tmp_path / "small.core")
    assert small.stat().st_size < 5 << 20
    held = open_source(str(small)).extents()
    assert not any(e.start < 0xC000000 and e.end > 0x8000000 for e in held)


def test_another_name_is_asked_for_and_force_overwrites(dom0_core: Path, tmp_path: Path) -> None:
    out = excerpt(dom0_core, tmp_path / "out.core")
    ran = run_cli("excerpt", dom0_core, out)
    assert ran.code == 2 and "is there already" in ran.err and "--force" in ran.err
    excerpt(dom0_core, out, "--force")
    assert list(tmp_path.iterdir()) == [out], "nothing is left aside"


def test_a_folder_that_is_not_there(dom0_core: Path, tmp_path: Path) -> None:
    ran = run_cli("excerpt", dom0_core, tmp_path / "no" / "out.core")
    assert ran.code in (2, 3) and "out.core" in ran.err and "No such file" in ran.err and ran.out == ""


def test_to_standard_output_nothing_else_is_written(dom0_core: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gdb_p2m.cli", "excerpt", str(dom0_core), "-"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout == excerpt(dom0_core, tmp_path / "file.core").read_bytes()


def test_no_excerpt_of_a_damaged_dump(dom0_core: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.core"
    cut.write_bytes(dom0_core.read_bytes()[:-5000])
    ran = run_cli("excerpt", cut, tmp_path / "out.core")
    assert ran.code == 3 and "damaged" in ran.err
    assert not (tmp_path / "out.core").exists() and not (tmp_path / "out.core.part").exists()


def test_names_of_an_excerpt_are_readable_by_others(dom0_core: Path, tmp_path: Path) -> None:
    source = open_source(str(excerpt(dom0_core, tmp_path / "out.core")))
    text = next(n.desc for n in source.info.notes if n.name == "VMCOREINFO").decode("ascii")
    lines = dict(line.split("=", 1) for line in text.splitlines())
    assert lines["OSRELEASE"] == "6.1.0-56-amd64" and lines["PAGESIZE"] == "4096"
    assert int(lines["SYMBOL(xen_p2m_addr)"], 16) > 1 << 63
    assert [n.name for n in source.info.notes] == ["CORE", "QEMU", "VMCOREINFO", "GDB-P2M"]


def test_usage_errors_come_before_any_work(dom0_core: Path) -> None:
    assert issubclass(UsageError, Exception)
    assert run_cli("excerpt", dom0_core).code == 2
