"""The views of a domain, in order: its own comes first and is the default."""

from __future__ import annotations

from importlib import import_module

from gdb_p2m.domain import Domain
from gdb_p2m.errors import NotFound, P2mError, UsageError
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.views.base import View

VIEWS_BY_KIND = {
    "pv": {
        "linear": "linear:linear_view",
        "tree": "tree:tree_view",
        "list-list": "list_list:ListListView",
        "core-table": "core_table:CoreTableView",
    },
    "riscv": {"gstage": "gstage:GstageView"},
}
"""Kind of domain -> name -> module of gdb_p2m.views and what makes the view there, imported when it is asked for."""
VIEW_NAMES = tuple(name for views in VIEWS_BY_KIND.values() for name in views)


def _make(where: str, domain: Domain, progress: Progress) -> View:
    module, _, factory = where.partition(":")
    view: View = getattr(import_module(f"gdb_p2m.views.{module}"), factory)(domain, progress)
    return view


class Views:
    """All views of one domain, made on first use and kept."""

    def __init__(self, domain: Domain, progress: Progress = no_progress) -> None:
        self.domain = domain
        self.progress = progress
        self.factories = VIEWS_BY_KIND[domain.kind]
        self._made: dict[str, View | P2mError] = {}

    def get(self, name: str | None = None) -> View:
        """The view called `name`, or the guest's own. Raises UsageError, or why the view cannot be made."""
        if name is None:
            return self.own()
        if name not in self.factories:
            what = (
                f"a {self.domain.kind} domain has no view {name}"
                if name in VIEW_NAMES
                else f"no view is called {name!r}"
            )
            raise UsageError(what, hint=f"views: {', '.join(self.factories)}")
        if name not in self._made:
            try:
                self._made[name] = _make(self.factories[name], self.domain, self.progress)
            except P2mError as e:
                self._made[name] = e
        made = self._made[name]
        if isinstance(made, P2mError):
            raise made
        return made

    def own(self) -> View:
        """The domain's own view: the G-stage, or the linear list, or the tree before 3.19."""
        if self.domain.kind == "riscv":
            return self.get("gstage")
        # Symbols of both eras contradict each other; `identify` says so, and the newer layout is tried first.
        tree = not self.domain.names.symbol("xen_p2m_addr") and self.domain.names.symbol("p2m_top")
        return self.get("tree" if tree else "linear")

    def available(self) -> list[tuple[str, View | P2mError]]:
        """Every view by name, or the reason why it is not there."""
        out: list[tuple[str, View | P2mError]] = []
        for name in self.factories:
            try:
                out.append((name, self.get(name)))
            except P2mError as e:
                out.append((name, e))
        return out


__all__ = ["VIEW_NAMES", "NotFound", "Views"]
