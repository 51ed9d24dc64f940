"""The kallsyms decoder against tables written by an encoder of the tests' own, in every version's way."""

from __future__ import annotations

import bisect
import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kallsyms_encoder import BANNER, BUILD_ID, VARIANTS, XEN, Encoded, Variant, kernel

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.symbols.kallsyms import Kallsyms
from gdb_p2m.units import VirtualAddress

every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)


def decode(made: Encoded, hints: dict[str, int] | None = None) -> Kallsyms:
    variant = made.variant
    return Kallsyms(made.image, VirtualAddress(variant.base), hints, word=variant.word)


def hints_of(made: Encoded) -> dict[str, int]:
    """What VMCOREINFO says of the tables (it does not mention the markers)."""
    return {name: made.variant.base + at for name, at in made.at.items() if "markers" not in name}


@every_variant
@pytest.mark.parametrize("seed", range(3))
def test_every_symbol_of_every_version_comes_back(variant: Variant, seed: int) -> None:
    made = kernel(variant, seed)
    names, addresses = decode(made).all()
    assert list(zip(addresses.tolist(), names, strict=True)) == made.symbols


@pytest.mark.thorough
@settings(max_examples=40, deadline=None)
@given(st.sampled_from(VARIANTS), st.integers(0, 2**32), st.integers(280, 3000))
def test_any_kernel_comes_back(variant: Variant, seed: int, count: int) -> None:
    made = kernel(variant, seed, count)
    names, addresses = decode(made).all()
    assert list(zip(addresses.tolist(), names, strict=True)) == made.symbols


@every_variant
def test_exact_names_are_found_with_all_their_addresses(variant: Variant) -> None:
    made = kernel(variant, 4)
    decoded = decode(made)
    wanted: dict[str, set[int]] = defaultdict(set)
    for address, name in made.symbols:
        wanted[name].add(address)
    assert any(len(addresses) > 1 for addresses in wanted.values())
    for name, addresses in wanted.items():
        assert decoded.addresses(name) == sorted(addresses)
        found = decoded.symbol(name)
        assert found is not None and found.address == min(addresses)
        assert (f"one of {len(addresses)} of that name" in found.source) == (len(addresses) > 1)
    assert decoded.symbols(wanted).keys() == wanted.keys()


@every_variant
def test_prefixes_and_extensions_of_names_are_not_found(variant: Variant) -> None:
    made = kernel(variant, 5, 300)
    decoded = decode(made)
    names = {name for _, name in made.symbols}
    for name in names:
        for other in (name[:-1], name + "x", "x" + name, name[1:], name.upper(), name + "\0", ""):
            if other not in names:
                assert decoded.symbol(other) is None


@every_variant
def test_nearest_agrees_with_a_search_of_the_list(variant: Variant) -> None:
    made = kernel(variant, 6)
    decoded = decode(made)
    kernel_symbols = [(a, n) for a, n in made.symbols if a >= variant.base]
    starts = [a for a, _ in kernel_symbols]
    rng = random.Random(1)
    for _ in range(200):
        address = variant.base + rng.randrange(len(made.image))
        i = bisect.bisect_right(starts, address) - 1
        first = bisect.bisect_left(starts, starts[i])
        assert decoded.nearest(address) == (kernel_symbols[first][1], address - starts[i])
    assert decoded.nearest(variant.base + len(made.image)) is None
    assert decoded.nearest(variant.base - 1) is None
    assert decoded.nearest((1 << 64) - 1) is None


def test_nearest_between_percpu_offsets_and_kernel_is_nothing() -> None:
    made = kernel(VARIANTS[2], 6)
    percpu = [(a, n) for a, n in made.symbols if a < made.variant.base]
    last = percpu[-1][0]
    assert decode(made).nearest(last) is not None
    assert decode(made).nearest(last + 1) is None
    assert decode(made).nearest(percpu[0][0]) is not None


@every_variant
def test_tables_are_located_where_they_were_written(variant: Variant) -> None:
    made = kernel(variant, 7)
    for name, address in decode(made).locations().items():
        assert made.at.get(name, made.at.get("kallsyms_offsets")) == address - variant.base


@every_variant
def test_release_and_build_id_come_from_the_image(variant: Variant) -> None:
    decoded = decode(kernel(variant, 8))
    assert decoded.release == "6.6.6-test-amd64"
    assert decoded.build_id == BUILD_ID.hex()


@every_variant
def test_hints_and_search_agree_and_wrong_hints_do_no_harm(variant: Variant) -> None:
    made = kernel(variant, 9)
    plain = decode(made).all()
    for hints in (hints_of(made), {k: v + 8 for k, v in hints_of(made).items()}, {"kallsyms_names": 5}):
        names, addresses = decode(made, hints).all()
        assert names == plain[0] and addresses.tolist() == plain[1].tolist()


def test_hints_find_tables_in_an_order_that_no_known_version_has() -> None:
    made = kernel(Variant("moved", first=True, encoding="percpu"), 10)
    moved = bytearray(made.image)
    at, count = made.at, len(made.symbols)
    target = len(moved) + -len(moved) % 8
    moved += bytes(target - len(moved)) + moved[at["kallsyms_offsets"] : at["kallsyms_offsets"] + 4 * count]
    moved[at["kallsyms_offsets"] : at["kallsyms_offsets"] + 4 * count] = bytes(4 * count)
    hints = hints_of(made) | {"kallsyms_offsets": made.variant.base + target}
    with pytest.raises(NotUnderstood, match="no table of addresses"):
        Kallsyms(moved, VirtualAddress(made.variant.base))
    found = Kallsyms(moved, VirtualAddress(made.variant.base), hints)
    assert found.all()[1].tolist() == [address for address, _ in made.symbols]


def test_other_buffers_work_like_bytes() -> None:
    made = kernel(VARIANTS[2], 11)
    base = VirtualAddress(made.variant.base)
    expected = Kallsyms(bytes(made.image), base).all()[0]
    assert Kallsyms(memoryview(bytes(made.image)), base).all()[0] == expected
    assert Kallsyms(bytearray(made.image), base).all()[0] == expected


# -- what must be refused ---------------------------------------------------------------------------------


@every_variant
def test_a_banner_elsewhere_means_shifted_addresses_and_is_refused(variant: Variant) -> None:
    made = kernel(variant, 12)
    made.image[0x1000 : 0x1000 + len(BANNER)] = b"x" + BANNER[:-1]
    with pytest.raises(NotUnderstood, match="linux_banner"):
        decode(made)


@every_variant
def test_a_wrong_base_is_refused(variant: Variant) -> None:
    made = kernel(variant, 13)
    for shift in (-0x4000, 0x1000, 0x10_0000, 0x4000_0000):
        if variant.encoding == "place":
            continue  # the addresses move with the image: nothing in it can tell
        with pytest.raises(NotUnderstood):
            Kallsyms(made.image, VirtualAddress(variant.base + shift), word=variant.word)


@every_variant
def test_one_damaged_marker_or_count_is_refused(variant: Variant) -> None:
    made = kernel(variant, 14)
    for name in ("kallsyms_num_syms", "kallsyms_markers", "kallsyms_token_index"):
        image = bytearray(made.image)
        image[made.at[name] + 4 * (name == "kallsyms_markers")] ^= 0x55
        with pytest.raises(NotUnderstood):
            Kallsyms(image, VirtualAddress(variant.base), word=variant.word)


@every_variant
def test_every_truncation_is_refused(variant: Variant) -> None:
    made = kernel(variant, 15, 300)
    ends = sorted(made.at.values())
    for cut in [0, 1, 7, 100, *ends, *(end + 16 for end in ends[:-1])]:
        if cut > max(at for name, at in made.at.items() if "seqs" not in name):
            continue
        with pytest.raises(NotUnderstood):
            Kallsyms(made.image[:cut], VirtualAddress(variant.base), word=variant.word)


def test_two_kernels_in_one_image_are_refused() -> None:
    made = kernel(VARIANTS[2], 16)
    with pytest.raises(NotUnderstood, match="2 token tables"):
        Kallsyms(made.image + bytes(-len(made.image) % 8) + made.image, VirtualAddress(made.variant.base))


def test_an_image_that_is_no_kernel_is_refused_with_a_hint() -> None:
    for image in (b"", bytes(1 << 20), random.Random(1).randbytes(1 << 20), b"a\0b\0c\0" * 5000):
        with pytest.raises(NotUnderstood) as caught:
            Kallsyms(image, VirtualAddress(0xFFFFFFFF81000000))
        assert "--kernel" in str(caught.value)


def test_an_image_at_a_physical_address_is_refused() -> None:
    made = kernel(VARIANTS[2], 17)
    with pytest.raises(NotUnderstood, match="not a kernel at its virtual address"):
        Kallsyms(made.image, VirtualAddress(0x200000))


def test_an_image_past_the_end_of_the_address_space_is_refused() -> None:
    made = kernel(VARIANTS[2], 17)
    with pytest.raises(NotUnderstood, match="not a kernel at its virtual address"):
        Kallsyms(made.image, VirtualAddress((1 << 64) - 0x1000))


def test_xen_is_not_taken_for_linux() -> None:
    made = kernel(XEN, 18)
    with pytest.raises(NotUnderstood):
        Kallsyms(made.image, VirtualAddress(made.variant.base))


def test_offsets_that_fit_two_readings_are_read_by_their_base() -> None:
    """6.15's ascending offsets also ascend when read as 7.0's; the base after them settles it."""
    made = kernel(next(v for v in VARIANTS if v.name == "6.15"), 19, 3000)
    assert decode(made).encoding == "relative"


@pytest.mark.thorough
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(VARIANTS), st.integers(0, 20), st.data())
def test_damage_gives_answers_or_not_understood_but_no_crash(
    variant: Variant, seed: int, data: st.DataObject
) -> None:
    made = kernel(variant, seed, 300)
    tables = sorted(made.at.values())
    for _ in range(data.draw(st.integers(1, 4))):
        table = data.draw(st.sampled_from(tables))
        at = min(table + data.draw(st.integers(0, 600)), len(made.image) - 8)
        made.image[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    try:
        decoded = decode(made)
    except NotUnderstood:
        return
    names, addresses = decoded.all()
    assert len(names) == len(addresses) == len(decoded)
    decoded.symbol("_stext")
    decoded.nearest(variant.base + 5)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=5000), st.sampled_from([4, 8]))
def test_any_bytes_are_refused_quietly(image: bytes, word: int) -> None:
    with pytest.raises(NotUnderstood):
        Kallsyms(image, VirtualAddress(0xFFFFFFFF81000000 if word == 8 else 0xC1000000), word=word)
