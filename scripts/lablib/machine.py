"""QEMU: its command line and its start."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .archive import write_initramfs
from .cache import CachedSuite
from .dom0 import SHARE_DIRECTORY, make_share
from .errors import LabError, UsageError
from .initramfs import SHARE_TAG, dom0_entries, domu_entries, toolstack_entries
from .labs import MONITOR_SOCKET, QEMU_LOG, QMP_SOCKET, SERIAL_LOG, Lab, start_ticks
from .packages import DEFAULT_SUITE, NO_KEXEC

QEMU = "qemu-system-x86_64"

DOM0_IMAGE = "dom0.img"
DEFAULT_SIZES = ("1024M", "400M")  # --mem and --dom0-mem
TOOLSTACK_SIZES = ("2048M", "700M")

_MEM = re.compile(r"[1-9]\d*[MG]")
_DOM0_MEM = re.compile(r"((min|max):)?[1-9]\d*[BKMG]?(,((min|max):)?[1-9]\d*[BKMG]?)*", re.IGNORECASE)

# What dom0 writes gets this user's name, whatever owner and mode it asks for.
_SHARE_DEVICE = (
    *("-fsdev", f"local,id=share,path={SHARE_DIRECTORY},security_model=none,multidevs=remap"),
    *("-device", f"virtio-9p-pci,fsdev=share,mount_tag={SHARE_TAG}"),
)


@dataclass(frozen=True)
class Options:
    """What `up` was asked for, checked. port 0: a free one is chosen. crashkernel: a size, or empty for none."""

    suite: str
    name: str
    mem: str
    dom0_mem: str
    cpus: int
    port: int
    stopped: bool
    xen_args: str
    kernel_args: str
    toolstack: bool = False
    crashkernel: str = ""

    def check(self) -> None:
        """Raise UsageError for what QEMU or Xen would misunderstand."""
        if not _MEM.fullmatch(self.mem):
            raise UsageError(f"--mem {self.mem}: a number and M or G, such as 1024M or 5G")
        if not _DOM0_MEM.fullmatch(self.dom0_mem):
            raise UsageError(
                f"--dom0-mem {self.dom0_mem}: sizes as Xen's dom0_mem takes them: 400M, 3500M,max:3500M"
            )
        if not 1 <= self.cpus <= 64:
            raise UsageError(f"--cpus {self.cpus}: from 1 to 64")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port}: from 1 to 65535, or 0 for a free one")
        if self.crashkernel and not _MEM.fullmatch(self.crashkernel):
            raise UsageError(f"--crashkernel {self.crashkernel}: a number and M or G, such as 256M")
        if self.crashkernel and not self.toolstack:
            raise UsageError("--crashkernel needs --toolstack: it is dom0's kexec that loads the crash kernel")
        if self.crashkernel and self.suite in NO_KEXEC:
            raise LabError(
                f"{self.suite}'s kexec cannot load a crash kernel under Xen",
                hint=f"--suite {DEFAULT_SUITE} or a later one",
            )
        if "," in self.kernel_args:
            raise UsageError(
                f"--kernel-args {self.kernel_args!r} has a comma: QEMU would end the kernel's arguments there"
            )


def require_qemu() -> str:
    """The path of QEMU, or an error that says how to get it."""
    if path := shutil.which(QEMU):
        return path
    raise LabError(f"{QEMU} is not installed", hint="apt install qemu-system-x86")


def free_port() -> int:
    """A TCP port nobody listens on; somebody may take it before QEMU does, so be ready to choose again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def require_port(port: int) -> None:
    """Raise LabError when a port the user asked for is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as QEMU: ended connections do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LabError(
                f"port {port} cannot be used: {error.strerror}",
                hint="another --port, or none to get a free one",
            ) from error


def command_line(qemu: str, options: Options, port: int) -> list[str]:
    """QEMU's command line; all files are names in the lab's directory.

    TCG, not KVM: not every host has it, and Xen uses an instruction that KVM may not emulate. No SMAP: with it
    dom0 dies at once under TCG, of a fault in a bounce frame; SMEP goes with it. No XSAVE: QEMU's does not
    look at CR0.TS (FXSAVE does), by which Xen notices that a domain uses the vector registers; domains then
    get each other's, and programs in them crash now and then. no_hash_pointers (5.12 on): the kernel's log
    then tells where it put the P2M, which a test can compare.
    """
    kernel = "vmlinuz console=hvc0 earlyprintk=xen no_hash_pointers"
    xen = f"console=com1 com1=115200,8n1 loglvl=all guest_loglvl=all noreboot dom0=pv dom0_mem={options.dom0_mem}"
    xen += f" crashkernel={options.crashkernel}" if options.crashkernel else ""
    return [
        qemu,
        *("-name", f"gdb-p2m-lab-{options.name}"),
        *("-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"),
        *("-machine", "pc", "-accel", "tcg", "-cpu", "max,-smap,-smep,-xsave"),
        *("-m", options.mem, "-smp", str(options.cpus)),
        *("-serial", f"file:{SERIAL_LOG}"),
        *("-monitor", f"unix:{MONITOR_SOCKET},server=on,wait=off"),
        *("-qmp", f"unix:{QMP_SOCKET},server=on,wait=off"),
        *("-gdb", f"tcp:127.0.0.1:{port}"),
        *(_SHARE_DEVICE if options.toolstack else ()),
        *(["-S"] if options.stopped else []),
        *("-kernel", "xen", "-append", f"{xen} {options.xen_args}".rstrip()),
        *("-initrd", f"{kernel} {options.kernel_args}".rstrip() + f",{DOM0_IMAGE}"),
    ]


def prepare(options: Options, directory: Path, cached: CachedSuite) -> None:
    """Put what QEMU loads into the lab's directory, under names without blanks and commas."""
    (directory / "xen").symlink_to(cached.path("xen"))
    (directory / "vmlinuz").symlink_to(cached.path("vmlinuz"))
    busybox = cached.path("busybox")
    if options.toolstack:
        make_share(directory)
        write_initramfs(directory / "domu.img", domu_entries(busybox))
        xen, vmlinuz = cached.versions["xen"], cached.path("vmlinuz")
        entries = toolstack_entries(busybox, xen, cached.toolstack, vmlinuz, directory / "domu.img")
    else:
        entries = dom0_entries(busybox)
    write_initramfs(directory / DOM0_IMAGE, entries)


def start(
    options: Options, port: int, directory: Path, cached: CachedSuite
) -> tuple[Lab, subprocess.Popen[bytes]]:
    """Start QEMU, in a session of its own so that it outlives this command and its terminal."""
    (directory / SERIAL_LOG).touch()
    with (directory / QEMU_LOG).open("wb") as log:
        process = subprocess.Popen(
            command_line(require_qemu(), options, port),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    lab = Lab(
        name=options.name,
        directory=str(directory),
        suite=options.suite,
        pid=process.pid,
        start_ticks=start_ticks(process.pid),
        port=port,
        mem=options.mem,
        dom0_mem=options.dom0_mem,
        cpus=options.cpus,
        xen_args=options.xen_args,
        kernel_args=options.kernel_args,
        versions=cached.versions,
        packages=cached.packages,
        files={key: str(path) for key, path in cached.files.items()},
        toolstack=options.toolstack,
        crashkernel=options.crashkernel,
    )
    lab.save()
    return lab, process
