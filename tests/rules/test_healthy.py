"""What every rule says of the healthy dom0s, exactly; and of a dom0 whose list is folded as far as it goes."""

from __future__ import annotations

import numpy as np
import pytest

from gdb_p2m.mapping import Mapping
from gdb_p2m.rules.catalogue import CATALOGUE
from support.machine import Healthy, Machine, examine, same_or_unreadable

NOT_APPLICABLE = {
    "LIN-007": "PMDS_PER_MID_PAGE is 1 on 64-bit",
    "SIF-002": "the list was moved",
    "RMP": "remapping is done",
    "RMP-006": "no chain was recorded before",
    "TRE": "",
    "GST": "it concerns riscv domains only",
    "PRE": "there is no prediction to compare with",
}
CHECKED = {
    "linux-6.1-400M": {
        "ENT-001": 133_955_713, "ENT-002": 102_400, "ENT-003": 102_400, "ENT-005": 102_400, "LIN-002": 262_144,
        "LIN-003": 1024, "LIN-004": 1024, "LIN-005": 261_632, "LIN-006": 512, "FLL-002": 512, "FLL-003": 512,
        "FLL-004": 262_144, "M2P-001": 102_400, "M2P-003": 0x3FFE0, "DMP-002": 102_400,
    },
    "linux-6.12-odd-5G": {
        "ENT-001": 132_907_168, "ENT-002": 150_250, "ENT-003": 150_250, "ENT-004": 278, "LIN-005": 259_584,
        "LIN-006": 2560, "FLL-004": 262_144, "M2P-001": 150_250, "M2P-003": 1_310_720, "DMP-002": 150_250,
    },
}  # fmt: skip
LIN_009 = {"linux-6.1-400M": 310, "linux-6.12-odd-5G": 2265}


def test_every_rule_of_the_catalogue_on_a_healthy_dom0(either: Healthy) -> None:
    results = either.examined.results
    assert results.keys() == {r.id for r in CATALOGUE}
    expected = dict(NOT_APPLICABLE)
    if either.truth.nr_pages % 512 == 0:
        expected["ENT-004"] = f"nr_pages {either.truth.nr_pages:#x} is a multiple of 512"
    for rule, result in results.items():
        why = expected.get(rule, expected.get(rule.split("-")[0]))
        if why is not None:
            assert result.status == "not_applicable" and result.checked == 0, result
            assert result.reason.startswith(why) and result.reason, result
        elif rule == "M2P-002":
            # These excerpts are older than the rule; the machine of tests/real/test_frame_owners.py has Xen's records.
            assert (result.status, result.checked) == ("could_not_check", 0)
            assert result.reason.startswith("Xen's frame table, at 0xffff82e000000000, is not in the dump")
        elif rule == "LIN-009":
            assert (result.status, result.total) == ("failed", LIN_009[either.truth.name])
        else:
            assert (result.status, result.reason, result.findings) == ("passed", "", ()), result
            assert result.checked > 0
    for rule, count in CHECKED[either.truth.name].items():
        assert results[rule].checked == count, rule


def test_no_error_and_no_warning_on_healthy_memory(either: Healthy) -> None:
    failed = [r.rule for r in either.examined.results.values() if r.status == "failed"]
    assert {r.severity for r in failed} <= {"note"}


def folded(h: Healthy) -> Machine:
    """The dom0 with every private page that is wholly missing replaced by p2m_missing, in both structures."""
    machine = h.machine.copy()
    view, lists = h.views.get("linear"), h.views.get("list-list").lists  # type: ignore[attr-defined]
    missing = h.guest.page_of("p2m_missing")
    for page, frame in enumerate(view.pages.frame):  # type: ignore[attr-defined]
        if view.backing[page] or machine.read(int(frame) << 12, 4096) != b"\xff" * 4096:  # type: ignore[attr-defined]
            continue
        machine.set_u64(h.table_entry(page * 512, "L1"), missing << 12 | 0x8000000000000061)
        machine.set_u64((int(lists.top[page // 512]) << 12) + page % 512 * 8, missing)
    return machine


@pytest.fixture(scope="module")
def folded_dom0(dom0: Healthy) -> Machine:
    return folded(dom0)


def test_folding_pages_changes_no_answer_and_satisfies_the_note(dom0: Healthy, folded_dom0: Machine) -> None:
    after = examine(folded_dom0.source())
    assert after.failed() == set()
    assert after.results["LIN-009"].checked == 512 - 310
    for name, before in dom0.examined.mappings.items():
        mapping = after.mappings[name]
        if isinstance(before, Mapping) and isinstance(mapping, Mapping):
            assert same_or_unreadable(before, mapping) == []
            assert np.array_equal(before.start, mapping.start)
        else:
            assert type(before) is type(mapping)


def test_shared_missing_pages_are_still_checked_when_the_list_uses_them(dom0: Healthy, folded_dom0: Machine) -> None:
    """In this dom0 p2m_missing really backs PFNs, so a write to it makes them corrupt, never an MFN."""
    machine = folded_dom0.copy()
    machine.set_u64(dom0.page("p2m_missing") + 8 * 5, 0x1234)
    after = examine(machine.source())
    assert after.failed() == {"LIN-003"}
    mapping = after.mappings["linear"]
    assert isinstance(mapping, Mapping)
    run = mapping.lookup(0x19200 + 5)
    assert run is not None and run.kind.word == "corrupt"
    assert {k.word: n for k, n in mapping.totals().items()}["corrupt"] == 310
    assert {k.word: n for k, n in mapping.totals().items()}["mfn"] == 102_400
