"""fixtures/riscv built into a cache: the same sources and the same compiler are compiled once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "fixtures" / "riscv"
VARIANTS = ("sv39x4", "sv39x4-embedded", "sv39x4-v5", "sv48x4", "sv57x4")
_SOURCE_NAMES = ("*.c", "*.h", "*.S", "*.ld", "build.sh")


class Missing(Exception):
    """A tool that this machine does not have; the text says which and how to get it. Tests skip with it."""


class BuildError(Exception):
    """The sources do not compile; the text is the compiler's."""


@dataclass(frozen=True, slots=True)
class Program:
    """A built variant: `elf` has symbols and DWARF and serves as --xen, `firmware` is what runs before it."""

    variant: str
    elf: Path
    firmware: Path


def compiler() -> str:
    """The cross compiler's path. Raises Missing."""
    prefix = os.environ.get("CROSS_COMPILE", "riscv64-linux-gnu-")
    if found := shutil.which(f"{prefix}gcc"):
        return found
    raise Missing(f"{prefix}gcc is not installed; try: apt install gcc-riscv64-linux-gnu")


def source_files() -> list[Path]:
    """All files that decide what is built, in a fixed order."""
    return sorted(path for pattern in _SOURCE_NAMES for path in SOURCES.glob(pattern))


def build(variant: str = "sv39x4") -> Program:
    """The variant, built if the cache has none. Raises Missing, BuildError."""
    directory = _cache() / _fingerprint(compiler())
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=directory.parent) as scratch:
            build_into(Path(scratch) / "out")
            try:
                (Path(scratch) / "out").rename(directory)
            except OSError:  # somebody else built the same at the same time: theirs is as good
                if not directory.is_dir():
                    raise
    return Program(variant, directory / f"{variant}.elf", directory / "firmware.elf")


def build_into(directory: Path, *variants: str) -> None:
    """Run build.sh; all variants when none is named. Raises BuildError."""
    command = ["sh", str(SOURCES / "build.sh"), str(directory), *variants]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise BuildError(f"build.sh ended with {done.returncode}:\n{done.stderr}")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "gdb-p2m" / "riscv-oracle"


def _fingerprint(gcc: str) -> str:
    version = subprocess.run([gcc, "--version"], capture_output=True, check=True, timeout=60).stdout
    digest = hashlib.sha256(version)
    for path in source_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
