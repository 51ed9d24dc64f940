"""Sizes and offsets of Xen: which source answers, which era is shown by what, and what is said about it."""

from __future__ import annotations

import pytest

from gdb_p2m.errors import NotFound
from gdb_p2m.layout.xen_riscv import SERIES_V5, XEN_4_22_EMBEDDED, XEN_4_22_POINTER
from gdb_p2m.symbols.vmcoreinfo import VmcoreInfo
from gdb_p2m.symbols.xen_facts import XenFacts
from support.riscv import model


def facts(*lines: str) -> XenFacts:
    """Facts from the text of a note."""
    return XenFacts([VmcoreInfo.parse("\n".join(lines), "VMCOREINFO_XEN note", "test")])


def test_md_t_in_the_note_means_four_byte_slots() -> None:
    found = facts("SIZE(md_t)=4", "OFFSET(page_info.v.md.pg)=32")
    assert (found.metadata.name, found.metadata.slot_bytes, found.metadata.mask) == ("md_t", 4, 15)
    assert "SIZE(md_t)=4" in found.metadata_evidence


def test_used_entries_in_the_note_mean_struct_md_t() -> None:
    found = facts("OFFSET(page_info.u.md.used_entries)=24", "OFFSET(page_info.v.md.pg)=32")
    assert found.metadata.name == "md_t"
    assert found.size("md_t") == 4


def test_a_note_with_metadata_and_without_md_t_means_the_series_v5() -> None:
    found = facts("OFFSET(page_info.v.md.pg)=32", "SYMBOL(gstage_mode)=1000", "SYMBOL(gstage_root_level)=1004")
    assert (found.metadata.name, found.metadata.slot_bytes) == ("pte_t", 8)
    assert found.mode_form == "globals"
    assert found.fact("SIZE", "md_t").value is None


@pytest.mark.parametrize(
    ("symbols", "form", "slots", "layout"),
    [
        (("gstage_modes", "max_gstage_mode"), "pointer", "md_t", XEN_4_22_POINTER),
        (("max_gstage_mode",), "embedded", "md_t", XEN_4_22_EMBEDDED),
        (("gstage_mode", "gstage_root_level"), "globals", "pte_t", SERIES_V5),
    ],
)
def test_symbols_alone_choose_the_declared_layout_and_say_so(
    symbols: tuple[str, ...], form: str, slots: str, layout: object
) -> None:
    found = facts(*(f"SYMBOL({s})=1000" for s in symbols))
    assert (found.mode_form, found.metadata.name) == (form, slots)
    assert found.declared is layout
    fact = found.fact("OFFSET", "p2m_domain.root")
    assert fact.value == 32
    assert "declared" in fact.source and symbols[0] in fact.source


def test_the_neighbour_of_mode_tells_a_pointer_from_a_struct() -> None:
    assert facts("OFFSET(p2m_domain.mode)=40", "OFFSET(p2m_domain.domain)=48").mode_form == "pointer"
    assert facts("OFFSET(p2m_domain.mode)=40", "OFFSET(p2m_domain.domain)=56").mode_form == "embedded"


def test_offsets_through_an_embedded_struct_are_used() -> None:
    found = facts("OFFSET(p2m_domain.mode.mode)=64", "OFFSET(p2m_domain.mode.paging_levels)=72")
    assert found.mode_form == "embedded"
    assert found.offset("p2m_domain.mode") == 64
    assert found.offset("gstage_mode_desc.paging_levels") == 8


def test_a_note_that_knows_the_struct_proves_the_absence_of_an_optional_member() -> None:
    found = facts("SIZE(page_info)=48", "OFFSET(page_info.v.md.pg)=32", "SIZE(md_t)=4")
    assert found.maybe_offset("page_info.u.md.used_entries") is None
    assert found.offset("page_info.count_info") == 16


def test_enumerators_come_from_the_note_first() -> None:
    assert facts("NUMBER(p2m_map_foreign_rw)=6").number("p2m_map_foreign_rw") == 6
    assert facts().number("p2m_map_foreign_rw") == 4
    assert facts().fact("NUMBER", "p2m_ram_rw").source == "declared: asm/p2m.h"


def test_a_fact_that_nobody_knows_names_itself_and_what_to_give() -> None:
    found = facts("SYMBOL(gstage_mode)=0", "SYMBOL(gstage_root_level)=4")
    with pytest.raises(NotFound, match=r"OFFSET\(p2m_domain.mode\)") as e:
        found.offset("p2m_domain.mode")
    assert "--xen" in (e.value.hint or "")


def test_renumbered_types_are_followed() -> None:
    """Enumerators are taken from the sources: with other numbers the same memory has other types."""
    machine = model("riscv-two-domains")
    text = machine.xen.vmcoreinfo().replace("NUMBER(p2m_map_foreign_rw)=4", "NUMBER(p2m_map_foreign_rw)=5")
    text = text.replace("NUMBER(p2m_map_foreign_ro)=5", "NUMBER(p2m_map_foreign_ro)=4")
    source = machine.target.source
    for i, note in enumerate(source.info.notes):
        if note.name == "VMCOREINFO_XEN":
            source.info.notes[i] = type(note)(note.name, note.type, text.encode())
    run = machine.view().mapping().lookup(0x90000)
    assert run is not None and run.kind.word == "map_foreign_ro"
