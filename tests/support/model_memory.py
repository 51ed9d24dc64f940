"""Model machines as sources in memory, so that property tests need no files."""

from __future__ import annotations

from gdb_p2m.model.machine import Machine
from gdb_p2m.sources.base import CpuState, Note, SourceInfo
from gdb_p2m.sources.fake import FakeSource


def source_of(machine: Machine) -> FakeSource:
    """What the machine's ELF core would hold of its stored frames: memory, CR3 and notes."""
    source = FakeSource(machine.pieces())  # type: ignore[arg-type]
    source.info = SourceInfo("memory", "the model", machine.description.name, "x86-64")
    source.info.cpus = [CpuState(0, {"cr3": machine.cr3})]
    source.info.notes = [Note(n.name, n.type, n.desc) for n in machine.notes]
    return source
