"""Guests of a lab: PV domUs with the same kernel as dom0, and what Xen's toolstack does with them."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import dom0
from .errors import LabError, UsageError
from .initramfs import CONSOLES, COPY, DOMU_KERNEL, DOMU_RAMDISK, DOMU_READY, FILES, SHARE, TMPFS
from .labs import Lab
from .progress import Progress

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_TAIL_LINES = 20
_LOOK_EVERY = 3.0
_SAVED = f"{SHARE}/{FILES}/{{name}}.save"  # in dom0
_FATAL = re.compile(rb"Kernel panic - not syncing[^\n]*")

# No disk, no network, no graphics: so no program in dom0 has to pretend that there is any. The quoted word keeps the
# shell from reading anything in the text.
_CONFIG = """\
cat > /run/{name}.cfg <<'END-OF-CONFIGURATION'
name = "{name}"
type = "pv"
kernel = "{kernel}"
ramdisk = "{ramdisk}"
extra = "console=hvc0 earlyprintk=xen no_hash_pointers {kernel_args}"
memory = {memory}
maxmem = {maxmem}
vcpus = {vcpus}
e820_host = {e820_host:d}
END-OF-CONFIGURATION
xl create -q /run/{name}.cfg && xl domid {name}
"""


@dataclass(frozen=True)
class Guest:
    """What `domu` was asked for. memory, maxmem: MiB."""

    name: str
    memory: int
    maxmem: int
    vcpus: int
    e820_host: bool
    kernel_args: str

    def check(self) -> None:
        """Raise UsageError for what xl would misunderstand."""
        checked_name(self.name)
        if self.memory < 1 or self.maxmem < self.memory:
            raise UsageError(f"--memory {self.memory} --maxmem {self.maxmem}: MiB, and not more memory than maxmem")
        if not 1 <= self.vcpus <= 64:
            raise UsageError(f"--vcpus {self.vcpus}: from 1 to 64")
        if set('"\\\n') & set(self.kernel_args):
            raise UsageError(f"--kernel-args {self.kernel_args!r}: no quotation mark, backslash or line break")

    def configuration(self) -> str:
        """The script that creates it and prints its domid."""
        return _CONFIG.format(
            name=self.name,
            kernel=DOMU_KERNEL,
            ramdisk=DOMU_RAMDISK,
            kernel_args=self.kernel_args,
            memory=self.memory,
            maxmem=self.maxmem,
            vcpus=self.vcpus,
            e820_host=self.e820_host,
        )


def checked_name(name: str) -> str:
    """A domU's name goes into scripts, file names and xl's command line, where 0 or Domain-0 would be dom0."""
    if not _NAME.fullmatch(name) or name == "Domain-0":
        raise UsageError(f"'{name}' cannot be a domU's name: a letter, then at most 39 letters, digits, '_' and '-'")
    return name


def console(lab: Lab, name: str) -> Path:
    """The log of a domU's console."""
    return dom0.shared(lab, CONSOLES, f"guest-{name}.log")


def create(lab: Lab, guest: Guest, timeout: float, progress: Progress) -> int:
    """Create a domU, wait until its user space is up and return its domid; one that fails is destroyed."""
    dom0.require_toolstack(lab)
    if dom0.run(lab, f"xl domid {guest.name}", timeout).code == 0:
        raise LabError(f"there is a domU '{guest.name}' already", hint=f"scripts/lab exec 'xl destroy {guest.name}'")
    console(lab, guest.name).unlink(missing_ok=True)  # of an earlier one of that name
    progress.step(f"creating domU '{guest.name}': {guest.memory} MiB of {guest.maxmem}")
    try:
        said = dom0.run_well(lab, guest.configuration(), timeout, f"cannot create domU '{guest.name}'")
        _wait(lab, guest.name, timeout, progress)
    except BaseException:
        with suppress(LabError):  # of no interest beside the one that brought us here
            dom0.run(lab, f"xl destroy {guest.name}", 60.0)
        raise
    domid = int(said.split()[-1])
    progress.step(f"domU '{guest.name}' is ready: domid {domid}")
    return domid


def _wait(lab: Lab, name: str, timeout: float, progress: Progress) -> None:
    """Follow the domU's console until the ready line, its end or the timeout."""
    path = console(lab, name)
    deadline = time.monotonic() + timeout
    look = time.monotonic() + _LOOK_EVERY
    while DOMU_READY.encode() not in (text := path.read_bytes() if path.exists() else b""):
        said = f"its console ends with:\n    {_tail(text)}"
        if match := _FATAL.search(text):
            raise LabError(f"domU '{name}' stopped: '{match[0].decode().strip()}'; {said}")
        now = time.monotonic()
        if now > look:
            if dom0.run(lab, f"xl domid {name}", timeout).code != 0:
                raise LabError(f"domU '{name}' has ended; {said}", hint="more --memory: newer kernels need more")
            look = now + _LOOK_EVERY
        if now > deadline:
            raise LabError(f"domU '{name}' was not ready after {timeout:g} s; {said}", hint="a longer --timeout")
        progress.moving("  " + _tail(text).rpartition("\n")[2].strip())
        time.sleep(0.1)


def _tail(text: bytes) -> str:
    lines = [line for line in text.decode(errors="replace").replace("\r", "").splitlines() if line.strip()]
    return "\n    ".join(lines[-_TAIL_LINES:]) or "nothing"


def xl(lab: Lab, verb: str, name: str, timeout: float = 60.0) -> None:
    """One verb of xl about one domU."""
    dom0.run_well(lab, f"xl {verb} {name}", timeout, f"cannot {verb} domU '{name}'")


def memory(lab: Lab, name: str) -> int:
    """How much memory a domU has now, in MiB, as xl tells it."""
    said = dom0.run_well(lab, f"xl list {name}", 60.0, f"cannot ask for domU '{name}'")
    return int(said.splitlines()[-1].split()[2])


def balloon(lab: Lab, name: str, wanted: int, timeout: float, progress: Progress) -> None:
    """Let a domU give memory back or take some, and wait until it has `wanted` MiB."""
    dom0.run_well(lab, f"xl mem-set {name} {wanted}m", 60.0, f"cannot give domU '{name}' {wanted} MiB")
    deadline = time.monotonic() + timeout
    while (now := memory(lab, name)) != wanted:
        if time.monotonic() > deadline:
            raise LabError(
                f"domU '{name}' has {now} MiB after {timeout:g} s, not {wanted}",
                hint="is it paused? A domU must run to give memory back",
            )
        progress.moving(f"  {now} of {wanted} MiB")
        time.sleep(0.5)


def save(lab: Lab, name: str, timeout: float, progress: Progress) -> Path:
    """Suspend a domU into a file in the lab's directory, from which `restore` makes it again."""
    progress.step(f"saving domU '{name}'")
    file = f"{TMPFS}/{name}"
    copy = COPY.format(file, _SAVED.format(name=name))
    what = f"cannot save domU '{name}' (dom0 needs as much free memory as the domU has)"
    remove = f"rm -f {file}"
    dom0.run_well(lab, f"xl save {name} {file} && {copy}; code=$?; {remove}; exit $code", timeout, what, undo=remove)
    return saved(lab, name)


def restore(lab: Lab, name: str, timeout: float, progress: Progress) -> int:
    """Make a saved domU go on, in other machine frames; returns its new domid and removes the file."""
    if not saved(lab, name).is_file():
        raise LabError(f"no domU '{name}' was saved in lab '{lab.name}'", hint=f"scripts/lab save {name}")
    progress.step(f"restoring domU '{name}'")
    script = f"xl restore {_SAVED.format(name=name)} >&2 && xl domid {name}"
    said = dom0.run_well(lab, script, timeout, f"cannot restore domU '{name}'")
    saved(lab, name).unlink()
    return int(said.split()[-1])


def saved(lab: Lab, name: str) -> Path:
    """Where a saved domU is."""
    return dom0.shared(lab, FILES, f"{name}.save")
