"""The registers of all virtual CPUs that lead to page tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import gdb
from gdb_p2m.gdbui.notes import REGISTERS as NOTE_REGISTERS
from gdb_p2m.gdbui.notes import qemu_note
from gdb_p2m.sources.base import CpuState, Note

MACHINES = {"i386:x86-64": "x86-64", "i386": "i386", "riscv:rv64": "riscv64"}
"""GDB's architectures, as sources call them."""
REGISTERS = {
    "x86-64": ("cr3", "rip"),
    "i386": ("cr3", "eip"),
    "riscv64": ("satp", "hgatp", "vsatp", "pc"),
}
MASK = (1 << 64) - 1


@contextmanager
def selection_kept() -> Iterator[None]:
    """The thread and frame that the user had selected are selected again afterwards."""
    thread = gdb.selected_thread()
    frame = None
    if thread is not None:
        try:
            frame = gdb.selected_frame()
        except gdb.error:
            frame = None
    try:
        yield
    finally:
        if thread is not None and thread.is_valid():
            thread.switch()
            if frame is not None and frame.is_valid() and frame.level() > 0:
                frame.select()


def machine_of(architecture: str) -> str:
    """GDB's name of an architecture as sources name machines."""
    return MACHINES.get(architecture, architecture)


def cpu_states() -> tuple[str, list[CpuState], list[Note]]:
    """(machine, CPUs in QEMU's order, their notes as QEMU's dumps have them).

    A register that a CPU lacks, or that cannot be read, is left out. A CPU that was never started has CR3 0, as
    in a dump.
    """
    machine = ""
    states: list[CpuState] = []
    notes: list[Note] = []
    with selection_kept():
        for thread in sorted(gdb.selected_inferior().threads(), key=lambda t: t.ptid):
            thread.switch()
            frame = gdb.newest_frame()
            machine = machine or machine_of(frame.architecture().name())
            states.append(CpuState(len(states), read_registers(frame, REGISTERS.get(machine, ()))))
            if machine == "x86-64":
                notes.append(Note("QEMU", 0, qemu_note(read_registers(frame, NOTE_REGISTERS))))
    return machine, states, notes


def read_registers(frame: gdb.Frame, names: Iterable[str]) -> dict[str, int]:
    """Those of `names` that can be read, unsigned."""
    registers = {}
    for name in names:
        try:
            registers[name] = int(frame.read_register(name)) & MASK
        except (ValueError, gdb.error):
            continue
    return registers
