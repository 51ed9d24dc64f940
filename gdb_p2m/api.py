"""The Python API: the same answers as the verbs, as objects."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from gdb_p2m.commands.base import Context, Report
from gdb_p2m.commands.registry import BY_NAME
from gdb_p2m.domain import Domain
from gdb_p2m.errors import NotSupported, UsageError
from gdb_p2m.mapping import Mapping, Run
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.structures.record import Record
from gdb_p2m.structures.remap import Chain, read_chain
from gdb_p2m.structures.xen_pages import shared_info, start_info
from gdb_p2m.target import Target
from gdb_p2m.views.base import Trace, View


class Machine:
    """One machine's memory, one domain of it chosen. Use it with `with`, or call close().

    domain: domain id, dom0 by default. Everything is decoded on first use and kept.
    """

    def __init__(self, target: Target, domain: int | None = None) -> None:
        self.target = target
        self.context = Context(target, domain, target.progress)

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the dump."""
        self.target.close()

    def domain(self, number: int | None = None) -> Domain:
        """The kernel of domain `number`, by default of the chosen one. Raises NotFound."""
        return self.context.domain if number is None else self.target.domain(number)

    def view(self, name: str | None = None) -> View:
        """View `name` ("linear", "tree", "list-list", ...), the domain's own by default."""
        return self.context.views.get(name)

    def map(self, view: str | None = None) -> Mapping:
        """The whole P2M as runs (numpy arrays; iterating gives Run objects)."""
        return self.view(view).mapping()

    def lookup(self, number: int) -> Run | None:
        """The single-frame run of PFN (GFN) `number`; None where a G-stage has a hole."""
        return self.map().lookup(number)

    def walk(self, number: int, view: str | None = None) -> Trace:
        """Every step for one PFN (GFN)."""
        return self.view(view).trace(number)

    def start_info(self) -> Record:
        """struct start_info of the PV guest."""
        return start_info(self.context.guest)

    def shared_info(self) -> Record:
        """struct shared_info of the PV guest."""
        return shared_info(self.context.guest)

    def m2p(self) -> M2p:
        """Xen's M2P as the PV guest sees it."""
        return self.context.m2p

    def remap_chain(self) -> Chain:
        """The remap chain of early boot; see Chain.state."""
        return read_chain(self.context.guest)

    def verb(self, line: str) -> Report:
        """Any verb as typed in the shell, without DUMP: `machine.verb("check LIN")`; `.data` is its JSON."""
        import shlex

        from gdb_p2m.cli import build_parser

        words = shlex.split(line)
        if not words or words[0] not in BY_NAME:
            raise UsageError(f"no verb is called {words[0] if words else ''!r}", hint=", ".join(BY_NAME))
        verb = BY_NAME[words[0]]
        args = build_parser(verb, verb.name, False).parse_args([*words[1:], "--json"])
        return verb.run(self.context, args)


def open_dump(
    path: str,
    *,
    kernel: str | None = None,
    xen: str | None = None,
    domain: int | None = None,
    raw: str | None = None,
    progress: Progress = no_progress,
) -> Machine:
    """The machine in dump file `path`. Raises P2mError and its subclasses (gdb_p2m.errors).

    raw: "ADDRESS" or "ADDRESS:MACHINE" when the file is raw memory.
    """
    from gdb_p2m.sources.probe import open_source

    return Machine(Target(open_source(path, progress, raw), kernel=kernel, xen=xen, progress=progress), domain)


def attach(**options: Any) -> Machine:
    """Inside GDB: the machine behind QEMU's gdbstub that GDB is connected to; options as of open_dump.

    Raises NotSupported outside GDB, P2mError when GDB is not connected to such a stub.
    """
    try:
        from gdb_p2m.gdbui.live import attach_target
    except ImportError:
        raise NotSupported("attach() works inside GDB only", hint="use open_dump(PATH) elsewhere") from None
    domain = options.pop("domain", None)
    return Machine(attach_target(**options), domain)
