"""Every verb on one memory, without a file."""

from __future__ import annotations

import shlex

from gdb_p2m.cli import build_parser, rendered
from gdb_p2m.commands.base import Context, Verb
from gdb_p2m.commands.registry import all_verbs
from gdb_p2m.errors import NotSupported, P2mError, UsageError
from gdb_p2m.sources.base import Source
from gdb_p2m.target import Target

# Arguments for verbs that cannot do without; `excerpt` writes files and has tests of its own.
ARGUMENTS = {
    "lookup": ["0 0x9f 0x100 0x200 0x19061 0xfee00 0x7ffffff", "--mfn 0x30100 0 0xfffff", "--view list-list 0x100"],
    "walk": ["0x100", "0xfee00", "0x19061", "0"],
    "m2p": ["0x30100 0 0x123456789"],
    "map": ["--fold", "--range 0..0x3ff", "--view list-list --fold"],
    "stats": ["", "--view list-list"],
    "list-list": ["", "--top 0", "--top 511"],
    "explain": ["0x100", "0xfee00"],
    "draw": ["--ascii", "0x100 --width 60 --ascii", "--view list-list --ascii"],
}
LEFT_OUT = ("excerpt", "export", "diff", "report", "disasm", "page-info")
"""Verbs that write files, want two dumps or a kernel's code, or are about RISC-V only."""


def command_lines(verbs: tuple[Verb, ...] = all_verbs()) -> list[tuple[Verb, str]]:
    """(verb, arguments) of all verbs that look at one target."""
    return [
        (verb, arguments)
        for verb in verbs
        if verb.uses == "target" and verb.name not in LEFT_OUT
        for arguments in ARGUMENTS.get(verb.name, [verb.example if verb.example.startswith("0x") else ""])
    ]


def run_verb(target: Target, verb: Verb, arguments: str, fmt: str = "text") -> str:
    """One verb's output. Raises P2mError."""
    args = build_parser(verb, f"p2m {verb.name}", False).parse_args([*shlex.split(arguments), "--format", fmt])
    return rendered(verb.run(Context(target, args.domain), args), args.format)


def run_every_verb(source: Source, fmt: str = "text") -> dict[str, str | P2mError]:
    """Output of every verb, or the P2mError with which it ended; anything else is raised."""
    target = Target(source)
    ended: dict[str, str | P2mError] = {}
    for verb, arguments in command_lines():
        try:
            ended[f"{verb.name} {arguments}"] = run_verb(target, verb, arguments, fmt)
        except (UsageError, NotSupported) as e:
            raise AssertionError(f"{verb.name} {arguments}: {e}") from e
        except P2mError as e:
            ended[f"{verb.name} {arguments}"] = e
    return ended


def same_json_everywhere(source: Source, other: Source) -> None:
    """Assert that every verb gives the same bytes of JSON for two memories."""
    first, second = run_every_verb(source, "json"), run_every_verb(other, "json")
    assert first.keys() == second.keys()
    for command, text in first.items():
        assert str(text) == str(second[command]), command


__all__ = ["command_lines", "run_every_verb", "run_verb", "same_json_everywhere"]
