"""The user space of the domains: what is in it is data (a list of Entry), what it does is one shell script.

- a plain dom0 and every domU: busybox; tells about its memory and sleeps
- dom0 with a toolstack: also Xen's programs; starts them, then runs what the host asks for (see dom0.py)
- the crash kernel has the same archive as the dom0 it follows: collects the memory (see crash.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .archive import Entry, directory, link, parents, program
from .packages import LIBRARIES, MODULES, XEN_BIN
from .toolstack import MODULE_ORDER

# What a test finds on the console. A block of lines is enclosed by BEGIN and END with its name.
MARK = "gdb-p2m lab:"
READY = f"{MARK} dom0 is ready"
DOMU_READY = f"{MARK} domU is ready"
NO_TOOLSTACK = f"{MARK} cannot start the toolstack"
BEGIN = f"{MARK} begin"
END = f"{MARK} end"

# Names in the directory shared by host and dom0 (SHARE in dom0, SHARE_TAG for QEMU).
SHARE, SHARE_TAG = "/share", "share"
JOBS, CONSOLES, FILES = "jobs", "console", "files"
# In dom0: the kernel and the user space of domUs, and a file system in its memory for what cannot go to the share
# directly (pages of another domain: the 9p client cannot send them without a copy, EFAULT).
DOMU_KERNEL, DOMU_RAMDISK, TMPFS = "/boot/vmlinuz", "/boot/domu.img", "/big"
# Copying to the share: each write is a question to the host and an answer, so few large ones (cp: ten times slower).
COPY = "dd if={0} of={1} bs=256k 2> /dev/null"

# The symbols a reader of the P2M needs: text that a line of /proc/kallsyms holds; a leading blank is the
# beginning of the name. Fixed text and few of it: emulated, each costs 60 ms for the 200,000 lines, a regular
# expression 3 s.
KALLSYMS = (
    *("p2m", " xen_", " startup_xen", "_shared_info", " machine_to_phys_"),
    *(" init_top_pgt", " level3_kernel_pgt", " init_task", " phys_base", " page_offset_base"),
    *(" vmalloc_base", " vmemmap_base", " vmcoreinfo_", " kallsyms_", " _text", " _end"),
)

_HEAD = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /bin
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
"""
# console_loglevel goes down first, or a late kernel message ends up in the middle of a block. kptr_restrict:
# otherwise /proc/kallsyms may show zeros as addresses.
_TELL = f"""\
echo 1 > /proc/sys/kernel/printk
echo 0 > /proc/sys/kernel/kptr_restrict
block() {{ echo "{BEGIN} $1"; shift; "$@"; echo "{END}"; }}
block dmesg dmesg
block iomem cat /proc/iomem
block kallsyms grep -F {" ".join(f"-e '{text}'" for text in KALLSYMS)} /proc/kallsyms
block meminfo head -n 3 /proc/meminfo
"""
_UPTIME = "up $(cut -d' ' -f1 /proc/uptime) s, Linux $(uname -r)"
_SLEEP = "while true; do sleep 3600; done\n"

_SHARE = f"""\
fail() {{ echo "{NO_TOOLSTACK}: $*"; while true; do sleep 3600; done; }}
share() {{
  for module in $(grep "$@" /{MODULE_ORDER}); do
    insmod /{MODULES}/$module.ko || fail "insmod $module"
  done
  mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none {SHARE_TAG} {SHARE} || fail "no {SHARE}"
}}
"""
# The crash kernel has /proc/vmcore and no Xen below it. It ends by switching the machine off.
_CRASHED = f"""\
if [ -e /proc/vmcore ]; then
  echo 1 > /proc/sys/kernel/printk
  echo "{MARK} the crash kernel is up"
  head -n 3 /proc/meminfo
  share -v xen
  cd {SHARE}/{FILES}
  sh collect.sh > collect.out 2>&1
  echo $? > collect.new && mv collect.new collect.rc
  sync
  poweroff -f
  {_SLEEP}fi
"""
_TOOLSTACK = f"""\
export PATH=/bin:/usr/bin:/usr/sbin:/{XEN_BIN}
mkdir -p /run/xen /run/xenstored /run/lock {TMPFS} /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs -o size=95% tmpfs {TMPFS}
share .
mount -t xenfs xenfs /proc/xen || fail "no /proc/xen"
xenstored --pid-file=/run/xenstored.pid || fail "xenstored ended with code $?"
tries=0
until xenstore list / > /run/xenstore.said 2>&1; do
  tries=$((tries + 1))
  [ $tries -le 100 ] || fail "xenstored does not answer: $(cat /run/xenstore.said)"
  usleep 200000
done
xen-init-dom0 || fail "xen-init-dom0 ended with code $?"
xenconsoled --log=guest --log-dir={SHARE}/{CONSOLES} --pid-file=/run/xenconsoled.pid || fail "xenconsoled: code $?"
xl info > /run/xl.said 2>&1 || fail "xl info: $(cat /run/xl.said)"
"""
# A job is a script NAME.job. It runs in a session of its own, so that all of it can be killed, and leaves its exit
# code in NAME.rc last.
_SERVE = f"""\
cd {SHARE}/{JOBS}
while true; do
  for job in *.job; do
    name=${{job%.job}}
    [ -e "$job" ] && mv "$job" "$name.sh" || continue
    setsid sh -c "cd /; sh $PWD/$name.sh > $PWD/$name.out 2> $PWD/$name.err < /dev/null
      echo \\$? > $PWD/$name.new; mv $PWD/$name.new $PWD/$name.rc" &
    echo $! > "$name.pid"
  done
  usleep 100000
done
"""


def _domain_script(ready: str) -> str:
    return f'{_HEAD}{_TELL}echo "{ready}, {_UPTIME}"\n{_SLEEP}'


def _toolstack_script(xen: str) -> str:
    start = _TOOLSTACK.replace("{version}", xen)
    return f'{_HEAD}{_SHARE}{_CRASHED}{_TELL}{start}echo "{READY}, {_UPTIME}"\n{_SERVE}'


def _base(busybox: Path, script: str) -> list[Entry]:
    """The smallest user space. dev/console: not every kernel's own archive has it."""
    return [
        *(directory(name) for name in ("bin", "dev", "proc", "sys", "tmp")),
        Entry("dev/console", 0o020600, device=(5, 1)),
        program("bin/busybox", busybox.read_bytes()),
        program("init", script.encode()),
    ]


def dom0_entries(busybox: Path) -> list[Entry]:
    """A dom0 that does nothing."""
    return _base(busybox, _domain_script(READY))


def domu_entries(busybox: Path) -> list[Entry]:
    """A domU that does nothing."""
    return _base(busybox, _domain_script(DOMU_READY))


def toolstack_entries(
    busybox: Path, xen: str, toolstack: Mapping[str, Path], vmlinuz: Path, domu: Path
) -> list[Entry]:
    """A dom0 that can create domUs. xen: the hypervisor's version; toolstack: name here to file; domu: an initramfs."""
    files = {name: path.read_bytes() for name, path in toolstack.items()}
    files |= {DOMU_KERNEL.strip("/"): vmlinuz.read_bytes(), DOMU_RAMDISK.strip("/"): domu.read_bytes()}
    needed = (f"{SHARE}/-", "run/lock/-", "var/lib/xen/-", "var/lib/xenstored/-", "var/log/xen/-", "etc/xen/-")
    loader = "ld-linux-x86-64.so.2"
    return [
        *_base(busybox, _toolstack_script(xen)),
        *parents(name.strip("/") for name in (*needed, *files, "lib64/-")),
        link(f"lib64/{loader}", f"/{LIBRARIES}/{loader}"),
        link("var/run", "/run"),
        link("var/lock", "/run/lock"),
        Entry("etc/xen/xl.conf", 0o100644, b'autoballoon="off"\n'),  # dom0 keeps its size, whatever is created
        *(program(name, data) for name, data in files.items()),
    ]
