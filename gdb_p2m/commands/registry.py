"""All verbs, in the order of the documentation. Both front ends are built from this list."""

from __future__ import annotations

from gdb_p2m.commands import (
    check,
    domains,
    excerpt,
    identify,
    list_list,
    lookup,
    m2p,
    map,
    model,
    page_info,
    remap,
    rules,
    stats,
    symbols,
    walk,
    xen_pages,
)
from gdb_p2m.commands.base import Verb

VERBS: tuple[Verb, ...] = (
    identify.VERB,
    domains.VERB,
    symbols.VERB,
    lookup.VERB,
    walk.VERB,
    map.VERB,
    stats.VERB,
    list_list.VERB,
    xen_pages.START_INFO,
    xen_pages.SHARED_INFO,
    remap.VERB,
    m2p.VERB,
    page_info.VERB,
    check.VERB,
    rules.VERB,
    excerpt.VERB,
    model.VERB,
)
BY_NAME = {v.name: v for v in VERBS}
