"""The registry of faults: for every rule at least one machine on which it, and as far as possible only it, fails."""

from __future__ import annotations

from gdb_p2m.errors import UsageError
from gdb_p2m.model.fault import CannotApply, Fault, Where
from gdb_p2m.model.faults_boot import DUMP_FAULTS, REMAP_FAULTS, START_FAULTS
from gdb_p2m.model.faults_entries import ENTRY_FAULTS, HYPERVISOR_FAULTS, M2P_FAULTS
from gdb_p2m.model.faults_linear import LINEAR_FAULTS
from gdb_p2m.model.faults_lists import LIST_FAULTS
from gdb_p2m.model.faults_tree import TREE_FAULTS
from gdb_p2m.model.machine import Machine

# In the order of the rules' catalogue; ids are unique.
FAULTS: tuple[Fault, ...] = (
    *ENTRY_FAULTS,
    *TREE_FAULTS,
    *LINEAR_FAULTS,
    *LIST_FAULTS,
    *M2P_FAULTS[:2],
    *HYPERVISOR_FAULTS,
    *M2P_FAULTS[2:],
    *START_FAULTS,
    *REMAP_FAULTS,
    *DUMP_FAULTS,
)


def fault_by_id(name: str) -> Fault:
    """The fault called `name`. Raises UsageError that lists the faults."""
    for fault in FAULTS:
        if fault.id == name:
            return fault
    raise UsageError(f"no fault is called {name!r}", hint=f"faults: {', '.join(f.id for f in FAULTS)}")


def break_machine(machine: Machine, fault: Fault | str) -> None:
    """Build `fault` into a healthy machine; machine.broken says what was done. Raises UsageError."""
    chosen = fault_by_id(fault) if isinstance(fault, str) else fault
    reason = chosen.unsuited(machine)
    if reason is None:
        try:
            machine.broken = chosen.broke(chosen.apply(machine))
            return
        except CannotApply as e:
            reason = str(e)
    raise UsageError(f"fault {chosen.id} cannot be built into {machine.description.name}: {reason}")


__all__ = ["FAULTS", "CannotApply", "Fault", "Where", "break_machine", "fault_by_id"]
