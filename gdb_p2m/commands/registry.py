"""All verbs, in the order of the documentation. Both front ends are built from this list.

A verb's module is imported when the verb is first asked for: in the shell one run needs one verb, and
importing the others (rules, RISC-V, pictures) would take longer than most answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from gdb_p2m.commands.base import Verb

_WHERE = {
    "identify": "identify",
    "domains": "domains",
    "symbols": "symbols",
    "lookup": "lookup",
    "walk": "walk",
    "map": "map",
    "stats": "stats",
    "list-list": "list_list",
    "start-info": "xen_pages:START_INFO",
    "shared-info": "xen_pages:SHARED_INFO",
    "remap": "remap",
    "m2p": "m2p",
    "page-info": "page_info",
    "check": "check",
    "rules": "rules",
    "compare": "compare",
    "diff": "diff",
    "explain": "explain",
    "disasm": "disasm",
    "draw": "draw",
    "report": "report",
    "excerpt": "excerpt",
    "export": "export",
    "model": "model",
}
"""Name -> module of gdb_p2m.commands, and the Verb in it where it is not called VERB."""


class _Verbs(Mapping[str, Verb]):
    """Verbs by name; names are known without an import."""

    def __getitem__(self, name: str) -> Verb:
        module, _, attribute = _WHERE[name].partition(":")
        verb: Verb = getattr(import_module(f"gdb_p2m.commands.{module}"), attribute or "VERB")
        return verb

    def __iter__(self) -> Iterator[str]:
        return iter(_WHERE)

    def __len__(self) -> int:
        return len(_WHERE)


BY_NAME = _Verbs()


def all_verbs() -> tuple[Verb, ...]:
    """Every verb, in order; imports all their modules."""
    return tuple(BY_NAME.values())
