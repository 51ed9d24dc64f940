"""A named function of a kernel or of Xen, decoded: where its decoder, its bounds and its names come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gdb_p2m.code.flow import Decoder, Function, Read, read_function


class Names(Protocol):
    """What is asked of symbols: the nearest name, or None where that cannot be told."""

    def nearest(self, address: int) -> tuple[str, int] | None:
        """(name, offset) of the last symbol at or below an address."""
        ...


@dataclass(frozen=True)
class Code:
    """One image's code. arch: "x86-64", "i386" or "riscv64". first/end: virtual bounds of the image: constants
    outside are no addresses. read: virtual reads."""

    arch: str
    read: Read
    first: int
    end: int

    def decoder(self) -> Decoder:
        """A decoder for this architecture. capstone is loaded here, and only here."""
        if self.arch == "riscv64":
            from gdb_p2m.code.riscv import RiscvDecoder

            return RiscvDecoder(self.first, self.end)
        from gdb_p2m.code.x86 import X86Decoder

        return X86Decoder(32 if self.arch == "i386" else 64, self.first, self.end)

    def function(self, start: int, names: Names, length: int | None, noreturn: frozenset[int]) -> Function:
        """The function at `start`. length: its bytes where a note tells; else the next symbol, if known, ends it."""

        def belongs(address: int) -> bool:
            if length is not None:
                return address < start + length
            near = names.nearest(address)
            return near is None or address - near[1] <= start

        return read_function(self.read, start, self.decoder(), belongs, noreturn)
