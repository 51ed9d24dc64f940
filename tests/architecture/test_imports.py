"""Data flows one way, and only the front end for GDB knows GDB: read from the sources, not from what is loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from support.places import PACKAGE, ROOT

# A module may import from groups above its own. Modules of one group may import each other.
LAYERS = (
    ("errors", "__init__"),
    ("units", "progress"),
    ("layout", "mapping", "mapping_diff"),
    ("sources",),
    ("spaces",),
    ("code",),
    ("symbols",),
    ("guest", "xen_riscv", "domain", "target"),
    ("structures",),
    ("views",),
    ("pictures",),
    ("stories",),
    ("rules",),
    ("commands",),
    ("render", "report"),
    ("cli", "gdbui", "gdbinit", "api", "drgn"),
)
RANK = {name: i for i, names in enumerate(LAYERS) for name in names}
MODEL_MAY_IMPORT = {"layout", "units", "errors", "model", "progress", "mapping"}
LAZY = {
    # Imports inside functions, which cost a start nothing, may look "down": each with its reason.
    ("target", "structures"): "Target.guests reads start_info to know dom0; Target.domain_list reads Xen's list",
    ("commands", "render"): "check's report knows how to become SARIF and JUnit, draw's picture how to become text and SVG",
    ("commands", "report"): "the verb's arguments are known without its templates and what they need",
    ("__init__", "api"): "the package's names are loaded on first use, so that importing it costs nothing",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def group(module: str) -> str:
    """ "gdb_p2m.views.linear" -> "views"; "gdb_p2m.cli" -> "cli"; "gdb_p2m" -> "__init__"."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(module, line, whether at import time) of all imports; those for type checkers only are left out."""
    tree = ast.parse(path.read_text())
    found: list[tuple[str, int, bool]] = []

    def visit(node: ast.AST, lazy: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend((a.name, child.lineno, not lazy) for a in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
                whole = [f"{child.module}.{a.name}" for a in child.names]
                found.extend((w if is_module(w) else child.module, child.lineno, not lazy) for w in whole)
            visit(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(tree, False)
    return found


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_every_module_belongs_to_a_layer() -> None:
    groups = {group(name_of(p)) for p in modules()}
    assert groups - {"model"} <= RANK.keys()


@pytest.mark.parametrize("path", modules(), ids=lambda p: name_of(p))
def test_a_module_imports_only_from_layers_above(path: Path) -> None:
    own = group(name_of(path))
    if own == "model":
        return
    for module, line, at_import in imports(path):
        if not module.startswith("gdb_p2m"):
            continue
        other = group(module)
        if other == "model":
            assert own in ("commands", "rules"), f"{path}:{line}: {own} imports the model"
            continue
        down = RANK[other] > RANK[own]
        if down and not at_import and (own, other) in LAZY:
            continue
        assert not down, f"{path}:{line}: {own} imports {module}, which lies below it"


@pytest.mark.parametrize("path", [p for p in modules() if "model" in p.parts], ids=lambda p: name_of(p))
def test_the_model_never_imports_a_decoder(path: Path) -> None:
    for module, line, _ in imports(path):
        if module.startswith("gdb_p2m"):
            assert group(module) in MODEL_MAY_IMPORT, f"{path}:{line}: {module}"


def test_only_the_gdb_front_end_imports_gdb() -> None:
    for path in modules():
        uses = [line for module, line, _ in imports(path) if module.split(".")[0] == "gdb"]
        assert not uses or "gdbui" in path.parts, f"{path}:{uses}"


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_light() -> None:
    heavy = ["numpy", "elftools", "construct", "tabulate", "capstone", "zstandard", "gdb"]
    out = run_python(f"import gdb_p2m, sys; print([m for m in {heavy!r} if m in sys.modules])")
    assert out.strip() == "[]"


def test_what_a_verb_does_not_need_is_not_loaded() -> None:
    code = "import gdb_p2m.cli, sys; print([m for m in {} if m in sys.modules])"
    assert run_python(code.format(["capstone", "construct", "elftools", "zstandard", "gdb"])).strip() == "[]"


@pytest.mark.parametrize("path", modules(), ids=lambda p: name_of(p))
def test_modules_stay_readable(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) < 450, f"{len(lines)} lines"
    assert ast.get_docstring(ast.parse(path.read_text())), "a module says what it is for"


def test_every_import_is_absolute_and_none_takes_a_star() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}"
                assert all(a.name != "*" for a in node.names), f"{path}:{node.lineno}"


def test_nothing_catches_everything_silently() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno}: a bare except"
                names = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
                if names & {"Exception", "BaseException"} and "gdbui" not in path.parts:
                    assert any(isinstance(n, ast.Raise) for n in ast.walk(node)), f"{path}:{node.lineno}"
