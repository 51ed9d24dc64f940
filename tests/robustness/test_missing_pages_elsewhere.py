"""The same promise on every other bundled memory: domUs, a kexec dump, RISC-V, and (beside some checkouts) trees.

A page that is not there never changes an answer: it makes it "unreadable", or "could not check".
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from support.machine import Examined, Lacking, Machine, examine, same_or_unreadable, walk_agrees_with_map
from support.places import BOTH, bundled, shared
from test_missing_pages import boundaries, rule_problem

from gdb_p2m.errors import P2mError
from gdb_p2m.mapping import Mapping
from gdb_p2m.sources.base import Source
from gdb_p2m.sources.probe import open_source
from gdb_p2m.target import Target

OTHERS = [p for p in [*bundled(), *shared()] if p not in {t.path for t in BOTH}]
SAMPLED = 14
"""Pages of each memory that the quick suite leaves out in turn (of RISC-V all: they are few)."""


@cache
def opened(path: Path) -> tuple[Machine, dict[int | None, Examined]]:
    """The memory, and what is said of each domain in it."""
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the checkout (../shared/real)")
    source = open_source(str(path))
    machine = Machine.of(source)
    machine.info.original = source.machine_extents()
    domains = [d.id for d in Target(whole(machine)).domains]
    return machine, {d: examine(whole(machine), d) for d in domains}


def whole(machine: Machine) -> Source:
    return Lacking(machine.source(), set())


def frames(machine: Machine, everything: bool) -> list[int]:
    held = machine.frames()
    return held if everything or len(held) < 120 else held[:: max(1, len(held) // SAMPLED)]


def problems(path: Path, everything: bool) -> dict[str, list[str]]:
    machine, healthy = opened(path)
    found: dict[str, list[str]] = {}
    for mfn in frames(machine, everything):
        for domain, before in healthy.items():
            after = examine(Lacking(machine.source(), {mfn}), domain)
            if bad := compare(before, after):
                found[f"domain {domain} without {mfn:#x}"] = bad
    return found


def compare(before: Examined, after: Examined) -> list[str]:
    if after.error is not None:
        return [] if after.error.hint else [f"the error has no hint: {after.error}"]
    found = []
    for rule, result in before.results.items():
        if problem := rule_problem(result, after.results[rule]):
            found.append(f"{rule}: {problem}")
    for name, healthy in before.mappings.items():
        mapping = after.mappings.get(name)
        if isinstance(mapping, Mapping) and isinstance(healthy, Mapping):
            found += [f"view {name}: {at:#x}: {what}" for at, what in same_or_unreadable(healthy, mapping)[:3]]
            walk_agrees_with_map(after, boundaries(mapping, 10), name)
    return found


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: p.name.split(".core")[0])
def test_no_missing_page_changes_an_answer(path: Path) -> None:
    assert not problems(path, everything=False)


@pytest.mark.slow
@pytest.mark.parametrize("path", OTHERS, ids=lambda p: p.name.split(".core")[0])
def test_no_missing_page_of_all_changes_an_answer(path: Path) -> None:
    assert not problems(path, everything=True)


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: p.name.split(".core")[0])
def test_healthy_memory_has_no_error_and_no_warning(path: Path) -> None:
    _machine, healthy = opened(path)
    assert healthy
    for examined in healthy.values():
        assert examined.error is None
        failed = [r for r in examined.results.values() if r.status == "failed"]
        assert {r.rule.severity for r in failed} <= {"note"}, [r.findings[:1] for r in failed]
        own = next(iter(examined.mappings.values()))
        assert not isinstance(own, P2mError) or "tree" in examined.mappings
        for name, mapping in examined.mappings.items():
            if isinstance(mapping, Mapping):
                walk_agrees_with_map(examined, boundaries(mapping, 30), name)
