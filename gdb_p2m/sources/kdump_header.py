"""The headers of a kdump-compressed dump ("KDUMP   "), versions 1 to 6, and what in them contradicts itself.

Facts: makedumpfile's diskdump_mod.h (disk_dump_header, kdump_sub_header) and QEMU's include/sysemu/dump.h;
offsets seen in dumps of makedumpfile 1.7 and QEMU 7.2. The structures hold longs: x86-64 and RISC-V have one
layout, i386 another.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from gdb_p2m.errors import NotSupported, NotUnderstood
from gdb_p2m.sources.content import Content
from gdb_p2m.units import PAGE_SIZE

SIGNATURE = b"KDUMP   "
VERSIONS = range(1, 7)
MAX_FRAMES = 1 << 32
"""16 TiB of machine memory, Xen's limit: a bitmap of 512 MiB."""
MAX_NOTE_BYTES = 64 << 20
MAX_INFO_BYTES = 1 << 20
UTSNAME_FIELD = 65

STATUS_INCOMPLETE = 0x8
"""DUMP_DH_COMPRESSED_INCOMPLETE: the disk was full before the dump was."""
STATUS_NO_VMEMMAP = 0x10
"""DUMP_DH_EXCLUDED_VMEMMAP."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the fields lie. status: first of the six 32-bit numbers up to max_mapnr; sub: of the sub-header.

    sub gives (offset, struct code) by name; a field is there from the header version in SINCE on.
    """

    status: int
    sub: dict[str, tuple[int, str]]


LAYOUT_64 = Layout(
    424,
    {
        "dump_level": (8, "<i"),
        "split": (12, "<i"),
        "start_pfn": (16, "<Q"),
        "end_pfn": (24, "<Q"),
        "offset_vmcoreinfo": (32, "<Q"),
        "size_vmcoreinfo": (40, "<Q"),
        "offset_note": (48, "<Q"),
        "size_note": (56, "<Q"),
        "start_pfn_64": (80, "<Q"),
        "end_pfn_64": (88, "<Q"),
        "max_mapnr_64": (96, "<Q"),
    },
)
LAYOUT_32 = Layout(
    412,
    {
        "dump_level": (4, "<i"),
        "split": (8, "<i"),
        "start_pfn": (12, "<I"),
        "end_pfn": (16, "<I"),
        "offset_vmcoreinfo": (20, "<Q"),
        "size_vmcoreinfo": (28, "<I"),
        "offset_note": (32, "<Q"),
        "size_note": (40, "<I"),
        "start_pfn_64": (56, "<Q"),
        "end_pfn_64": (64, "<Q"),
        "max_mapnr_64": (72, "<Q"),
    },
)
SINCE = {
    "dump_level": 1,
    "split": 2,
    "start_pfn": 2,
    "end_pfn": 2,
    "offset_vmcoreinfo": 3,
    "size_vmcoreinfo": 3,
    "offset_note": 4,
    "size_note": 4,
    "start_pfn_64": 6,
    "end_pfn_64": 6,
    "max_mapnr_64": 6,
}
MACHINES = {"x86_64": "x86-64", "i686": "i386", "i586": "i386", "i386": "i386", "riscv64": "riscv64"}


@dataclass
class Header:
    """What the headers say. Offsets and sizes are bytes in the file; frames are machine frames.

    start_frame, end_frame: what this file of a split dump holds, else 0 and max_frames.
    """

    version: int
    utsname: dict[str, str]
    status: int
    bitmap_at: int
    bitmap_bytes: int
    max_frames: int
    nr_cpus: int
    dump_level: int = 0
    split: bool = False
    start_frame: int = 0
    end_frame: int = 0
    vmcoreinfo: bytes = b""
    notes: bytes = b""
    identity: bytes = b""
    problems: list[tuple[int, str]] = field(default_factory=list)

    @property
    def machine(self) -> str:
        """Machine in our words, from utsname; x86-64 when the writer left it out."""
        name = self.utsname["machine"]
        return MACHINES.get(name, name or "x86-64")

    @property
    def descriptors_at(self) -> int:
        """File offset of the first page descriptor."""
        return self.bitmap_at + self.bitmap_bytes


def read_header(content: Content) -> Header:
    """Both headers. Raises NotUnderstood when they cannot be those of a dump, NotSupported for other pages."""
    head = bytes(content.read(0, min(content.size, 512)))
    if len(head) < 512:
        raise NotUnderstood(f"{content.path}: the file ends within the kdump header")
    version = int(struct.unpack_from("<i", head, 8)[0])
    if version not in VERSIONS:
        raise NotUnderstood(
            f"{content.path}: kdump header version {version}; versions 1 to 6 are known",
            hint="is it a dump of a big-endian machine, or is the header damaged?",
        )
    layout = _layout(head, content.path)
    numbers = struct.unpack_from("<IiiIIIIIIi", head, layout.status)
    status, block, sub_blocks, bitmap_blocks, max_mapnr = numbers[:5]
    names = ("sysname", "nodename", "release", "version", "machine", "domainname")
    raw = (head[12 + i * UTSNAME_FIELD : 12 + (i + 1) * UTSNAME_FIELD] for i in range(len(names)))
    utsname = {n: r.split(b"\0")[0].decode("latin-1") for n, r in zip(names, raw, strict=True)}
    at = block * (1 + sub_blocks)
    header = Header(version, utsname, status, at, bitmap_blocks * block, max_mapnr, numbers[9])
    _sub_header(header, layout, bytes(content.read(block, min(PAGE_SIZE, content.size - block))), content)
    header.identity = head[:layout.status] + struct.pack("<5Q", *numbers[1:3], *numbers[3:5], header.max_frames)
    if not 0 < header.max_frames <= MAX_FRAMES:
        raise NotUnderstood(f"{content.path}: max_mapnr {header.max_frames:#x} is no number of frames of a machine")
    return header


def _layout(head: bytes, path: str) -> Layout:
    """The layout whose block size and sizes make sense: timeval and alignment differ, nothing says which."""
    sizes = []
    for layout in (LAYOUT_64, LAYOUT_32):
        block, sub_blocks, bitmap_blocks = struct.unpack_from("<iiI", head, layout.status + 4)
        if block >= 512 and block & (block - 1) == 0 and 0 < sub_blocks <= 1 << 16 and bitmap_blocks:
            if block == PAGE_SIZE:
                return layout
            sizes.append(block)
    if sizes:
        raise NotSupported(
            f"{path}: kdump pages of {sizes[0]} bytes; machines with pages of {PAGE_SIZE} bytes are supported"
        )
    raise NotUnderstood(f"{path}: the kdump header's block size and sizes make no sense")


def _sub_header(header: Header, layout: Layout, sub: bytes, content: Content) -> None:
    def number(name: str) -> int:
        offset, code = layout.sub[name]
        if header.version < SINCE[name] or offset + struct.calcsize(code) > len(sub):
            return 0
        return int(struct.unpack_from(code, sub, offset)[0])

    header.dump_level = number("dump_level")
    if header.version >= 6 and number("max_mapnr_64"):
        header.max_frames = number("max_mapnr_64")
    header.end_frame = header.max_frames
    if number("split"):
        header.split = True
        suffix = "_64" if header.version >= 6 else ""
        header.start_frame, header.end_frame = number(f"start_pfn{suffix}"), number(f"end_pfn{suffix}")
        if not header.start_frame <= header.end_frame <= header.max_frames:
            raise NotUnderstood(
                f"{content.path}: part of a split dump with frames {header.start_frame:#x}..{header.end_frame:#x} "
                f"of {header.max_frames:#x}"
            )
    header.vmcoreinfo = _part(header, content, "vmcoreinfo", number, MAX_INFO_BYTES)
    header.notes = _part(header, content, "note", number, MAX_NOTE_BYTES)


def _part(header: Header, content: Content, name: str, number: object, limit: int) -> bytes:
    """The bytes that offset_NAME and size_NAME point to; a problem when they lie past the end of the file."""
    offset = number(f"offset_{name}")  # type: ignore[operator]
    size = number(f"size_{name}")  # type: ignore[operator]
    if not offset or not size:
        return b""
    if offset + size > content.size or size > limit:
        header.problems.append((offset, f"kdump {name} of {size:#x} bytes at file offset {offset:#x} goes past the end"))
        return b""
    return bytes(content.read(offset, size))
