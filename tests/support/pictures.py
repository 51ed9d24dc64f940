"""Views to draw: bundled excerpts, real ones beside the checkout, and guests that the model builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdb_p2m.api import open_dump
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.target import Target
from gdb_p2m.views.base import View
from gdb_p2m.views.registry import Views
from support.models import holed, source_of
from support.places import FIXTURES, SHARED_REAL

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "draw"
BUNDLED = (
    "linux-6.1-dom0-400M",
    "linux-6.12-dom0-odd-5G",
    "linux-6.1-domu-150M-e820-host",
    "xen-riscv-sv39x4",
    "xen-riscv-sv48x4",
    "xen-riscv-sv57x4",
)
REAL = ("linux-3.16-tree", "linux-3.18-tree", "xen-riscv-sv39")
MODELS = (
    "pae-dom0",
    "pae-tree-domu",
    "tree-2.6.37-domu",
    "tree-2.6.39-dom0",
    "tree-3.18-hole-dom0",
    "documentation-example",
)
NAMES = (*BUNDLED, *REAL, *MODELS, "holed-tree-3.16-64", "holed-linear-pae")


def view_of(name: str, view: str | None = None) -> View:
    """The view `view` (or its own) of a memory by name; skips when it is not there."""
    if name.startswith("holed-"):
        era, _, width = name.removeprefix("holed-").rpartition("-")
        return _own(source_of(holed(era, width)), view)
    if name in MODELS:
        path = FIXTURES / "models" / f"{name}.model"
        return _own(source_of(build(parse(path.read_text(), name))), view)
    path = (SHARED_REAL if name in REAL else FIXTURES) / f"{name}.core.zst"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the checkout (../shared/real)")
    return open_dump(str(path)).view(view)


def _own(source, view: str | None) -> View:  # type: ignore[no-untyped-def]
    return Views(Target(source).domain()).get(view)
