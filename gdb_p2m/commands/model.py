"""Verb `model`: build a guest from a description, perhaps with a fault, as a dump to take apart."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa
from gdb_p2m.errors import NotUnderstood, P2mError, UsageError
from gdb_p2m.units import human_size

if TYPE_CHECKING:
    from gdb_p2m.model.description import Stage
    from gdb_p2m.model.machine import Break

STAGES = ("initial", "planned", "final")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("description", nargs="?", metavar="DESCRIPTION", help="text file (docs/model.md)")
    parser.add_argument("-o", "--output", metavar="DUMP", default=None, help="the dump to write")
    parser.add_argument("--fault", metavar="ID", help="build this fault in: a fault's id, or a rule's (its first fault)")
    parser.add_argument("--stage", choices=STAGES, help="stop the boot there (default: as the description says)")
    parser.add_argument("--faults", action="store_true", help="list the faults and the rules that they break")
    parser.add_argument("--force", action="store_true", help="overwrite DUMP when it is there")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """List faults, or build and write."""
    if args.faults:
        return _list_faults()
    if args.description is None or args.output is None:
        raise UsageError("model needs a DESCRIPTION and -o DUMP", hint="ready ones are in fixtures/models/; docs/model.md")
    if os.path.exists(args.output) and not args.force:
        raise UsageError(f"{args.output} is there already", hint="choose another name or use --force")
    return _build(args)


def _build(args: argparse.Namespace) -> Report:
    from gdb_p2m.model.riscv import is_riscv

    text = description_text(args.description)
    try:
        name, broken = (_riscv if is_riscv(text) else _linux)(text, args)
    except OSError as e:
        raise P2mError(f"{args.output}: cannot be written: {e.strerror}") from None
    size = os.stat(args.output)
    data: dict[str, Any] = {
        "schema": "gdb-p2m/model/1",
        "description": args.description,
        "out": args.output,
        "bytes": size.st_size,
        "bytes_on_disk": size.st_blocks * 512,
        "fault": None if broken is None else {"id": broken.fault, "rule": broken.rule, "what": broken.what},
    }
    report = Report(data, made_output=True)
    report.text(
        f"{args.output}: {name}, {human_size(size.st_size)} ({human_size(size.st_blocks * 512)} on disk)"
    )
    if broken is not None:
        where = "".join(f", {k} {hexa(v)}" for k, v in (("PFN", broken.pfn), ("address", broken.address)) if v is not None)
        report.text(f"Fault {broken.fault}: {broken.what}{where}. Rule {broken.rule} should find it.")
    return report


def _linux(text: str, args: argparse.Namespace) -> tuple[str, Break | None]:
    """Build and write an x86 PV guest; (its name, what was broken)."""
    from gdb_p2m.model.build import build
    from gdb_p2m.model.description import parse

    description = parse(text, args.description)
    fault = _fault_id(args.fault)
    machine = build(description, fault, args.stage or _stage_of(fault))
    machine.write_elf(args.output)
    return description.name, machine.broken


def _riscv(text: str, args: argparse.Namespace) -> tuple[str, Break | None]:
    """Build and write a machine with Xen on RISC-V; (its name, what was broken)."""
    from gdb_p2m.model.machine import Break
    from gdb_p2m.model.riscv import parse_riscv
    from gdb_p2m.model.riscv_faults import break_riscv, riscv_fault
    from gdb_p2m.model.riscv_xen import build_riscv

    if args.stage:
        raise UsageError("--stage is about the boot of a PV kernel; this describes Xen on RISC-V")
    description = parse_riscv(text, args.description)
    fault = None if args.fault is None else riscv_fault(args.fault)
    try:
        xen = build_riscv(description)
    except ValueError as e:
        raise NotUnderstood(f"{args.description}: {e}") from None
    broken = None
    if fault is not None:
        if not xen.domains:
            raise UsageError(f"fault {fault.id} needs a domain; {args.description} has none")
        broken = Break(fault.id, fault.rule, break_riscv(xen, fault), None, None)
    xen.write_elf(args.output)
    return description.name, broken


def description_text(path: str) -> str:
    """The text of a description. Raises P2mError."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(1 << 20)
    except OSError as e:
        raise P2mError(f"{path}: cannot be read: {e.strerror}") from None
    except UnicodeDecodeError:
        raise P2mError(f"{path}: not a description (it is not text)", hint="docs/model.md shows the format") from None


def _fault_id(name: str | None) -> str | None:
    """A fault's id as given, or the first fault of the rule of that name."""
    if name is None:
        return None
    from gdb_p2m.model.faults import FAULTS

    return next((f.id for f in FAULTS if name == f.id), None) or next(
        (f.id for f in FAULTS if f.rule == name.upper()), name
    )


def _stage_of(fault: str | None) -> Stage | None:
    """The stage of the boot that a fault needs, when the user named none."""
    from gdb_p2m.model.faults import FAULTS

    return next((f.stage for f in FAULTS if f.id == fault), None)


def _list_faults() -> Report:
    from gdb_p2m.model.faults import FAULTS
    from gdb_p2m.model.riscv_faults import RISCV_FAULTS

    listed = [(f.id, f.rule, f.title, f.example) for f in FAULTS]
    listed += [(f.id, f.rule, f.title, f.example) for f in RISCV_FAULTS]
    rows: list[list[Cell]] = [list(f) for f in listed]
    faults = [dict(zip(("id", "rule", "title", "example"), f, strict=True)) for f in listed]
    report = Report({"schema": "gdb-p2m/model-faults/1", "faults": faults}, made_output=True)
    report.table(["fault", "rule", "what it breaks", "try it with fixtures/models/"], rows)
    return report


VERB = Verb(
    "model",
    "build a guest from a description, healthy or broken, as a dump",
    "The model does what the documents say the kernel does (or Xen on RISC-V), and writes the resulting machine as an ELF core that all "
    "other verbs read. With --fault it breaks one thing, for a rule to find.",
    "fixtures/models/documentation-example.model -o guest.core",
    configure,
    run,
    uses="nothing",
    writes_output=True,
)
