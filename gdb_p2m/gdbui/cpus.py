"""The registers of all virtual CPUs that lead to page tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gdb

from gdb_p2m.sources.base import CpuState

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


def cpu_states() -> tuple[str, list[CpuState]]:
    """(machine, CPUs in QEMU's order). A register that a CPU lacks, or that cannot be read, is left out.

    A CPU that was never started has CR3 0, as in a dump.
    """
    machine = ""
    states: list[CpuState] = []
    with selection_kept():
        for thread in sorted(gdb.selected_inferior().threads(), key=lambda t: t.ptid):
            thread.switch()
            frame = gdb.newest_frame()
            machine = machine or machine_of(frame.architecture().name())
            registers = {}
            for name in REGISTERS.get(machine, ()):
                try:
                    registers[name] = int(frame.read_register(name)) & MASK
                except (ValueError, gdb.error):
                    continue
            states.append(CpuState(len(states), registers))
    return machine, states
