"""What `source`-ing does: finds our Python packages, loads them into GDB, and says clearly why it cannot.

Must be readable by every Python that a GDB may embed, so that it can name what is too old: no syntax that is
newer than 3.6. Sourced itself (installed package), or loaded by scripts/gdb_p2m.py (checkout).
"""

import glob
import importlib
import importlib.util
import os
import signal
import sys

OLDEST_PYTHON = (3, 11)
OLDEST_GDB = 12
VENV_VARIABLE = "GDB_P2M_VENV"
NEEDED = ("numpy", "elftools", "construct", "tabulate", "zstandard")


class Problem(Exception):
    """Why p2m cannot be loaded, in words for the user."""


def two(version):  # type: ignore[no-untyped-def]
    """(3, 11, 2) -> "3.11"."""
    return ".".join(str(part) for part in version[:2])


def check_versions(python, gdb_version):  # type: ignore[no-untyped-def]
    """Raise Problem when GDB or its Python is too old. gdb_version: as in gdb.VERSION, "13.1"."""
    if tuple(python[:2]) < OLDEST_PYTHON:
        raise Problem(
            "this GDB embeds Python %s; p2m needs Python %s or newer inside GDB\n"
            "  try: a newer GDB, or the shell: gdb-p2m VERB DUMP" % (two(python), two(OLDEST_PYTHON))
        )
    number = gdb_version.split(".")[0]
    if number.isdigit() and int(number) < OLDEST_GDB:
        raise Problem("this is GDB %s; p2m needs GDB %d or newer" % (gdb_version, OLDEST_GDB))


def candidates(package, environ):  # type: ignore[no-untyped-def]
    """Places of our packages, best first: (directory, how it was found). package: the folder gdb_p2m."""
    chosen = environ.get(VENV_VARIABLE)
    if chosen:
        return [(os.path.expanduser(chosen), VENV_VARIABLE)]
    parent = os.path.dirname(package)
    found = [(os.path.join(parent, ".venv"), "beside the checkout")]
    if os.path.basename(parent) in ("site-packages", "dist-packages"):
        # .../lib/python3.11/site-packages/gdb_p2m
        found.insert(0, (os.path.dirname(os.path.dirname(os.path.dirname(parent))), "installed with gdb_p2m"))
    if environ.get("VIRTUAL_ENV"):
        found.append((environ["VIRTUAL_ENV"], "VIRTUAL_ENV"))
    return [(path, how) for path, how in found if os.path.isdir(path)]


def site_packages(venv, python):  # type: ignore[no-untyped-def]
    """The site-packages of `venv` for this Python. Raises Problem that names both versions."""
    wanted = "python" + two(python)
    present = []
    for path in sorted(glob.glob(os.path.join(venv, "lib*", "python*", "site-packages"))):
        name = os.path.basename(os.path.dirname(path))
        if name == wanted:
            return path
        present.append(name)
    if not present:
        raise Problem("%s is no virtual environment: it has no lib/python*/site-packages" % venv)
    raise Problem(
        "this GDB embeds Python %s, but %s was made with %s\n"
        "  try: python%s -m venv --clear %s, then %s/bin/pip install %s"
        % (
            two(python),
            venv,
            ", ".join(p.replace("python", "Python ") for p in dict.fromkeys(present)),
            two(python),
            venv,
            venv,
            install_argument(),
        )
    )


def install_argument():  # type: ignore[no-untyped-def]
    """What pip is to install: the checkout when this is one."""
    parent = os.path.dirname(package_folder())
    return "-e " + parent if os.path.exists(os.path.join(parent, "pyproject.toml")) else "gdb-p2m"


def package_folder():  # type: ignore[no-untyped-def]
    """The folder gdb_p2m that this file belongs to."""
    return os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def put_on_path(path):  # type: ignore[no-untyped-def]
    """Make `path` the first place where modules are looked for."""
    if path in sys.path:
        sys.path.remove(path)
    sys.path.insert(0, path)


def find_packages(package, python, environ):  # type: ignore[no-untyped-def]
    """Put our packages on sys.path. Returns where they are, or "" for GDB's own. Raises Problem."""
    found = candidates(package, environ)
    if not found:
        if environ.get(VENV_VARIABLE):
            raise Problem("%s=%s is not a directory" % (VENV_VARIABLE, environ[VENV_VARIABLE]))
        return ""
    venv = found[0][0]
    if not os.path.isdir(venv):
        raise Problem("%s=%s is not a directory" % (VENV_VARIABLE, venv))
    put_on_path(site_packages(venv, python))
    return venv


def check_packages(venv, package):  # type: ignore[no-untyped-def]
    """Raise Problem when what we need cannot be loaded. numpy is loaded, because its binary part may not fit."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing and not venv:
        checkout = os.path.dirname(package)
        make = "`scripts/test` or `scripts/demo` in %s makes one" % checkout
        if not os.path.exists(os.path.join(checkout, "scripts", "test")):
            make = "python3 -m venv ~/gdb-p2m; ~/gdb-p2m/bin/pip install gdb-p2m"
        raise Problem(
            "no virtual environment was found, and GDB's own Python lacks %s\n"
            "  try: %s; or: python%s -m venv %s/.venv && %s/.venv/bin/pip install %s;\n"
            "       another place is named by %s=DIR in the environment"
            % (
                ", ".join(missing),
                make,
                two(sys.version_info),
                checkout,
                checkout,
                install_argument(),
                VENV_VARIABLE,
            )
        )
    if missing:
        raise Problem(
            "%s lacks %s\n  try: %s/bin/pip install %s" % (venv, ", ".join(missing), venv, install_argument())
        )
    # numpy's helper threads inherit this: Ctrl-C then always reaches GDB's own thread.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        importlib.import_module("numpy")
    except Exception as e:
        reason = " ".join(str(e).split())[:200]
        raise Problem(
            "numpy cannot be loaded into this GDB (Python %s) from %s: %s\n"
            "  try: %s/bin/pip install --force-reinstall numpy"
            % (two(sys.version_info), venv or "GDB's own Python", reason, venv or "VENV")
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def forget_loaded():  # type: ignore[no-untyped-def]
    """For a second `source`: close what the first opened, forget its modules. Returns what to open again."""
    load = sys.modules.get("gdb_p2m.gdbui.load")
    state = None
    if load is not None and getattr(load, "current", None) is not None:
        state = load.current.unload()
    for name in list(sys.modules):
        if name == "gdb_p2m" or name.startswith("gdb_p2m."):
            del sys.modules[name]
    return state


def main():  # type: ignore[no-untyped-def]
    """Load p2m into this GDB; print one message when that cannot be done."""
    import gdb

    try:
        check_versions(sys.version_info, gdb.VERSION)
        package = package_folder()
        state = forget_loaded()
        venv = find_packages(package, sys.version_info, os.environ)
        check_packages(venv, package)
        put_on_path(os.path.dirname(package))
        importlib.invalidate_caches()
        importlib.import_module("gdb_p2m.gdbui.load").load(state)
    except Problem as e:
        gdb.write("p2m: %s\n" % e, gdb.STDERR)


if __name__ == "__main__":
    main()
