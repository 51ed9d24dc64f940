"""Whether a domain is paused or dying: members of struct domain that nothing names, found in Xen's own code.

domain_unpause_by_systemcontroller() changes controller_pause_count with a locked compare-and-exchange, its first;
domain_kill() stores DOMDYING_dying (1) into is_dying (common/domain.c; seen: 4.14, 4.17, 4.20). With debug information the
members are named there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gdb_p2m.errors import Unreadable, Untranslatable
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.structures.x86_domains import STRUCT_BYTES, Offset, XenDomain, XenDomains
from gdb_p2m.symbols.xen_memory import XenNames

CODE_BYTES = 256
MAX_PAUSES = 255
"""The hypercall refuses more."""
DYING = ("alive", "dying", "dead")


def add_states(space: VirtualSpace, names: XenNames, found: XenDomains) -> None:
    """Fill state and state_evidence of every guest; `found.offsets` says where the members lie, or why not."""
    pauses = _member(names, "controller_pause_count") or _in_code(space, names, *_PAUSES)
    dying = _member(names, "is_dying") or _in_code(space, names, *_DYING)
    pauses = _plausible(found, pauses, MAX_PAUSES)
    dying = _plausible(found, dying, len(DYING) - 1)
    found.offsets["controller_pause_count"], found.offsets["is_dying"] = pauses, dying
    for d in found.guests:
        _state(d, pauses, dying)


def _state(d: XenDomain, pauses: Offset, dying: Offset) -> None:
    if dying.value is not None and (how := d.word(dying.value, 4)):
        d.state, d.state_evidence = DYING[how], f"is_dying is {how}"
    elif pauses.value is None:
        d.state_evidence = pauses.source
    else:
        count = d.word(pauses.value, 4)
        d.state = "paused" if count else "not paused"
        d.state_evidence = f"controller_pause_count is {count}"
        if dying.value is None:
            d.state_evidence += "; whether it is dying is not known"


def _plausible(found: XenDomains, offset: Offset, most: int) -> Offset:
    if offset.value is None:
        return offset
    worst = max((d.word(offset.value, 4) for d in found.guests), default=0)
    if worst > most:
        return Offset(None, f"the member at {offset.value} ({offset.source}) is {worst:#x} in some domain: not believed")
    return offset


def _member(names: XenNames, member: str) -> Offset | None:
    fact = names.type_fact("OFFSET", f"domain.{member}")
    return None if fact is None else Offset(*fact)


def _in_code(space: VirtualSpace, names: XenNames, function: str, what: str, wanted: Any) -> Offset:
    """The displacement of the first instruction of `function` that `wanted` accepts."""
    symbol = names.symbol(function)
    if symbol is None:
        return Offset(None, f"neither the member's offset nor the symbol {function} is known")
    try:
        code = space.read(symbol.address, CODE_BYTES)
    except (Untranslatable, Unreadable) as e:
        return Offset(None, f"the code of {function} cannot be read: {e.message}")
    for displacement in _displacements(code, symbol.address, wanted):
        if 64 < displacement <= STRUCT_BYTES - 4:
            return Offset(displacement, f"on the spot: {what} of {function} at {symbol.address:#x}")
    return Offset(None, f"{function} has no {what}")


def _displacements(code: bytes, address: int, wanted: Any) -> Iterator[int]:
    import capstone
    from capstone import x86_const

    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    for instruction in engine.disasm(code, address):
        operands = instruction.operands
        if operands and operands[0].type == x86_const.X86_OP_MEM and operands[0].size == 4 and wanted(instruction):
            yield int(operands[0].mem.disp)


def _locked_exchange(instruction: Any) -> bool:
    return bool(instruction.mnemonic == "lock cmpxchg")


def _stores_one(instruction: Any) -> bool:
    return bool(instruction.mnemonic == "mov" and instruction.op_str.endswith(", 1"))


_PAUSES = ("domain_unpause_by_systemcontroller", "locked compare-and-exchange", _locked_exchange)
_DYING = ("domain_kill", "store of DOMDYING_dying", _stores_one)
