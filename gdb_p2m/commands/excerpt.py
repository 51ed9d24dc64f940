"""Verb `excerpt`: a small ELF vmcore with only the pages that the other verbs touch."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator

from gdb_p2m.commands import all_domains
from gdb_p2m.commands.base import Context, Report, Verb
from gdb_p2m.commands.excerpt_code import record_code
from gdb_p2m.commands.excerpt_x86 import guest_note, record_hypervisor
from gdb_p2m.commands.output_files import output_file
from gdb_p2m.errors import P2mError, UsageError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.code import LINUX_CODE
from gdb_p2m.layout.names import ALL_NAMES
from gdb_p2m.rules.base import RuleContext, run_rules
from gdb_p2m.rules.catalogue import CATALOGUE
from gdb_p2m.sources.base import Note, Source
from gdb_p2m.sources.elf_writer import write_elf
from gdb_p2m.sources.notes import EXCERPT_NOTE, core_table_note
from gdb_p2m.sources.recording import RecordingSource
from gdb_p2m.spaces.pv_roots import Root, kernel_mark
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.structures.e820 import touch_e820
from gdb_p2m.structures.inferred import touch
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.structures.start_info_scan import start_info_pages
from gdb_p2m.structures.xen_crash import xen_crash_rows
from gdb_p2m.symbols.disassembly import linux_code
from gdb_p2m.symbols.table import SymbolTable
from gdb_p2m.target import Target
from gdb_p2m.units import MachineAddress, Mfn, human_size
from gdb_p2m.views.base import View
from gdb_p2m.views.registry import Views

KEPT_NOTES = ("CORE", "QEMU", "Xen")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("out", metavar="OUT", help="file to write; .zst, .xz (smallest) and .gz compress it; - is standard output")
    parser.add_argument("--force", action="store_true", help="overwrite OUT when it is there")
    all_domains.add_argument(parser)
    parser.add_argument(
        "--also", action="append", type=int, default=[], metavar="N", help="this domain, too (may be given several times)"
    )


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """Record what all verbs read, write those pages and a note with every name used."""
    out = args.out
    if out != "-" and os.path.exists(out) and not args.force:
        raise UsageError(f"{out} is there already", hint="choose another name or use --force")
    dump = ctx.target.source.info.path
    if out != "-" and os.path.exists(out) and os.path.exists(dump) and os.path.samefile(out, dump):
        raise UsageError(f"{out} is the dump itself, it is only read", hint="choose another name")
    recording = RecordingSource(ctx.target.source)
    if ctx.target.is_riscv:
        from gdb_p2m.commands.excerpt_riscv import record_xen

        return _write(ctx, out, recording, [Note("VMCOREINFO_XEN", 0, record_xen(ctx, recording).encode())], None)
    every = all_domains.wanted(ctx, args)
    whole = ctx.target.all_guests if every else [ctx.guest, *_others(ctx, args.also)]
    return _of_guests(ctx, out, recording, whole)


def _others(ctx: Context, numbers: list[int]) -> list[LinuxGuest]:
    """The guests of --also. Raises NotFound."""
    others = [g for n in dict.fromkeys(numbers) if isinstance(g := ctx.target.domain(n), LinuxGuest)]
    return [g for g in others if g is not ctx.guest]


def _of_guests(ctx: Context, out: str, recording: RecordingSource, whole: list[LinuxGuest]) -> Report:
    """These PV guests: the notes of each kernel's names, and Xen's."""
    chosen = ctx.guest
    guests = [_over(g, recording) for g in whole if any(g.has(n) for n in ("xen_p2m_addr", "p2m_top"))]
    notes: list[Note] = []
    for guest in guests:
        _touch_everything(ctx.target, guest, recording)
        text = vmcoreinfo_text(guest) + _code(guest)
        if guest.root.mfn == chosen.root.mfn:
            notes.insert(0, Note("VMCOREINFO", 0, text.encode()))
        if len(guests) > 1:
            notes.append(guest_note(guest, text))
    xen = record_hypervisor(ctx.target, recording, chosen, guests)
    return _write(ctx, out, recording, notes if xen is None else [*notes, xen], None if len(guests) > 1 else chosen.id)


def _write(ctx: Context, out: str, recording: RecordingSource, names: list[Note], domain: int | None) -> Report:
    """The recorded pages with `names`, the notes that name every symbol used. domain: None for all of them."""
    frames = recording.frames()
    notes = [n for n in recording.info.notes if n.name in KEPT_NOTES]
    notes += names
    extents = [[e.start, e.end] for e in ctx.target.source.machine_extents()]
    notes.append(Note(EXCERPT_NOTE, 1, json.dumps({"version": 1, "extents": extents}).encode()))
    if ctx.target.source.info.core_table is not None:
        notes.append(core_table_note(ctx.target.source.info.core_table))
    with output_file(out) as file:
        segments = write_elf(file, ctx.target.source, frames, notes)
    size = os.path.getsize(out) if out != "-" else None
    data = {
        "schema": "gdb-p2m/excerpt/1",
        "out": out,
        "pages": len(frames),
        "segments": segments,
        "bytes": size,
        "domain": domain,
    }
    report = Report(data, raw_stdout=out == "-")
    shown = "" if size is None else f", {human_size(size)}"
    report.text(f"{out}: {len(frames):,} pages in {segments:,} segments{shown}; it needs no kernel file.")
    return report


def _over(guest: LinuxGuest, recording: RecordingSource) -> LinuxGuest:
    """The same guest, reading through the recording source. Symbols are settled already."""
    space = VirtualSpace(recording, guest.space.shape, guest.space.root)
    over = LinuxGuest(recording, space, guest.names, guest.root, guest.width, guest.id, guest.id_evidence, guest.inferred)
    touch(over, lambda: start_info_pages(recording))
    return over


def _touch_everything(target: Target, guest: LinuxGuest, recording: RecordingSource) -> None:
    """Do what identify, map, walk, stats, list-list, start-info, shared-info, m2p and check do."""
    root = MachineAddress(guest.root.mfn << 12)
    mark = kernel_mark(recording.inner, guest.root)
    for cpu in recording.info.cpus:
        # The reader of the excerpt finds its way from the CPU's root as we did, or by the self-link. A CPU that ran
        # another guest would lead him to one whose pages are not there.
        if cpu.cr3 is not None and recording.holds(cpu.cr3 & ~0xFFF, 4096) and _is_of(recording.inner, cpu.cr3, guest, mark):
            recording.read(cpu.cr3 & ~0xFFF, 4096)
    recording.read(root, 4096)
    shadow = Target(recording, progress=target.progress)
    roots = list(_kernel_walks(guest, recording))
    del roots
    touch_e820(guest)
    xen_crash_rows(recording)
    views = Views(guest, target.progress)
    m2p = M2p(guest)
    context = RuleContext(shadow, guest, views, m2p)
    context.frugal = True
    run_rules(CATALOGUE, context)
    for _name, view in views.available():
        if isinstance(view, View):
            _touch_view(view)


def _is_of(source: Source, cr3: int, guest: LinuxGuest, mark: int | None) -> bool:
    """Whether the page table in `cr3` may be one of the guest's; where that cannot be told, it may."""
    other = kernel_mark(source, Root(Mfn(cr3 >> 12), "", guest.root.shape))
    return other is None or mark is None or other == mark


def _touch_view(view: View) -> None:
    mapping = view.mapping()
    view.storage()
    step = max(1, len(mapping) // 512)
    for run in list(mapping)[::step]:
        view.trace(run.start)


def _kernel_walks(guest: LinuxGuest, recording: RecordingSource) -> Iterator[bool]:
    """The kernel's text through every root that may be tried first, and each variable's page."""
    from gdb_p2m.spaces.pv_roots import from_cpus

    mark = kernel_mark(recording.inner, guest.root)
    ran = [root for root in from_cpus(recording.inner) if kernel_mark(recording.inner, root) == mark]
    for root in (guest.root, *ran):
        yield kernel_mark(recording, root) is not None
    for name in ALL_NAMES:
        symbol = guest.names.symbol(name.name)
        if symbol is not None:
            yield guest.space.maps(symbol.address)
            try:
                guest.space.read_word(symbol.address, guest.width.bytes)
            except P2mError:
                continue


def vmcoreinfo_text(guest: LinuxGuest) -> str:
    """The note: release, build id and every name that decoding uses (interface: Excerpts)."""
    names: SymbolTable = guest.names
    lines = [f"OSRELEASE={names.release}"] if names.release else []
    if names.build_id:
        lines.append(f"BUILD-ID={names.build_id}")
    lines.append("PAGESIZE=4096")
    for name in ALL_NAMES:
        symbol = names.symbol(name.name)
        if symbol is not None:
            lines.append(f"SYMBOL({name.name})={symbol.address:x}")
    return "\n".join(lines) + "\n"


def _code(guest: LinuxGuest) -> str:
    """The functions that `disasm` shows, recorded; their lines for the note."""
    noted = {n.name for n in ALL_NAMES if guest.names.symbol(n.name) is not None}
    lines = record_code(linux_code(guest.space), guest.names, LINUX_CODE, noted)
    return "".join(f"{line}\n" for line in lines)



VERB = Verb(
    "excerpt",
    "a small ELF vmcore with only the pages that matter, to attach to a bug report",
    "Runs every verb, notes each page it reads, and writes those pages with the CPU notes of the original and a "
    "VMCOREINFO note that names every symbol used. The result needs no kernel file and gives the same answers. With "
    "--all-domains it holds every PV guest of the machine; either way Xen's struct domains, and the frame table's records of the "
    "guests' frames.",
    "dom0.core.zst",
    configure,
    run,
)
