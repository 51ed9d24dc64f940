"""$p2m, $p2m_kind and $m2p in GDB's expressions."""

from __future__ import annotations

import pytest

from support.gdb_process import Gdb
from support.places import DOM0

pytestmark = pytest.mark.gdb


def test_answers_can_be_computed_with(gdb: Gdb) -> None:
    ran = gdb(
        f"p2m open {DOM0.path}",
        "output/x $p2m(0x100)",
        "echo \\n",
        "output/x $p2m(256) + $p2m(0)",
        "echo \\n",
        "output $m2p($p2m(0x12345)) == 0x12345",
        "echo \\n",
        'output $_streq($p2m_kind(0xfee00), "identity")',
        "echo \\n",
        "output $p2m_kind(0x19061)",
        "echo \\n",
        "output $p2m_kind(0)",
    )
    assert ran.out.splitlines() == ["0x30100", "0x60100", "1", "1", '"missing"', '"mfn"']
    assert not ran.err


NO_ANSWER = {
    "$p2m(0xfee00)": "$p2m: PFN 0xfee00 is identity",
    "$p2m(0x19061)": "$p2m: PFN 0x19061 is missing",
    "$p2m(0x8000000)": "$p2m: PFN 0x8000000 is out of range",
    "$p2m(-1)": "$p2m: frame numbers are not negative",
    '$p2m("abc")': "$p2m: not a frame number",
    "$p2m()": "$p2m: takes one frame number, not 0",
    "$p2m_kind(1, 2)": "$p2m_kind: takes one frame number, not 2",
    "$m2p(0xfee00)": "$m2p: MFN 0xfee00 ",
    "$m2p(0x3fffffffffff)": "$m2p: MFN 0x3fffffffffff ",
}


def test_what_has_no_answer_is_an_error_that_says_what_it_is(gdb: Gdb) -> None:
    ran = gdb(f"p2m open {DOM0.path}", *(f"print {e}" for e in NO_ANSWER))
    assert ran.out == ""
    for message in NO_ANSWER.values():
        assert message in ran.err


def test_without_a_machine_the_message_says_what_to_do(gdb: Gdb) -> None:
    assert "$p2m: no dump is open, and GDB is not connected" in gdb("print $p2m(1)").err


def test_they_have_help(gdb: Gdb) -> None:
    out = gdb("help function").out
    assert "function p2m -- $p2m(PFN): the machine frame" in out and "function m2p -- " in out
    assert "$_streq" in gdb("help function p2m_kind").out
