"""What a rule is, how it answers, and how a set of rules is run.

A rule never passes without having looked: it says how many things it looked at, and looking at
nothing is `not_applicable`; what it could not look at is `could_not_check`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

from gdb_p2m.errors import P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.mapping import Mapping
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.structures.record import Record
from gdb_p2m.structures.xen_pages import shared_info, start_info
from gdb_p2m.target import Target
from gdb_p2m.views.base import View
from gdb_p2m.views.linear import LinearView
from gdb_p2m.views.list_list import ListListView
from gdb_p2m.views.registry import Views

Severity = Literal["error", "warning", "note"]
Status = Literal["passed", "failed", "not_applicable", "could_not_check"]
MAX_FINDINGS = 20
"""Findings listed per rule; more are counted and said to be more, so that reports stay bounded."""


class CannotCheck(Exception):
    """The rule applies but something that it needs cannot be read or is not known."""


class NotApplicable(Exception):
    """The rule does not concern this memory (another era, nothing to look at)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One contradiction. where: "pfn"/"mfn"/"address" numbers that locate it; address space in `space`."""

    where: dict[str, int]
    expected: str
    found: str
    message: str
    space: str = "machine"


@dataclass
class Findings:
    """Collects what a rule looked at and found. `total` counts also what is not listed."""

    checked: int = 0
    listed: list[Finding] = field(default_factory=list)
    total: int = 0
    unread: list[str] = field(default_factory=list)

    def look(self, count: int = 1) -> None:
        """`count` more things were compared."""
        self.checked += count

    def add(
        self,
        where: dict[str, int],
        expected: str,
        found: str,
        message: str,
        *,
        count: int = 1,
        space: str = "machine",
    ) -> None:
        """One finding that stands for `count` equal ones."""
        self.total += count
        if len(self.listed) < MAX_FINDINGS:
            self.listed.append(Finding(where, expected, found, message, space))

    def could_not_read(self, reason: str) -> None:
        """A part could not be looked at; without findings the rule then could not check."""
        if reason not in self.unread and len(self.unread) < MAX_FINDINGS:
            self.unread.append(reason)


class RuleContext:
    """One domain as the rules see it. Everything is made once and shared by all rules."""

    def __init__(self, target: Target, guest: LinuxGuest, views: Views, m2p: M2p) -> None:
        self.target = target
        self.guest = guest
        self.views = views
        self.m2p = m2p

    @cached_property
    def own(self) -> View:
        """The guest's own view; CannotCheck when it cannot be made."""
        return _or_cannot(self.views.own)

    @cached_property
    def mapping(self) -> Mapping:
        """The guest's own view as runs."""
        return _or_cannot(self.own.mapping)

    @cached_property
    def linear(self) -> LinearView:
        """The linear view; NotApplicable in other eras."""
        if not self.guest.has("xen_p2m_addr"):
            raise NotApplicable("the guest has no linear list (Linux 3.19 on)")
        view = _or_cannot(lambda: self.views.get("linear"))
        assert isinstance(view, LinearView)
        return view

    @cached_property
    def list_list(self) -> ListListView:
        """The frame list list; CannotCheck when there is none to read."""
        view = _or_cannot(lambda: self.views.get("list-list"))
        assert isinstance(view, ListListView)
        return view

    @cached_property
    def start_info(self) -> Record:
        """start_info of the guest."""
        return _or_cannot(lambda: start_info(self.guest))

    @cached_property
    def shared_info(self) -> Record:
        """shared_info of the guest."""
        return _or_cannot(lambda: shared_info(self.guest))

    def variable(self, name: str) -> int:
        """A kernel variable; CannotCheck when its symbol is not known or it cannot be read."""
        return _or_cannot(lambda: self.guest.variable(name))

    def page_of(self, name: str) -> int:
        """Frame that a pointer variable leads to, likewise."""
        return _or_cannot(lambda: self.guest.page_of(name))


T = TypeVar("T")


def _or_cannot(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except P2mError as e:
        raise CannotCheck(e.message) from None


Check = Callable[[RuleContext, Findings], None]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. id never changes; eras and source are for people; text explains it to a learner."""

    id: str
    title: str
    severity: Severity
    eras: str
    source: str
    text: str
    check: Check


@dataclass(frozen=True)
class Result:
    """What became of one rule on one domain. reason: why it did not look, or looked only in part."""

    rule: Rule
    status: Status
    checked: int
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    total: int = 0


def run_rule(rule: Rule, context: RuleContext) -> Result:
    """Run one rule. Never raises a P2mError: what cannot be read is `could_not_check`."""
    found = Findings()
    try:
        rule.check(context, found)
    except NotApplicable as e:
        return Result(rule, "not_applicable", 0, str(e))
    except CannotCheck as e:
        found.could_not_read(str(e))
    except P2mError as e:
        found.could_not_read(e.message)
    reason = "; ".join(found.unread)
    if found.total:
        return Result(rule, "failed", found.checked, reason, tuple(found.listed), found.total)
    if found.unread:
        return Result(rule, "could_not_check", found.checked, reason)
    if not found.checked:
        return Result(rule, "not_applicable", 0, "there was nothing to look at")
    return Result(rule, "passed", found.checked)


def run_rules(rules: Iterable[Rule], context: RuleContext) -> list[Result]:
    """Run rules in order."""
    return [run_rule(rule, context) for rule in rules]
