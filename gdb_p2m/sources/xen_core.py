"""`xl dump-core`: the memory of one domain, an ELF file with sections and no program headers.

Facts: Xen docs/misc/dump-core-format.txt, tools/libs/ctrl/xc_core.c and public/elfnote.h, public/arch-x86/xen.h
(vcpu_guest_context); seen in cores of Xen 4.17 and 4.20. `.xen_pages` holds the pages one after the other;
`.xen_p2m` has a pair {PFN, GMFN} for each of them. A page is served at its machine address, which is what the
page tables and the P2M of a PV guest hold.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotSupported, NotUnderstood, Unreadable
from gdb_p2m.sources.base import CoreTable, CpuState, Extent, Mask, Pages, Source, SourceInfo
from gdb_p2m.sources.content import Content
from gdb_p2m.sources.elf import read_elf_header
from gdb_p2m.sources.notes import add_notes
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray

NOTE_HEADER, NOTE_XEN_VERSION, NOTE_FORMAT_VERSION = 0x2000001, 0x2000002, 0x2000003
MAGIC_PV, MAGIC_HVM = 0xF00FEBED, 0xF00FEBEE
FORMAT_VERSION = 1
MAX_SECTIONS = 64
MAX_NOTE_BYTES = 1 << 20
MAX_EXTENTS = 1 << 16
MAX_ENTRIES = 1 << 32
PAIR = np.dtype([("pfn", "<u8"), ("gmfn", "<u8")])
PADDING = (1 << 64) - 1
MAX_FRAME = 1 << 40


@dataclass(frozen=True, slots=True)
class ContextLayout:
    """vcpu_guest_context of one word size: bytes, and where CR3 and the instruction pointer lie in it."""

    size: int
    word: int
    cr3: int
    ip: int


CONTEXT_64 = ContextLayout(5168, 8, 5008, 648)
CONTEXT_32 = ContextLayout(2800, 4, 2728, 548)
CONTEXTS = {"x86-64": CONTEXT_64, "i386": CONTEXT_32}


@dataclass(frozen=True, slots=True)
class Section:
    """File offset and size, bytes."""

    offset: int
    size: int
    entry: int


def is_xen_core(content: Content) -> bool:
    """Whether an ELF file is such a core: no program headers, and a section of pages."""
    try:
        header = read_elf_header(content)
        return header.phnum == 0 and header.shnum > 0 and ".xen_pages" in read_sections(content)
    except (NotUnderstood, NotSupported):
        return False


def read_sections(content: Content) -> dict[str, Section]:
    """Sections by name. Raises NotUnderstood."""
    header = read_elf_header(content)
    if header.shnum > MAX_SECTIONS or header.shstrndx >= max(header.shnum, 1):
        raise NotUnderstood(f"{content.path}: {header.shnum} sections, names in section {header.shstrndx}")
    code = struct.Struct("<IIQQQQIIQQ" if header.wide else "<IIIIIIIIII")
    raw = [code.unpack(content.read(header.shoff + i * code.size, code.size)) for i in range(header.shnum)]
    names_at, names_size = (raw[header.shstrndx][4], raw[header.shstrndx][5]) if raw else (0, 0)
    names = bytes(content.read(names_at, min(names_size, 1 << 16)))
    found: dict[str, Section] = {}
    for fields in raw:
        name = names[fields[0] :].split(b"\0", 1)[0].decode("latin-1")
        found.setdefault(name, Section(fields[4], fields[5], fields[9]))
    return found


class XenCoreSource(Source):
    """One core of a PV domain. Frames that the domain does not own are in no such file."""

    def __init__(self, content: Content, path: str) -> None:
        super().__init__()
        self._content = content
        self._path = path
        self.info = SourceInfo("Xen domain core", "xl dump-core (sections .xen_pages, .xen_p2m)", path, "unknown")
        self.info.problems += content.problems
        self.info.machine = read_elf_header(content).machine
        self.sections = read_sections(content)
        self._notes()
        self._pages_at, self._count = self._page_section()
        self.info.core_table = self._pairs()
        self._extra: dict[int, bytes] = {}
        self._contexts()
        self.info.loses += [
            "everything outside the domain: Xen, its M2P, other domains",
            "identity and foreign entries in .xen_p2m: it lists the domain's own pages only",
        ]

    # -- opening --------------------------------------------------------------------------------------------

    def _notes(self) -> None:
        self.nr_pages = self.nr_vcpus = 0
        section = self._held(".note.Xen")
        if section is None:
            self.info.problems.append((0, "the section .note.Xen is missing"))
            return
        blob = self._content.read(section.offset, min(section.size, MAX_NOTE_BYTES))
        add_notes(self.info, blob, "section", section.offset)
        notes = {n.type: n.desc for n in self.info.notes if n.name == "Xen"}
        if len(desc := notes.get(NOTE_HEADER, b"")) >= 32:
            magic, self.nr_vcpus, self.nr_pages, page_size = struct.unpack_from("<4Q", desc)
            if magic == MAGIC_HVM:
                raise NotSupported(
                    f"{self._path}: a core of an auto-translated (HVM or PVH) domain: it has no P2M of its own",
                    hint="the P2M of a PV guest is what this program reads",
                )
            if magic != MAGIC_PV or page_size != PAGE_SIZE:
                self.info.problems.append(
                    (section.offset, f"note header: magic {magic:#x}, pages of {page_size} bytes")
                )
        else:
            self.info.problems.append((section.offset, "the note header (0x2000001) is missing or too short"))
        version = int.from_bytes(notes.get(NOTE_FORMAT_VERSION, b"")[:8], "little")
        if version != FORMAT_VERSION:
            self.info.problems.append((section.offset, f"format version {version:#x}; version 1 is known"))
        self.info.format += f", format version {version}"
        if xen := xen_version(notes.get(NOTE_XEN_VERSION, b"")):
            self.info.writer += f" of Xen {xen}"

    def _held(self, name: str) -> Section | None:
        """A section, cut to what the file holds; None when it is not there."""
        section = self.sections.get(name)
        if section is None:
            return None
        held = max(0, min(section.size, self._content.size - section.offset))
        if held < section.size:
            self.info.problems.append(
                (
                    section.offset,
                    f"section {name} of {section.size:#x} bytes goes past the file's end {self._content.size:#x}",
                )
            )
        return Section(min(section.offset, self._content.size), held, section.entry)

    def _page_section(self) -> tuple[int, int]:
        pages = self._held(".xen_pages")
        assert pages is not None, "is_xen_core saw it"
        whole = self.sections[".xen_pages"].size
        if whole % PAGE_SIZE:
            self.info.problems.append((pages.offset, f".xen_pages has {whole:#x} bytes, no whole number of pages"))
        if self.nr_pages and whole // PAGE_SIZE != self.nr_pages:
            text = f".xen_pages has {whole // PAGE_SIZE:,} pages, the note header says {self.nr_pages:,}"
            self.info.problems.append((pages.offset, text))
        return pages.offset, pages.size // PAGE_SIZE

    def _pairs(self) -> CoreTable:
        """The pairs, sorted by PFN; the frames for reading, sorted by MFN, in self._mfns and self._index."""
        section = self._held(".xen_p2m")
        if section is None:
            if ".xen_pfn" in self.sections:
                raise NotSupported(
                    f"{self._path}: a core of an auto-translated domain (.xen_pfn): it has no P2M of its own"
                )
            raise NotUnderstood(f"{self._path}: the section .xen_p2m is missing: no page has a machine address")
        count = section.size // PAIR.itemsize
        whole = self.sections[".xen_p2m"].size // PAIR.itemsize
        declared = self.sections[".xen_pages"].size // PAGE_SIZE
        if whole != declared:
            text = f".xen_p2m has {whole:,} entries, .xen_pages {declared:,} pages"
            self.info.problems.append((section.offset, text))
        pairs = self._content.array(section.offset, min(count, MAX_ENTRIES), PAIR)
        there = (pairs["pfn"] != PADDING) & (pairs["gmfn"] != PADDING)
        wild = there & ((pairs["pfn"] >= MAX_FRAME) | (pairs["gmfn"] >= MAX_FRAME))
        for i in np.flatnonzero(wild)[:8].tolist():
            text = f".xen_p2m[{i}] = {{{int(pairs['pfn'][i]):#x}, {int(pairs['gmfn'][i]):#x}}}: no frame numbers"
            self.info.problems.append((section.offset + i * PAIR.itemsize, text))
        index = np.flatnonzero(there & ~wild)
        pfn, mfn = pairs["pfn"][index].astype(np.int64), pairs["gmfn"][index].astype(np.int64)
        inside = index < self._count
        self._mfns, self._index = self._sorted(mfn[inside], index[inside], section, "MFN")
        by_pfn, at = self._sorted(pfn, np.arange(len(pfn)), section, "PFN")
        self._extents = self._stretches()
        return CoreTable(by_pfn, mfn[at], index[at], section.offset, count)

    def _sorted(
        self, keys: FrameArray, values: FrameArray, section: Section, what: str
    ) -> tuple[FrameArray, FrameArray]:
        """Sorted by key; of equal keys the first counts, the others are a problem."""
        by = np.argsort(keys, kind="stable")
        keys, values = keys[by], values[by]
        same = np.concatenate(([False], keys[1:] == keys[:-1])) if len(keys) else np.zeros(0, dtype=bool)
        for key in keys[same][:8].tolist():
            self.info.problems.append((section.offset, f".xen_p2m lists {what} {key:#x} more than once"))
        return keys[~same], values[~same]

    def _stretches(self) -> tuple[Extent, ...]:
        """Consecutive machine frames as extents; very many are joined over their smallest gaps."""
        frames = self._mfns
        if not len(frames):
            return ()
        gaps = np.diff(frames)
        breaks = np.flatnonzero(gaps != 1)
        if len(breaks) >= MAX_EXTENTS:
            widest = np.argpartition(gaps[breaks], -(MAX_EXTENTS - 1))[-(MAX_EXTENTS - 1) :]
            breaks = np.sort(breaks[widest])
        starts = np.concatenate((frames[:1], frames[breaks + 1]))
        ends = np.concatenate((frames[breaks], frames[-1:])) + 1
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        return tuple(Extent(a << PAGE_SHIFT, b << PAGE_SHIFT) for a, b in pairs)

    def _contexts(self) -> None:
        """CR3 of every vCPU, from .xen_prstatus."""
        layout = CONTEXTS.get(self.info.machine)
        section = self._held(".xen_prstatus")
        if layout is None or section is None:
            self.info.problems.append((0, f"no vCPU contexts (machine {self.info.machine})"))
            return
        entry = self.sections[".xen_prstatus"].entry
        if section.size % layout.size or entry not in (0, layout.size):
            text = f".xen_prstatus has {section.size} bytes in entries of {entry}; contexts have {layout.size}"
            self.info.problems.append((section.offset, text))
            return
        for i in range(min(section.size // layout.size, 4096)):
            context = bytes(self._content.read(section.offset + i * layout.size, layout.size))
            cr3 = int.from_bytes(context[layout.cr3 : layout.cr3 + layout.word], "little")
            ip = int.from_bytes(context[layout.ip : layout.ip + layout.word], "little")
            self.info.cpus.append(CpuState(i, {"cr3": cr3, "rip": ip}))

    # -- the shared_info page, whose frame the format does not name ------------------------------------------

    def shared_info_page(self) -> bytes | None:
        """The page of section .xen_shared_info, None when it is not there or cut off."""
        section = self.sections.get(".xen_shared_info")
        if section is None or section.size < PAGE_SIZE or section.offset + PAGE_SIZE > self._content.size:
            return None
        return bytes(self._content.read(section.offset, PAGE_SIZE))

    def place_shared_info(self, mfn: int) -> bool:
        """shared_info is Xen's page, not the domain's: .xen_p2m does not list it, the file has it apart."""
        page = self.shared_info_page()
        if page is None or self.holds_frame(mfn) or not 0 < mfn < MAX_FRAME:
            return False
        self._extra = {mfn: page}
        start = mfn << PAGE_SHIFT
        self._extents = tuple(sorted((*self._stretches(), Extent(start, start + PAGE_SIZE)), key=lambda e: e.start))
        return True

    # -- reading --------------------------------------------------------------------------------------------

    def extents(self) -> tuple[Extent, ...]:
        return self._extents

    def holds_frame(self, mfn: int) -> bool:
        """Whether the domain's own frame `mfn` is in the file."""
        return self._find(mfn) >= 0

    def frames_below(self, frames: FrameArray) -> FrameArray:
        return np.searchsorted(self._mfns, frames, "left").astype(np.int64)

    def missing_reason(self, address: int) -> str:
        return "not in the dump (a core of one domain: not one of its own pages)"

    def _find(self, mfn: int) -> int:
        """Index in .xen_pages, or -1."""
        i = int(np.searchsorted(self._mfns, mfn, "left"))
        return int(self._index[i]) if i < len(self._mfns) and int(self._mfns[i]) == mfn else -1

    def _read(self, address: int, size: int) -> bytes | memoryview:
        mfn, offset = address >> PAGE_SHIFT, address & (PAGE_SIZE - 1)
        if offset + size <= PAGE_SIZE:
            return self._in_page(mfn, offset, size)
        first = self._find(mfn)
        last = self._find((address + size - 1) >> PAGE_SHIFT)
        pages = ((address + size - 1) >> PAGE_SHIFT) - mfn
        if first >= 0 and last == first + pages and self._consecutive(mfn, pages + 1):
            return self._content.read(self._pages_at + first * PAGE_SIZE + offset, size)
        parts = []
        while size > 0:
            n = min(size, PAGE_SIZE - offset)
            parts.append(self._in_page(mfn, offset, n))
            mfn, offset, size = mfn + 1, 0, size - n
        return b"".join(parts)

    def _consecutive(self, mfn: int, count: int) -> bool:
        """Whether `count` frames from `mfn` lie one after the other in the file."""
        i = int(np.searchsorted(self._mfns, mfn, "left"))
        index = self._index[i : i + count]
        return (
            len(index) == count
            and int(self._mfns[i + count - 1]) == mfn + count - 1
            and bool((np.diff(index) == 1).all())
        )

    def _in_page(self, mfn: int, offset: int, size: int) -> bytes | memoryview:
        index = self._find(mfn)
        if index >= 0:
            return self._content.read(self._pages_at + index * PAGE_SIZE + offset, size)
        if mfn in self._extra:
            return self._extra[mfn][offset : offset + size]
        raise Unreadable((mfn << PAGE_SHIFT) + offset, self.missing_reason(mfn << PAGE_SHIFT))

    def _positions(self, mfns: FrameArray) -> FrameArray:
        """Index in .xen_pages of each frame, -1 for those that are not there."""
        if not len(self._mfns):
            return np.full(len(mfns), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._mfns, mfns, "left"), len(self._mfns) - 1)
        return np.where(self._mfns[at] == mfns, self._index[at], -1)

    def read_pages(self, mfns: FrameArray) -> tuple[Pages, Mask]:
        """One gather from the mapped file."""
        whole = self._content.whole
        index = self._positions(mfns)
        ok = index >= 0
        extra = [i for m in self._extra for i in np.flatnonzero(mfns == m).tolist()]
        if whole is None or extra:
            return super().read_pages(mfns)
        self.counters.requests += 1
        self.counters.pages += len(mfns)
        pages = whole[self._pages_at : self._pages_at + self._count * PAGE_SIZE].reshape(-1, PAGE_SIZE)
        if ok.all() and len(index) and bool((np.diff(index) == 1).all()):
            return pages[int(index[0]) : int(index[-1]) + 1], ok
        out = np.zeros((len(mfns), PAGE_SIZE), dtype=np.uint8)
        out[ok] = pages[index[ok]]
        return out, ok

    def strided_u64(self, extent: Extent, offset: int) -> npt.NDArray[np.uint64]:
        whole = self._content.whole
        first, last = -(-extent.start // PAGE_SIZE), extent.end // PAGE_SIZE
        if whole is None or any(first <= m < last for m in self._extra):
            return super().strided_u64(extent, offset)
        words = np.zeros(max(0, last - first), dtype=np.uint64)
        self.counters.requests += 1
        self.counters.pages += len(words)
        a, b = np.searchsorted(self._mfns, [first, last], "left").tolist()
        pages = whole[self._pages_at : self._pages_at + self._count * PAGE_SIZE].reshape(-1, PAGE_SIZE)
        with self._content.in_order(self._pages_at, len(pages) * PAGE_SIZE):
            words[self._mfns[a:b] - first] = np.ascontiguousarray(pages[self._index[a:b], offset : offset + 8]).view(
                np.uint64
            )[:, 0]
        return words

    def close(self) -> None:
        self._content.close()


def xen_version(desc: bytes) -> str:
    """ "4.17.6" from the version note (two u64 and a text of 16 bytes come first), "" when it is too short."""
    if len(desc) < 32:
        return ""
    major, minor = struct.unpack_from("<2Q", desc)
    extra = desc[16:32].split(b"\0", 1)[0].decode("ascii", "replace")
    return f"{major}.{minor}{extra}"
