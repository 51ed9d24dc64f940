"""What a rule is, how it answers, and how a set of rules is run.

A rule never passes without having looked: it says how many things it looked at, and looking at
nothing is `not_applicable`; what it could not look at is `could_not_check`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gdb_p2m.domain import Domain
from gdb_p2m.errors import P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.names import ROOT_NAMES
from gdb_p2m.mapping import Kind, Mapping
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.structures.record import Record
from gdb_p2m.structures.xen_pages import shared_info, start_info
from gdb_p2m.target import Target
from gdb_p2m.units import FrameArray
from gdb_p2m.views.base import View
from gdb_p2m.views.linear import LinearView
from gdb_p2m.views.list_list import ListListView
from gdb_p2m.views.registry import Views

if TYPE_CHECKING:
    from gdb_p2m.rules.predicted import Comparison, Prediction

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

    def room(self, where: FrameArray, counts: FrameArray | None = None) -> list[int]:
        """Those of the findings at `where` that there is room to list; the rest only counts.

        counts: for how many equal ones each stands (1). So a broken memory costs no loop over its frames.
        """
        free = max(0, MAX_FINDINGS - len(self.listed))
        self.total += len(where) - len(where[:free]) if counts is None else int(counts[free:].sum())
        return [int(i) for i in where[:free]]

    def could_not_read(self, reason: str) -> None:
        """A part could not be looked at; without findings the rule then could not check."""
        if reason not in self.unread and len(self.unread) < MAX_FINDINGS:
            self.unread.append(reason)


def unread_pfns(mapping: Mapping, found: Findings) -> None:
    """Say how many PFNs a rule over the whole mapping could not look at."""
    lost = int(mapping.count[mapping.kind == Kind.UNREADABLE].sum())
    if lost:
        found.could_not_read(f"{lost:,} PFNs are unreadable: their pages of the P2M are not in the dump")


class DomainContext:
    """One domain as rules for every kind of domain see it. Made once, shared by all rules."""

    def __init__(self, target: Target, domain: Domain, views: Views) -> None:
        self.target = target
        self.domain = domain
        self.views = views

    @cached_property
    def own(self) -> View:
        """The domain's own view; CannotCheck when it cannot be made."""
        return or_cannot(self.views.own)

    @cached_property
    def mapping(self) -> Mapping:
        """The domain's own view as runs."""
        return or_cannot(self.own.mapping)


class RuleContext(DomainContext):
    """One PV guest as the rules see it.

    recorded_chain: file of a remap chain saved during boot, for RMP-006. prediction: makes what the P2M is
    compared with, for PRE; None when nobody asked. frugal: what is read becomes an excerpt, so rules read nothing that
    only explains frames of others.
    """

    frugal = False

    def __init__(
        self,
        target: Target,
        guest: LinuxGuest,
        views: Views,
        m2p: M2p,
        recorded_chain: str | None = None,
        prediction: Callable[[], Prediction] | None = None,
    ) -> None:
        super().__init__(target, guest, views)
        self.guest = guest
        self.m2p = m2p
        self.recorded_chain = recorded_chain
        self.prediction = prediction

    def view(self, name: str) -> View:
        """View `name`; CannotCheck when it cannot be made."""
        return or_cannot(lambda: self.views.get(name))

    @cached_property
    def linear(self) -> LinearView:
        """The linear view; NotApplicable in other eras."""
        if not self.guest.has("xen_p2m_addr"):
            raise NotApplicable("the guest has no linear list (Linux 3.19 on)")
        view = or_cannot(lambda: self.views.get("linear"))
        assert isinstance(view, LinearView)
        return view

    @cached_property
    def list_list(self) -> ListListView:
        """The frame list list; CannotCheck when there is none to read."""
        view = or_cannot(lambda: self.views.get("list-list"))
        assert isinstance(view, ListListView)
        return view

    @cached_property
    def comparison(self) -> Comparison:
        """The prediction against the guest's own view; CannotCheck when there is nothing to predict from."""
        from gdb_p2m.rules.predicted import Comparison

        assert self.prediction is not None
        return Comparison(self, or_cannot(self.prediction))

    @cached_property
    def start_info(self) -> Record:
        """start_info of the guest."""
        return or_cannot(lambda: start_info(self.guest))

    @cached_property
    def shared_info(self) -> Record:
        """shared_info of the guest."""
        return or_cannot(lambda: shared_info(self.guest))

    @cached_property
    def kernel_root(self) -> int:
        """Frame of the kernel's own root table; CannotCheck when only a process's is known."""
        symbol = self.guest.names.first(n.name for n in ROOT_NAMES)
        if symbol is None:
            raise CannotCheck("the kernel's own page table is not known by name")
        return or_cannot(lambda: self.guest.frame_of(symbol.address))

    def variable(self, name: str) -> int:
        """A kernel variable; CannotCheck when its symbol is not known or it cannot be read."""
        self._not_inferred(name)
        return or_cannot(lambda: self.guest.variable(name))

    def page_of(self, name: str) -> int:
        """Frame that a pointer variable leads to, likewise."""
        self._not_inferred(name)
        return or_cannot(lambda: self.guest.page_of(name))

    def _not_inferred(self, name: str) -> None:
        """A rule that compared an inference with what it was inferred from would always pass."""
        if name in self.guest.inferred:
            raise CannotCheck(f"{name} is not known by name; it is inferred: {self.guest.inferred[name].evidence}")


T = TypeVar("T")


def or_cannot(ask: Callable[[], T]) -> T:
    """The answer, or CannotCheck with the reason why there is none."""
    try:
        return ask()
    except P2mError as e:
        raise CannotCheck(e.message) from None


Check = Callable[[Any, Findings], None]
"""Called with the context of the kind of domain that the rule is for (DomainContext when for all)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. id never changes; eras and source are for people; text explains it to a learner.

    kinds: of domains that it concerns.
    """

    id: str
    title: str
    severity: Severity
    eras: str
    source: str
    text: str
    check: Check
    kinds: tuple[str, ...] = ("pv",)


@dataclass(frozen=True)
class Result:
    """What became of one rule on one domain. reason: why it did not look, or looked only in part."""

    rule: Rule
    status: Status
    checked: int
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    total: int = 0


def run_rule(rule: Rule, context: DomainContext) -> Result:
    """Run one rule. Never raises a P2mError: what cannot be read is `could_not_check`."""
    found = Findings()
    if context.domain.kind not in rule.kinds:
        return Result(rule, "not_applicable", 0, f"it concerns {' and '.join(rule.kinds)} domains only")
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


def run_rules(rules: Iterable[Rule], context: DomainContext) -> list[Result]:
    """Run rules in order."""
    return [run_rule(rule, context) for rule in rules]
