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

# The names a reader of the P2M needs, as extended regular expressions that match a whole symbol name. Every one of
# them contains one of the fixed words: under emulation those find the few hundred candidates ten times as fast.
KALLSYMS_WORDS = "p2m m2p xen phys_ _pg level _info init_ _base vmcoreinfo kallsyms_ _banner _command_line _text _end".split()
KALLSYMS_WORDS += "_stext _etext _sdata _edata __bss".split()
KALLSYMS = (
    ".*p2m.*",
    ".*m2p.*",
    ".*xen_remap.*",
    "xen_released.*",
    "xen_saved_max_mem.*",
    "xen_extra_mem.*",
    "xen_start_info",
    "(xen_dummy|HYPERVISOR)_shared_info",
    "xen_build_mfn_list_list",
    "xen_setup_mfn_list_list",
    "xen_start_kernel",
    "startup_xen",
    "machine_to_phys_(mapping|nr)",
    "(get|set|__set)_phys_to_machine",
    "(swapper_pg_dir|init_top_pgt|level[34]_kernel_pgt|init_task|phys_base)",
    "(page_offset|vmalloc|vmemmap)_base",
    "vmcoreinfo_(data|note)",
    "(linux_banner|init_uts_ns|saved_command_line)",
    "kallsyms_(names|num_syms|token_table|token_index|offsets|relative_base|markers|addresses)",
    "(_text|_stext|_etext|_sdata|_edata|__bss_start|__bss_stop|_end)",
)

# console_loglevel goes down first, or a late kernel message ends up in the middle of a block. kptr_restrict: without
# it /proc/kallsyms shows zeros as addresses.
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
kallsyms() {{ grep -F {" ".join("-e " + word for word in KALLSYMS_WORDS)} /proc/kallsyms | grep -E ' ({"|".join(KALLSYMS)})$'; }}
block kallsyms kallsyms
block meminfo head -n 3 /proc/meminfo
echo "{READY}, up $(cut -d' ' -f1 /proc/uptime) s, Linux $(uname -r)"
while true; do sleep 3600; done
"""


@dataclass(frozen=True)
class Entry:
    """One name in the archive. mode: type and permission bits as in stat; device: major and minor of a node."""

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
    """The smallest dom0: busybox and an /init. The console node is there for a kernel whose own archive has none."""
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
    #         inode, mode, uid, gid, links, mtime, size, device of the file, device of the node, name, checksum
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(header) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
