"""Bytes written by hand from the documents, against what the model writes."""

from __future__ import annotations

import numpy as np
import pytest

from gdb_p2m.layout.x86_pv import WIDTH_32, WIDTH_64
from gdb_p2m.model.build import build
from gdb_p2m.model.description import parse
from gdb_p2m.model.leaves import LeafRows
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.structs import fold_cr3, pack, record_words, shared_info_layout
from gdb_p2m.model.tables import DATA_RO, DATA_RW, M2P_PAGE, M2P_TABLE, TABLE, pte
from support.places import FIXTURES

GOLDEN = FIXTURES.parent / "tests" / "golden" / "model" / "structures.hex"


def golden() -> dict[str, bytes]:
    """The file: `name: hex`, `+ hex` continues, # comments."""
    out: dict[str, bytes] = {}
    name = ""
    for line in GOLDEN.read_text().splitlines():
        text = line.split("#")[0].strip()
        if not text:
            continue
        if text.startswith("+"):
            out[name] += bytes.fromhex(text[1:])
        else:
            name, _, digits = text.partition(":")
            out[name] = bytes.fromhex(digits)
    return out


GOLD = golden()


def machine(name: str) -> Machine:
    path = FIXTURES / "models" / f"{name}.model"
    return build(parse(path.read_text(), path.name))


def leaf_bytes(m: Machine, pfns: list[int]) -> bytes:
    """Entries as they lie in the leaves' pages."""
    size = m.width.bytes
    return b"".join(m.memory.read(m.entry_address(pfn), size) for pfn in pfns)


@pytest.mark.parametrize(("name", "gold"), [("lab-dom0", "leaf-64"), ("tree-dom0", "leaf-64"), ("pae-dom0", "leaf-32")])
def test_four_entries_of_a_pc(name: str, gold: str) -> None:
    assert leaf_bytes(machine(name), [0x9E, 0x9F, 0x100, 0x30000]) == GOLD[gold]


def test_foreign_entries() -> None:
    assert leaf_bytes(machine("e820-host-domu"), [0x20100, 0x20101]) == GOLD["foreign-64"]


@pytest.mark.parametrize(("name", "gold"), [("lab-dom0", "start_info-64-head"), ("pae-dom0", "start_info-32-head")])
def test_head_of_start_info(name: str, gold: str) -> None:
    m = machine(name)
    assert m.shared_info == 0x3FE00000  # behind the M2P at the end of RAM: the bytes by hand hold it
    assert m.memory.read(m.start_info, len(GOLD[gold])) == GOLD[gold]


def test_shared_info_arch() -> None:
    m = machine("lab-dom0")
    assert m.memory.read(m.shared_info + 3088, 48) == GOLD["shared_info-64-arch"]


def test_shared_info_arch_of_i386_folds_cr3() -> None:
    values: dict[str, int | str] = {
        "max_pfn": 0x3FFE0,
        "pfn_to_mfn_frame_list_list": 0x123456,
        "p2m_cr3": fold_cr3(0x123456, WIDTH_32),
        "p2m_vaddr": 0xEE000000,
        "p2m_generation": 2,
    }
    assert pack(shared_info_layout(WIDTH_32), values)[2316:2340] == GOLD["shared_info-32-arch"]


def test_remap_records() -> None:
    mfns = np.array([0x1009F, 0x100A0, 0x100A1], dtype=np.int64)
    assert record_words(WIDTH_64.invalid, 0x19000, mfns, WIDTH_64) == GOLD["remap-64"]
    assert record_words(WIDTH_32.invalid, 0x19000, mfns, WIDTH_32) == GOLD["remap-32"]


@pytest.mark.parametrize(
    ("gold", "mfn", "flags"),
    [
        ("pte-private", 0x2FC1B, DATA_RW),
        ("pte-shared", 0x2FC1B, DATA_RO),
        ("pte-table", 0x2FC1B, TABLE),
        ("pte-m2p", 0x3A000, M2P_PAGE),
        ("pte-m2p-l4", 0x2FC1B, M2P_TABLE),
    ],
)
def test_page_table_entries(gold: str, mfn: int, flags: int) -> None:
    assert pte(mfn, flags).to_bytes(8, "little") == GOLD[gold]


def test_rows_of_leaves_are_the_entries_of_their_pfns() -> None:
    m = machine("domu-131200")
    rows = LeafRows(np.array([0, 1, 5, 255], dtype=np.int64), m.p2m, m.frames, m.width)
    whole = rows(0, 4).view("<u8")
    for row, page in enumerate((0, 1, 5, 255)):
        assert np.array_equal(whole[row], m.entries(page * 512, (page + 1) * 512))
    assert np.array_equal(rows(1, 3), rows(0, 4)[1:3])
