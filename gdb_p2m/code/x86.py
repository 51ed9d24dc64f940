"""x86 instructions: RIP-relative and absolute operands, jumps and calls."""

from __future__ import annotations

from typing import Any

import capstone
from capstone import x86 as cs

from gdb_p2m.code.flow import Instruction, Reference, Use

_ENDS = {"ret", "retf", "iretq", "iretd", "jmp", "ud2", "hlt", "int3", "sysretq", "ud1"}


class X86Decoder:
    """bits: 64 or 32. first/end: values outside are no addresses of the image but plain constants."""

    def __init__(self, bits: int, first: int, end: int) -> None:
        self.engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64 if bits == 64 else capstone.CS_MODE_32)
        self.engine.detail = True
        self.mask = (1 << bits) - 1
        self.image = range(first, end)

    def forget(self) -> None:
        """Nothing is remembered: every operand stands for itself."""

    def decode(self, data: bytes, address: int) -> Instruction | None:
        """The instruction at the start of `data`."""
        found = next(self.engine.disasm(data, address, 1), None)
        if found is None:
            return None
        goes = found.group(cs.X86_GRP_JUMP) or found.group(cs.X86_GRP_BRANCH_RELATIVE)
        calls = found.group(cs.X86_GRP_CALL)
        references, leads = [], []
        for op in found.operands:
            r = self._reference(found, op, calls, goes)
            if r is not None:
                references.append(r)
                if r.use == "jump" and op.type == cs.X86_OP_IMM:
                    leads.append(r.address)
        ends = found.mnemonic.split()[-1] in _ENDS
        return Instruction(
            address, bytes(found.bytes), found.mnemonic, found.op_str, tuple(references), tuple(leads), ends
        )

    def _reference(self, found: Any, op: Any, calls: bool, goes: bool) -> Reference | None:
        if op.type == cs.X86_OP_IMM:
            value = op.imm & self.mask
            use: Use = "call" if calls else "jump" if goes else "address"
            return Reference(value, use, 0) if use != "address" or value in self.image else None
        if op.type != cs.X86_OP_MEM or op.mem.segment:
            return None
        mem = op.mem
        if mem.base == cs.X86_REG_RIP:
            value = (found.address + found.size + mem.disp) & self.mask
        elif not mem.base and (mem.disp & self.mask) in self.image:
            value = mem.disp & self.mask
        else:
            return None
        if found.mnemonic == "lea" or mem.index:
            return Reference(value, "address", 0)
        # An indirect call or jump through a variable loads it.
        stored = op.access & capstone.CS_AC_WRITE and not op.access & capstone.CS_AC_READ
        return Reference(value, "store" if stored else "load", op.size)
