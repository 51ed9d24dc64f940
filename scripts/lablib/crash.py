"""A crashed machine: Xen starts a crash kernel, which writes what memory held, as kdump does."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from . import dom0, labs
from .deliver import deliver, move
from .dump import memory_bytes
from .elf import check_core
from .errors import LabError, UsageError
from .initramfs import COPY, DOMU_KERNEL, FILES, SHARE, TMPFS
from .labs import SERIAL_LOG, Lab
from .machine import DOM0_IMAGE
from .packages import ZSTD_KDUMP
from .progress import Progress, size_text

# makedumpfile(8). elf is /proc/vmcore itself unless something is to be left out.
FORMATS = {"elf": "-E", "kdump-zlib": "-c", "kdump-lzo": "-l", "kdump-zstd": "-z", "flattened": "-F -c"}
TRIGGERS = {"xen": "xl debug-keys C", "dom0": "echo c > /proc/sysrq-trigger"}
CRASHKERNEL = "256M"  # what is proposed

_MAGIC = {"flattened": b"makedumpfile\0\0\0\0"}
_KDUMP_MAGIC = b"KDUMP   "
# The console goes to the serial log. One CPU and no device that was left in an unknown state: that is usual.
_APPEND = "console=ttyS0,115200 1 irqpoll nr_cpus=1 reset_devices cgroup_disable=memory"
_FATAL = b"Kernel panic - not syncing"


@dataclass(frozen=True)
class Wanted:
    """What `crash` was asked for. no_domus: pages of domUs are left out; level: makedumpfile's dump level."""

    form: str
    no_domus: bool
    level: int
    trigger: str

    def check(self, lab: Lab) -> None:
        """Raise for what this lab cannot do, while the machine still lives."""
        if not 0 <= self.level <= 31:
            raise UsageError(f"-d {self.level}: from 0 to 31, of which Xen dumps know 0 and 1")
        dom0.require_toolstack(lab)
        if not lab.crashkernel:
            raise LabError(
                f"lab '{lab.name}' was started without memory for a crash kernel",
                hint=f"scripts/lab up --toolstack --crashkernel {CRASHKERNEL}",
            )
        if self.form == "kdump-zstd" and lab.suite not in ZSTD_KDUMP:
            raise LabError(
                f"{lab.suite}'s makedumpfile cannot compress with zstd", hint=f"--suite {' or '.join(ZSTD_KDUMP)}"
            )

    def command(self) -> str:
        """The crash kernel's command that writes $out."""
        filtered = self.no_domus or self.level
        if self.form == "elf" and not filtered:
            return COPY.format("/proc/vmcore", "$out")
        options = f"{FORMATS[self.form]} -d {self.level}{' -X' if self.no_domus else ''}"
        return f"makedumpfile {options} /proc/vmcore " + ("> $out" if self.form == "flattened" else "$out")

    def check_file(self, file: Path) -> None:
        """Raise LabError unless the file is what was wanted."""
        if self.form == "elf":
            check_core(file)
            return
        magic = _MAGIC.get(self.form, _KDUMP_MAGIC)
        with file.open("rb") as stream:
            if (begin := stream.read(len(magic))) != magic:
                raise LabError(f"the dump is no {self.form} file: it begins with {begin.hex()}")


def crash(lab: Lab, file: Path, wanted: Wanted, timeout: float, progress: Progress) -> int:
    """Crash the machine and write its memory to `file`; returns the file's size. The machine ends.

    Raises before the machine is touched when that can be known; a machine that was crashed is ended in any case.
    """
    wanted.check(lab)
    shared = dom0.shared(lab, FILES, "vmcore")

    def make(raw: Path) -> None:
        _load(lab, wanted, progress)
        try:
            dom0.submit(lab, TRIGGERS[wanted.trigger])
            progress.step("the machine crashes")
            _wait(lab, shared, timeout, progress)
        finally:
            labs.end(lab)
        wanted.check_file(shared)
        move(shared, raw)

    return deliver(file, memory_bytes(lab.mem), make, progress)


def _load(lab: Lab, wanted: Wanted, progress: Progress) -> None:
    """Hand the crash kernel over to Xen, with the user space that dom0 has and a script of its own."""
    progress.step(f"loading the crash kernel into {lab.crashkernel}")
    dom0.shared(lab, FILES, "collect.sh").write_text(f"out={SHARE}/{FILES}/vmcore\n{wanted.command()}\n")
    shutil.copyfile(lab.path(DOM0_IMAGE), dom0.shared(lab, FILES, DOM0_IMAGE))
    script = (
        f"cp {SHARE}/{FILES}/{DOM0_IMAGE} {TMPFS}/ && "
        f'kexec -p {DOMU_KERNEL} --initrd={TMPFS}/{DOM0_IMAGE} --append="{_APPEND}"; code=$?\n'
        f"rm -f {TMPFS}/{DOM0_IMAGE}; sync; exit $code"
    )
    dom0.run_well(lab, script, 120.0, "cannot load the crash kernel")
    dom0.shared(lab, FILES, DOM0_IMAGE).unlink()


def _wait(lab: Lab, file: Path, timeout: float, progress: Progress) -> None:
    """Wait until the crash kernel's script has ended well."""
    deadline = time.monotonic() + timeout
    ended = file.with_name("collect.rc")
    while not ended.exists():
        log = lab.path(SERIAL_LOG).read_bytes()
        if _FATAL in log.rpartition(b"Executing kexec image")[2] or not lab.alive():
            raise LabError(f"the crash kernel stopped; `scripts/lab console --name {lab.name}` tells why")
        if time.monotonic() > deadline:
            raise LabError(f"the crash kernel has not finished after {timeout:g} s", hint="a longer --timeout")
        if file.exists():
            progress.moving(f"  {size_text(file.stat().st_size)}")
        time.sleep(0.2)
    progress.clear()
    if (code := ended.read_text().strip()) != "0":
        said = file.with_name("collect.out").read_text(errors="replace").replace("\r", "\n").strip()
        raise LabError(f"the crash kernel's command ended with exit code {code}, saying:\n    {said[-1000:]}")
