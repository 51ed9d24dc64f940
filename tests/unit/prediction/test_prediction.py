"""The prediction: right for every guest the model builds, and every difference explained by evidence or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gdb_p2m.commands.predict import prediction_json, predictor
from gdb_p2m.model.build import build
from gdb_p2m.model.description import DescriptionError, Stage, parse
from gdb_p2m.model.machine import Machine
from gdb_p2m.rules.base import Result, RuleContext, run_rule
from gdb_p2m.rules.catalogue import BY_ID
from gdb_p2m.sources.fake import FakeSource
from gdb_p2m.structures.m2p import M2p
from gdb_p2m.target import Target
from gdb_p2m.views.registry import Views
from support.e820 import GIVEN_PFN, POINTER_PFN, TABLE_PFN, Tables, given_map, kernel_map, table_bytes, with_e820
from support.model_memory import source_of
from support.places import FIXTURES

MODELS = FIXTURES / "models"
PV = sorted(p.stem for p in MODELS.glob("*.model") if "riscv" not in p.stem)
PLAIN = [n for n in PV if n not in ("e820-host-domu", "frame-table-domu")]
"""Guests to which nothing happened after their memory was set up."""


def model(name: str, stage: Stage | None = None, change: Callable[[str], str] = str) -> Machine:
    path = MODELS / f"{name}.model"
    return build(parse(change(path.read_text()), path.name), stage=stage)


def context(source: FakeSource, against: str = "e820") -> RuleContext:
    target = Target(source)
    (guest,) = target.guests
    views = Views(guest)
    return RuleContext(target, guest, views, M2p(guest), None, predictor(guest, views, against))


def predicted(source: FakeSource, against: str = "e820") -> dict[str, Any]:
    return prediction_json(context(source, against), against)


def assert_agrees(data: dict[str, Any]) -> None:
    assert data["differences"] == [], data
    assert data["agree"] == data["compared"] > 0 and data["unreadable"] == 0
    if data["storage"] is not None:
        assert data["storage"]["differences"] == []
        assert data["storage"]["agree"] == data["storage"]["compared"] > 0


@pytest.mark.parametrize("name", PLAIN)
def test_the_map_in_memory_leads_to_the_p2m(name: str) -> None:
    assert_agrees(predicted(with_e820(model(name))))


@pytest.mark.parametrize("name", PV)
def test_a_guest_is_what_its_own_description_says(name: str) -> None:
    data = predicted(source_of(model(name)), str(MODELS / f"{name}.model"))
    assert_agrees(data)
    assert data["source"].endswith(f"{name}.model") and data["stage"] == "final"


@pytest.mark.parametrize("name", ["lab-dom0", "large-remap", "pae-dom0"])
def test_before_the_remap_targets_are_still_missing(name: str) -> None:
    data = predicted(with_e820(model(name, "planned")))
    assert_agrees(data)
    assert data["stage"] == "planned" and data["moved_pages"] > 0


def test_the_builders_list_before_memory_setup_has_a_frame_for_every_pfn() -> None:
    data = predicted(source_of(model("lab-dom0", "initial")), str(MODELS / "lab-dom0.model"))
    assert_agrees(data)
    assert data["stage"] == "initial" and data["storage"] is None


def test_before_memory_setup_there_is_nothing_to_predict_from() -> None:
    source = with_e820(model("lab-dom0", "initial"), [])
    result = run_rule(BY_ID["PRE-001"], context(source))
    assert result.status == "could_not_check" and "has not set its memory up yet" in result.reason
    assert "has not set its memory up" in predicted(source)["reason"]


# -- any guest ------------------------------------------------------------------------------------------------


@st.composite
def descriptions(draw: st.DrawFn) -> str:
    """Guests with holes anywhere above the kernel's first pages, RAM that ends inside pages, any room to grow."""
    era = draw(st.sampled_from(["linear", "linear", "linear", "tree-3.16", "tree-3.18", "tree-2.6.39", "tree-2.6.37"]))
    nr = draw(st.integers(0x1600, 0x3000))
    lines = [f"era {era}", f"domain 1{draw(st.sampled_from(['', ' initdomain']))}", f"nr_pages {nr}"]
    lines.append(f"e820 0+{draw(st.sampled_from(['0x9fbff', '0x9f000', '0x80000']))} ram")
    at, kind = 0x100_000, "ram"
    for page in sorted(draw(st.lists(st.integers(0x1500 // 4, 0x5000 // 4), min_size=1, max_size=6, unique=True))):
        # RAM ends inside pages too, but has whole pages: what has none is not in the kernel's map.
        end = page * 4 * 4096 + (draw(st.sampled_from([0, 0x400, 0xC00])) if kind == "ram" else 0)
        if kind == "ram" or draw(st.booleans()):  # else a gap
            lines.append(f"e820 {at:#x}+{end - at:#x} {kind}")
        at = end
        # Trees take unusable ranges for RAM that the domain may not have, so none may be there to begin with.
        kinds = ("ram", "reserved", "acpi", *(("unusable",) if era == "linear" else ()))
        kind = draw(st.sampled_from([k for k in kinds if k != kind]))
    if draw(st.booleans()):
        lines.append("e820 0x100000000+512M ram")
    lines.append(f"frames {draw(st.sampled_from(['contiguous', 'reversed', 'scattered seed 9']))}")
    if draw(st.booleans()):
        lines.append(f"max_pages {nr + draw(st.integers(0, 0x2000))}")
    if era == "linear":
        lines.append(f"p2m_limit {draw(st.sampled_from(['none', '4G', '512G']))}")
    return "\n".join(lines)


@pytest.mark.thorough
@settings(max_examples=60)
@given(descriptions(), st.sampled_from(["final", "planned"]))
@example("era linear\ndomain 1\nnr_pages 5632\ne820 0+0x9fbff ram\ne820 0x100000+0x1500800 ram\n"
         "e820 0x2000000+0x800 nvs", "final")  # fmt: skip
def test_any_guest_follows_from_the_map_its_kernel_keeps(text: str, stage: Stage) -> None:
    try:
        description = parse(text, "drawn")
        machine = build(description, stage=stage if description.era.linear else "final")
    except DescriptionError:
        return
    last = description.e820[-1]
    # A map that ends with half a page of RAM is no machine's, and in the kernel's own map the half page is gone.
    assume(last.kind != "ram" or last.end % 4096 == 0)
    data = predicted(with_e820(machine))
    if all("RAM that this domain may not have" in (d["explained"] or "") for d in data["differences"]):
        data["agree"] += sum(d["count"] for d in data["differences"])
        data["differences"] = []
    assert_agrees(data)


# -- the ISA range ----------------------------------------------------------------------------------------------


def test_a_domu_s_isa_range_is_memory_although_the_kernel_reserves_it() -> None:
    machine = model("domu-131200")
    assert (0xA0000, 0x100000, 2) in kernel_map(machine.description)
    data = predicted(with_e820(machine))
    assert_agrees(data)
    (assumed,) = data["assumed"]
    assert "0xa0..0xff" in assumed and "RAM there, as in every plain domU's map" in assumed


def test_the_p2m_decides_about_the_isa_range_against_the_rule() -> None:
    hole = "nr_pages 0x1800\ne820 0+0xa0000 ram\ne820 0x100000+64M ram\ndomain 1"
    data = predicted(with_e820(build(parse(hole, "domU with a hole"))))
    assert_agrees(data)
    assert "no RAM there, as its PFNs say" in data["assumed"][0]
    assert data["moved_pages"] == 0x60


def test_a_range_that_is_partly_memory_does_not_decide() -> None:
    machine = model("domu-131200", change=lambda t: t + "\nballooned 0xb0+4\n")
    data = predicted(with_e820(machine))
    assert "as in every plain domU's map" in data["assumed"][0]
    assert [(d["start"], d["count"], d["expected"], d["found"]) for d in data["differences"]] == [
        (0xB0, 4, "mfn", "missing")
    ]


@pytest.mark.parametrize(("start", "word"), [(0, "RAM"), (0xA0000, None)])
def test_the_map_as_xen_gave_it_knows_what_was_in_the_isa_range(start: int, word: str | None) -> None:
    machine = model("domu-131200")
    tables = Tables(machine)
    table = tables.put("", TABLE_PFN, table_bytes(kernel_map(machine.description)))
    tables.pointer("e820_table_firmware", table)
    ranges = given_map(machine.description) if word else [(0, 0xA0000, 1), (0x100000, 131200 << 12, 1)]
    tables.put("xen_e820_table", GIVEN_PFN, table_bytes(ranges))
    tables.put("system_state", POINTER_PFN + 3, b"\1\0\0\0")
    data = predicted(tables.source())
    assert data["assumed"] == []
    assert (data["differences"] == []) == (word is not None)


# -- explanations -------------------------------------------------------------------------------------------------


def explained(data: dict[str, Any]) -> list[tuple[int, int, str, str, str | None]]:
    return [(d["start"], d["count"], d["expected"], d["found"], d["explained"]) for d in data["differences"]]


def test_ballooned_memory_is_given_back_and_the_driver_counts_it() -> None:
    machine = model("domu-131200", change=lambda t: t + "\nballooned 0x8000+0x123\n")
    nr = machine.description.nr_pages
    data = predicted(with_e820(machine, balloon=nr - 0x123))
    ((start, count, expected, found, why),) = explained(data)
    assert (start, count, expected, found) == (0x8000, 0x123, "mfn", "missing")
    assert why == (
        "given back to Xen: no entry of the M2P names these PFNs; the balloon driver counts the same: 291 pages out"
    )


def test_a_driver_that_counts_something_else_is_quoted() -> None:
    machine = model("domu-131200", change=lambda t: t + "\nballooned 0x8000+0x123\n")
    data = predicted(with_e820(machine, balloon=machine.description.nr_pages + 5))
    assert data["differences"][0]["explained"].endswith("; the balloon driver counts 5 pages in")


def test_a_lost_entry_is_not_taken_for_ballooning() -> None:
    machine = model("domu-131200")
    machine.poke_entry(0x8000, machine.width.invalid)  # its frame still says 0x8000 in the M2P
    assert explained(predicted(with_e820(machine, balloon=machine.description.nr_pages))) == [
        (0x8000, 1, "mfn", "missing", None)
    ]


def test_frames_of_others_hide_who_owned_a_page_but_the_driver_may_know() -> None:
    machine = model("domu-131200", change=lambda t: t + "\nballooned 0x8000+1\n")
    machine.poke_m2p(machine.xen.max_frame - 1, 0x8000)  # a frame of another domain, at its own PFN 0x8000
    assert explained(predicted(with_e820(machine))) == [(0x8000, 1, "mfn", "missing", None)]
    counted = predicted(with_e820(machine, balloon=machine.description.nr_pages - 1))
    assert (
        counted["differences"][0]["explained"] == "given back to Xen; the balloon driver counts the same: 1 pages out"
    )


def test_foreign_frames_explain_themselves() -> None:
    data = predicted(with_e820(model("e820-host-domu")))
    why = {(d["expected"], d["found"]): d["explained"] for d in data["differences"]}
    assert why["mfn", "foreign"] == "frames of another domain are mapped here, as the entries say (FOREIGN_FRAME_BIT)"
    assert why["mfn", "missing"].startswith("given back to Xen")
    assert sum(d["count"] for d in data["differences"]) == 0x400


def populate(machine: Machine, pfn: int, *, m2p: bool) -> None:
    """A frame of the machine's that nobody has becomes that of `pfn`, as the balloon driver does it."""
    mfn = machine.xen.max_frame - 2
    machine.poke_entry(pfn, mfn)
    if m2p:
        machine.poke_m2p(mfn, pfn)


def test_memory_that_grew_is_proved_by_the_m2p() -> None:
    machine = model("lab-dom0")
    populate(machine, 0x20000, m2p=True)
    data = predicted(with_e820(machine, balloon=machine.description.nr_pages + 1))
    assert explained(data) == [
        (
            0x20000,
            1,
            "missing",
            "mfn",
            "populated after boot: the M2P agrees for all of them; the balloon driver counts the same: 1 pages in",
        )
    ]


def test_a_frame_that_the_m2p_does_not_give_to_the_pfn_is_not_explained() -> None:
    machine = model("lab-dom0")
    populate(machine, 0x20000, m2p=False)
    assert explained(predicted(with_e820(machine))) == [(0x20000, 1, "missing", "mfn", None)]


@pytest.mark.parametrize(("count", "known"), [(0x8000, True), (0x8001, False)])
def test_room_that_was_added_after_boot_comes_in_whole_sections(count: int, known: bool) -> None:
    text = "nr_pages 0x1800\np2m_limit 4G\n"
    machine = build(parse(text + f"foreign 0x10000+{count} mfn 0x3000\nmachine 0+1G\n", "sections"))
    # What the description calls foreign is made missing: a hot-added area without frames, in private pages.
    for pfn in range(0x10000, 0x10000 + count, 512):
        machine.memory.page(machine.entry_address(pfn) >> 12)[:] = 0xFF
    if not known:
        for pfn in range(0x18001, 0x18200):
            machine.poke_entry(pfn, pfn | machine.width.identity_bit)
    ((start, found, expected, what, why),) = explained(predicted(with_e820(machine)))
    assert (start, found, expected, what) == (0x10000, count, "identity", "missing")
    assert (why is not None) == known
    if why is not None:
        assert "in whole sections of 128 MiB (PFNs 0x10000..0x17fff)" in why


def test_ram_past_the_limit_is_missing_in_the_last_page_of_the_builders_list() -> None:
    machine = model("lab-dom0", change=lambda t: t.replace("dom0_mem     400M", "dom0_mem 401001K,max:401001K"))
    assert explained(predicted(with_e820(machine))) == [
        (
            0x187FB,
            5,
            "identity",
            "missing",
            "RAM that this domain may not have: e820_table_firmware leaves it out, but it is no hole, and the last page "
            "of the domain builder's list says missing",
        )
    ], "as a real dom0 with this command line"


def test_a_description_of_another_size_is_told_from_ballooning() -> None:
    data = predicted(source_of(model("odd-size-domu", change=lambda t: t.replace("100250", "100000"))),
                     str(MODELS / "odd-size-domu.model"))  # fmt: skip
    assert [d["explained"] for d in data["differences"]] == ["this domain began with 100,000 pages, not with 100,250"]


def test_a_description_with_another_map_is_told_by_the_kernel_s_own() -> None:
    less = model("lab-dom0", change=lambda t: t.replace("0x3ffdffff ram", "0x2ffdffff ram"))
    data = predicted(with_e820(less), str(MODELS / "lab-dom0.model"))
    assert [(d["start"], d["explained"]) for d in data["differences"]] == [
        (0x2FFE0, "this kernel's own memory map (e820_table_firmware) has no RAM here")
    ]
    more = predicted(with_e820(model("lab-dom0")), str(MODELS / "lab-dom0.model"))
    assert_agrees(more)


def test_the_other_way_round_the_kernel_s_map_has_more(tmp_path: Any) -> None:
    text = (MODELS / "lab-dom0.model").read_text().replace("0x3ffdffff ram", "0x2ffdffff ram")
    path = tmp_path / "less.model"
    path.write_text(text)
    data = predicted(with_e820(model("lab-dom0")), str(path))
    assert [(d["start"], d["explained"]) for d in data["differences"]] == [
        (0x2FFE0, "this kernel's own memory map (e820_table_firmware) has RAM here")
    ]
    (storage,) = data["storage"]["differences"]
    assert (storage["expected"], storage["found"]) == ("identity", "private")
    assert storage["explained"] == "entries were written here, as PRE-001 shows"


# -- the rules ----------------------------------------------------------------------------------------------------


def results(source: FakeSource, against: str = "e820") -> dict[str, Result]:
    ctx = context(source, against)
    return {i: run_rule(BY_ID[i], ctx) for i in ("PRE-001", "PRE-002")}


def test_pre_001_passes_on_a_healthy_guest_having_looked_at_every_pfn() -> None:
    found = results(with_e820(model("lab-dom0")))
    assert {r.status for r in found.values()} == {"passed"}
    assert found["PRE-001"].checked == 1 << 27
    assert found["PRE-002"].checked == 1 << 18


def test_pre_001_joins_stretches_that_have_the_same_explanation() -> None:
    holes = "\n".join(f"ballooned {0x8000 + 16 * i}+3" for i in range(50))
    (finding,) = results(with_e820(model("domu-131200", change=lambda t: f"{t}\n{holes}\n")))["PRE-001"].findings
    assert finding.where == {"pfn": 0x8000, "count": 150}
    assert finding.message.startswith("150 PFNs in 50 stretches from 0x8000 on, predicted mfn: given back to Xen")


def test_pre_001_bounds_what_it_lists_but_counts_all() -> None:
    machine = model("domu-131200")
    for pfn in range(0x8000, 0x8000 + 3000, 2):
        machine.poke_entry(pfn, machine.width.invalid)
    source = with_e820(machine)
    data = predicted(source)
    assert len(data["differences"]) == 1000 and data["not_listed"] == 500
    assert data["compared"] - data["agree"] == 1500
    assert results(source)["PRE-001"].total == 1500


def test_pre_002_sees_a_shared_page_that_the_algorithm_would_have_left() -> None:
    machine = model("lab-dom0")
    assert machine.shape is not None
    page = machine.page("p2m_missing")
    found = machine.pte(machine.shape.area + 0x20000 * 8)
    machine.memory.write_word(found.address, (page << 12) | (found.raw & 0xFFF0_0000_0000_0FFF))
    result = results(with_e820(machine))
    assert result["PRE-001"].status == "passed", "it is missing as before"
    (finding,) = result["PRE-002"].findings
    assert (finding.where["pfn"], finding.expected, finding.found) == (0x20000, "private", "p2m_missing")


def test_unreadable_pages_are_neither_agreement_nor_difference() -> None:
    machine = model("lab-dom0")
    lost = machine.entry_address(0x20000) >> 12
    whole = with_e820(machine)
    frames = [a >> 12 for e in whole.extents() for a in range(e.start, e.end, 4096)]
    source = FakeSource({f << 12: whole.read(f << 12, 4096) for f in frames if f != lost})
    source.info = whole.info
    data = predicted(source)
    assert data["unreadable"] == 512 and data["differences"] == []
    assert data["agree"] == data["compared"] == (1 << 27) - 512
    result = results(source)["PRE-001"]
    assert result.status == "could_not_check" and "512 PFNs are unreadable" in result.reason


@pytest.mark.parametrize("rule", ["PRE-001", "PRE-002"])
def test_nobody_asked_is_not_applicable(rule: str) -> None:
    target = Target(with_e820(model("tiny-domu")))
    (guest,) = target.guests
    result = run_rule(BY_ID[rule], RuleContext(target, guest, Views(guest), M2p(guest)))
    assert result.status == "not_applicable" and "--against" in result.reason


# -- hostile ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nr", [0, 1 << 31, (1 << 64) - 1])
def test_an_impossible_size_is_no_premise(nr: int) -> None:
    machine = model("lab-dom0")
    machine.memory.write_word(machine.start_info + 32, nr)
    assert "start_info.nr_pages" in predicted(with_e820(machine))["reason"]


def test_a_map_that_would_displace_hundreds_of_gibibytes_is_refused() -> None:
    machine = model("lab-dom0")
    machine.memory.write_word(machine.start_info + 32, 1 << 29)
    data = predicted(with_e820(machine, [(0, 0x1000, 1), (1 << 45, 1 << 46, 1)]))
    assert "lie below holes" in data["reason"]


def test_a_map_to_the_end_of_the_address_space_is_no_harm() -> None:
    machine = model("lab-dom0")
    ranges = [*kernel_map(machine.description)[:-1], (1 << 62, 1 << 64, 7)]
    assert_agrees(predicted(with_e820(machine, ranges)))
