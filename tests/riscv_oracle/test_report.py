"""The parser of the machine's lines refuses whatever it does not understand."""

from __future__ import annotations

import pytest

from .report import Answer, NotAReport, parse

GOOD = """
START
H variant sv39x4
H format 0x1
H root_level 0x2
R 1 0x2c0fbff000 0x8fbf8 0x800010000008fbf8 0x0 0x1fffffff 3620
T 1 0x8fbf8 2 0x0 0x8fb00 2
T 1 0x8fbf9 2 0x8000000 - -
Z 1 0x80018 slot-behind-zero
E 1 0x80000 2 0x8fbe4 0 ram_rw
P 1 0x80001000 r=0x8fbe5 w=ok x=0xfbe5 f=0x8fbe5
P 1 0x80002000 r=c21 w=c23 x=c21 f=c20
S 1 0xffffff0000000000 r=c21 w=c23 x=c12 f=-
D 1 0x10000005 r=0x60
DONE 4
"""


def test_a_good_report_is_read_whole() -> None:
    report = parse(GOOD)
    assert report.variant == "sv39x4" and report.gfn_limit == 1 << 29 and not report.guest
    first, hole, alias = report.probes
    assert (first.gfn, first.read, first.write) == (0x80001, Answer(value=0x8FBE5), Answer(word="ok"))
    assert hole.read == Answer(cause=21) and hole.run == Answer(cause=20)
    assert alias.alias and alias.gfn == 0x10000000 and alias.run == Answer(word="-")
    assert report.tables[0].metadata_mfn == 0x8FB00 and report.tables[1].used is None
    assert report.devices == [(1, 0x10000005, Answer(value=0x60))]


def test_intended_knows_the_frames_inside_a_run_and_nothing_outside() -> None:
    report = parse(GOOD)
    found = report.intended(1, 0x80001)
    assert found is not None and found[1] == 0x8FBE5
    assert [report.intended(*where) for where in ((1, 0x7FFFF), (1, 0x80002), (2, 0x80000))] == [None] * 3


def test_a_guest_line_after_the_end_counts() -> None:
    assert parse(GOOD + "GUEST\n").guest


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("START", "STAR", "no START line"),
        ("DONE 4\n", "", "DONE says -1"),
        ("DONE 4", "DONE 5", "DONE says 5"),
        ("format 0x1", "format 0x2", "format 2"),
        ("r=0x8fbe5", "r=8fbe5", "not an answer to r"),
        (" w=ok", "", "not enough values"),
        ("w=ok", "r=ok", "not an answer to w"),
        ("Z 1", "Q 1", "KeyError"),
        ("D 1 0x10000005", "PANIC trap", "KeyError"),
        ("DONE", "GUEST\nDONE", "KeyError"),
    ],
)
def test_a_damaged_report_is_refused(old: str, new: str, why: str) -> None:
    assert old in GOOD
    with pytest.raises(NotAReport, match=why):
        parse(GOOD.replace(old, new, 1))
