"""gdb-p2m: decode and check the physical-to-machine maps of Xen guests.

    from gdb_p2m import open_dump
    with open_dump("vmcore") as machine:
        guest = machine.domain()

`open_dump` reads a file, `attach` (inside GDB) the machine that GDB is connected to. Both are loaded on
first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdb_p2m.api import Machine as Machine
    from gdb_p2m.api import attach as attach
    from gdb_p2m.api import open_dump as open_dump

__version__ = "0.1.0"
__all__ = ["Machine", "__version__", "attach", "open_dump"]


def __getattr__(name: str) -> Any:
    if name in ("Machine", "attach", "open_dump"):
        from gdb_p2m import api

        return getattr(api, name)
    raise AttributeError(f"module 'gdb_p2m' has no attribute {name!r}")
