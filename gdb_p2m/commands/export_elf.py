"""`export --elf`: which pages, which notes, and what is said about what is not there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gdb_p2m.commands.base import Context
from gdb_p2m.commands.output_files import output_file
from gdb_p2m.errors import NotUnderstood, P2mError, Unreadable, UsageError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.sources.base import Note, Pages
from gdb_p2m.sources.elf_writer import EM
from gdb_p2m.sources.pfn_core import Change, PageRuns, held_pages, write_pfn_core
from gdb_p2m.structures.linux_core_notes import core_notes
from gdb_p2m.structures.pfn_tables import PfnTables, Rewritten, pfn_tables
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, FrameArray

OWN = {"pv": (Kind.MFN,), "riscv": (Kind.RAM_RW,)}
FOREIGN = {"pv": (Kind.FOREIGN,), "riscv": (Kind.MAP_FOREIGN_RW, Kind.MAP_FOREIGN_RO)}
LEFT = (Kind.IDENTITY, Kind.MMIO_DIRECT_IO, Kind.UNREADABLE, Kind.CORRUPT)
ATTEMPTS = 3
"""Passes over the memory: the first may find pages that cannot be read, and they must not become zeros."""


@dataclass
class Core:
    """What was written. left_out: pages by the reason; said: sentences for people."""

    pages: int = 0
    segments: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    tables: int | None = None
    entries: dict[str, int] | None = None
    phys_base: int | None = None
    direct_map: int | None = None
    cpus: int = 0

    def facts(self) -> dict[str, Any]:
        """For the JSON document."""
        names = ("pages", "segments", "left_out", "tables", "entries", "phys_base", "direct_map", "cpus")
        return {**{n: getattr(self, n) for n in names}, "notes": self.said}


class _Again(Exception):
    """Pages (PFNs) that could not be read although the dump says that it holds them."""

    def __init__(self, bad: FrameArray) -> None:
        super().__init__()
        self.bad = bad


def write_core(ctx: Context, mapping: Mapping, path: str, foreign: bool, for_crash: bool = False) -> Core:
    """The domain's memory into `path`. Raises UsageError when it has none, Unreadable when pages come and go.

    for_crash: write xen_start_info as 0 (`_hide_xen`).
    """
    kind = ctx.domain.kind
    wanted = _runs(mapping, (*OWN[kind], *(FOREIGN[kind] if foreign else ())))
    if not wanted.pages:
        raise UsageError(f"domain {ctx.domain.id} has no memory of its own in view {mapping.view}")
    core = Core()
    tables, notes, machine = _prepared(ctx, mapping, core)
    change: Change = _as_it_is if tables is None else tables.rewrite
    if for_crash:
        change = _hide_xen(ctx, change, core)
    bad = np.zeros(0, dtype=np.int64)
    for _ in range(ATTEMPTS):
        runs = held_pages(ctx.target.source, wanted, bad)
        if not runs.pages:
            raise P2mError(f"none of the domain's {wanted.pages:,} pages is in the dump")
        _bounded(ctx, runs)
        try:
            if tables is not None:
                tables.done = Rewritten()
            _write(ctx, path, runs, notes, machine, core, change)
        except _Again as again:
            bad = np.union1d(bad, again.bad)
            continue
        _account(core, mapping, wanted, runs, len(bad), foreign, kind, tables)
        return core
    raise Unreadable(int(bad[0]) << PAGE_SHIFT, f"{len(bad):,} pages cannot be read, others each time")


def _bounded(ctx: Context, runs: PageRuns) -> None:
    """A P2M whose PFNs share frames could ask for any amount of disk."""
    held = sum(e.end - e.start for e in ctx.target.source.extents()) >> PAGE_SHIFT
    if runs.pages > held:
        raise NotUnderstood(
            f"the P2M names {runs.pages:,} pages, but the dump holds {held:,}: many PFNs share frames",
            hint="`check ENT-003` shows where",
        )


def _runs(mapping: Mapping, kinds: tuple[Kind, ...]) -> PageRuns:
    part = mapping.only(set(kinds))
    return PageRuns(part.start, part.frame, part.count)


def _prepared(ctx: Context, mapping: Mapping, core: Core) -> tuple[PfnTables | None, list[Note], int]:
    """The guest's page tables (x86), the notes, and e_machine."""
    guest = ctx.domain
    if not isinstance(guest, LinuxGuest):
        core.said.append(
            "the guest's own page tables hold guest addresses already; nothing is known of its kernel: no VMCOREINFO"
        )
        return None, [], EM["riscv64"]
    with ctx.target.timing.stage("page tables"):
        tables = pfn_tables(guest, mapping, ctx.progress)
    found = core_notes(guest, tables.own)
    core.tables, core.phys_base, core.direct_map, core.cpus = (
        len(tables.tables),
        found.phys_base,
        found.direct_map,
        found.cpus,
    )
    core.said += found.said
    if tables.unreadable:
        core.said.append(f"{tables.unreadable:,} page tables are not in the dump: what they map cannot be translated")
    if guest.width.bits == 32:
        core.said.append(
            "32-bit guest: page tables below the kernel's own root are translated, those of processes are not"
        )
    if guest.width.bits == 64 and core.direct_map is None:
        core.said.append(
            "the direct map was not found: p_vaddr is 0, only physical addresses and page tables lead to pages"
        )
    return tables, found.notes, EM["x86-64" if guest.width.bits == 64 else "i386"]


def _hide_xen(ctx: Context, change: Change, core: Core) -> Change:
    """crash takes a kernel whose xen_start_info is set for one whose tables hold MFNs, which ours do not any more.

    Seen with crash 8.0.2: it ends with "xen_m2p: machine address ... not found"; with 0 there it reads all.
    """
    guest = ctx.guest
    at = guest.space.translate(guest.names.require("xen_start_info").address)
    mfn, offset, size = at >> PAGE_SHIFT, at & (PAGE_SIZE - 1), guest.width.bytes
    core.said.append(
        f"xen_start_info (PFN-ordered page of MFN {mfn:#x}, offset {offset:#x}) is written as 0, for crash"
    )

    def hidden(mfns: FrameArray, pages: Pages) -> Pages:
        pages = change(mfns, pages)
        for i in np.flatnonzero(mfns == mfn).tolist():
            pages = np.array(pages)
            pages[i, offset : offset + size] = 0
        return pages

    return hidden


def _write(
    ctx: Context, path: str, runs: PageRuns, notes: list[Note], machine: int, core: Core, change: Change
) -> None:
    """One pass. Raises _Again, and leaves no file then."""
    with output_file(path) as file:
        bad = write_pfn_core(
            file,
            ctx.target.source,
            runs,
            notes,
            machine=machine,
            direct_map=core.direct_map,
            change=change,
            progress=ctx.progress,
        )
        if len(bad):
            raise _Again(bad)


def _as_it_is(mfns: FrameArray, pages: Pages) -> Pages:
    return pages


def _account(
    core: Core,
    mapping: Mapping,
    wanted: PageRuns,
    runs: PageRuns,
    bad: int,
    foreign: bool,
    kind: str,
    tables: PfnTables | None,
) -> None:
    """What is in the core, and what is not."""
    totals = mapping.totals()
    core.pages, core.segments = runs.pages, len(runs.segments())
    core.left_out = {"not in the dump": wanted.pages - runs.pages - bad, "unreadable in the dump": bad}
    if not foreign:
        core.left_out["foreign"] = sum(totals.get(k, 0) for k in FOREIGN[kind])
    core.left_out.update({k.word: totals.get(k, 0) for k in LEFT})
    core.left_out = {word: n for word, n in core.left_out.items() if n}
    if tables is not None:
        done = tables.done
        core.entries = {
            "own": done.translated,
            "foreign": done.foreign,
            "identity": done.kept_identity,
            "cleared": done.dropped,
        }
        core.said.append(
            f"page tables: {core.tables:,} pages; {done.translated:,} entries translated, "
            f"{done.kept_identity:,} identity, "
            f"{done.foreign:,} foreign, {done.dropped:,} cleared (frames that no PFN stands for, Xen's own above all)"
        )
