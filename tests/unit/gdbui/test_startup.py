"""Why p2m cannot be loaded into a GDB: one message that names what is wrong and what to do."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support.places import PACKAGE, ROOT

FILES = [PACKAGE / "gdbui" / "startup.py", ROOT / "scripts" / "gdb_p2m.py"]


@pytest.fixture(scope="module")
def startup() -> ModuleType:
    """The module, loaded as the script loads it: without the package around it."""
    spec = importlib.util.spec_from_file_location("startup_under_test", FILES[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def venv(path: Path, *versions: str) -> Path:
    """A directory that looks like a virtual environment of these Pythons."""
    for version in versions:
        (path / "lib" / f"python{version}" / "site-packages").mkdir(parents=True)
    return path


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.name)
def test_an_old_python_can_read_the_file_in_order_to_say_that_it_is_too_old(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 6))
    for node in ast.walk(tree):
        # Annotations are evaluated when a function is defined: int | None or list[int] fail before 3.10 and 3.9.
        if isinstance(node, ast.FunctionDef):
            for annotation in [node.returns, *(a.annotation for a in node.args.args)]:
                assert annotation is None or isinstance(annotation, ast.Name | ast.Constant)


def test_python_that_is_too_old_is_named(startup: ModuleType) -> None:
    with pytest.raises(startup.Problem, match=r"embeds Python 3\.9; p2m needs Python 3\.11"):
        startup.check_versions((3, 9, 2), "12.1")


def test_gdb_that_is_too_old_is_named(startup: ModuleType) -> None:
    with pytest.raises(startup.Problem, match=r"this is GDB 11\.2; p2m needs GDB 12"):
        startup.check_versions((3, 11, 0), "11.2")


@pytest.mark.parametrize("version", ["12.1", "13.1", "16.3.50.20250301-git", "HEAD"])
def test_other_gdbs_are_welcome(startup: ModuleType, version: str) -> None:
    startup.check_versions((3, 11, 0), version)
    startup.check_versions((3, 14, 1), version)


def test_both_versions_are_named_when_they_differ(startup: ModuleType, tmp_path: Path) -> None:
    made = venv(tmp_path / "v", "3.12")
    with pytest.raises(startup.Problem) as caught:
        startup.site_packages(str(made), (3, 11, 2), str(PACKAGE))
    text = str(caught.value)
    assert "embeds Python 3.11" in text and "made with Python 3.12" in text
    assert f"python3.11 -m venv --clear {made}" in text and f"{made}/bin/pip install -e {ROOT}" in text


def test_the_right_one_of_several_versions_is_taken(startup: ModuleType, tmp_path: Path) -> None:
    made = venv(tmp_path / "v", "3.11", "3.12", "3.1")
    for minor in (11, 12):
        found = startup.site_packages(str(made), (3, minor), str(PACKAGE))
        assert found == str(made / "lib" / f"python3.{minor}" / "site-packages")


def test_a_directory_without_site_packages_is_no_environment(startup: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(startup.Problem, match="is no virtual environment"):
        startup.site_packages(str(tmp_path), (3, 11), str(PACKAGE))


def test_the_environment_is_looked_for_in_order(startup: ModuleType, tmp_path: Path) -> None:
    checkout, other = tmp_path / "checkout", venv(tmp_path / "other", "3.11")
    package = checkout / "gdb_p2m"
    package.mkdir(parents=True)
    active = {"VIRTUAL_ENV": str(other)}
    assert startup.find_venv(str(package), {}) == ""
    assert startup.find_venv(str(package), active) == str(other)
    own = venv(checkout / ".venv", "3.11")
    assert startup.find_venv(str(package), active) == str(own)
    assert startup.find_venv(str(package), {**active, "GDB_P2M_VENV": str(other)}) == str(other)
    with pytest.raises(startup.Problem, match="GDB_P2M_VENV=/no/where: there is no such directory"):
        startup.find_venv(str(package), {"GDB_P2M_VENV": "/no/where"})


def test_an_installed_package_uses_the_environment_it_is_installed_in(startup: ModuleType, tmp_path: Path) -> None:
    made = venv(tmp_path / "v", "3.11")
    package = made / "lib" / "python3.11" / "site-packages" / "gdb_p2m"
    package.mkdir()
    assert startup.find_venv(str(package), {}) == str(made)
    assert startup.pip_install(str(made), str(package)) == f"{made}/bin/pip install gdb-p2m"


def test_missing_packages_are_named(startup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "NEEDED", ("sys", "no_such_module_at_all"))
    with pytest.raises(startup.Problem) as caught:
        startup.check_packages("/the/venv", str(PACKAGE))
    assert "/the/venv lacks no_such_module_at_all" in str(caught.value)
    with pytest.raises(startup.Problem) as caught:
        startup.check_packages("", str(PACKAGE))
    text = str(caught.value)
    assert "no virtual environment was found" in text and "scripts/test" in text and "GDB_P2M_VENV" in text
    assert f"python{sys.version_info[0]}.{sys.version_info[1]} -m venv" in text
