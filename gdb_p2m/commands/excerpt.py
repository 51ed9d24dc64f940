"""Verb `excerpt`: a small ELF vmcore with only the pages that the other verbs touch."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from gdb_p2m.commands.base import Context, Report, Verb
from gdb_p2m.errors import P2mError, UsageError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.names import ALL_NAMES
from gdb_p2m.rules.base import RuleContext, run_rules
from gdb_p2m.rules.catalogue import CATALOGUE
from gdb_p2m.sources.base import Note
from gdb_p2m.sources.elf_writer import write_elf
from gdb_p2m.sources.notes import EXCERPT_NOTE, core_table_note
from gdb_p2m.sources.recording import RecordingSource
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.structures.e820 import touch_e820
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.structures.xen_crash import xen_crash_rows
from gdb_p2m.symbols.table import SymbolTable
from gdb_p2m.target import Target
from gdb_p2m.units import MachineAddress, human_size
from gdb_p2m.views.base import View
from gdb_p2m.views.registry import Views

KEPT_NOTES = ("CORE", "QEMU", "Xen")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("out", metavar="OUT", help="file to write; .zst and .gz compress it; - is standard output")
    parser.add_argument("--force", action="store_true", help="overwrite OUT when it is there")


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

        return _write(ctx, out, recording, Note("VMCOREINFO_XEN", 0, record_xen(ctx, recording).encode()), None)
    guest = _over(ctx.guest, recording)
    _touch_everything(ctx.target, guest, recording)
    return _write(ctx, out, recording, Note("VMCOREINFO", 0, vmcoreinfo_text(guest).encode()), guest.id)


def _write(ctx: Context, out: str, recording: RecordingSource, names: Note, domain: int | None) -> Report:
    """The recorded pages with `names`, the note that names every symbol used. domain: None for all of them."""
    frames = recording.frames()
    notes = [n for n in recording.info.notes if n.name in KEPT_NOTES]
    notes.append(names)
    extents = [[e.start, e.end] for e in ctx.target.source.machine_extents()]
    notes.append(Note(EXCERPT_NOTE, 1, json.dumps({"version": 1, "extents": extents}).encode()))
    if ctx.target.source.info.core_table is not None:
        notes.append(core_table_note(ctx.target.source.info.core_table))
    with _output(out) as file:
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
    return LinuxGuest(recording, space, guest.names, guest.root, guest.width, guest.id, guest.id_evidence)


def _touch_everything(target: Target, guest: LinuxGuest, recording: RecordingSource) -> None:
    """Do what identify, map, walk, stats, list-list, start-info, shared-info, m2p and check do."""
    root = MachineAddress(guest.root.mfn << 12)
    for cpu in recording.info.cpus:
        # The reader of the excerpt finds its way from the CPU's root as we did, or by the self-link.
        if cpu.cr3 is not None and recording.holds(cpu.cr3 & ~0xFFF, 4096):
            recording.read(cpu.cr3 & ~0xFFF, 4096)
    recording.read(root, 4096)
    shadow = Target(recording, progress=target.progress)
    roots = list(_kernel_walks(guest, recording))
    del roots
    touch_e820(guest)
    xen_crash_rows(recording)
    views = Views(guest, target.progress)
    m2p = M2p(guest)
    run_rules(CATALOGUE, RuleContext(shadow, guest, views, m2p))
    for _name, view in views.available():
        if isinstance(view, View):
            _touch_view(view)


def _touch_view(view: View) -> None:
    mapping = view.mapping()
    view.storage()
    step = max(1, len(mapping) // 512)
    for run in list(mapping)[::step]:
        view.trace(run.start)


def _kernel_walks(guest: LinuxGuest, recording: RecordingSource) -> Iterator[bool]:
    """The kernel's text through every root that may be tried first, and each variable's page."""
    from gdb_p2m.spaces.pv_roots import from_cpus, kernel_mark

    for root in (guest.root, *from_cpus(recording)):
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


@contextmanager
def _output(path: str) -> Iterator[BinaryIO]:
    """OUT as a binary file, compressed by its name; written aside and renamed when complete."""
    if path == "-":
        import sys

        yield sys.stdout.buffer
        return
    aside = f"{path}.part"
    try:
        with open(aside, "wb") as raw:
            if path.endswith(".zst"):
                import zstandard

                with zstandard.ZstdCompressor(level=19).stream_writer(raw, closefd=False) as packed:
                    yield cast(BinaryIO, packed)
            elif path.endswith(".gz"):
                import gzip

                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as zipped:
                    yield cast(BinaryIO, zipped)
            else:
                yield raw
        os.replace(aside, path)
    except OSError as e:
        raise P2mError(f"{path}: cannot be written: {e.strerror}") from None
    finally:
        if os.path.exists(aside):
            os.unlink(aside)


VERB = Verb(
    "excerpt",
    "a small ELF vmcore with only the pages that matter, to attach to a bug report",
    "Runs every verb, notes each page it reads, and writes those pages with the CPU notes of the original and a "
    "VMCOREINFO note that names every symbol used. The result needs no kernel file and gives the same answers.",
    "dom0.core.zst",
    configure,
    run,
)
