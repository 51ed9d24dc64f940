"""Xen's own symbol table in its memory, written by the tests' encoder."""

from __future__ import annotations

import pytest
from kallsyms_encoder import BUILD_ID, VARIANTS, XEN, XEN_BASE, Variant, kernel

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.symbols.xen_symbols import XenSymbols
from gdb_p2m.units import VirtualAddress


@pytest.mark.parametrize("seed", range(5))
def test_every_symbol_comes_back(seed: int) -> None:
    made = kernel(XEN, seed)
    source = XenSymbols(made.image, VirtualAddress(XEN_BASE))
    names, addresses = source.all()
    assert list(zip(addresses.tolist(), names, strict=True)) == made.symbols
    assert source.kind == "Xen symbols" and source.build_id == BUILD_ID.hex() and source.release is None


def test_a_name_means_the_global_symbol_and_else_the_static_ones() -> None:
    made = kernel(XEN, 6)
    source = XenSymbols(made.image, VirtualAddress(XEN_BASE))
    globals_ = {name for _, name in made.symbols if "#" not in name}
    seen = 0
    for _, name in made.symbols:
        bare = name.rpartition("#")[2]
        exact = sorted({a for a, n in made.symbols if n == bare})
        static = sorted({a for a, n in made.symbols if n.endswith("#" + bare)})
        assert source.addresses(bare) == (exact if bare in globals_ else static)
        seen += "#" in name
    assert seen > 100
    assert source.symbol("no_such_name") is None


def test_a_wrong_base_is_refused() -> None:
    """Unless it is wrong by whole GiB: then so is the origin, and nothing in the image can tell."""
    made = kernel(XEN, 7)
    for shift in (0x1000, 0x200000, -0x1000, 0x10_0000_1000):
        with pytest.raises(NotUnderstood):
            XenSymbols(made.image, VirtualAddress(XEN_BASE + shift))


def test_a_build_id_note_elsewhere_is_refused() -> None:
    made = kernel(XEN, 8)
    made.image[0x110C:0x1110] = b"XYZ\0"
    with pytest.raises(NotUnderstood, match="not a note"):
        XenSymbols(made.image, VirtualAddress(XEN_BASE))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_linux_is_not_taken_for_xen(variant: Variant) -> None:
    made = kernel(variant, 9)
    with pytest.raises(NotUnderstood):
        XenSymbols(made.image, VirtualAddress(made.variant.base))
