"""Verb `export`: one guest's memory as an ordinary Linux core, or the runs of its map as a table of data."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from gdb_p2m.commands.base import Context, Report, Verb
from gdb_p2m.commands.output_files import output_file, refuse_to_overwrite
from gdb_p2m.errors import NotSupported, P2mError, UsageError
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.units import human_size, thousands

RUNS_AT_A_TIME = 1 << 16
FORMATS = ("elf", "csv", "parquet")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--elf", metavar="OUT", help="the guest's memory in PFN order as an ELF core (crash, drgn)")
    parser.add_argument("--csv", metavar="OUT", help="the runs of the map: start,count,kind,frame[,order]")
    parser.add_argument("--parquet", metavar="OUT", help="the same as Parquet (needs pyarrow)")
    parser.add_argument("--foreign", action="store_true", help="with --elf: other domains' frames, too")
    parser.add_argument(
        "--for-crash",
        action="store_true",
        help="with --elf: write xen_start_info as 0, or crash takes our PFNs for MFNs",
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT when it is there")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """Write each file that was asked for."""
    wanted = [(name, os.path.expanduser(path)) for name in FORMATS if (path := getattr(args, name)) is not None]
    if not wanted:
        raise UsageError("nothing to export", hint="name a file: --elf OUT, --csv OUT or --parquet OUT")
    if (args.foreign or args.for_crash) and args.elf is None:
        raise UsageError("--foreign and --for-crash are about --elf")
    for _, path in wanted:
        _refuse(path, ctx, args)
    if len({os.path.realpath(path) for _, path in wanted}) < len(wanted):
        raise UsageError("two exports have the same name")
    if args.parquet is not None:
        _pyarrow()
    view = ctx.views.get(args.view)
    with ctx.target.timing.stage("decode"):
        mapping = view.mapping()
    data: dict[str, Any] = {
        "schema": "gdb-p2m/export/1",
        "view": view.name,
        "domain": ctx.domain.id,
        "limit": view.limit,
        "files": [],
    }
    report = Report(data)
    for name, path in wanted:
        with ctx.target.timing.stage(f"write {name}"):
            _WRITERS[name](report, ctx, mapping, path, args)
    return report


def _refuse(path: str, ctx: Context, args: argparse.Namespace) -> None:
    """Raise UsageError unless `path` is a file that may be written."""
    if path == "-":
        raise UsageError("an export is a file, not standard output", hint="`map --format csv` prints the runs")
    refuse_to_overwrite(ctx, path, args.force)


def _written(report: Report, what: str, path: str, **facts: Any) -> int:
    size = os.path.getsize(path)
    report.data["files"].append({"format": what, "out": path, "bytes": size, **facts})
    return size


# -- the guest's memory ---------------------------------------------------------------------------------


def _elf(report: Report, ctx: Context, mapping: Mapping, path: str, args: argparse.Namespace) -> None:
    from gdb_p2m.commands.export_elf import write_core

    made = write_core(ctx, mapping, path, args.foreign, args.for_crash)
    size = _written(report, "elf", path, **made.facts())
    left = ", ".join(f"{thousands(n)} {word}" for word, n in made.left_out.items() if n)
    lines = [
        f"{path}: {thousands(made.pages)} pages in {thousands(made.segments)} segments, {human_size(size)}, "
        "in PFN order.",
        f"left out: {left}" if left else "nothing of the guest's own memory is left out",
        *made.said,
    ]
    report.text("\n".join(lines))


# -- runs -----------------------------------------------------------------------------------------------


def _pieces(mapping: Mapping) -> Iterator[slice]:
    return (slice(a, a + RUNS_AT_A_TIME) for a in range(0, len(mapping), RUNS_AT_A_TIME))


def _csv(report: Report, ctx: Context, mapping: Mapping, path: str, args: argparse.Namespace) -> None:
    """The same bytes as `map --format csv`, in steps."""
    words = [k.word for k in Kind]
    with output_file(path) as file:
        file.write(b"start,count,kind,frame" + (b",order\n" if mapping.order is not None else b"\n"))
        for part in _pieces(mapping):
            _csv_rows(file, mapping, part, words)
    size = _written(report, "csv", path, runs=len(mapping))
    report.text(f"{path}: {thousands(len(mapping))} runs, {human_size(size)}.")


def _csv_rows(file: BinaryIO, m: Mapping, part: slice, words: list[str]) -> None:
    columns: list[list[Any]] = [
        m.start[part].tolist(),
        m.count[part].tolist(),
        [words[k] for k in m.kind[part].tolist()],
        ["" if f < 0 else f for f in m.frame[part].tolist()],
    ]
    if m.order is not None:
        columns.append(m.order[part].tolist())
    file.write("".join(",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True)).encode())


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise NotSupported(
            "--parquet needs pyarrow, which is not installed",
            hint='pip install "gdb-p2m[parquet]" (in GDB: into the Python that GDB uses), or use --csv',
        ) from None
    return pyarrow


def _parquet(report: Report, ctx: Context, mapping: Mapping, path: str, args: argparse.Namespace) -> None:
    """start, count int64; kind dictionary of strings; frame int64 or null; order uint8 for page tables."""
    pa = _pyarrow()
    fields = [("start", pa.int64()), ("count", pa.int64()), ("kind", pa.dictionary(pa.int8(), pa.string()))]
    fields.append(("frame", pa.int64()))
    if mapping.order is not None:
        fields.append(("order", pa.uint8()))
    domain = "" if ctx.domain.id is None else str(ctx.domain.id)
    facts = {"schema": "gdb-p2m/map/1", "view": mapping.view, "domain": domain, "limit": str(mapping.limit)}
    schema = pa.schema(fields, metadata={f"gdb_p2m.{k}": v for k, v in facts.items()})
    aside = f"{path}.part"
    try:
        with pa.parquet.ParquetWriter(aside, schema) as writer:
            for part in _pieces(mapping) if len(mapping) else [slice(0, 0)]:
                writer.write_table(pa.Table.from_arrays(_arrow_columns(pa, mapping, part), schema=schema))
        os.replace(aside, path)
    except OSError as e:
        raise P2mError(f"{path}: cannot be written: {e.strerror or e}") from None
    finally:
        if os.path.exists(aside):
            os.unlink(aside)
    size = _written(report, "parquet", path, runs=len(mapping))
    report.text(f"{path}: {thousands(len(mapping))} runs, {human_size(size)}.")


def _arrow_columns(pa: Any, m: Mapping, part: slice) -> list[Any]:
    words = pa.array([k.word for k in Kind])
    kinds = pa.DictionaryArray.from_arrays(pa.array(m.kind[part].astype(np.int8)), words)
    frame = pa.array(m.frame[part], mask=m.frame[part] < 0)
    columns = [pa.array(m.start[part]), pa.array(m.count[part]), kinds, frame]
    if m.order is not None:
        columns.append(pa.array(m.order[part]))
    return columns


_WRITERS = {"elf": _elf, "csv": _csv, "parquet": _parquet}

VERB = Verb(
    "export",
    "the guest's memory in PFN order for crash and drgn, or the runs as CSV or Parquet",
    "--elf writes the domain's own memory as the core of an ordinary machine: PFNs are its physical addresses, the "
    "guest's page tables hold PFNs in place of MFNs, VMCOREINFO and CPU notes are there. Pages that the dump does not "
    "hold, other domains' frames and identity PFNs are left out. --csv and --parquet write the runs of the map.",
    "--csv runs.csv",
    configure,
    run,
)
