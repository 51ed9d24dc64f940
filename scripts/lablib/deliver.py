"""Large files on their way to the user: beside their place first, whole, compressed on request, then renamed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import LabError
from .progress import Progress, size_text


def deliver(file: Path, needed: int, make: Callable[[Path], None], progress: Progress) -> int:
    """Let `make` write a file, give it its name (compressed when that ends in .zst) and return its size.

    needed: bytes that `make` will write, about. What has the wanted name is whole; nothing else is left behind.
    """
    zstd = _require_zstd() if file.suffix == ".zst" else ""
    parent = file.parent
    if file.is_dir():
        raise LabError(f"{file} is a directory")
    try:
        free = shutil.disk_usage(parent).free
        if free < needed:
            raise LabError(f"{parent} has {size_text(free)} free, a dump needs {size_text(needed)}")
        with tempfile.TemporaryDirectory(prefix=".lab-dump-", dir=parent) as scratch:
            raw = Path(scratch) / "dump"
            make(raw)
            if zstd:
                progress.step(f"compressing {size_text(raw.stat().st_size)}")
                raw = _compress(zstd, raw)
            raw.chmod(0o666 & ~_umask())  # QEMU makes dumps read-only even for their owner
            raw.replace(file)
    except OSError as error:
        raise LabError(f"cannot write {file}: {error.strerror or error}") from error
    return file.stat().st_size


def move(source: Path, target: Path) -> None:
    """Move a file, copying it when the target is on another file system."""
    try:
        source.replace(target)
    except OSError:
        shutil.copyfile(source, target)
        source.unlink()


def _umask() -> int:
    """The mode bits the user does not want on new files; can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _require_zstd() -> str:
    if path := shutil.which("zstd"):
        return path
    raise LabError("zstd is not installed, and the file's name ends in .zst", hint="apt install zstd")


def _compress(zstd: str, raw: Path) -> Path:
    packed = raw.with_suffix(".zst")
    done = subprocess.run(
        [zstd, "-q", "-3", f"-T{min(os.cpu_count() or 1, 4)}", "--rm", str(raw), "-o", str(packed)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"zstd failed: {done.stderr.strip()}")
    return packed
