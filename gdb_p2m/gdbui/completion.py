"""Tab completion of a verb's command line, from its parser. Nothing here needs GDB.

File names too: GDB's own completion of them takes everything after the command for one name.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence

FILE_METAVARS = frozenset({"FILE", "DUMP", "OUT", "DESCRIPTION"})
VIEW_METAVAR, RULE_METAVAR, SYMBOL_METAVAR = "V", "RULE", "NAME"

Symbols = Callable[[], Iterable[str]]


def words(text: str) -> tuple[list[str], str]:
    """The finished words of a command line and the one that is being typed ("" after a blank)."""
    parts = text.split()
    if parts and not text[-1].isspace():
        return parts[:-1], parts[-1]
    return parts, ""


def complete(parser: argparse.ArgumentParser, text: str, symbols: Symbols) -> list[str]:
    """What can stand where `text` ends: whole words that begin like its last one."""
    before, current = words(text)
    action = _waiting_option(parser, before)
    if action is None and current.startswith("--") and "=" in current:
        option, _, begun = current.partition("=")
        return [f"{option}={v}" for v in _values(_option(parser, option), begun, symbols)]
    if action is None and current.startswith("-"):
        return _beginning(current, sorted(o for a in parser._actions for o in a.option_strings))
    return _values(action or _positional(parser, before), current, symbols)


def _beginning(begun: str, candidates: Iterable[str]) -> list[str]:
    return [c for c in candidates if c.startswith(begun)]


def _option(parser: argparse.ArgumentParser, word: str) -> argparse.Action | None:
    return next((a for a in parser._actions if word in a.option_strings), None)


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def _waiting_option(parser: argparse.ArgumentParser, before: Sequence[str]) -> argparse.Action | None:
    """The option that the last finished word is, if it still waits for its value."""
    action = _option(parser, before[-1]) if before else None
    return action if action is not None and _takes_value(action) else None


def _positional(parser: argparse.ArgumentParser, before: Sequence[str]) -> argparse.Action | None:
    """The positional argument that comes next; one that repeats stays."""
    given, skip = 0, False
    for word in before:
        option = _option(parser, word)
        if skip:
            skip = False
        elif option is not None:
            skip = _takes_value(option)
        elif not word.startswith("-"):
            given += 1
    actions = [a for a in parser._actions if not a.option_strings]
    for action in actions:
        if action.nargs in ("*", "+") or given == 0:
            return action
        given -= 1
    return None


def _values(action: argparse.Action | None, begun: str, symbols: Symbols) -> list[str]:
    """Values of an argument that begin with `begun`."""
    if action is None:
        return []
    if action.choices is not None:
        return _beginning(begun, (str(c) for c in action.choices))
    if action.metavar in FILE_METAVARS:
        return files(begun)
    if action.metavar == VIEW_METAVAR:
        from gdb_p2m.views.registry import VIEW_NAMES

        return _beginning(begun, VIEW_NAMES)
    if action.metavar == RULE_METAVAR:
        from gdb_p2m.rules.catalogue import CATALOGUE

        groups = dict.fromkeys(r.id.split("-")[0] for r in CATALOGUE)
        return _beginning(begun.upper(), [*groups, *(r.id for r in CATALOGUE)])
    return _beginning(begun, symbols()) if action.metavar == SYMBOL_METAVAR else []


def files(begun: str) -> list[str]:
    """File names that begin with `begun`, directories with a slash. A lone directory is opened at once.

    Names with blanks are left out: they would need quotes around the whole word.
    """
    folder, start = os.path.split(begun)
    try:
        entries = [(e.name, e.is_dir()) for e in os.scandir(os.path.expanduser(folder) or ".")]
    except OSError:
        return []
    hidden = start.startswith(".")
    found = [
        os.path.join(folder, name) + ("/" if is_directory else "")
        for name, is_directory in sorted(entries)
        if name.startswith(start) and (hidden or not name.startswith(".")) and not any(c.isspace() for c in name)
    ]
    if len(found) == 1 and found[0].endswith("/"):
        return files(found[0]) or found
    return found
