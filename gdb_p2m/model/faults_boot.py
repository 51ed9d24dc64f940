"""Faults of start_info (SIF), the remap chain (RMP) and of the dump itself (DMP)."""

from __future__ import annotations

from gdb_p2m.layout.pagetables import X86_RW
from gdb_p2m.layout.x86_pv import INIT_P2M_VA_64, REMAP_HEADER_WORDS
from gdb_p2m.model.boot import Move
from gdb_p2m.model.elf import Segment
from gdb_p2m.model.fault import CannotApply, Fault, Where, mfn_of, plain_pfns
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.structs import start_info_layout
from gdb_p2m.model.tables import TABLE, pte
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE


def _field(m: Machine, name: str) -> int:
    return m.start_info + start_info_layout(m.width).field(name).offset


def _magic(m: Machine) -> Where:
    at = _field(m, "magic")
    m.memory.write(at, b"xxx-")
    return Where("start_info.magic does not begin with xen-", address=at)


def _nr_pages(m: Machine) -> Where:
    at = _field(m, "nr_pages")
    m.memory.write_word(at, m.xen.max_frame + 1, m.width.bytes)
    return Where("start_info.nr_pages exceeds the machine", address=at)


def _shared_info(m: Machine) -> Where:
    at = _field(m, "shared_info")
    m.memory.write_word(at, m.shared_info + PAGE_SIZE, m.width.bytes)
    return Where("start_info.shared_info is the page behind the real one", address=at)


def _few_frames(m: Machine) -> Where:
    at = _field(m, "nr_p2m_frames")
    pages = -(-m.description.nr_pages // m.width.per_page)
    if not m.memory.read_word(at, m.width.bytes):
        raise CannotApply("the initial list lies inside the initial mapping")
    m.memory.write_word(at, pages - 1, m.width.bytes)
    return Where(f"start_info.nr_p2m_frames is {pages - 1}, the list alone has {pages}", address=at)


def _initial_writable(m: Machine) -> Where:
    first = m.memory.read_word(_field(m, "first_p2m_pfn"), m.width.bytes)
    if m.description.initial_list != "outside":
        raise CannotApply("the initial list lies inside the initial mapping")
    found = m.pte(m.kernel.direct_va(first))
    m.memory.write_word(found.address, found.raw | X86_RW)
    return Where(f"the first page of the initial list, PFN {first:#x}, is mapped writable", first, found.address)


def _slot_left(m: Machine) -> Where:
    if m.description.initial_list != "outside":
        raise CannotApply("the initial list lies inside the initial mapping")
    at = m.tables.find(INIT_P2M_VA_64)[0].address
    m.memory.write_word(at, pte(m.frames.mfn(m.kernel.free[-1][1] - 1), TABLE))
    return Where("the initial list's top-level slot is still there", address=at)


def _old_mfn_list(m: Machine) -> Where:
    at = _field(m, "mfn_list")
    m.memory.write_word(at, m.kernel.direct_va(0x1000), m.width.bytes)
    return Where("start_info.mfn_list is not xen_p2m_addr", address=at)


def _chain(m: Machine, least: int = 1, size: int = 1) -> list[Move]:
    """The records in the order of the chain (last in, first out). Raises CannotApply."""
    moves = list(reversed(m.plan.moves))
    if len(moves) < least or all(move.count < size for move in moves):
        raise CannotApply(f"needs a remap chain of {least} records, one with {size} frames")
    return moves


def _record(m: Machine, move: Move) -> int:
    """Machine address of a record."""
    return m.frames.mfn(move.source) << PAGE_SHIFT


def _word(m: Machine, move: Move, index: int) -> int:
    return _record(m, move) + index * m.width.bytes


def _swap_words(m: Machine, a: int, b: int) -> None:
    size = m.width.bytes
    first, second = m.memory.read(a, size), m.memory.read(b, size)
    m.memory.write(a, second)
    m.memory.write(b, first)


def _first_frame(m: Machine) -> Where:
    move = next(v for v in _chain(m, size=2) if v.count >= 2)
    at = _word(m, move, REMAP_HEADER_WORDS)
    _swap_words(m, at, at + m.width.bytes)
    return Where("mfns[0] is not the record's own page", move.source, at)


def _record_size(name: str, title: str, size: int) -> Fault:
    def apply(m: Machine) -> Where:
        move = _chain(m)[0]
        value = size if size == 0 else m.width.per_page - REMAP_HEADER_WORDS + size
        at = _word(m, move, 2)
        m.memory.write_word(at, value, m.width.bytes)
        return Where(f"a record of size {value}", move.source, at)

    return Fault(name, "RMP-002", title, apply, "linear", stage="planned")


def _cycle(m: Machine) -> Where:
    chain = _chain(m)
    at = _word(m, chain[-1], 0)
    m.memory.write_word(at, _record(m, chain[0]) >> PAGE_SHIFT, m.width.bytes)
    return Where("the last record leads back to the first", chain[-1].source, at)


def _lost_end(m: Machine) -> Where:
    chain = _chain(m)
    at = _word(m, chain[-1], 0)
    m.memory.write_word(at, m.xen.max_frame + 0x1000, m.width.bytes)
    return Where("the last record leads past the machine's end", chain[-1].source, at)


def _frame_twice(m: Machine) -> Where:
    move = next(v for v in _chain(m, size=3) if v.count >= 3)
    at = _word(m, move, REMAP_HEADER_WORDS + 2)
    m.memory.write_word(at, m.frames.mfn(move.source + 1), m.width.bytes)
    return Where("an MFN stands twice in a record", move.source, at)


def _targets_overlap(m: Machine) -> Where:
    first, second = _chain(m, least=2)[:2]
    at = _word(m, first, 1)
    m.memory.write_word(at, second.target, m.width.bytes)
    return Where("two records have the same target", first.source, at)


def _source_kept(m: Machine) -> Where:
    move = _chain(m)[0]
    m.poke_entry(move.source, m.frames.mfn(move.source))
    return Where(f"PFN {move.source:#x} still has its frame", move.source, m.entry_address(move.source))


def _target_taken(m: Machine) -> Where:
    move = _chain(m)[0]
    pfn = move.target + move.count - 1
    mfn = m.frames.mfn(move.source + move.count - 1)
    m.poke_entry(pfn, mfn)
    m.poke_m2p(mfn, pfn)
    return Where(f"PFN {pfn:#x} has its frame before the remapping", pfn, m.entry_address(pfn))


def _remapped_otherwise(m: Machine) -> Where:
    """Two targets change places, M2P and all: only the recorded chain can tell."""
    move = next(v for v in _chain(m, size=2) if v.count >= 2)
    a, b = move.target, move.target + 1
    first, second = mfn_of(m, a), mfn_of(m, b)
    for pfn, mfn in ((a, second), (b, first)):
        m.poke_entry(pfn, mfn)
        m.poke_m2p(mfn, pfn)
    return Where(f"the frames of PFNs {a:#x} and {b:#x} are exchanged", a, m.entry_address(a))


def _overlap(m: Machine) -> Where:
    start = mfn_of(m, plain_pfns(m)[0]) << PAGE_SHIFT
    m.segments.append(Segment(start, start + PAGE_SIZE, b"\x5a" * PAGE_SIZE))
    return Where(f"two segments hold different bytes for {start:#x}", address=start)


def _notes_past_end(m: Machine) -> Where:
    m.note_slack = PAGE_SIZE
    return Where("the note segment ends past the file's end")


def _left_out(m: Machine) -> Where:
    pfn = plain_pfns(m)[0]
    start = mfn_of(m, pfn) << PAGE_SHIFT
    out = []
    for s in m.segments:
        parts = [(s.start, min(s.end, start)), (max(s.start, start + PAGE_SIZE), s.end)]
        out += [Segment(a, b) for a, b in parts if a < b]
    m.segments = out
    return Where(f"the dump lacks the frame of PFN {pfn:#x}", pfn, start)


START_FAULTS = (
    Fault("start-info-magic", "SIF-001", "start_info.magic is not Xen's", _magic),
    Fault("start-info-nr-pages", "SIF-001", "start_info.nr_pages exceeds the machine", _nr_pages),
    Fault("start-info-shared-info", "SIF-001", "start_info.shared_info is not the page in use", _shared_info),
    Fault("start-info-few-p2m-frames", "SIF-001", "nr_p2m_frames does not cover the list", _few_frames, "linear", 64),
    Fault("initial-list-writable", "SIF-002", "a frame of the initial list is mapped writable", _initial_writable,
          "linear", 64, "initial"),
    Fault("initial-list-slot-left", "SIF-003", "the initial list's top-level slot is not cleared", _slot_left,
          "linear", 64),
    Fault("mfn-list-not-moved", "SIF-003", "start_info.mfn_list is not xen_p2m_addr", _old_mfn_list, "linear"),
)  # fmt: skip
REMAP_FAULTS = (
    Fault("record-not-its-own-first", "RMP-001", "mfns[0] is another frame than the record's", _first_frame,
          "linear", stage="planned"),
    _record_size("record-of-no-frames", "a record of size 0", 0),
    _record_size("record-too-long", "a record larger than REMAP_SIZE", 1),
    Fault("chain-cycle", "RMP-003", "the chain runs in a circle", _cycle, "linear", stage="planned"),
    Fault("chain-end-lost", "RMP-003", "the chain does not end with INVALID", _lost_end, "linear", stage="planned"),
    Fault("frame-twice-in-chain", "RMP-004", "an MFN is listed twice", _frame_twice, "linear", stage="planned"),
    Fault("targets-overlap", "RMP-004", "two records have the same target", _targets_overlap, "linear",
          stage="planned", example="large-remap"),
    Fault("source-not-identity", "RMP-005", "a source still maps its frame", _source_kept, "linear", stage="planned"),
    Fault("target-not-missing", "RMP-005", "a target has its frame too early", _target_taken, "linear",
          stage="planned"),
    Fault("remapped-otherwise", "RMP-006", "two remapped frames changed places", _remapped_otherwise, "linear"),
)  # fmt: skip
DUMP_FAULTS = (
    Fault("segments-disagree", "DMP-001", "two segments overlap and differ", _overlap),
    Fault("notes-past-the-end", "DMP-001", "the note segment goes past the file's end", _notes_past_end),
    Fault("frame-left-out", "DMP-002", "the dump lacks a frame that the P2M names", _left_out),
)
