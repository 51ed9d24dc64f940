"""Examples in the documentation: found, and compared with what is printed."""

from __future__ import annotations

import re

from support.places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(prompt: str) -> list[tuple[str, str, str]]:
    """(page:line, command, expected output) after `prompt` ("$ ", "(gdb) ") in all console blocks."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(r"^```console\n(.*?)^```$", text, re.S | re.M):
            line = text[: block.start()].count("\n") + 2
            for part in re.split(rf"(?m)^(?={re.escape(prompt)})", block[1]):
                if part.startswith(prompt):
                    command, _, expected = part.partition("\n")
                    found.append((f"{page.name}:{line}", command.removeprefix(prompt), expected))
                line += part.count("\n")
    return found


def matches(expected: str, got: str) -> bool:
    """Line by line, `...` alone on a line matching anything."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line.rstrip()) + r"[ ]*\n"
        for line in expected.rstrip("\n").split("\n")
    )
    return re.fullmatch(pattern, re.sub(r"[ ]+$", "", got.rstrip("\n") + "\n", flags=re.M)) is not None
