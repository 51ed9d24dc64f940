"""Convenience functions for GDB's expressions: $p2m(pfn), $p2m_kind(pfn), $m2p(mfn)."""

from __future__ import annotations

import gdb
from gdb_p2m.commands.answers import pfns_below_limit
from gdb_p2m.commands.base import Context
from gdb_p2m.errors import NotFound, P2mError, UsageError
from gdb_p2m.gdbui.session import Session
from gdb_p2m.gdbui.settings import Settings
from gdb_p2m.mapping import Kind
from gdb_p2m.views.base import Trace


class _Function(gdb.Function):  # type: ignore[misc]
    """One argument, a frame number. Errors become GDB's."""

    def __init__(self, name: str, session: Session, settings: Settings) -> None:
        super().__init__(name)
        self.name = name
        self.session = session
        self.settings = settings

    def invoke(self, *numbers: gdb.Value) -> int | str:
        """Called by GDB. Raises gdb.GdbError."""
        try:
            if len(numbers) != 1:
                raise UsageError(f"takes one frame number, not {len(numbers)}")
            return self.answer(self._context(), self._number(numbers[0]))
        except KeyboardInterrupt:
            raise gdb.GdbError(f"${self.name}: interrupted") from None
        except P2mError as e:
            raise gdb.GdbError(f"${self.name}: {e}") from None

    def answer(self, context: Context, number: int) -> int | str:
        """What the function gives. Raises P2mError."""
        raise NotImplementedError

    def _number(self, value: gdb.Value) -> int:
        try:
            number = int(value)
        except (gdb.error, TypeError, ValueError):
            raise UsageError(f"not a frame number: {value}") from None
        if number < 0:
            raise UsageError(f"frame numbers are not negative: {number}")
        return number

    def _context(self) -> Context:
        machine = self.session.machine()
        return machine.context(self.settings.target(machine), None)


def traced(context: Context, number: int) -> Trace:
    """The guest's own view of one PFN. Raises UsageError out of range."""
    view = context.views.get(None)
    return view.trace(pfns_below_limit([str(number)], view)[0])


class P2mFunction(_Function):
    """$p2m(PFN): the machine frame of a PFN of kind mfn; for any other kind an error that names it."""

    def answer(self, context: Context, number: int) -> int:
        """The MFN. Raises NotFound."""
        trace = traced(context, number)
        if trace.kind == Kind.MFN and trace.frame is not None:
            return trace.frame
        more = f" (machine frame {trace.frame:#x} of another domain)" if trace.frame is not None else ""
        why = f": {trace.reason}" if trace.reason else ""
        raise NotFound(f"PFN {number:#x} is {trace.kind.word}{more}{why}")


class P2mKindFunction(_Function):
    """$p2m_kind(PFN): mfn, foreign, identity, missing, unreadable or corrupt.

    Compare with $_streq($p2m_kind(PFN), "missing")."""

    def answer(self, context: Context, number: int) -> str:
        """The word."""
        return traced(context, number).kind.word


class M2pFunction(_Function):
    """$m2p(MFN): the PFN that Xen's M2P gives for a machine frame; an error when it gives none."""

    def answer(self, context: Context, number: int) -> int:
        """The PFN. Raises NotFound."""
        entry = context.m2p.entry(number)
        if entry.pfn is None:
            raise NotFound(f"M2P[{number:#x}] is {entry.meaning}")
        return entry.pfn


FUNCTIONS = {"p2m": P2mFunction, "p2m_kind": P2mKindFunction, "m2p": M2pFunction}
