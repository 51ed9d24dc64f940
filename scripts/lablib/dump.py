"""The whole machine's memory as an ELF core, by QEMU's dump-guest-memory."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import LabError
from .labs import Lab
from .progress import Progress, size_text

_UNITS = {"M": 1 << 20, "G": 1 << 30}
# Elf64_Ehdr: magic, class, data, version; type, machine, version, entry, phoff, shoff, flags; ehsize,
# phentsize, phnum, shentsize, shnum, shstrndx. System V ABI, "Object Files".
EHDR = struct.Struct("<4sBBB9xHHIQQQIHHHHHH")
EHDR_PHOFF, EHDR_PHNUM = 8, 13  # indexes in what unpack returns
PHDR = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr: type, flags, offset, vaddr, paddr, filesz, memsz, align
ET_CORE, EM_X86_64, PT_LOAD, PT_NOTE = 4, 62, 1, 4


def memory_bytes(mem: str) -> int:
    """The size of the machine's RAM: 1024M, 5G."""
    return int(mem[:-1]) * _UNITS[mem[-1]]


def dump(lab: Lab, file: Path, make: Callable[[Lab, Path, Progress], None], progress: Progress) -> int:
    """Write a dump to `file` (compressed when its name ends in .zst) and return the file's size.

    It is made in a directory beside the file, checked, and renamed: what has the wanted name is whole.
    """
    compress = file.suffix == ".zst"
    zstd = _require_zstd() if compress else ""
    with _scratch(file, memory_bytes(lab.mem)) as scratch:
        raw = scratch / "dump.elf"
        make(lab, raw, progress)
        check_core(raw, memory_bytes(lab.mem))
        if compress:
            progress.step(f"compressing {size_text(raw.stat().st_size)}")
            raw = _compress(zstd, raw)
        raw.chmod(0o666 & ~_umask())  # QEMU makes dumps read-only even for their owner
        raw.replace(file)
    return file.stat().st_size


def by_qemu(lab: Lab, file: Path, progress: Progress) -> None:
    """dump-guest-memory: QEMU stops the machine meanwhile and lets it go on afterwards if it was running.

    detach: the command returns at once and QEMU stays able to answer, so there is something to show.
    """
    with lab.qmp(timeout=60.0) as qmp:
        qmp.execute("dump-guest-memory", paging=False, protocol=f"file:{file}", detach=True)
        while (state := qmp.execute("query-dump"))["status"] == "active":
            progress.moving(f"  {size_text(state['completed'])} of {size_text(state['total'])}")
            time.sleep(0.1)
        progress.clear()
    if state["status"] != "completed":
        raise LabError(f"QEMU could not write {file}: status '{state['status']}'", hint="is the disk full?")


@contextmanager
def _scratch(file: Path, needed: int) -> Iterator[Path]:
    """A directory beside the file, removed in any case."""
    parent = file.parent
    if file.is_dir():
        raise LabError(f"{file} is a directory")
    try:
        free = shutil.disk_usage(parent).free
        if free < needed:
            raise LabError(f"{parent} has {size_text(free)} free, a dump needs {size_text(needed)}")
        with tempfile.TemporaryDirectory(prefix=".lab-dump-", dir=parent) as name:
            yield Path(name)
    except OSError as error:
        raise LabError(f"cannot write {file}: {error.strerror or error}") from error


def check_core(file: Path, memory: int) -> None:
    """Raise LabError unless the file is an x86-64 ELF core whose segments hold at least `memory` bytes."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header = stream.read(EHDR.size)
        if len(header) < EHDR.size or header[:5] != b"\x7fELF\x02":
            raise LabError(f"the dump is no 64-bit ELF file: it begins with {header[:8].hex()}")
        fields = EHDR.unpack(header)
        kind, machine = fields[4:6]
        if (kind, machine) != (ET_CORE, EM_X86_64):
            raise LabError(f"the dump is no x86-64 core: ELF type {kind}, machine {machine}")
        stream.seek(fields[EHDR_PHOFF])
        table = stream.read(fields[EHDR_PHNUM] * PHDR.size)
    segments = list(PHDR.iter_unpack(table[: len(table) // PHDR.size * PHDR.size]))
    held = sum(segment[5] for segment in segments if segment[0] == PT_LOAD)
    end = max((segment[2] + segment[5] for segment in segments), default=0)
    if held < memory or end > size:
        raise LabError(
            f"the dump is not whole: it has {size} bytes, its segments end at {end} and hold {held} bytes, "
            f"the machine's memory is {memory}"
        )


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
