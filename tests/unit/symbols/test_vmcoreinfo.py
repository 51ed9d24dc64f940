"""VMCOREINFO text: what is read from it, what is skipped, and that writing and reading agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gdb_p2m.symbols.vmcoreinfo import MAX_LINE, MAX_TEXT, VmcoreInfo

TEXT = b"""OSRELEASE=6.1.0-44-amd64
BUILD-ID=EB4fbcd037e7253717950bf2b93bd5566f47c56f
PAGESIZE=4096
SYMBOL(init_uts_ns)=ffffffff8264f8c0
SYMBOL(kallsyms_names)=ffffffff821bdac0
SYMBOL(kallsyms_num_syms)=0xffffffff821bdab8
SIZE(list_head)=16
OFFSET(page.flags)=0
OFFSET(zone.free_area)=192
LENGTH(zone.free_area)=11
NUMBER(NR_FREE_PAGES)=0
NUMBER(phys_base)=-16777216
NUMBER(PHYS_OFFSET)=0x40000000
NUMBER(phys_offset)=18446603336221196288
CONFIG_X86_PAE=y
CRASHTIME=1500000000
"""


def test_every_form_of_line_is_read() -> None:
    info = VmcoreInfo.parse(TEXT, "VMCOREINFO in memory", "page 5")
    assert info.malformed == 0
    assert info.release == "6.1.0-44-amd64"
    assert info.build_id == "eb4fbcd037e7253717950bf2b93bd5566f47c56f"
    assert info.values["PAGESIZE"] == "4096" and info.values["CONFIG_X86_PAE"] == "y"
    assert info.size("list_head") == 16
    assert info.offset("page.flags") == 0
    assert info.offset("page.nothing") is None
    assert info.lengths == {"zone.free_area": 11}
    assert info.number("phys_base") == -16777216
    assert info.number("PHYS_OFFSET") == 0x40000000
    assert info.number("phys_offset") == 18446603336221196288
    symbol = info.symbol("init_uts_ns")
    assert symbol is not None and symbol.address == 0xFFFFFFFF8264F8C0
    assert symbol.source == "VMCOREINFO in memory, page 5"
    assert info.symbol("init_uts") is None
    assert set(info.names()) == {"init_uts_ns", "kallsyms_names", "kallsyms_num_syms"}


def test_hints_for_kallsyms_are_its_addresses() -> None:
    assert VmcoreInfo.parse(TEXT).kallsyms_hints() == {
        "kallsyms_names": 0xFFFFFFFF821BDAC0,
        "kallsyms_num_syms": 0xFFFFFFFF821BDAB8,
    }


def test_nearest_claims_only_exact_hits() -> None:
    info = VmcoreInfo.parse(TEXT)
    assert info.nearest(0xFFFFFFFF8264F8C0) == ("init_uts_ns", 0)
    assert info.nearest(0xFFFFFFFF8264F8C1) is None


def test_malformed_lines_are_skipped_and_counted() -> None:
    bad = [
        "no equals sign",
        "=value",
        "SYMBOL()=12",
        "SYMBOL(x)=",
        "SYMBOL(x)=xyz",
        "SYMBOL(x)=-1",
        "SYMBOL(x)=12345678901234567",
        "SYMBOL(a)b)=12",
        "SIZE(x)=0x10",
        "SIZE(x)=-1",
        "OFFSET(x.y)=99999999999999999999",
        "NUMBER(x)=12ab",
        "NUMBER(x)=1.5",
        "NUMBER(x)= 5",
        "NUMBER(x)=-9223372036854775809",
        "SYMBOL(x\0)=12",
        "SYMBOL(\u00e9)=12",
        "FOO=\x1b[31m",
        "OTHER(x)=5",
        "A" * MAX_LINE + "=1",
    ]
    info = VmcoreInfo.parse("\n".join(bad) + "\nSIZE(y)=7\n")
    assert info.malformed == len(bad)
    assert list(info.lines()) == ["SIZE(y)=7"]


def test_a_second_value_does_not_replace_the_first() -> None:
    info = VmcoreInfo.parse(b"SYMBOL(x)=10\nSYMBOL(x)=10\nSYMBOL(x)=20\nOSRELEASE=a\nOSRELEASE=b\n")
    assert info.symbols == {"x": 0x10} and info.release == "a"
    assert info.malformed == 2


def test_padding_after_the_text_is_not_malformed() -> None:
    assert VmcoreInfo.parse(b"PAGESIZE=4096\n" + bytes(100)).malformed == 0
    assert VmcoreInfo.parse(b"").malformed == 0


def test_a_build_id_that_is_none_is_not_given_out() -> None:
    for text in (b"BUILD-ID=", b"BUILD-ID=xyz", b"BUILD-ID=abc", b"BUILD-ID=" + b"ab" * 65):
        assert VmcoreInfo.parse(text).build_id is None


def test_text_past_the_limit_is_not_looked_at() -> None:
    info = VmcoreInfo.parse(b"\n" * MAX_TEXT + b"SIZE(x)=5\n")
    assert info.sizes == {} and info.malformed == 1


names = st.from_regex(r"[A-Za-z_.][A-Za-z0-9_.$]{0,40}", fullmatch=True)
unsigned = st.integers(0, 2**64 - 1)


@given(
    st.dictionaries(names, unsigned),
    st.dictionaries(names, unsigned),
    st.dictionaries(names, unsigned),
    st.dictionaries(names, st.integers(-(2**63), 2**64 - 1)),
    st.dictionaries(
        st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.from_regex(r"[ -~]{0,30}", fullmatch=True)
    ),
)
def test_what_is_written_reads_back_the_same(
    symbols: dict[str, int],
    sizes: dict[str, int],
    offsets: dict[str, int],
    numbers: dict[str, int],
    values: dict[str, str],
) -> None:
    info = VmcoreInfo(
        symbols=symbols, sizes=sizes, offsets=offsets, numbers=numbers, lengths=dict(sizes), values=values
    )
    assert VmcoreInfo.parse(info.render()) == info
    assert VmcoreInfo.parse(info.render().encode()) == info


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_without_complaint(text: bytes) -> None:
    info = VmcoreInfo.parse(text)
    assert info.malformed <= text.count(b"\n") + 1
    assert VmcoreInfo.parse(info.render()).symbols == info.symbols


@given(st.lists(st.sampled_from(TEXT.decode().splitlines()) | st.text(max_size=30)))
def test_good_lines_survive_among_bad_ones(lines: list[str]) -> None:
    info = VmcoreInfo.parse("\n".join(lines))
    if "SIZE(list_head)=16" in lines:
        assert info.size("list_head") == 16
