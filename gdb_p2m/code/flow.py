"""The instructions of one function, found by following its jumps from the entry.

No size is needed: data between instructions and the next function are not reached. Work is bounded, whatever
the memory holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from gdb_p2m.errors import Unreadable, Untranslatable

MAX_BYTES = 16 << 10
MAX_INSTRUCTIONS = 4096
LONGEST = 16
"""Bytes of the longest instruction, and a little more."""
Use = Literal["load", "store", "address", "call", "jump"]
Read = Callable[[int, int], bytes]
"""(virtual address, size) -> bytes; raises Untranslatable or Unreadable."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A static address that an instruction names: how it is used, and the bytes that are loaded or stored."""

    address: int
    use: Use
    size: int


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction. references: the static addresses in it; leads: where it may go besides the next one.

    ends: whether the next one is never reached from here.
    """

    address: int
    data: bytes
    mnemonic: str
    operands: str
    references: tuple[Reference, ...] = ()
    leads: tuple[int, ...] = ()
    ends: bool = False

    @property
    def next(self) -> int:
        """Address of the instruction behind it."""
        return self.address + len(self.data)


@dataclass
class Function:
    """What was reached from `start`. instructions: by address. order: addresses as the flow reaches them, the path
    that falls through first. problems: what could not be read or decoded."""

    start: int
    instructions: dict[int, Instruction] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def listing(self) -> list[Instruction]:
        """All instructions in rising order of address."""
        return [self.instructions[a] for a in sorted(self.instructions)]

    def references(self, *uses: Use) -> list[Reference]:
        """All references of these uses, in the order of the flow, each address once."""
        found: dict[int, Reference] = {}
        for at in self.order:
            for r in self.instructions[at].references:
                if r.use in uses:
                    found.setdefault(r.address, r)
        return list(found.values())


class Decoder(Protocol):
    """One architecture's instructions."""

    def decode(self, data: bytes, address: int) -> Instruction | None:
        """The instruction at the start of `data`, None when there is none."""
        ...

    def forget(self) -> None:
        """A new straight stretch begins: what registers hold is not known."""
        ...


Belongs = Callable[[int], bool]
"""Whether an address is still in the function, as far as symbols tell."""


def read_function(
    read: Read, start: int, decoder: Decoder, belongs: Belongs = lambda _: True, noreturn: frozenset[int] = frozenset()
) -> Function:
    """The function at `start`. Raises nothing for what memory holds: `problems` tell."""
    function = Function(start)
    waiting = [start]
    while waiting and len(function.instructions) < MAX_INSTRUCTIONS:
        at = waiting.pop()
        decoder.forget()
        while at not in function.instructions and start <= at < start + MAX_BYTES and belongs(at):
            instruction = _one(read, at, decoder, function)
            if instruction is None:
                break
            function.instructions[at] = instruction
            function.order.append(at)
            waiting += [t for t in reversed(instruction.leads) if t not in function.instructions]
            called = {r.address for r in instruction.references if r.use == "call"}
            if instruction.ends or called & noreturn or len(function.instructions) >= MAX_INSTRUCTIONS:
                break
            at = instruction.next
    if len(function.instructions) >= MAX_INSTRUCTIONS:
        function.problems.append(f"only the first {MAX_INSTRUCTIONS:,} instructions are shown")
    return function


def _one(read: Read, at: int, decoder: Decoder, function: Function) -> Instruction | None:
    try:
        data = _bytes(read, at)
    except (Unreadable, Untranslatable) as e:
        function.problems.append(f"the code at {at:#x} cannot be read: {e.message}")
        return None
    instruction = decoder.decode(data, at)
    if instruction is None:
        function.problems.append(f"no instruction is known at {at:#x}: {data[:8].hex(' ')}")
    return instruction


def _bytes(read: Read, at: int) -> bytes:
    """Up to LONGEST bytes; fewer where the next page cannot be read."""
    inside = 4096 - at % 4096
    if inside >= LONGEST:
        return read(at, LONGEST)
    first = read(at, inside)
    try:
        return first + read(at + inside, LONGEST - inside)
    except (Unreadable, Untranslatable):
        return first
