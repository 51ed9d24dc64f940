"""Writes the documented structures: start_info, shared_info, the remap records."""

from __future__ import annotations

import struct

import numpy as np

from gdb_p2m.layout.x86_pv import (
    REMAP_HEADER_WORDS,
    SHARED_INFO_32,
    SHARED_INFO_64,
    SIF_INITDOMAIN,
    SIF_PRIVILEGED,
    SIF_VIRT_P2M_4TOOLS,
    START_INFO_32,
    START_INFO_64,
    EntryWidth,
    StructLayout,
)
from gdb_p2m.model.boot import Move
from gdb_p2m.model.description import Description
from gdb_p2m.model.frames import Frames
from gdb_p2m.model.memory import Memory
from gdb_p2m.units import PAGE_SHIFT

_FORMATS = {"u8": "<B", "u16": "<H", "u32": "<I", "u64": "<Q"}
MAGIC_64 = "xen-3.0-x86_64"
MAGIC_32 = "xen-3.0-x86_32p"
"""What the toolstack writes; Xen's own builder of dom0 adds a p on 64-bit too (both seen)."""


def pack(layout: StructLayout, values: dict[str, int | str]) -> bytes:
    """The structure's bytes; fields without a value are zero. KeyError for names that it has not."""
    out = bytearray(layout.size)
    for name, value in values.items():
        f = layout.field(name)
        if isinstance(value, str):
            out[f.offset : f.offset + len(value)] = value.encode("ascii")
        else:
            struct.pack_into(_FORMATS[f.kind], out, f.offset, value)
    return bytes(out)


def start_info_layout(width: EntryWidth) -> StructLayout:
    """struct start_info of this word size."""
    return START_INFO_64 if width.bits == 64 else START_INFO_32


def shared_info_layout(width: EntryWidth) -> StructLayout:
    """struct shared_info of this word size."""
    return SHARED_INFO_64 if width.bits == 64 else SHARED_INFO_32


def start_flags(d: Description) -> int:
    """start_info.flags as the domain builder sets them."""
    flags = SIF_PRIVILEGED | SIF_INITDOMAIN if d.initdomain else 0
    return flags | (SIF_VIRT_P2M_4TOOLS if d.virt_p2m_4tools else 0)


def magic(d: Description) -> str:
    """start_info.magic."""
    if d.width.bits == 32:
        return MAGIC_32
    return MAGIC_64 + ("p" if d.initdomain else "")


def fold_cr3(mfn: int, width: EntryWidth) -> int:
    """A page-table frame as p2m_cr3 and vcpu contexts carry it (xen_pfn_to_cr3)."""
    if width.bits == 64:
        return mfn << PAGE_SHIFT
    return ((mfn << PAGE_SHIFT) | (mfn >> 20)) & 0xFFFF_FFFF


def record_words(
    next_mfn: int, target: int, mfns: np.ndarray[tuple[int], np.dtype[np.int64]], width: EntryWidth
) -> bytes:
    """One remap record: next_area_mfn, target_pfn, size, mfns[] ("xen: Delay remapping memory of pv-domain")."""
    dtype = "<u8" if width.bits == 64 else "<u4"
    head = np.array([next_mfn, target, len(mfns)], dtype=np.uint64)
    assert len(head) == REMAP_HEADER_WORDS
    return np.concatenate((head, mfns.astype(np.uint64))).astype(dtype).tobytes()


def write_chain(moves: list[Move], memory: Memory, frames: Frames, width: EntryWidth) -> int:
    """Write the records into the pages that are to be moved; returns the head, xen_remap_mfn.

    Last in, first out: each record points to the one written before it.
    """
    head = width.invalid
    for move in moves:
        mfns = frames.mfns(move.source, move.source + move.count)
        mfn = int(mfns[0])
        memory.write(mfn << PAGE_SHIFT, record_words(head, move.target, mfns, width))
        head = mfn
    return head
