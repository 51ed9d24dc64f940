"""Writes model memory as kdump-compressed dumps: every compression, header versions 1 to 6, filtered, split.

Facts: makedumpfile's IMPLEMENTATION and diskdump_mod.h, QEMU's dump/dump.c. A page is stored compressed only when
that makes it smaller; pages of zeros share one page of data.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from gdb_p2m.model.writers import Image, Path
from gdb_p2m.units import PAGE_SIZE, FrameArray

Method = Literal["zlib", "lzo", "snappy", "zstd", "none"]
FLAGS: dict[str, int] = {"zlib": 0x1, "lzo": 0x2, "snappy": 0x4, "zstd": 0x20, "none": 0}
INCOMPLETE = 0x8
DESCRIPTOR = np.dtype([("offset", "<u8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
SUB_HEADER_BLOCKS = 1


@dataclass(frozen=True)
class KdumpOptions:
    """How to write. word: bytes of a long on the machine that wrote (8, or 4 for i386).

    filtered: frames that exist and are left out. incomplete: frames that the writer had no room for.
    part: first and last frame + 1 of this file of a split dump. share_zeros: as makedumpfile and QEMU do.
    one_bitmap: as old writers do, when nothing is filtered.
    """

    method: Method = "zlib"
    version: int = 6
    word: Literal[4, 8] = 8
    filtered: FrameArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    incomplete: FrameArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    part: tuple[int, int] | None = None
    share_zeros: bool = True
    one_bitmap: bool = False
    dump_level: int = 1
    machine: str = "x86_64"


def compressor(method: Method) -> Callable[[bytes], bytes]:
    """One page compressed. Raises ImportError when the package is missing."""
    if method == "zlib":
        return lambda page: zlib.compress(page, 1)
    if method == "lzo":
        from lzallright import LZOCompressor

        lzo = LZOCompressor()
        return lambda page: bytes(lzo.compress(page))
    if method == "snappy":
        from cramjam import snappy

        return lambda page: bytes(snappy.compress_raw(page))
    if method == "zstd":
        import zstandard

        zstd = zstandard.ZstdCompressor(level=1)
        return zstd.compress
    return lambda page: page


def write_kdump(path: Path, image: Image, options: KdumpOptions | None = None) -> None:
    """Write the file. Raises OSError."""
    o = options or KdumpOptions()
    with open(path, "wb") as file:
        Writer(image, o).write(file.fileno())


class Writer:
    """One dump being laid out: headers, bitmaps, descriptors, pages, notes at the end of the headers' block."""

    def __init__(self, image: Image, options: KdumpOptions) -> None:
        self.image = image
        self.o = options
        self.ram = image.frames()
        self.dumped = self.ram[~np.isin(self.ram, options.filtered)]
        first, last = options.part or (0, image.max_frame)
        self.mine = self.dumped[(self.dumped >= first) & (self.dumped < last)]
        self.notes = b"".join(n.pack() for n in image.notes if n.name != "VMCOREINFO") if options.version >= 4 else b""
        info = next((n.desc for n in image.notes if n.name == "VMCOREINFO"), b"")
        self.vmcoreinfo = info if options.version >= 3 else b""
        bits = -(-image.max_frame // 8)
        self.bitmap_blocks = -(-bits // PAGE_SIZE)
        extra = len(self.notes) + len(self.vmcoreinfo)
        self.sub_blocks = SUB_HEADER_BLOCKS + -(-extra // PAGE_SIZE)

    def write(self, fd: int) -> None:
        """Everything at its place."""
        bitmaps = 1 if self.o.one_bitmap else 2
        descriptors_at = PAGE_SIZE * (1 + self.sub_blocks + bitmaps * self.bitmap_blocks)
        data_at = descriptors_at + DESCRIPTOR.itemsize * len(self.mine)
        os.pwrite(fd, self.header(bitmaps), 0)
        os.pwrite(fd, self.sub_header(), PAGE_SIZE)
        os.pwrite(fd, self.notes + self.vmcoreinfo, 2 * PAGE_SIZE)
        at = PAGE_SIZE * (1 + self.sub_blocks)
        os.pwrite(fd, self.bitmap(self.ram if bitmaps == 2 else self.dumped), at)
        if bitmaps == 2:
            os.pwrite(fd, self.bitmap(self.dumped), at + PAGE_SIZE * self.bitmap_blocks)
        end, table = self.pages(fd, data_at)
        os.pwrite(fd, table.tobytes(), descriptors_at)
        os.ftruncate(fd, max(end, data_at))

    def pages(self, fd: int, at: int) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.void]]]:
        """Write the data; returns its end and the descriptors."""
        pack, flag = compressor(self.o.method), FLAGS[self.o.method]
        table = np.zeros(len(self.mine), dtype=DESCRIPTOR)

        def put(page: bytes) -> tuple[int, int, int, int]:
            nonlocal at
            packed = pack(page)
            small = flag and len(packed) < PAGE_SIZE
            data = packed if small else page
            os.pwrite(fd, data, at)
            at += len(data)
            return at - len(data), len(data), flag if small else 0, 0

        zero = bytes(PAGE_SIZE)
        if self.o.share_zeros:
            table[:] = put(zero)
        else:
            for i in range(len(self.mine)):
                table[i] = put(zero)
        for frames, rows in self.image.stored():
            place = np.searchsorted(self.mine, frames)
            known = place < len(self.mine)
            known[known] = self.mine[place[known]] == frames[known]
            for k in np.flatnonzero(known).tolist():
                page = rows[k].tobytes()
                if page != zero:
                    table[place[k]] = put(page)
        lost = np.isin(self.mine, self.o.incomplete)
        table["flags"][lost] |= INCOMPLETE
        return at, table

    def bitmap(self, frames: FrameArray) -> bytes:
        """One bitmap, whole blocks."""
        bits = np.zeros(self.bitmap_blocks * PAGE_SIZE * 8, dtype=np.uint8)
        bits[frames] = 1
        return np.packbits(bits, bitorder="little").tobytes()

    def header(self, bitmaps: int) -> bytes:
        """disk_dump_header."""
        o, image = self.o, self.image
        names = ("Linux", "model", "6.1.0-model", "#1", o.machine, "")
        utsname = b"".join(n.encode().ljust(65, b"\0") for n in names)
        # timeval: two longs, aligned to one; x86-64 pads before it.
        stamp = struct.pack("<6xQQ", 1, 0) if o.word == 8 else struct.pack("<2xII", 1, 0)
        status = FLAGS[o.method] | (INCOMPLETE if len(o.incomplete) else 0)
        max_mapnr = min(image.max_frame, 0xFFFF_FFFF)
        numbers = struct.pack(
            "<IiiIIIIIii", status, PAGE_SIZE, self.sub_blocks, bitmaps * self.bitmap_blocks, max_mapnr,
            0, 0, 0, 0, image.nr_cpus,
        )  # fmt: skip
        return b"KDUMP   " + struct.pack("<i", o.version) + utsname + stamp + numbers

    def sub_header(self) -> bytes:
        """kdump_sub_header: what the header's version has of it."""
        o = self.o
        long, off = ("Q", "Q") if o.word == 8 else ("I", "Q")
        start, end = o.part or (0, 0)
        split = int(o.part is not None)
        note_at = 2 * PAGE_SIZE if self.notes else 0
        info_at = 2 * PAGE_SIZE + len(self.notes) if self.vmcoreinfo else 0
        parts = [struct.pack(f"<{long}i", 0, o.dump_level)]
        if o.version >= 2:
            narrow = (0, 0) if o.version >= 6 else (start, end)
            parts.append(struct.pack(f"<i{long}{long}", split, *narrow))
        if o.version >= 3:
            parts.append(struct.pack(f"<{off}{long}", info_at, len(self.vmcoreinfo)))
        if o.version >= 4:
            parts.append(struct.pack(f"<{off}{long}", note_at, len(self.notes)))
        if o.version >= 5:
            parts.append(struct.pack(f"<{off}{long}", 0, 0))
        if o.version >= 6:
            parts.append(struct.pack("<QQQ", start, end, self.image.max_frame))
        return b"".join(parts)
