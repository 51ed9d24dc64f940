"""Which Debian packages a lab needs and which of their files: data, so that a richer dom0 is a longer list.

Nothing is installed. From each package only the named files are taken; the package itself stays in the cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import LabError

SUITES = ("bullseye", "bookworm", "trixie", "sid")
DEFAULT_SUITE = "bookworm"
NO_KEXEC = ("bullseye",)  # its kexec-tools cannot load a crash kernel under Xen
ZSTD_KDUMP = ("trixie", "sid")  # suites whose makedumpfile can compress with zstd


@dataclass(frozen=True)
class WantedFile:
    """One file out of a package, or many. key: its name in the manifest; pattern: its path in the package, a regular
    expression; saved_as: its name in the cache. Both may contain {version}: the hypervisor's or the kernel's.
    A file smaller than min_size is a placeholder and is not taken.

    When saved_as ends in a slash it is a directory: every file that matches is taken, under its own name.
    """

    key: str
    pattern: str
    saved_as: str
    required: bool = True
    gunzip: bool = False
    min_size: int = 0

    def matcher(self, version: str) -> re.Pattern[str]:
        """The pattern for one version."""
        return re.compile(self.pattern.replace("{version}", re.escape(version)))

    def name_in_cache(self, path: str, version: str) -> str:
        """Where the file that is `path` in the package is put."""
        saved_as = self.saved_as.format(version=version)
        return saved_as + path.rpartition("/")[2] if saved_as.endswith("/") else saved_as


@dataclass(frozen=True)
class Role:
    """A part that some package plays. candidates: package names, the first one the suite has is taken.

    version_of: whose version {version} stands for; None when the package's name and files have none.
    """

    key: str
    candidates: tuple[str, ...]
    files: tuple[WantedFile, ...]
    version_of: str | None = None
    required: bool = True


@dataclass(frozen=True)
class Closure:
    """Packages together with what they depend on. {version}: the hypervisor's.

    kept: a regular expression of the package names that are taken; other dependencies have nothing we run.
    """

    roots: tuple[str, ...]
    files: tuple[WantedFile, ...]
    kept: str


@dataclass(frozen=True)
class Part:
    """What is fetched and unpacked together. link: the name in the cache that leads to the one in use.

    form: one more whenever the files or the manifest change; older caches are then made again.
    """

    key: str
    link: str
    form: int
    roles: tuple[Role, ...]
    closure: Closure | None = None


# Debian's System.map only says where the real one is; the 855 MB kernel debug package is not worth its size.
_KERNEL_CONFIG = WantedFile(
    "config", r"boot/config-{version}|usr/lib/modules/{version}/config", "config-{version}", required=False
)
_KERNEL_IMAGE = WantedFile(
    "vmlinuz", r"boot/vmlinuz-{version}|(usr/)?lib/modules/{version}/vmlinuz", "vmlinuz-{version}"
)
_SYSTEM_MAP = WantedFile(
    "system_map",
    r"boot/System\.map-{version}|usr/lib/modules/{version}/System\.map",
    "System.map-{version}",
    required=False,
    min_size=4096,
)

_BOOT_ROLES = (
    Role(
        "hypervisor",
        ("xen-hypervisor-{version}-amd64",),
        (WantedFile("xen", r"boot/xen-{version}-amd64\.gz", "xen-{version}-amd64", gunzip=True),),
        version_of="xen",
    ),
    Role(
        "hypervisor symbols",
        ("xen-hypervisor-{version}-amd64-dbg",),
        (WantedFile("xen_syms", r"usr/lib/debug/.*xen-syms-{version}-amd64", "xen-syms-{version}-amd64"),),
        version_of="xen",
        required=False,
    ),
    # linux-binary is the image alone (newest suites); before it, image and modules are one package. The
    # unsigned one is in the archive before the signed one of the same version.
    Role(
        "kernel",
        ("linux-binary-{version}", "linux-image-{version}-unsigned", "linux-image-{version}"),
        (_KERNEL_IMAGE, _KERNEL_CONFIG, _SYSTEM_MAP),
        version_of="linux",
    ),
    Role(
        "kernel configuration",
        ("linux-base-{version}",),
        (_KERNEL_CONFIG, _SYSTEM_MAP),
        version_of="linux",
        required=False,
    ),
    Role("busybox", ("busybox-static",), (WantedFile("busybox", r"(usr/)?bin/busybox", "busybox"),)),
)

BOOT = Part("boot", "current", 1, _BOOT_ROLES)

# What the toolstack's dom0 has beside busybox, as in the running system. The rest of the packages' files, scripts in
# Python and Perl among them, is for a Debian that is installed.
XEN_BIN = "usr/lib/xen-{version}/bin"
PROGRAMS = (
    *(f"{XEN_BIN}/{name}" for name in ("xl", "xenstored", "xenconsoled", "xen-init-dom0", "libxl-save-helper")),
    *(f"{XEN_BIN}/{name}" for name in ("xen-mfndump", "xenctx")),
    *("usr/bin/xenstore", "usr/bin/makedumpfile", "usr/sbin/kexec"),
)
# Opened at run time, so that no program says that it needs them: libgcc_s.so.1 when a thread is cancelled (without it
# `xl create` aborts after it has created the domain), libxenctrl by kexec.
OPENED_LIBRARIES = ("libgcc_s.so.1", "libxenctrl.so.{version}")
LIBRARIES, MODULES = "lib/x86_64-linux-gnu", "lib/modules"
BUILT_IN = "modules.builtin"  # the kernel's list of what would be modules otherwise
# In the order in which dom0 loads them, what they depend on before them. 9p: the directory shared with the host.
DOM0_MODULES = ("xen-privcmd", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xenfs", "virtio_pci", "9pnet_virtio", "9p")

_CLOSURE_FILES = (
    WantedFile("Xen's programs", r"usr/lib/xen-[\d.]+/bin/(xl|xen[a-z0-9-]+|libxl-save-helper)", XEN_BIN + "/"),
    WantedFile("programs", r"usr/bin/(xenstore|makedumpfile)", "usr/bin/"),
    WantedFile("kexec", r"(usr/)?sbin/kexec", "usr/sbin/"),
    WantedFile(
        "libraries",
        r"(usr/)?lib(64)?/((xen-[\d.]+/lib/)?x86_64-linux-gnu/)?[^/]+\.so[\d.]*",
        LIBRARIES + "/",
    ),
)
_MODULES = WantedFile(
    "modules",
    r"(usr/)?lib/modules/{version}/kernel/(drivers/(xen(/xenfs)?|virtio)|net/9p|fs/(9p|netfs|fscache))/"
    r"[^/]+\.ko(\.xz)?",
    MODULES + "/",
)
_BUILT_IN = WantedFile(
    "modules in the kernel", r"(usr/)?lib/modules/{version}/modules\.builtin", f"{MODULES}/{BUILT_IN}", required=False
)
TOOLSTACK = Part(
    "toolstack",
    "toolstack",
    1,
    # linux-modules: the newest suites keep modules and image apart.
    (
        Role(
            "kernel modules",
            ("linux-modules-{version}", "linux-image-{version}-unsigned", "linux-image-{version}"),
            (_MODULES, _BUILT_IN),
            version_of="linux",
        ),
        Role("kernel's list", ("linux-base-{version}",), (_BUILT_IN,), version_of="linux", required=False),
    ),
    Closure(
        ("xen-utils-{version}", "xenstore-utils", "kexec-tools", "makedumpfile"),
        _CLOSURE_FILES,
        kept=r"lib(?!perl|python|systemd-shared).*|zlib1g|xen-utils-[\d.]+|xenstore-utils|kexec-tools|makedumpfile",
    ),
)

XEN_PREFIX = "xen-hypervisor-"
LINUX_META = "linux-image-amd64"


def newest_xen(names: list[str], suite: str) -> str:
    """The version (such as 4.17) of the newest hypervisor among package names."""
    found = [match[1] for name in names if (match := re.fullmatch(r"xen-hypervisor-([\d.]+)-amd64", name))]
    if not found:
        raise LabError(f"{suite} has no package xen-hypervisor-VERSION-amd64")
    return max(found, key=lambda version: [int(number) for number in version.split(".")])


def newest_linux(depends: str, suite: str) -> str:
    """The release (such as 6.1.0-56-amd64) that the suite's kernel meta package depends on."""
    match = re.search(r"\blinux-image-(\d[^\s,]*-amd64)\b", depends)
    if match is None:
        raise LabError(f"{suite}: {LINUX_META} depends on no kernel image (Depends: {depends or 'nothing'})")
    return match[1]
