"""Tab completion of a verb's command line, from its parser. Nothing here needs GDB."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence

FILES = "FILES"
"""Instead of a list: any file name may stand here."""
FILE_METAVARS = frozenset({"FILE", "DUMP", "OUT"})
VIEW_METAVAR, RULE_METAVAR, SYMBOL_METAVAR = "V", "RULE", "NAME"

Candidates = list[str] | str
Symbols = Callable[[], Iterable[str]]


def words(text: str) -> tuple[list[str], str]:
    """The finished words of a command line and the one that is being typed ("" after a blank)."""
    parts = text.split()
    if parts and not text[-1].isspace():
        return parts[:-1], parts[-1]
    return parts, ""


def complete(parser: argparse.ArgumentParser, text: str, symbols: Symbols) -> Candidates:
    """What can stand where `text` ends: whole words that begin like its last one, or FILES."""
    before, current = words(text)
    action = _waiting_option(parser, before)
    if action is None and current.startswith("--") and "=" in current:
        option, _, begun = current.partition("=")
        found = _values(_option(parser, option), symbols)
        return found if found == FILES else _beginning(begun, [f"{option}={v}" for v in found], len(option) + 1)
    if action is None and current.startswith("-"):
        return _beginning(current, sorted(o for a in parser._actions for o in a.option_strings))
    if action is None:
        action = _positional(parser, before)
    found = _values(action, symbols)
    return found if found == FILES else _beginning(current, found)


def _beginning(current: str, candidates: Sequence[str], skip: int = 0) -> list[str]:
    return [c for c in candidates if c[skip:].startswith(current)]


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


def _values(action: argparse.Action | None, symbols: Symbols) -> Candidates:
    if action is None:
        return []
    if action.choices is not None:
        return [str(c) for c in action.choices]
    if action.metavar in FILE_METAVARS:
        return FILES
    if action.metavar == VIEW_METAVAR:
        from gdb_p2m.views.registry import VIEW_NAMES

        return list(VIEW_NAMES)
    if action.metavar == RULE_METAVAR:
        from gdb_p2m.rules.catalogue import CATALOGUE

        return list(dict.fromkeys([r.id.split("-")[0] for r in CATALOGUE])) + [r.id for r in CATALOGUE]
    return list(symbols()) if action.metavar == SYMBOL_METAVAR else []
