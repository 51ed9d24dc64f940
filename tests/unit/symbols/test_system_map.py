"""System.map, Xen's map, saved /proc/kallsyms: what is read, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdb_p2m.errors import NotUnderstood, P2mError
from gdb_p2m.symbols import system_map
from gdb_p2m.symbols.symtab import open_kernel_file
from gdb_p2m.symbols.system_map import SystemMap

MAP = b"""0000000000000000 A fixed_percpu_data
0000000000001000 A percpu_thing
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000040 t p2m
ffffffff81000050 t p2m_missing_pte
ffffffff81000060 d p2m_missing
ffffffff81000070 d p2m_missing
ffffffff82000000 B _end
"""


def listing(data: bytes) -> SystemMap:
    return SystemMap(data, "a file")


def test_names_have_their_addresses(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_bytes(MAP)
    source = open_kernel_file(str(path))
    assert source.kind == "System.map" and source.detail == str(path)
    assert (source.build_id, source.release) == (None, None)
    for line in MAP.decode().splitlines():
        address, _, name = line.split()
        found = source.symbol(name)
        assert found is not None
        assert found.address == (0xFFFFFFFF81000060 if name == "p2m_missing" else int(address, 16))
    for absent in ("p2m_", "p2m_missin", "2m", "T", "", "_end\n", "_stext\nffffffff81000000 T _text"):
        assert source.symbol(absent) is None
    assert len(list(source.names())) == 9


def test_of_several_symbols_the_lowest_is_given_and_the_others_are_told() -> None:
    found = listing(MAP).symbol("p2m_missing")
    assert found is not None and found.source == "System.map, a file (one of 2 of that name)"


def test_nearest_names_the_symbol_below() -> None:
    assert listing(MAP).nearest(0xFFFFFFFF81000045) == ("p2m", 5)
    assert listing(MAP).nearest(0xFFFFFFFF81000000) == ("_stext", 0)
    assert listing(MAP).nearest(0x1001) is None
    assert listing(MAP).nearest(0xFFFFFFFF82000001) is None


def test_a_cut_last_line_is_not_taken_for_a_shorter_name() -> None:
    cut = MAP[: MAP.index(b"_pte\n")]
    assert listing(cut).symbol("p2m_missing") is None
    assert listing(cut).symbol("p2m") is not None


def test_xen_and_32_bit_maps_are_read() -> None:
    xen = b"0xffff82d040200000 T _stext\n0xffff82d04057b380 B domain_list\n"
    found = listing(xen).symbol("domain_list")
    assert found is not None and found.address == 0xFFFF82D04057B380
    small = b"c1000000 T _text\nc1a00000 D p2m_top\n"
    found = listing(small).symbol("p2m_top")
    assert found is not None and found.address == 0xC1A00000


def test_line_ends_of_other_systems_do_not_matter() -> None:
    found = listing(MAP.replace(b"\n", b"\r\n")).symbol("p2m")
    assert found is not None and found.address == 0xFFFFFFFF81000040


def test_module_symbols_of_a_saved_kallsyms_are_left_out() -> None:
    source = listing(MAP + b"ffffffffc0000000 t p2m\t[module]\nffffffffc0000010 t other\t[module]\n")
    assert source.addresses("p2m") == [0xFFFFFFFF81000040]
    assert "other" not in "".join(source.names())


def test_hidden_addresses_are_refused_with_the_reason() -> None:
    hidden = b"\n".join(b"0" * 16 + line[16:] for line in MAP.splitlines()) + b"\n"
    with pytest.raises(NotUnderstood, match="all addresses are 0"):
        listing(hidden)


def test_debians_placeholder_is_refused_with_the_packages_name() -> None:
    text = b"ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n"
    with pytest.raises(NotUnderstood, match="linux-image-<version>-dbg"):
        listing(text)


def test_listings_that_are_no_kernels_are_refused() -> None:
    with pytest.raises(NotUnderstood, match="no _stext"):
        listing(b"0000000000001000 T main\n")
    with pytest.raises(NotUnderstood, match="1 of 4 lines"):
        listing(b"ffffffff81000000 T _text\nhello\nhello again, this is text\n\n")
    with pytest.raises(NotUnderstood, match=r"not a System\.map"):
        listing(b"hello")
    with pytest.raises(NotUnderstood, match="0 of 0 lines"):
        listing(b"ffffffff81000000 T _text")


def test_too_large_listings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_map, "MAX_SIZE", 100)
    with pytest.raises(NotUnderstood, match="limit 100"):
        listing(MAP)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.from_regex(r"[!-~]{1,30}", fullmatch=True)), max_size=50)
)
def test_any_listing_is_read_back(pairs: list[tuple[int, str]]) -> None:
    pairs = [*pairs, (0xFFFFFFFF81000000, "_stext")]
    source = listing("".join(f"{a:016x} T {n}\n" for a, n in pairs).encode())
    assert list(source.names()) == [n for _, n in pairs]
    for _, name in pairs:
        assert source.addresses(name) == sorted({a for a, n in pairs if n == name})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(MAP)), st.binary(max_size=6)), max_size=5), st.integers(0, len(MAP)))
def test_damaged_listings_give_symbols_or_a_message(
    tmp_path: Path, changes: list[tuple[int, bytes]], cut: int
) -> None:
    data = bytearray(MAP[:cut] if cut > 30 else MAP)
    for at, new in changes:
        data[at : at + len(new)] = new
    path = tmp_path / "System.map"
    path.write_bytes(data)
    try:
        source = open_kernel_file(str(path))
    except P2mError:
        return
    for name in source.names():
        source.symbol(name)
    source.nearest(0xFFFFFFFF81000001)
