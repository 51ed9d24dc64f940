"""What `source`-ing does: finds our Python packages, loads them into GDB, and says clearly why it cannot.

Every Python that a GDB may embed must be able to read this file, so that it can name what is too old: no syntax
newer than 3.6, annotations that are evaluated included. Sourced itself (installed package), or loaded by
scripts/gdb_p2m.py (checkout).
"""

import glob
import importlib
import importlib.util
import os
import signal
import sys
from typing import Any

OLDEST_PYTHON = (3, 11)
OLDEST_GDB = 12
VENV_VARIABLE = "GDB_P2M_VENV"
NEEDED = ("numpy", "elftools", "construct", "tabulate", "zstandard")


class Problem(Exception):
    """Why p2m cannot be loaded, in words for the user."""


def two(version: "Any") -> str:
    """(3, 11, 2) -> "3.11"."""
    return ".".join(str(part) for part in version[:2])


def check_versions(python: "Any", gdb_version: str) -> None:
    """Raise Problem when GDB or its Python is too old. gdb_version: as in gdb.VERSION, "13.1"."""
    if tuple(python[:2]) < OLDEST_PYTHON:
        raise Problem(
            f"this GDB embeds Python {two(python)}; p2m needs Python {two(OLDEST_PYTHON)} or newer inside GDB\n"
            "  try: a newer GDB, or the shell: gdb-p2m VERB DUMP"
        )
    number = gdb_version.split(".")[0]
    if number.isdigit() and int(number) < OLDEST_GDB:
        raise Problem(f"this is GDB {gdb_version}; p2m needs GDB {OLDEST_GDB} or newer")


def package_folder() -> str:
    """The folder gdb_p2m that this file belongs to."""
    return os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def pip_install(venv: str, package: str) -> str:
    """The command that installs what we need into `venv`. package: the folder gdb_p2m."""
    parent = os.path.dirname(package)
    checkout = os.path.exists(os.path.join(parent, "pyproject.toml"))
    return f"{venv}/bin/pip install " + (f"-e {parent}" if checkout else "gdb-p2m")


def find_venv(package: str, environ: "Any") -> str:
    """The virtual environment to use, "" for none: GDB's own packages have to serve. Raises Problem.

    In order: the one that is named in the environment; the one that this package is installed in; `.venv` of the
    checkout; the one that is active in the shell.
    """
    chosen = environ.get(VENV_VARIABLE)
    if chosen:
        path = os.path.expanduser(chosen)
        if not os.path.isdir(path):
            raise Problem(f"{VENV_VARIABLE}={chosen}: there is no such directory")
        return path
    parent = os.path.dirname(package)
    found = [os.path.join(parent, ".venv")]
    if os.path.basename(parent) == "site-packages":  # VENV/lib/python3.11/site-packages/gdb_p2m
        found.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(parent))))
    if environ.get("VIRTUAL_ENV"):
        found.append(environ["VIRTUAL_ENV"])
    return next((path for path in found if os.path.isdir(path)), "")


def site_packages(venv: str, python: "Any", package: str) -> str:
    """The site-packages of `venv` for this Python. Raises Problem that names both versions."""
    wanted = f"python{two(python)}"
    present = []
    for path in sorted(glob.glob(os.path.join(venv, "lib*", "python*", "site-packages"))):
        name = os.path.basename(os.path.dirname(path))
        if name == wanted:
            return path
        present.append(name.replace("python", "Python "))
    if not present:
        raise Problem(f"{venv} is no virtual environment: it has no lib/python*/site-packages")
    made_with = ", ".join(dict.fromkeys(present))
    raise Problem(
        f"this GDB embeds Python {two(python)}, but {venv} was made with {made_with}: numpy cannot be loaded\n"
        f"  try: {wanted} -m venv --clear {venv} && {pip_install(venv, package)};\n"
        f"       or {VENV_VARIABLE}=DIR in the environment, another one made with {wanted}"
    )


def put_on_path(path: str) -> None:
    """Make `path` the first place where modules are looked for."""
    if path in sys.path:
        sys.path.remove(path)
    sys.path.insert(0, path)


def check_packages(venv: str, package: str) -> None:
    """Raise Problem when what we need is not there."""
    missing = ", ".join(name for name in NEEDED if importlib.util.find_spec(name) is None)
    if missing and venv:
        raise Problem(f"{venv} lacks {missing}\n  try: {pip_install(venv, package)}")
    if not missing:
        return
    parent = os.path.dirname(package)
    make = f"python{two(sys.version_info)} -m venv {parent}/.venv && {pip_install(parent + '/.venv', package)}"
    if os.path.exists(os.path.join(parent, "scripts", "test")):
        make = f"`scripts/demo` or `scripts/test` in {parent} makes one; by hand:\n       {make}"
    raise Problem(
        f"no virtual environment was found, and GDB's own Python lacks {missing}\n"
        f"  try: {make}\n       ({VENV_VARIABLE}=DIR in the environment names one somewhere else)"
    )


def load_numpy(venv: str) -> None:
    """Load numpy, whose binary part may not fit. Raises Problem.

    Its helper threads inherit a blocked SIGINT: Ctrl-C then always reaches GDB's own thread.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        importlib.import_module("numpy")
    except Exception as e:  # a broken build can raise anything
        reason = " ".join(str(e).split())[:200]
        raise Problem(
            f"numpy cannot be loaded into this GDB (Python {two(sys.version_info)}) from "
            f"{venv or 'its own packages'}: {reason}\n"
            f"  try: {venv or 'VENV'}/bin/pip install --force-reinstall numpy"
        ) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def forget_loaded() -> "Any":
    """For a second `source`: close what the first opened, forget its modules. Returns what to take up again."""
    load = sys.modules.get("gdb_p2m.gdbui.load")
    state = None
    if load is not None and getattr(load, "current", None) is not None:
        state = load.current.unload()
    for name in list(sys.modules):
        if name == "gdb_p2m" or name.startswith("gdb_p2m."):
            del sys.modules[name]
    return state


def main() -> None:
    """Load p2m into this GDB; print one message when that cannot be done."""
    import gdb

    package = package_folder()
    try:
        check_versions(sys.version_info, gdb.VERSION)
        venv = find_venv(package, os.environ)
        if venv:
            put_on_path(site_packages(venv, sys.version_info, package))
        check_packages(venv, package)
        load_numpy(venv)
    except Problem as e:
        gdb.write(f"p2m: {e}\n", gdb.STDERR)
        return
    state = forget_loaded()
    put_on_path(os.path.dirname(package))
    importlib.import_module("gdb_p2m.gdbui.load").load(state)


if __name__ == "__main__":
    main()
