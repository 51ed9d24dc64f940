"""What verbs and views call a domain: a PV guest of x86, or a domain of Xen on RISC-V."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # neither kind loads the code of the other
    from gdb_p2m.guest import LinuxGuest
    from gdb_p2m.xen_riscv import RiscvDomain

Domain: TypeAlias = "LinuxGuest | RiscvDomain"
