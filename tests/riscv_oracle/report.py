"""What the machine prints, parsed strictly: a line that is not understood is an error, never skipped.

fixtures/riscv/README.md describes the lines. All numbers are ints, frame numbers are in 4 KiB.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

FORMAT = 1
_ANSWER = re.compile(r"(?P<value>0x[0-9a-f]+)|c(?P<cause>\d+)|(?P<word>ok|same|bad|-)")


class NotAReport(Exception):
    """The text breaks its own format; says the line."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One access: the value it gave, or the cause of its trap, or a word ("ok", "same", "bad", "-")."""

    value: int | None = None
    cause: int | None = None
    word: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """What the hardware answered for guest physical address `gpa` of a domain.

    read: hlv.d. write: hsv.d. hlvx: hlvx.hu. run: a guest that jumped there. alias: an S line, whose
    address is sign-extended; `gfn` is the frame meant in both.
    """

    domain: int
    gpa: int
    gfn: int
    read: Answer
    write: Answer
    hlvx: Answer
    run: Answer
    alias: bool


@dataclass(frozen=True, slots=True)
class Leaves:
    """`count` leaves of 2^order frames each from `gfn` on, mapping frames from `mfn` on: what was asked for."""

    domain: int
    gfn: int
    count: int
    mfn: int
    order: int
    type: str

    @property
    def frames(self) -> int:
        """Frames of all leaves together."""
        return self.count << self.order


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain's root. `address`: virtual, of its struct domain."""

    id: int
    address: int
    root_mfn: int
    hgatp: int
    lowest_gfn: int
    highest_gfn: int
    pages: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table page of 512 entries (the root is four of them); used: used_entries, None in the v5 layout."""

    domain: int
    mfn: int
    level: int
    first_gfn: int
    metadata_mfn: int | None
    used: int | None


@dataclass(frozen=True, slots=True)
class Leftover:
    """What was left behind on purpose at a GFN that does not mean it."""

    domain: int
    gfn: int
    what: str


@dataclass
class Report:
    """Everything between START and DONE. guest: whether a guest runs now."""

    variant: str = ""
    header: dict[str, int] = field(default_factory=dict)
    domains: list[Domain] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    leaves: list[Leaves] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    devices: list[tuple[int, int, Answer]] = field(default_factory=list)
    guest: bool = False
    _index: dict[int, tuple[list[int], list[Leaves]]] = field(default_factory=dict, repr=False)

    @property
    def gfn_limit(self) -> int:
        """GFNs that the mode can express: 2048 root entries."""
        return 2048 << (9 * self.header["root_level"])

    def uart_probes(self, domain: int, *, alias: bool = False) -> Iterator[Probe]:
        """The domain's P lines, or its S lines."""
        return (p for p in self.probes if p.domain == domain and p.alias == alias)

    def intended(self, domain: int, gfn: int) -> tuple[Leaves, int] | None:
        """(leaves, MFN) that GFN was mapped with, or None where nothing was mapped."""
        if domain not in self._index:
            mine = sorted((r for r in self.leaves if r.domain == domain), key=lambda r: r.gfn)
            self._index[domain] = ([r.gfn for r in mine], mine)
        starts, runs = self._index[domain]
        at = bisect_right(starts, gfn) - 1
        if at < 0 or gfn >= runs[at].gfn + runs[at].frames:
            return None
        return runs[at], runs[at].mfn + gfn - runs[at].gfn


def parse(text: str) -> Report:
    """A finished report. Raises NotAReport, also for a report without its end or with lines missing."""
    report, done = Report(), -1
    lines = text.replace("\r", "").split("\n")
    try:
        first = lines.index("START") + 1
    except ValueError:
        raise NotAReport("no START line") from None
    for number, line in enumerate(lines[first:], first + 1):
        words = line.split(" ")
        try:
            if words[0] == "DONE":
                done = int(words[1])
            elif words[0] == "GUEST" and done >= 0:
                report.guest = True
            elif line:
                _LINES[words[0]](report, words[1:])
        except (KeyError, ValueError, TypeError) as error:
            raise NotAReport(f"line {number}: {line!r}: {error!r}") from None
    if report.header.get("format") != FORMAT:
        raise NotAReport(f"format {report.header.get('format')}, not {FORMAT}")
    if done != len(report.probes) + len(report.devices):
        raise NotAReport(
            f"DONE says {done}, seen {len(report.probes)} probes and {len(report.devices)} devices"
        )
    return report


def _answer(text: str, name: str) -> Answer:
    label, _, rest = text.partition("=")
    match = _ANSWER.fullmatch(rest)
    if label != name or match is None:
        raise ValueError(f"not an answer to {name}: {text!r}")
    if match["value"]:
        return Answer(value=int(match["value"], 16))
    return Answer(cause=int(match["cause"])) if match["cause"] else Answer(word=match["word"])


def _header(report: Report, words: list[str]) -> None:
    name, value = words
    if name == "variant":
        report.variant = value
    else:
        report.header[name] = int(value, 16)


def _domain(report: Report, words: list[str]) -> None:
    number, *hexadecimal, pages = words
    address, root_mfn, hgatp, lowest, highest = (int(w, 16) for w in hexadecimal)
    report.domains.append(Domain(int(number), address, root_mfn, hgatp, lowest, highest, int(pages)))


def _table(report: Report, words: list[str]) -> None:
    domain, mfn, level, gfn, metadata, used = words
    report.tables.append(
        Table(
            int(domain),
            int(mfn, 16),
            int(level),
            int(gfn, 16),
            None if metadata == "-" else int(metadata, 16),
            None if used == "-" else int(used),
        )
    )


def _leaves(report: Report, words: list[str]) -> None:
    domain, gfn, count, mfn, order, kind = words
    report.leaves.append(Leaves(int(domain), int(gfn, 16), int(count), int(mfn, 16), int(order), kind))


def _leftover(report: Report, words: list[str]) -> None:
    domain, gfn, what = words
    report.leftovers.append(Leftover(int(domain), int(gfn, 16), what))


def _probe(report: Report, words: list[str], *, alias: bool = False) -> None:
    domain, gpa, read, write, hlvx, run = words
    address = int(gpa, 16)
    gfn = (address >> 12) & (report.gfn_limit - 1) if alias else address >> 12
    report.probes.append(
        Probe(
            int(domain),
            address,
            gfn,
            _answer(read, "r"),
            _answer(write, "w"),
            _answer(hlvx, "x"),
            _answer(run, "f"),
            alias,
        )
    )


def _device(report: Report, words: list[str]) -> None:
    domain, gpa, read = words
    report.devices.append((int(domain), int(gpa, 16), _answer(read, "r")))


_LINES = {
    "H": _header,
    "R": _domain,
    "T": _table,
    "E": _leaves,
    "Z": _leftover,
    "P": _probe,
    "S": lambda report, words: _probe(report, words, alias=True),
    "D": _device,
}
