"""RISC-V instructions: addresses are made by pairs (auipc or lui, then addi, ld, sd, jalr), so registers are followed.

Only along straight stretches: after a jump's target or a call nothing is known of registers, so an address that is
reported is one that the code makes.
"""

from __future__ import annotations

from typing import Any

import capstone
from capstone import riscv as cs

from gdb_p2m.code.flow import Instruction, Reference, Use

_MASK = (1 << 64) - 1
_LOADS = {"lb": 1, "lbu": 1, "lh": 2, "lhu": 2, "lw": 4, "lwu": 4, "ld": 8}
_STORES = {"sb": 1, "sh": 2, "sw": 4, "sd": 8}
_ENDS = {"ret", "jr", "j", "mret", "sret", "ebreak", "unimp"}
_ZERO, _RA = cs.RISCV_REG_X0, cs.RISCV_REG_X1
_SAVED = {cs.RISCV_REG_X2, cs.RISCV_REG_X3, cs.RISCV_REG_X4, cs.RISCV_REG_X8, cs.RISCV_REG_X9} | {
    getattr(cs, f"RISCV_REG_X{i}") for i in range(18, 28)
}
"""Registers that a call leaves as they are."""


class RiscvDecoder:
    """64-bit, with compressed instructions. first/end: values outside are no addresses of the image."""

    def __init__(self, first: int, end: int) -> None:
        self.engine = capstone.Cs(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC)
        self.engine.detail = True
        self.image = range(first, end)
        self.known: dict[int, int] = {}

    def forget(self) -> None:
        """Registers hold what nobody knows."""
        self.known.clear()

    def decode(self, data: bytes, address: int) -> Instruction | None:
        """The instruction at the start of `data`. Ones that capstone does not know (hypervisor loads) are words."""
        found = next(self.engine.disasm(data, address, 1), None)
        if found is None:
            return _unknown(data, address)
        name = found.mnemonic.removeprefix("c.")
        ops = list(found.operands)
        references, leads, ends = self._flow(found, name, ops)
        if not references:
            references = self._memory(name, ops)
        made = self._execute(found, name, ops)
        if made is not None and not references and made in self.image and name not in ("lui", "auipc"):
            references = (Reference(made, "address", 0),)
        return Instruction(address, bytes(found.bytes), found.mnemonic, found.op_str, references, leads, ends)

    def _flow(self, found: Any, name: str, ops: list[Any]) -> tuple[tuple[Reference, ...], tuple[int, ...], bool]:
        """References and leads of jumps, branches and calls."""
        immediate = ops[-1].imm if ops and ops[-1].type == cs.RISCV_OP_IMM else 0
        if (name.startswith("b") and name != "ebreak" and found.group(cs.RISCV_GRP_JUMP)) or name in _BRANCHES:
            target = (found.address + immediate) & _MASK
            return (Reference(target, "jump", 0),), (target,), False
        if name in ("jal", "j"):
            target = (found.address + immediate) & _MASK
            links = name == "jal" and not (len(ops) > 1 and ops[0].reg == _ZERO)
            use: Use = "call" if links else "jump"
            return (Reference(target, use, 0),), () if links else (target,), not links
        if name in ("jalr", "jr", "ret"):
            base = next((o.reg for o in reversed(ops) if o.type == cs.RISCV_OP_REG), None)
            links = name == "jalr" and not (len(ops) > 1 and ops[0].reg == _ZERO)
            known = self.known.get(base) if base is not None else None
            if known is None:
                return (), (), not links
            return (Reference((known + immediate) & _MASK, "call" if links else "jump", 0),), (), not links
        return (), (), name in _ENDS

    def _memory(self, name: str, ops: list[Any]) -> tuple[Reference, ...]:
        """A load or store whose base register is known."""
        size = _LOADS.get(name) or _STORES.get(name)
        mem = next((o.mem for o in ops if o.type == cs.RISCV_OP_MEM), None)
        if size is None or mem is None or mem.base not in self.known:
            return ()
        value = (self.known[mem.base] + mem.disp) & _MASK
        if value not in self.image:
            return ()
        return (Reference(value, "load" if name in _LOADS else "store", size),)

    def _execute(self, found: Any, name: str, ops: list[Any]) -> int | None:
        """What the destination register holds now; the value when it is known."""
        if name in ("jal", "jalr") and not (len(ops) > 1 and ops[0].reg == _ZERO):
            self.known = {r: v for r, v in self.known.items() if r in _SAVED}
            return None
        if name in _STORES or not ops or ops[0].type != cs.RISCV_OP_REG or name in _BRANCHES:
            return None
        value = self._value(found, name, ops)
        target = ops[0].reg
        self.known.pop(target, None)
        if value is not None and target != _ZERO:
            self.known[target] = value & _MASK
            return value & _MASK
        return None

    def _value(self, found: Any, name: str, ops: list[Any]) -> int | None:
        last = ops[-1]
        immediate = last.imm if last.type == cs.RISCV_OP_IMM else None
        if name == "auipc" and immediate is not None:
            return found.address + _signed(immediate << 12)
        if name == "lui" and immediate is not None:
            return _signed(immediate << 12)
        if name == "li" and immediate is not None:
            return int(immediate)
        if name in ("addi", "addiw") and immediate is not None:
            source = ops[1].reg if len(ops) > 2 else ops[0].reg
            base = 0 if source == _ZERO else self.known.get(source)
            return None if base is None else base + immediate
        if name == "slli" and immediate is not None:
            base = self.known.get(ops[1].reg if len(ops) > 2 else ops[0].reg)
            return None if base is None else base << immediate
        if name == "mv" and last.type == cs.RISCV_OP_REG:
            return self.known.get(last.reg)
        return None


_BRANCHES = {"beq", "bne", "blt", "bge", "bltu", "bgeu", "beqz", "bnez", "blez", "bgez", "bltz", "bgtz"}


def _signed(value: int) -> int:
    """The 32-bit result of lui and auipc's shift, sign-extended."""
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value


def _unknown(data: bytes, address: int) -> Instruction | None:
    """An instruction by its length alone (the two lowest bits say it); all zeros is none."""
    size = 4 if data and data[0] & 3 == 3 else 2
    if len(data) < size or not any(data[:size]):
        return None
    return Instruction(address, data[:size], f".{size}byte", f"{int.from_bytes(data[:size], 'little'):#x}")
