"""GDB and the shell are two doors to the same verbs: same list, same text, byte-equal JSON, same errors."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from gdb_p2m.commands.base import Verb
from gdb_p2m.commands.registry import BY_NAME, all_verbs
from support.command_line import run_cli
from support.gdb_process import Gdb
from support.places import DOM0, FIXTURES, ODD, Truth

pytestmark = pytest.mark.gdb
OWN = {"open", "close", "boot", "watch"}
"""Commands that only GDB needs."""


def test_the_sub_commands_are_the_registrys_verbs(gdb: Gdb) -> None:
    listed = {line.split()[1] for line in gdb("complete p2m ").out.splitlines()}
    assert listed == set(BY_NAME) | OWN


def test_p2m_alone_and_its_help_list_every_verb_in_order(gdb: Gdb) -> None:
    out = gdb("p2m").out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")][: len(all_verbs())] == [
        v.name for v in all_verbs()
    ]
    help_text = gdb("help p2m").out
    assert all(f"p2m {v.name} -- {v.summary[0].upper()}" in help_text for v in all_verbs())


def test_help_of_every_verb_has_usage_options_and_example(gdb: Gdb) -> None:
    out = gdb(*(f"help p2m {v.name}" for v in all_verbs())).out
    for verb in all_verbs():
        assert f"usage: p2m {verb.name} " in out
        assert f"example: p2m {verb.name} {verb.example}".rstrip() in out
        usage = out.split(f"usage: p2m {verb.name} ")[1].split("\n\n")[0]
        assert verb.uses != "target" or "DUMP" not in usage


def test_option_help_prints_the_same(gdb: Gdb) -> None:
    ran = gdb("p2m map --help", "print $_p2m_status")
    assert "usage: p2m map" in ran.out and "--fold" in ran.out
    assert ran.out.rstrip().endswith("$1 = 0") and not ran.err


def both(gdb: Gdb, truth_path: Path, extra: str, folder: Path) -> list[tuple[Verb, str, str]]:
    """(verb, what GDB wrote, what the shell wrote) for every verb with its own example, in directories alike."""
    commands, expected = [f"p2m open {truth_path}"], []
    for place in ("gdb", "shell"):
        (folder / place).mkdir()
        (folder / place / "fixtures").symlink_to(FIXTURES)
    for verb in all_verbs():
        words = shlex.split(verb.example)
        commands += [f"echo \\n== {verb.name}\\n", f"p2m {verb.name} {verb.example} {extra}", "p2m-end"]
        dump = [truth_path] if verb.uses == "target" else []
        expected.append((verb, [verb.name, *dump, *words, *shlex.split(extra)]))
    script = "define p2m-end\necho == end\\n\nend\n"
    (folder / "end.gdb").write_text(script)
    ran = gdb(f"source {folder / 'end.gdb'}", *commands, cwd=folder / "gdb")
    shown = []
    for verb, arguments in expected:
        text = ran.out.split(f"\n== {verb.name}\n")[1].split("== end\n")[0]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder / "shell")
            shell = run_cli(*arguments)
        if shell.code >= 2:
            message = shell.err.removeprefix("gdb-p2m: ").replace("gdb-p2m", "p2m")
            assert message.strip() in ran.err.replace("p2m: p2m", "p2m"), ran.err
        shown.append((verb, text, shell.out))
    return shown


@pytest.mark.parametrize(
    "truth", [pytest.param(DOM0, id=DOM0.name), pytest.param(ODD, id=ODD.name, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("extra", ["--format json", ""], ids=["json", "text"])
def test_every_verb_says_the_same_as_the_shell(gdb: Gdb, extra: str, truth: Truth, tmp_path: Path) -> None:
    for verb, in_gdb, in_shell in both(gdb, truth.path, extra, tmp_path):
        assert in_gdb == in_shell, verb.name


def test_a_verb_asked_twice_says_the_same(gdb: Gdb, tmp_path: Path) -> None:
    twice = [f"p2m {verb} --json -o {tmp_path}/{i}.{verb}" for i in (1, 2) for verb in ("identify", "check", "stats")]
    gdb(f"p2m open {DOM0.path}", *twice)
    for verb in ("identify", "check", "stats"):
        assert (tmp_path / f"1.{verb}").read_bytes() == (tmp_path / f"2.{verb}").read_bytes()


BAD = [
    ("p2m nonsense", 2, "no verb is called 'nonsense'"),
    ("p2m lokup 1", 2, "did you mean 'lookup'?"),
    ("p2m lookup", 2, "the following arguments are required: N"),
    ("p2m lookup zebra", 2, "not a number: 'zebra'"),
    ("p2m lookup -- -5", 2, "not negative"),
    ("p2m lookup 0x8000000", 2, "out of range"),
    ("p2m map --format yaml", 2, "invalid choice: 'yaml'"),
    ("p2m map --no-such-option", 2, "unrecognized arguments: --no-such-option"),
    ("p2m map --view upside-down", 2, "no view is called 'upside-down'"),
    ("p2m map --domain 77", 3, "domain 77 is not known"),
    ("p2m map --kernel /no/such/vmlinux", 3, "/no/such/vmlinux"),
    ("p2m map -o /no/such/dir/file", 2, "/no/such/dir/file"),
    ("p2m lookup $nonsense(1)", 2, "$nonsense(1)"),
    ("p2m excerpt -", 2, "takes text only"),
    ("p2m open", 2, "the following arguments are required: DUMP"),
    ("p2m open /no/such/dump", 3, "/no/such/dump"),
    ("p2m open /etc/passwd", 3, "not a dump that we know"),
    ("p2m open /", 3, "is a directory"),
    ("p2m close now", 2, "takes no arguments"),
]


def test_errors_are_one_message_and_set_the_status(gdb: Gdb) -> None:
    """The fixture that runs GDB checks that no traceback is printed."""
    commands = [c for line, _, _ in BAD for c in (line, "output $_p2m_status", "echo \\n")]
    ran = gdb(f"p2m open {DOM0.path}", *commands)
    assert ran.out.split() == [str(code) for _, code, _ in BAD]
    for line, _, message in BAD:
        assert message in ran.err, line
    assert "internal error" not in ran.err
    assert all(line.startswith(("p2m", "  ")) for line in ran.err.splitlines()), ran.err


def test_an_internal_error_is_a_message_too_and_full_stacks_are_for_those_who_ask(gdb: Gdb) -> None:
    broken = (
        "python import gdb_p2m.commands.map as m, gdb_p2m.gdbui.session as s; s.Machine.target = lambda *a: {}['oops']"
    )
    ran = gdb(f"p2m open {DOM0.path}", broken, "p2m map", "print $_p2m_status")
    assert "p2m: internal error, please report it: KeyError: 'oops'" in ran.err and "$1 = 3" in ran.out


def test_check_sets_the_status_and_is_no_error(gdb: Gdb) -> None:
    ran = gdb(f"p2m open {DOM0.path}", "p2m check LIN -o /dev/null", "print $_p2m_status")
    assert ran.out == "$1 = 0\n" and not ran.err


def test_timing_goes_to_standard_error_and_later_verbs_are_cheap(gdb: Gdb) -> None:
    ran = gdb(f"p2m open {DOM0.path}", "p2m lookup 1 --timing", "p2m lookup 1 --timing")
    assert ran.err.count("timing:") == 2 and "timing" not in ran.out
    pages = [int(line.split()[2].replace(",", "")) for line in ran.err.splitlines() if "pages read" in line]
    assert pages[1] < pages[0]


def test_arguments_may_be_expressions_of_gdb_and_file_names_may_be_quoted(gdb: Gdb, tmp_path: Path) -> None:
    blank = tmp_path / "a b.core.zst"
    blank.symlink_to(DOM0.path)
    ran = gdb(
        f'p2m open "{blank}"',
        "set $pfn = 0x100",
        "p2m lookup $pfn --json -o " + str(tmp_path / "one"),
        "p2m m2p $p2m($pfn) --json -o " + str(tmp_path / "two"),
        "p2m lookup 0x100 --json -o ~/three",
        env={"HOME": str(tmp_path)},
    )
    assert not ran.err
    assert (
        (tmp_path / "one").read_text()
        == (tmp_path / "three").read_text()
        == run_cli("lookup", DOM0.path, "0x100", "--json").out
    )
    assert '"pfn": 256' in (tmp_path / "two").read_text()


def test_open_close_and_settings(gdb: Gdb) -> None:
    ran = gdb(
        f"p2m open {DOM0.path}",
        "p2m close",
        "p2m map",
        "p2m close",
        "show p2m kernel",
        "set p2m kernel /some/vmlinux",
        "show p2m kernel",
        "show p2m pmemsave",
        "set p2m pmemsave off",
        "show p2m pmemsave",
        f"p2m open {DOM0.path}",
        "p2m map",
        f"p2m open {DOM0.path} --kernel /etc/hostname",
        "p2m map",
    )
    assert ran.out.splitlines() == [
        "The guest kernel's file (vmlinux, System.map or vmlinuz) is not set.",
        "The guest kernel's file (vmlinux, System.map or vmlinuz) is /some/vmlinux.",
        "Whether p2m may use pmemsave is on.",
        "Whether p2m may use pmemsave is off.",
    ]
    assert "no dump is open, and GDB is not connected to a machine" in ran.err
    assert "p2m: no dump is open\n" in ran.err
    assert ran.err.count("/some/vmlinux") == 1 and "/etc/hostname" in ran.err


def test_pmemsave_can_be_forbidden_by_the_environment(gdb: Gdb) -> None:
    assert "is off" in gdb("show p2m pmemsave", env={"GDB_P2M_PMEMSAVE": "0"}).out


def test_output_is_captured_by_gdb_like_any_other(gdb: Gdb, tmp_path: Path) -> None:
    log = tmp_path / "log"
    gdb(f"p2m open {DOM0.path}", f"set logging file {log}", "set logging enabled on", "p2m lookup 0x100")
    assert log.read_text() == run_cli("lookup", DOM0.path, "0x100").out
