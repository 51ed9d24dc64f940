"""Kernel files for tests: System.map texts and small vmlinux files with a symbol table and a build id."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from support.places import ROOT

_spec = importlib.util.spec_from_file_location("elf_maker", ROOT / "tests" / "unit" / "symbols" / "elf_maker.py")
assert _spec is not None and _spec.loader is not None
_elf_maker = importlib.util.module_from_spec(_spec)
sys.modules.setdefault("elf_maker", _elf_maker)
_spec.loader.exec_module(_elf_maker)

TEXT = 0xFFFFFFFF81000000


def system_map(path: Path, symbols: dict[str, int]) -> Path:
    """A System.map with these symbols and the ones that make it a kernel's."""
    every = {"_text": TEXT, "_stext": TEXT, **symbols}
    lines = [f"{address:016x} D {name}" for name, address in sorted(every.items(), key=lambda x: x[1])]
    path.write_text("\n".join(lines) + "\n")
    return path


def vmlinux(path: Path, symbols: dict[str, int], build_id: str | None) -> Path:
    """A vmlinux with these symbols; its notes carry the build id."""
    every = {"_text": TEXT, "_stext": TEXT, **symbols}
    notes = b"" if build_id is None else _elf_maker.note(b"GNU", 3, bytes.fromhex(build_id))
    made = _elf_maker.Elf(
        segments=[(1, TEXT, bytes(64))], symbols=[(n, a, 1, 1) for n, a in every.items()], notes=notes
    )
    path.write_bytes(made.bytes())
    return path
