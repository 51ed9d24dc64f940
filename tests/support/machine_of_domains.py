"""The bundled machine with four PV domains: Xen 4.17, dom0 and three paused domUs, of one instant.

Truth: `xl list`, and Xen's own tool: `xen-mfndump dump-p2m` of each domU and `dump-m2p`, compared frame by frame with the
dump that the excerpt was made from.
"""

from __future__ import annotations

import shlex
from functools import cache

import numpy as np

from contract.test_json_documents import validate
from gdb_p2m.cli import build_parser, rendered
from gdb_p2m.commands.base import Context
from gdb_p2m.commands.registry import BY_NAME
from gdb_p2m.layout import xen_x86 as layout
from gdb_p2m.sources.base import Source
from gdb_p2m.sources.probe import open_source
from gdb_p2m.target import Target
from support.machine import Machine
from support.places import FIXTURES

PATH = FIXTURES / "linux-6.1-machine-4-domains.core.xz"
PAGES = {0: 179_200, 1: 32_768, 2: 33_536, 3: 38_400}
TOTALS = {
    0: {"mfn": 179_200, "foreign": 6, "identity": 133_660_801, "missing": 377_721},
    1: {"mfn": 32_768, "identity": 134_184_960},
    2: {"mfn": 33_536, "identity": 134_166_528, "missing": 17_664},
    3: {"mfn": 38_400, "identity": 134_153_728, "missing": 25_600},
}
ROOTS = {0: 0x72A10, 1: 0x5210, 2: 0xD410, 3: 0x6F610}
STRUCT_DOMAINS = {0: 0x7FDBB, 1: 0x5C065, 2: 0x7FBBB, 3: 0x7FF0D}
SHARED_INFO = {0: 0x7FDB9, 1: 0x7A064, 2: 0x7FBB9, 3: 0x7FF0C}
NEXT_IN_LIST, TOT_PAGES, PAUSES, DYING = 136, 88, 324, 320
"""Offsets in struct domain: by DWARF, VMCOREINFO_XEN or code of this Xen."""
FOREIGN = {  # dom0's PFN -> frame, owner, the owner's PFN: the rings of the consoles and of xenstore
    0x187FFA: (0x6D602, 3, 0x4A02), 0x187FFB: (0x6D601, 3, 0x4A01), 0x187FFC: (0xB402, 2, 0x4A02),
    0x187FFD: (0xB401, 2, 0x4A01), 0x187FFE: (0x7E002, 1, 0x4A02), 0x187FFF: (0x7E001, 1, 0x4A01),
}  # fmt: skip


@cache
def machine() -> Machine:
    """The memory, to be copied before it is damaged."""
    return Machine.of(open_source(str(PATH)))


@cache
def target() -> Target:
    """The memory as it is; what is found in it is kept."""
    return Target(machine().source())


def page_info(mfn: int) -> int:
    """Machine address of the struct page_info of a frame."""
    return int(target().hypervisor.frames.read(mfn).address)


def asked(what: Target | Source, line: str):  # type: ignore[no-untyped-def]
    """The JSON of a verb, which its schema allows."""
    return validate(told(what, line, "json"))


def told(what: Target | Source, line: str, fmt: str = "text") -> str:
    """What a verb prints."""
    on = what if isinstance(what, Target) else Target(what)
    name, *words = shlex.split(line)
    args = build_parser(BY_NAME[name], name, False).parse_args([*words, "--format", fmt])
    return rendered(BY_NAME[name].run(Context(on, args.domain), args), fmt)


def changed(address: int, value: int, size: int = 8) -> Source:
    """The machine with one word overwritten."""
    other = machine().copy()
    assert other.read(address, size) != value.to_bytes(size, "little"), "a fault that changes nothing proves nothing"
    other.write(address, value.to_bytes(size, "little"))
    return other.source()


def without_xens_texts(other: Machine) -> Machine:
    """The machine without VMCOREINFO_XEN: offsets then have to be found on the spot."""
    other.info.notes = [n for n in other.info.notes if n.name != "VMCOREINFO_XEN"]
    return other


def frame_table() -> list[int]:
    """The machine frames of Xen's frame table."""
    pages = np.uint64(layout.FRAMETABLE_VIRT) + np.arange(4096, dtype=np.uint64) * np.uint64(4096)
    frames = target().hypervisor.space.translate_many(pages).frame
    return np.intersect1d(frames, machine().frames()).tolist()  # type: ignore[no-any-return]
