"""One model machine in every dump format: name of the format -> how to write it, and what the file then holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.writers import Image, image_of, pack_file, write_cut_elf, write_paged_elf, write_raw
from gdb_p2m.model.writers_flattened import flatten
from gdb_p2m.model.writers_kdump import KdumpOptions, write_kdump
from gdb_p2m.model.writers_xen import crash_image, domain_pages, write_xen_core
from gdb_p2m.sources.base import Source
from gdb_p2m.sources.probe import open_source
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE
from support.places import FIXTURES

Frames = npt.NDArray[np.int64]
LEFT_OUT = np.array([5, 300, 301, 302, 4000, 7000], dtype=np.int64)
"""Frames that the filtered dumps lack: none that the P2M of the tiny guest needs."""


def model(name: str = "tiny-domu") -> Machine:
    """A bundled description, built. A fresh one each time: tests may change it."""
    path = FIXTURES / "models" / f"{name}.model"
    return build(parse(path.read_text(), path.name))


@cache
def tiny() -> Machine:
    """The smallest guest, shared: do not change it. It has the frame with Xen's texts already."""
    machine = model()
    crash_image(machine)
    return machine


@dataclass(frozen=True)
class Written:
    """A dump file. raw: value of --raw. lacks: frames of RAM that the file does not hold."""

    path: Path
    raw: str | None = None
    lacks: Frames = field(default_factory=lambda: LEFT_OUT[:0])

    def open(self) -> Source:
        """The source that probing finds."""
        return open_source(str(self.path), raw=self.raw)


Writer = Callable[[Path, Machine], Written]


def _kdump(options: KdumpOptions, crash: bool = False) -> Writer:
    def write(folder: Path, machine: Machine) -> Written:
        path = folder / "dump"
        write_kdump(path, crash_image(machine) if crash else image_of(machine), options)
        return Written(path, lacks=np.union1d(options.filtered, options.incomplete))

    return write


def _elf(folder: Path, machine: Machine) -> Written:
    machine.write_elf(folder / "dump")
    return Written(folder / "dump")


def _paged(folder: Path, machine: Machine) -> Written:
    image = image_of(machine)
    end = image.max_frame << PAGE_SHIFT
    overlapping = [(a, min(end, a + 0x9000)) for a in range(0, end, 0x4000)]
    write_paged_elf(folder / "dump", image, [*overlapping, (0x100000, 0x180000), (0, end), (end, end + 0x10000)])
    return Written(folder / "dump")


def _cut(folder: Path, machine: Machine) -> Written:
    write_cut_elf(folder / "dump", crash_image(machine), LEFT_OUT)
    return Written(folder / "dump", lacks=LEFT_OUT)


def _flat(inner: Writer) -> Writer:
    def write(folder: Path, machine: Machine) -> Written:
        written = inner(folder, machine)
        flatten(written.path, folder / "dump.flat")
        return Written(folder / "dump.flat", written.raw, written.lacks)

    return write


def _packed(inner: Writer, suffix: str) -> Writer:
    def write(folder: Path, machine: Machine) -> Written:
        written = inner(folder, machine)
        pack_file(written.path, folder / f"packed{suffix}")
        return Written(folder / f"packed{suffix}", written.raw, written.lacks)

    return write


def _split(folder: Path, machine: Machine) -> Written:
    image = image_of(machine)
    edges = (0, 1000, 4001, image.max_frame)
    for i, part in enumerate(itertools.pairwise(edges)):
        write_kdump(folder / f"part{i}", image, KdumpOptions(part=part))
    return Written(folder / "part1")


def _raw(folder: Path, machine: Machine) -> Written:
    write_raw(folder / "dump", image_of(machine))
    return Written(folder / "dump", raw="0")


def _raw_from(folder: Path, machine: Machine) -> Written:
    base = 0x123000
    write_raw(folder / "dump", image_of(machine), base)
    return Written(folder / "dump", raw=hex(base), lacks=np.arange(base >> PAGE_SHIFT))


def _xen_core(folder: Path, machine: Machine) -> Written:
    write_xen_core(folder / "dump", machine)
    _, mfns = domain_pages(machine)
    return Written(folder / "dump", lacks=np.setdiff1d(image_of(machine).frames(), mfns))


FORMATS: dict[str, Writer] = {
    "elf": _elf,
    "elf-paged": _paged,
    "elf-cut": _cut,
    "elf-flattened": _flat(_elf),
    "elf.gz": _packed(_elf, ".gz"),
    "kdump-zlib": _kdump(KdumpOptions("zlib")),
    "kdump-lzo": _kdump(KdumpOptions("lzo")),
    "kdump-snappy": _kdump(KdumpOptions("snappy")),
    "kdump-zstd": _kdump(KdumpOptions("zstd")),
    "kdump-plain": _kdump(KdumpOptions("none")),
    **{f"kdump-v{v}": _kdump(KdumpOptions(version=v, one_bitmap=v < 3)) for v in range(1, 6)},
    **{f"kdump-i386-v{v}": _kdump(KdumpOptions(version=v, word=4, machine="i686")) for v in (2, 5, 6)},
    "kdump-no-shared-zeros": _kdump(KdumpOptions("lzo", share_zeros=False)),
    "kdump-filtered": _kdump(KdumpOptions(filtered=LEFT_OUT, dump_level=31), crash=True),
    "kdump-incomplete": _kdump(KdumpOptions(incomplete=LEFT_OUT)),
    "kdump-flattened": _flat(_kdump(KdumpOptions("zstd"), crash=True)),
    "kdump-flattened.zst": _packed(_flat(_kdump(KdumpOptions("lzo"))), ".zst"),
    "kdump-split": _split,
    "xen-core": _xen_core,
    "xen-core.gz": _packed(_xen_core, ".gz"),
    "raw": _raw,
    "raw-from": _raw_from,
    "raw.zst": _packed(_raw, ".zst"),
}
KDUMPS = tuple(name for name in FORMATS if name.startswith("kdump"))
METHODS = ("zlib", "lzo", "snappy", "zstd", "none")


def all_pages(image: Image) -> npt.NDArray[np.uint8]:
    """RAM as (frames, 4096), from frame 0 on; gaps are zero."""
    pages = np.zeros((image.max_frame, PAGE_SIZE), dtype=np.uint8)
    for frames, rows in image.stored():
        pages[frames] = rows
    return pages


def system_map(machine: Machine, path: Path) -> Path:
    """The kernel's names as a System.map: for dumps without notes."""
    path.write_text("".join(f"{va:016x} D {name}\n" for name, va in sorted(machine.symbols.items(), key=lambda s: s[1])))
    return path
