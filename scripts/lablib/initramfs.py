"""dom0's user space: a gzipped cpio archive (newc), written here so that neither cpio nor root is needed.

What is in it is data (a list of Entry), what dom0 does is one shell script made of parts.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# What a test finds on the console. A block of lines is enclosed by BEGIN and END with its name.
MARK = "gdb-p2m lab:"
READY = f"{MARK} dom0 is ready"
BEGIN = f"{MARK} begin"
END = f"{MARK} end"

# The symbols a reader of the P2M needs: text that a line of /proc/kallsyms holds; a leading blank is the
# beginning of the name. Fixed text and few of it: emulated, each costs 60 ms for the 200,000 lines, a regular
# expression 3 s.
KALLSYMS = (
    *("p2m", " xen_", " startup_xen", "_shared_info", " machine_to_phys_"),
    *(" init_top_pgt", " level3_kernel_pgt", " init_task", " phys_base", " page_offset_base"),
    *(" vmalloc_base", " vmemmap_base", " vmcoreinfo_", " kallsyms_", " _text", " _end"),
)

# console_loglevel goes down first, or a late kernel message ends up in the middle of a block. kptr_restrict:
# otherwise /proc/kallsyms may show zeros as addresses.
_INIT = f"""\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /bin
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo 1 > /proc/sys/kernel/printk
echo 0 > /proc/sys/kernel/kptr_restrict
block() {{ echo "{BEGIN} $1"; shift; "$@"; echo "{END}"; }}
block dmesg dmesg
block iomem cat /proc/iomem
block kallsyms grep -F {" ".join(f"-e '{text}'" for text in KALLSYMS)} /proc/kallsyms
block meminfo head -n 3 /proc/meminfo
echo "{READY}, up $(cut -d' ' -f1 /proc/uptime) s, Linux $(uname -r)"
while true; do sleep 3600; done
"""


@dataclass(frozen=True)
class Entry:
    """One name in the archive. mode: type and permissions as in stat; device: major, minor of a node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str) -> Entry:
    """A directory everybody can enter."""
    return Entry(name, 0o040755)


def program(name: str, data: bytes) -> Entry:
    """An executable file."""
    return Entry(name, 0o100755, data)


def dom0_entries(busybox: Path) -> list[Entry]:
    """The smallest dom0: busybox and an /init. dev/console: not every kernel's own archive has it."""
    return [
        *(directory(name) for name in ("bin", "dev", "proc", "sys", "tmp")),
        Entry("dev/console", 0o020600, device=(5, 1)),
        program("bin/busybox", busybox.read_bytes()),
        program("init", _INIT.encode()),
    ]


def write_initramfs(path: Path, entries: Iterable[Entry]) -> None:
    """Write the archive; the same entries give the same bytes."""
    parts = [_cpio_member(number, entry) for number, entry in enumerate(entries, 1)]
    parts.append(_cpio_member(0, Entry("TRAILER!!!", 0)))
    path.write_bytes(gzip.compress(b"".join(parts), compresslevel=1, mtime=0))


def _cpio_member(inode: int, entry: Entry) -> bytes:
    """Header (6 bytes of magic, 13 fields of 8 hexadecimal digits), name and data, each padded to 4 bytes.

    Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst, and usr/gen_init_cpio.c.
    """
    name = entry.name.encode() + b"\0"
    links = 2 if entry.mode & 0o170000 == 0o040000 else 1
    # inode, mode, uid, gid, links, mtime, size, device of the file, device of the node, name, checksum
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(header) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
