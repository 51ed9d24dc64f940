"""The machine's own apt sources, read, and rewritten for another Debian suite.

The lab names no mirror: it uses the ones the machine is configured for, whichever suite they are used for,
and asks them for the suite it needs. Both formats of sources.list(5) are read; deb822 style is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError

# Names under which Debian's archive is used, without -updates, -security and the like.
DEBIAN_SUITES = frozenset(
    (
        *("bullseye", "bookworm", "trixie", "forky", "duke", "sid"),
        *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
    )
)
_SECURITY = re.compile(r"-security$|/updates$")
_VARIANT = re.compile(r"-(security|updates|backports|backports-sloppy|proposed-updates)$|/updates$")

# Whom to trust and how much must stay as the administrator set it; everything else is chosen by the lab.
_KEPT = frozenset(
    (
        *("signed-by", "trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure"),
        *("check-valid-until", "valid-until-min", "valid-until-max", "check-date", "date-max-future"),
    )
)
# Third parties use Debian's suite names too. Debian's own archive is known by its path or by its key.
_ARCHIVE_PATH = re.compile(r"/debian(-security)?(\.list)?(/|$)")


@dataclass(frozen=True)
class Source:
    """One configured archive of binary packages. options: lower-case deb822 field name to value, verbatim."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str) -> str:
        """The value of an option, empty when it is not there."""
        return dict(self.options).get(name, "")


def parse_deb822(text: str) -> list[Source]:
    """The enabled `deb` stanzas of a .sources file."""
    found = []
    for stanza in re.split(r"\n[ \t]*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields = _deb822_fields(stanza)
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false")
        if not enabled or "deb" not in fields.get("types", "").split():
            continue
        options = tuple((name, value) for name, value in fields.items() if name in _KEPT)
        uris, suites, components = (
            tuple(fields.get(name, "").split()) for name in ("uris", "suites", "components")
        )
        found.append(Source(uris, suites, components, options))
    return found


def _deb822_fields(stanza: str) -> dict[str, str]:
    """Field name in lower case to value; line breaks in a value are kept (an embedded key needs them)."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1] in (" ", "\t"):
            if name:
                fields[name] += "\n" + line.rstrip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def parse_one_line(text: str) -> list[Source]:
    """The `deb` lines of a sources.list file: deb [ option=value ... ] URI SUITE COMPONENT..."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s*)?([^#]*)", line)
        if match is None or len(words := match[2].split()) < 2:
            continue
        options = []
        for word in (match[1] or "").split():
            name, _, value = word.partition("=")
            if name.lower() in _KEPT:
                options.append((name.lower(), value.replace(",", " ")))
        found.append(Source((words[0],), (words[1],), tuple(words[2:]), tuple(options)))
    return found


def read_sources(main: Path, parts: Path) -> list[Source]:
    """All sources of one apt configuration, in apt's order: sources.list, then sources.list.d by name."""
    found: list[Source] = []
    for path in [main, *(sorted(parts.iterdir()) if parts.is_dir() else [])]:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text)
    return found


def sources_for(suite: str, configured: Iterable[Source]) -> str:
    """A .sources file that takes `suite` from the configured Debian archives.

    Raises LabError when no configured source is a Debian archive.
    """
    candidates = [source for source in configured if _uses_debian_suite(source)]
    known = [source for source in candidates if _is_debian_archive(source)]
    main: dict[str, Source] = {}
    security: dict[str, Source] = {}
    for source in known or candidates:
        for uri in source.uris:
            for name in source.suites:
                (security if _SECURITY.search(name) else main).setdefault(uri, source)
    if not main:
        raise LabError(
            f"none of this machine's apt sources is a Debian archive: there is nowhere to get {suite} from",
            hint="a Debian source (and its key) in /etc/apt/sources.list.d",
        )
    stanzas = [_stanza(uri, suite, source) for uri, source in main.items()]
    if suite != "sid":  # sid has no security archive: fixes go to sid itself
        stanzas += [_stanza(uri, f"{suite}-security", source) for uri, source in security.items()]
    return "\n".join(stanzas)


def _uses_debian_suite(source: Source) -> bool:
    suites = {_VARIANT.sub("", name) for name in source.suites}
    return "main" in source.components and not suites.isdisjoint(DEBIAN_SUITES)


def _is_debian_archive(source: Source) -> bool:
    by_key = "debian-archive" in source.option("signed-by")
    return by_key or any(_ARCHIVE_PATH.search(uri) for uri in source.uris)


def _stanza(uri: str, suite: str, source: Source) -> str:
    """Targets: only the package index is needed, not the contents lists some machines configure."""
    lines = ["Types: deb", f"URIs: {uri}", f"Suites: {suite}", "Components: main"]
    lines += ["Targets: Packages", "PDiffs: no"]
    lines += [f"{name.title()}: {value}" for name, value in source.options]
    return "\n".join(lines) + "\n"
