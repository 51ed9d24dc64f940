"""Where the lab keeps things: a cache that can be deleted at any time, and one directory a running lab."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import LabError, UsageError

CACHE_VARIABLE = "GDB_P2M_LAB_CACHE"
RUN_VARIABLE = "GDB_P2M_LAB_RUN"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


def cache_root() -> Path:
    """The directory of downloads, not created here."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "gdb-p2m" / "lab"


def run_root() -> Path:
    """The directory of this user's running labs, not created here."""
    base = os.environ.get(RUN_VARIABLE) or os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    return Path(base).absolute() / f"gdb-p2m-lab-{os.getuid()}"


def make_run_root() -> Path:
    """Create the run directory, for this user's eyes only, and refuse one that somebody else prepared.

    /tmp is shared: whoever owns the directory could put a socket or a process id of their choice in it.
    """
    root = run_root()
    root.parent.mkdir(parents=True, exist_ok=True)
    root.mkdir(mode=0o700, exist_ok=True)
    facts = root.lstat()
    if root.is_symlink() or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise LabError(
            f"{root} is not a directory that only you can write to",
            hint=f"remove it, or set {RUN_VARIABLE} to a directory of your own",
        )
    return root


def checked_name(name: str) -> str:
    """A lab's name is a file name too: refuse what would leave the run directory or confuse a shell."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' cannot be a lab's name: at most 40 letters, digits, '.', '_' and '-'")
    return name
