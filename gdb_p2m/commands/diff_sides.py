"""What two dumps say of whose P2M they hold: enough to refuse a senseless comparison and to warn of a doubtful one."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from gdb_p2m.commands.base import Context
from gdb_p2m.domain import Domain
from gdb_p2m.errors import P2mError, Unreadable, Untranslatable, UsageError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.structures.xen_pages import start_info
from gdb_p2m.views.base import View

BOOT_ID = "sysctl_bootid"
"""16 random bytes that a kernel draws once a boot (drivers/char/random.c), zeros until somebody asked for them."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two. boot_id: /proc/sys/kernel/random/boot_id, None when not known or not drawn yet."""

    path: str
    machine: str
    domain: int | None
    kind: str
    view: str
    limit: int
    word_bits: int
    release: str | None
    build_id: str | None
    boot_id: str | None
    nr_pages: int | None

    def json(self) -> dict[str, Any]:
        """As in the schema."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def side_of(ctx: Context, view: View) -> Side:
    """The facts of one side."""
    domain = ctx.domain
    info = ctx.target.source.info
    linux = isinstance(domain, LinuxGuest)
    names = domain.names if isinstance(domain, LinuxGuest) else domain.xen.names
    return Side(
        info.path,
        info.machine,
        domain.id,
        domain.kind,
        view.name,
        view.limit,
        domain.width.bits if isinstance(domain, LinuxGuest) else 64,
        names.release,
        names.build_id,
        _boot_id(domain) if linux else None,
        _nr_pages(domain) if linux else None,
    )


def _boot_id(domain: Domain) -> str | None:
    assert isinstance(domain, LinuxGuest)
    symbol = domain.names.symbol(BOOT_ID)
    if symbol is None:
        return None
    try:
        data = domain.space.read(symbol.address, 16)
    except (Untranslatable, Unreadable):
        return None
    return str(uuid.UUID(bytes=data)) if any(data) else None


def _nr_pages(domain: Domain) -> int | None:
    assert isinstance(domain, LinuxGuest)
    try:
        return start_info(domain).number("nr_pages")
    except P2mError:
        return None


def refuse(a: Side, b: Side) -> None:
    """Raise UsageError when the two maps do not speak of the same kind of thing."""
    if a.kind != b.kind:
        raise UsageError(
            f"{a.path} is memory of a {a.machine} machine, {b.path} of a {b.machine} machine: "
            "their maps cannot be compared"
        )
    if a.word_bits != b.word_bits:
        raise UsageError(
            f"the guest in {a.path} has {a.word_bits} bits, the one in {b.path} has {b.word_bits}: "
            "two different guests",
            hint="--domain and --other-domain choose others",
        )
    if a.view != b.view:
        raise UsageError(
            f"{a.path} is seen as {a.view}, {b.path} as {b.view}: two kernels of different eras",
            hint="--view list-list is in both, where the guests publish it",
        )


def doubts(a: Side, b: Side) -> list[str]:
    """Why the two may not be two moments of one guest, one sentence each."""
    whose = "kernel" if a.kind == "pv" else "hypervisor"
    found = []
    if a.build_id and b.build_id and a.build_id != b.build_id:
        found.append(f"different {whose}s: build id {a.build_id} ({a.release}) and {b.build_id} ({b.release})")
    elif a.release and b.release and a.release != b.release:
        found.append(f"different {whose}s: {a.release} and {b.release}")
    elif a.kind == "pv" and not (a.build_id and b.build_id) and not (a.release and b.release):
        found.append("not proved to be one kernel: neither build id nor release is known on both sides")
    if a.boot_id and b.boot_id and a.boot_id != b.boot_id:
        found.append(f"two boots, not two moments of one: boot id {a.boot_id} and {b.boot_id}")
    if (a.domain == 0) != (b.domain == 0):
        found.append(f"different guests: domain {_id(a)} and domain {_id(b)}; dom0 keeps its id")
    elif None not in (a.domain, b.domain) and a.domain != b.domain:
        found.append(f"domain {_id(a)} became domain {_id(b)}, as xl restore does, or these are two guests")
    if a.nr_pages is not None and b.nr_pages is not None and a.nr_pages != b.nr_pages:
        found.append(f"start_info.nr_pages {a.nr_pages:,} became {b.nr_pages:,}: booted or restored with another size")
    return found


def _id(side: Side) -> str:
    return "?" if side.domain is None else str(side.domain)
