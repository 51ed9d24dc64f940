"""The views of a domain, in order: the guest's own comes first and is the default."""

from __future__ import annotations

from collections.abc import Callable

from gdb_p2m.errors import NotFound, P2mError, UsageError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.views.base import View
from gdb_p2m.views.linear import linear_view
from gdb_p2m.views.list_list import ListListView

ViewFactory = Callable[[LinuxGuest, Progress], View]

LINUX_VIEWS: tuple[tuple[str, ViewFactory], ...] = (
    ("linear", linear_view),
    ("list-list", ListListView),
)
VIEW_NAMES = tuple(name for name, _ in LINUX_VIEWS)


class Views:
    """All views of one domain, made on first use and kept."""

    def __init__(self, guest: LinuxGuest, progress: Progress = no_progress) -> None:
        self.guest = guest
        self.progress = progress
        self._made: dict[str, View | P2mError] = {}

    def get(self, name: str | None = None) -> View:
        """The view called `name`, or the guest's own. Raises UsageError, or why the view cannot be made."""
        if name is None:
            return self.own()
        if name not in VIEW_NAMES:
            raise UsageError(f"no view is called {name!r}", hint=f"views: {', '.join(VIEW_NAMES)}")
        if name not in self._made:
            try:
                self._made[name] = dict(LINUX_VIEWS)[name](self.guest, self.progress)
            except P2mError as e:
                self._made[name] = e
        made = self._made[name]
        if isinstance(made, P2mError):
            raise made
        return made

    def own(self) -> View:
        """The guest's own view: the linear list, or the tree before 3.19."""
        return self.get("linear")

    def available(self) -> list[tuple[str, View | P2mError]]:
        """Every view by name, or the reason why it is not there."""
        out: list[tuple[str, View | P2mError]] = []
        for name in VIEW_NAMES:
            try:
                out.append((name, self.get(name)))
            except P2mError as e:
                out.append((name, e))
        return out


__all__ = ["LINUX_VIEWS", "VIEW_NAMES", "NotFound", "Views"]
