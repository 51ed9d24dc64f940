"""Which Debian packages a lab needs and which of their files: data, so that a richer dom0 is a longer list.

Nothing is installed. From each package only the named files are taken; the package itself stays in the cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import LabError

SUITES = ("bullseye", "bookworm", "trixie", "sid")
DEFAULT_SUITE = "bookworm"


@dataclass(frozen=True)
class WantedFile:
    """One file out of a package. key: its name in the manifest; pattern: its path in the package, a regular
    expression; saved_as: its name in the cache. Both may contain {version}: the hypervisor's or the kernel's.
    A file smaller than min_size is a placeholder and is not taken.
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

ROLES = (
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
