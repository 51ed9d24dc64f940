"""A machine's memory that tests can damage: an excerpt as bytearrays, and what is found in it.

Addresses of things are found with the program itself on the healthy memory (`Healthy`), so that a test says
"the P2M entry of PFN 0x200" and not a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from gdb_p2m.domain import Domain
from gdb_p2m.errors import P2mError, Unreadable
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.rules.base import DomainContext, Result, RuleContext, run_rule
from gdb_p2m.rules.catalogue import CATALOGUE
from gdb_p2m.rules.gst_context import GstContext
from gdb_p2m.sources.base import Extent, Source, SourceInfo
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.sources.probe import open_source
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.structures.xen_pages import shared_info, start_info
from gdb_p2m.target import Target
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray, KindArray
from gdb_p2m.views.registry import Views
from gdb_p2m.xen_riscv import RiscvDomain
from support.places import Truth


def copy_of(info: SourceInfo) -> SourceInfo:
    """SourceInfo whose lists can be changed without harm to the original."""
    return replace(
        info,
        cpus=list(info.cpus),
        notes=list(info.notes),
        loses=list(info.loses),
        problems=list(info.problems),
    )


class Machine:
    """Memory as pieces that may be written; `info` is what the dump's headers and notes say."""

    def __init__(self, pieces: dict[int, bytearray], info: SourceInfo) -> None:
        self.pieces = pieces
        self.info = info

    @classmethod
    def of(cls, source: Source) -> Machine:
        """A copy of all that a source holds."""
        pieces = {e.start: bytearray(source.read(e.start, e.end - e.start)) for e in source.extents()}
        return cls(pieces, copy_of(source.info))

    def copy(self) -> Machine:
        """An independent copy."""
        return Machine({a: bytearray(b) for a, b in self.pieces.items()}, copy_of(self.info))

    def source(self) -> FakeSource:
        """This memory as a source. Later writes to the machine show in it."""
        return self._source(dict(self.pieces))

    def _source(self, pieces: dict[int, bytearray]) -> FakeSource:
        source = FakeSource(pieces, self.info.machine)  # type: ignore[arg-type]
        source.info = copy_of(self.info)
        return source

    def without(self, *mfns: int) -> FakeSource:
        """This memory as a source that lacks some frames; nothing is copied."""
        pieces: dict[int, bytearray] = {}
        for start, data in self.pieces.items():
            at, end = start, start + len(data)
            for mfn in sorted(m for m in mfns if start <= m << PAGE_SHIFT < end):
                _add(pieces, start, data, at, mfn << PAGE_SHIFT)
                at = (mfn + 1) << PAGE_SHIFT
            _add(pieces, start, data, at, end)
        return self._source(pieces)

    def frames(self) -> list[int]:
        """Every frame that is held, ascending."""
        return sorted(
            (start >> PAGE_SHIFT) + i for start, data in self.pieces.items() for i in range(len(data) // PAGE_SIZE)
        )

    def _find(self, address: int, size: int) -> tuple[bytearray, int]:
        for start, data in self.pieces.items():
            if start <= address and address + size <= start + len(data):
                return data, address - start
        raise AssertionError(f"the excerpt does not hold {address:#x}")

    def read(self, address: int, size: int) -> bytes:
        """Bytes of machine memory."""
        data, at = self._find(address, size)
        return bytes(data[at : at + size])

    def write(self, address: int, value: bytes) -> None:
        """Overwrite bytes of machine memory."""
        data, at = self._find(address, len(value))
        data[at : at + len(value)] = value

    def u64(self, address: int) -> int:
        """One word."""
        return int.from_bytes(self.read(address, 8), "little")

    def set_u64(self, address: int, value: int) -> None:
        """Write one word, which must differ from what is there: a fault that changes nothing proves nothing."""
        assert self.u64(address) != value, f"{address:#x} holds {value:#x} already"
        self.write(address, value.to_bytes(8, "little"))


def _add(pieces: dict[int, bytearray], start: int, data: bytearray, a: int, b: int) -> None:
    if b > a:
        pieces[a] = memoryview(data)[a - start : b - start]  # type: ignore[assignment]


class Lacking(Source):
    """Another source without some frames, which its machine had."""

    def __init__(self, inner: Source, frames: set[int]) -> None:
        super().__init__()
        self.inner = inner
        self.info = copy_of(inner.info)
        self.info.original = inner.machine_extents()
        self._frames = sorted(frames)

    def extents(self) -> tuple[Extent, ...]:
        parts = []
        for e in self.inner.extents():
            at = e.start
            for mfn in self._frames:
                if e.start <= mfn << PAGE_SHIFT < e.end:
                    parts.append(Extent(at, mfn << PAGE_SHIFT))
                    at = (mfn + 1) << PAGE_SHIFT
            parts.append(Extent(at, e.end))
        return tuple(p for p in parts if p.end > p.start)

    def _read(self, address: int, size: int) -> bytes | memoryview:
        for mfn in self._frames:
            if address < (mfn + 1) << PAGE_SHIFT and mfn << PAGE_SHIFT < address + size:
                raise Unreadable(max(address, mfn << PAGE_SHIFT), self.missing_reason(address))
        return self.inner.read(address, size)


@dataclass
class Examined:
    """What all views and rules say of one memory. error: why there is no guest; then all else is empty."""

    error: P2mError | None = None
    results: dict[str, Result] = field(default_factory=dict)
    mappings: dict[str, Mapping | P2mError] = field(default_factory=dict)
    views: Views | None = None
    target: Target | None = None

    def failed(self) -> set[str]:
        """Ids of rules that failed."""
        return {i for i, r in self.results.items() if r.status == "failed"}

    def unchecked(self) -> set[str]:
        """Ids of rules that could not check."""
        return {i for i, r in self.results.items() if r.status == "could_not_check"}


def context_of(target: Target, domain: Domain, views: Views) -> DomainContext:
    """What the rules see of a domain, as `check` gives it to them."""
    if isinstance(domain, RiscvDomain):
        return GstContext(target, domain, views)
    return RuleContext(target, domain, views, M2p(domain))


def examine(source: Source, domain: int | None = None) -> Examined:
    """Open a domain, decode with every view, run every rule. Only a P2mError is caught."""
    target = Target(source)
    try:
        guest = target.domain(domain)
    except P2mError as e:
        return Examined(error=e)
    views = Views(guest)
    context = context_of(target, guest, views)
    out = Examined(results={r.id: run_rule(r, context) for r in CATALOGUE}, views=views, target=target)
    for name, view in views.available():
        try:
            out.mappings[name] = view if isinstance(view, P2mError) else view.mapping()
        except P2mError as e:
            out.mappings[name] = e
    return out


class Healthy:
    """A bundled excerpt, opened once; shared by all tests, so it is never written."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        opened = open_source(str(truth.path))
        self.machine = Machine.of(opened)
        opened.close()

    @cached_property
    def source(self) -> FakeSource:
        """Its memory."""
        return self.machine.source()

    @cached_property
    def target(self) -> Target:
        """The machine."""
        return Target(self.source)

    @cached_property
    def guest(self) -> LinuxGuest:
        """Its dom0."""
        return self.target.domain()

    @cached_property
    def views(self) -> Views:
        """Views of dom0."""
        return Views(self.guest)

    @cached_property
    def m2p(self) -> M2p:
        """Xen's M2P."""
        return M2p(self.guest)

    @cached_property
    def examined(self) -> Examined:
        """What views and rules say of the healthy memory."""
        return examine(self.machine.source())

    # -- where things lie (machine addresses) -----------------------------------------------------------

    def at(self, name: str) -> int:
        """Machine address of kernel variable `name`."""
        return self.guest.space.translate(self.guest.names.require(name).address)

    def page(self, name: str) -> int:
        """Machine address of the page that pointer variable `name` points to."""
        return self.guest.page_of(name) << PAGE_SHIFT

    def entry(self, pfn: int) -> int:
        """Machine address of the P2M entry of `pfn`, which must lie in a private page of the list."""
        trace = self.views.own().trace(pfn)
        assert trace.read_what == "P2M entry" and trace.read_at is not None, trace
        return trace.read_at

    def table_entry(self, pfn: int, level: str) -> int:
        """Machine address of the page-table entry of `level` ("L1", "L2") that maps the list page of `pfn`."""
        base = self.guest.variable("xen_p2m_addr")
        steps = self.guest.space.walk(base + 8 * pfn).steps
        return next(s.address for s in steps if s.level.name == level)

    def start_info(self, name: str) -> int:
        """Machine address of a field of start_info."""
        return start_info(self.guest).address_of(name)

    def shared_info(self, name: str) -> int:
        """Machine address of a field of shared_info."""
        return shared_info(self.guest).address_of(name)

    def m2p_entry(self, mfn: int) -> int:
        """Machine address of the M2P entry of `mfn`."""
        return self.m2p.entry(mfn).address


def values_at(mapping: Mapping, points: FrameArray) -> tuple[KindArray, FrameArray]:
    """Kind (INVALID in holes) and frame (-1 for none) of some frame numbers."""
    kinds = mapping.kinds_at(points)
    i = np.maximum(np.searchsorted(mapping.start, points, side="right") - 1, 0)
    has_frame = np.array([k.has_frame for k in Kind])[kinds]
    if not len(mapping):
        return kinds, np.full(len(points), -1, dtype=np.int64)
    return kinds, np.where(has_frame, mapping.frame[i] + points - mapping.start[i], -1)


def same_or_unreadable(healthy: Mapping, other: Mapping) -> list[tuple[int, str]]:
    """Frame numbers (first of each stretch) where `other` says something else than `healthy` and not "unreadable".

    Compares whole mappings run by run: between two neighbouring edges nothing changes in either.
    """
    edges = [m.start for m in (healthy, other)] + [m.start + m.count for m in (healthy, other)]
    points = np.unique(np.concatenate(edges))
    points = points[points < min(healthy.limit, other.limit)]
    (kind_a, frame_a), (kind_b, frame_b) = (values_at(m, points) for m in (healthy, other))
    wrong = ((kind_a != kind_b) | (frame_a != frame_b)) & (kind_b != Kind.UNREADABLE)
    return [
        (int(points[i]), f"{Kind(int(kind_a[i])).word} became {Kind(int(kind_b[i])).word}")
        for i in np.flatnonzero(wrong)
    ]


def covers_without_gaps(mapping: Mapping) -> None:
    """Assert that runs are maximal and cover 0..limit-1 without overlaps and (but for page tables) without gaps."""
    end = mapping.start + mapping.count
    assert (mapping.count > 0).all() and (end[:-1] <= mapping.start[1:]).all()
    if mapping.order is None:
        assert int(mapping.start[0]) == 0 and int(end[-1]) == mapping.limit
        assert (end[:-1] == mapping.start[1:]).all()
    with_frame = np.array([k.has_frame for k in Kind])[mapping.kind]
    assert ((mapping.frame >= 0) == with_frame).all()
    joined = (mapping.kind[:-1] == mapping.kind[1:]) & (end[:-1] == mapping.start[1:])
    if mapping.order is not None:
        joined &= mapping.order[:-1] == mapping.order[1:]
    joined &= (
        ~with_frame[1:] | (mapping.frame[:-1] + mapping.count[:-1] == mapping.frame[1:])
    )
    assert not joined.any(), f"runs {np.flatnonzero(joined)[:5]} continue their neighbours"


def walk_agrees_with_map(examined: Examined, pfns: Iterable[int], view_name: str = "linear") -> None:
    """Assert that the single-frame walk and the bulk decoder, two ways of reading, say the same."""
    assert examined.views is not None
    view = examined.views.get(view_name)
    mapping = view.mapping()
    for pfn in pfns:
        run, trace = mapping.lookup(pfn), view.trace(pfn)
        if run is None:
            assert view.name == "gstage" and trace.kind is Kind.INVALID, f"{pfn:#x} is in no run, but {trace}"
            continue
        assert (run.kind, run.frame) == (trace.kind, trace.frame), f"PFN {pfn:#x}: {run} but {trace}"


_OPENED: dict[str, Healthy] = {}


def healthy(truth: Truth) -> Healthy:
    """The excerpt, opened on first use."""
    if truth.name not in _OPENED:
        _OPENED[truth.name] = Healthy(truth)
    return _OPENED[truth.name]
