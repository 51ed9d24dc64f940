"""`source`: what it needs, what it says when that is not there, and doing it twice."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from support.command_line import run_cli
from support.gdb_process import SCRIPT, Gdb
from support.places import DOM0, PACKAGE

pytestmark = pytest.mark.gdb
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def venv(path: Path, version: str = VERSION) -> Path:
    """The site-packages of what looks like a virtual environment."""
    site = path / "lib" / f"python{version}" / "site-packages"
    site.mkdir(parents=True)
    return site


def linked_venv(path: Path, *without: str) -> Path:
    """The site-packages of an environment with the tests' own packages, by links."""
    site = venv(path)
    for entry in Path(sysconfig.get_paths()["platlib"]).iterdir():
        if entry.name not in ("gdb_p2m", *without) and not entry.name.startswith("__editable__"):
            (site / entry.name).symlink_to(entry)
    return site


def test_both_gdbs_load_it_silently(any_gdb: Gdb) -> None:
    ran = any_gdb(f"p2m open {DOM0.path}", "p2m lookup 0x100")
    assert ran.out == run_cli("lookup", DOM0.path, "0x100").out
    assert ran.err == ""


def test_sourcing_twice_keeps_dump_and_settings(gdb: Gdb) -> None:
    ran = gdb(
        f"p2m open {DOM0.path}",
        "set p2m pmemsave off",
        "python import gdb_p2m.units as before",
        f"source {SCRIPT}",
        "python import gdb_p2m.units as after; print(before is after)",
        "p2m lookup 0x100",
        "output $p2m(0x100)",
        "echo \\n",
        "show p2m pmemsave",
        f"source {SCRIPT}",
        "p2m close",
        "p2m close",
    )
    expected = "False\n" + run_cli("lookup", DOM0.path, "0x100").out + "196864\nWhether p2m may use pmemsave is off.\n"
    assert ran.out == expected
    assert ran.err == "p2m: no dump is open\n"


def test_sourcing_again_when_the_dump_has_gone_says_so(gdb: Gdb, tmp_path: Path) -> None:
    copy = tmp_path / "gone.core.zst"
    shutil.copy(DOM0.path, copy)
    ran = gdb(f"p2m open {copy}", f"shell rm {copy}", f"source {SCRIPT}", "p2m identify")
    assert f"p2m: {copy}: cannot be opened" in ran.err and "no dump is open" in ran.err


def test_a_relative_and_a_linked_script_are_found(gdb: Gdb, tmp_path: Path) -> None:
    (tmp_path / "link.py").symlink_to(SCRIPT)
    for name, cwd in (("link.py", tmp_path), ("gdb_p2m.py", SCRIPT.parent)):
        assert "identify" in gdb("p2m", script=Path(name), cwd=cwd).out


def test_an_environment_of_another_python_is_named_with_both_versions(gdb: Gdb, tmp_path: Path) -> None:
    venv(tmp_path / "v", "3.8")
    ran = gdb("p2m", env={"GDB_P2M_VENV": str(tmp_path / "v")})
    assert f"p2m: this GDB embeds Python {VERSION}, but {tmp_path}/v was made with Python 3.8" in ran.err
    assert f"python{VERSION} -m venv" in ran.err
    assert 'Undefined command: "p2m"' in ran.err and ran.out == ""


def test_an_environment_that_is_not_there_is_named(gdb: Gdb) -> None:
    assert "GDB_P2M_VENV=/no/venv: there is no such directory" in gdb(env={"GDB_P2M_VENV": "/no/venv"}).err


def test_a_numpy_that_does_not_load_is_one_message(gdb: Gdb, tmp_path: Path) -> None:
    site = linked_venv(tmp_path / "v", "numpy")
    (site / "numpy").mkdir()
    (site / "numpy" / "__init__.py").write_text("raise ImportError('libscipy_openblas.so: no such file\\nmore')\n")
    ran = gdb(env={"GDB_P2M_VENV": str(tmp_path / "v")})
    assert f"p2m: numpy cannot be loaded into this GDB (Python {VERSION}) from {tmp_path}/v: libscipy" in ran.err
    assert "--force-reinstall numpy" in ran.err


def test_packages_that_are_missing_are_named(gdb: Gdb, tmp_path: Path) -> None:
    linked_venv(tmp_path / "v", "elftools", "tabulate")
    # Whatever the machine has installed system-wide must not help out.
    hide = "python import sys; sys.path = [p for p in sys.path if 'dist-packages' not in p]"
    ran = gdb(hide, f"source {SCRIPT}", script=None, env={"GDB_P2M_VENV": str(tmp_path / "v")})
    assert f"p2m: {tmp_path}/v lacks elftools, tabulate" in ran.err and f"{tmp_path}/v/bin/pip install" in ran.err


def test_a_checkout_without_environment_says_how_to_make_one(gdb: Gdb, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "gdb_p2m", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "scripts" / "test").touch()
    (tmp_path / "pyproject.toml").touch()
    hide = "python import sys; sys.path = [p for p in sys.path if 'dist-packages' not in p]"
    none = {"GDB_P2M_VENV": None, "VIRTUAL_ENV": None}
    ran = gdb(hide, f"source {tmp_path}/scripts/gdb_p2m.py", script=None, env=none)
    assert "p2m: no virtual environment was found, and GDB's own Python lacks numpy" in ran.err
    assert f"`scripts/demo` or `scripts/test` in {tmp_path} makes one" in ran.err
    assert f"python{VERSION} -m venv {tmp_path}/.venv && {tmp_path}/.venv/bin/pip install -e {tmp_path}" in ran.err
    linked_venv(tmp_path / ".venv")
    assert "identify" in gdb("p2m", script=tmp_path / "scripts" / "gdb_p2m.py", env=none).out


def test_an_installed_package_is_sourced_by_its_own_copy(gdb: Gdb, tmp_path: Path) -> None:
    site = linked_venv(tmp_path / "v")
    shutil.copytree(PACKAGE, site / "gdb_p2m", ignore=shutil.ignore_patterns("__pycache__"))
    ran = gdb(
        "python import gdb_p2m; print(gdb_p2m.__file__)",
        f"p2m open {DOM0.path}",
        "p2m lookup 0x100",
        script=site / "gdb_p2m" / "gdbui" / "startup.py",
        env={"GDB_P2M_VENV": None, "VIRTUAL_ENV": None},
    )
    assert ran.out == f"{site}/gdb_p2m/__init__.py\n" + run_cli("lookup", DOM0.path, "0x100").out


def test_the_line_for_gdbinit_works(gdb: Gdb) -> None:
    line = run_cli("gdbinit").out.strip()
    assert "identify" in gdb(line, "p2m", script=None).out
