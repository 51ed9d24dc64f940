"""`source` this in GDB (12 or newer, with Python 3.11 or newer) to get the command `p2m`.

The rest is in gdb_p2m/gdbui/startup.py, which is also what an installed gdb-p2m is sourced by. No syntax newer
than Python 3.6 here: an old GDB must be able to read this file in order to be told.
"""

import importlib.util
import os
from types import ModuleType


def load_startup() -> ModuleType:
    """The module startup, read anew on every `source`."""
    here = os.path.dirname(os.path.realpath(__file__))
    path = os.path.join(os.path.dirname(here), "gdb_p2m", "gdbui", "startup.py")
    spec = importlib.util.spec_from_file_location("gdb_p2m_startup", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


load_startup().main()
