"""Report pages of memories, and what is in one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from gdb_p2m.commands.base import Context
from gdb_p2m.report.page import Page, build_page
from gdb_p2m.sources.base import Note, Source
from gdb_p2m.target import Target
from support.machine import Machine

EVIL = "6.1</script><script>window.hit=1</script>\"'><img src=x onerror=window.hit=1>{{7*7}}&lt;"
"""What a kernel release can be in a dump that somebody made up."""
CONTROLS = "\u202e\u2028\x1b[2J"
"""What a VMCOREINFO cannot hold (its reader refuses it) but a file name and other notes can."""


def page_of(source: Source, domain: int | None = None, view: str | None = None) -> Page:
    """The page about one memory."""
    return build_page(Context(Target(source), domain), view)


def hostile(machine: Machine) -> Source:
    """A real dom0 whose notes and file name are somebody's attempt to run a script in our page."""
    evil = machine.copy()
    notes = []
    for note in evil.info.notes:
        desc = note.desc
        if note.name.startswith("VMCOREINFO"):
            lines = [line for line in desc.decode().split("\n") if not line.startswith(("OSRELEASE=", "BUILD-ID="))]
            desc = "\n".join([f"OSRELEASE={EVIL}", f"BUILD-ID={EVIL}", *lines]).encode()
        notes.append(Note(note.name, note.type, desc))
    evil.info.notes = notes
    evil.info.path = f"/dumps/{EVIL}{CONTROLS}.core"
    evil.info.writer = EVIL + CONTROLS
    evil.info.loses = [EVIL + CONTROLS]
    return evil.source()


@dataclass
class Seen(HTMLParser):
    """What a browser would make of a page: tags, attributes, data."""

    tags: dict[str, int] = field(default_factory=dict)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    _in: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.texts.append(data)

    @property
    def data(self) -> Any:
        """The data of the page's script."""
        return json.loads(self.scripts[0])

    @property
    def text(self) -> str:
        """All that is shown."""
        return " ".join(" ".join(self.texts).split())


def seen(html: str) -> Seen:
    """Parse a page."""
    parser = Seen()
    parser.feed(html)
    parser.close()
    return parser
