"""Where GDB finds us: the line for ~/.gdbinit."""

from __future__ import annotations

from pathlib import Path


def gdb_script() -> Path:
    """The file to `source` in GDB: scripts/gdb_p2m.py of a checkout, else the copy in the package."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "scripts" / "gdb_p2m.py"
    return checkout if checkout.exists() else package / "gdbui" / "startup.py"


def gdbinit_line() -> str:
    """What to put into ~/.gdbinit."""
    return f"source {gdb_script()}"
