"""The decoder against the hardware: raw dumps of the machine, its own list of what it mapped, and QEMU's MMU.

E lines are what the program wanted, P lines what the hardware translated; neither comes from a decoder. The
dump has no note: Xen's image is found by the build id, every offset comes from the program's DWARF.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from gdb_p2m.mapping import Kind
from gdb_p2m.rules.base import run_rule
from gdb_p2m.rules.gst import GST_RULES
from gdb_p2m.rules.gst_context import GstContext
from gdb_p2m.sources.probe import open_source
from gdb_p2m.target import Target
from gdb_p2m.views.frame_uses import FrameUses
from gdb_p2m.views.gstage import GstageView
from gdb_p2m.views.registry import Views

from .machine import Machine
from .report import Report

pytestmark = [pytest.mark.riscv, pytest.mark.slow]
READABLE = {"ram_rw", "map_foreign_rw", "map_foreign_ro", "mmio_direct_io"}
WRITABLE = READABLE - {"map_foreign_ro"}
GUEST_PAGE_FAULTS = {20, 21, 23}
ALIAS_ONLY_FROM = 1024
"""QEMU 7.2 answers in the root's upper half at sign-extended addresses only (README, "what hardware did")."""


@dataclass
class Decoded:
    """One machine's dump, decoded, and what the machine said."""

    target: Target
    report: Report
    views: dict[int, GstageView]


@pytest.fixture(scope="session")
def decoded(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Decoded:
    """The machine's raw dump through `--xen` with its DWARF."""
    path = tmp_path_factory.mktemp(machine.program.variant) / "machine.elf"
    machine.dump(Path(path))
    target = Target(open_source(str(path)), xen=str(machine.program.elf))
    return Decoded(target, machine.report, {d.id: GstageView(d) for d in target.domain_list.domains})


def wanted_runs(report: Report, domain: int) -> list[tuple[int, int, str, int, int]]:
    """The program's own list as maximal runs."""
    runs: list[tuple[int, int, str, int, int]] = []
    for leaves in sorted((e for e in report.leaves if e.domain == domain), key=lambda e: e.gfn):
        kind = leaves.type.removeprefix("p2m_")
        if runs:
            start, count, old, mfn, order = runs[-1]
            if (start + count, old, mfn + count, order) == (leaves.gfn, kind, leaves.mfn, leaves.order):
                runs[-1] = (start, count + leaves.frames, old, mfn, order)
                continue
        runs.append((leaves.gfn, leaves.frames, kind, leaves.mfn, leaves.order))
    return runs


def test_the_domains_are_those_of_the_machine(decoded: Decoded) -> None:
    assert not decoded.target.domain_list.problem and not decoded.target.domain_list.broken
    found = {d.id: d for d in decoded.target.domain_list.domains}
    assert sorted(found) == [d.id for d in decoded.report.domains]
    vmid = 0x3FFF << 44
    for want in decoded.report.domains:
        d = found[want.id]
        assert (d.address, d.root_mfn) == (want.address, want.root_mfn)
        assert d.hgatp == want.hgatp & ~vmid
        assert (d.lowest_mapped_gfn, d.max_mapped_gfn) == (want.lowest_gfn, want.highest_gfn)
        assert d.tot_pages == want.pages
    header, xen = decoded.report.header, decoded.target.xen
    assert xen.image.phys_offset == header["phys_offset"]
    assert xen.variable("frametable_virt_start") == header["frametable_virt_start"]


def test_the_map_is_what_the_program_mapped(decoded: Decoded) -> None:
    for domain, view in decoded.views.items():
        got = [(r.start, r.count, r.kind.word, r.frame, r.order) for r in view.mapping()]
        assert got == wanted_runs(decoded.report, domain)


def test_every_translation_of_the_hardware_is_ours(decoded: Decoded) -> None:
    """Reads name the frame; a fault of the G-stage means that we map nothing there."""
    asked = 0
    for domain, view in decoded.views.items():
        mapping = view.mapping()
        answered = {p.gfn for p in decoded.report.uart_probes(domain, alias=True) if p.read.value is not None}
        for probe in [*decoded.report.uart_probes(domain), *decoded.report.uart_probes(domain, alias=True)]:
            run, trace = mapping.lookup(probe.gfn), view.trace(probe.gfn)
            kind = "invalid" if run is None else run.kind.word
            assert trace.kind.word == kind
            if probe.read.cause in GUEST_PAGE_FAULTS:
                # In the upper half one of the two addresses faults, whatever is mapped: the other one tells.
                alias_tells = probe.gfn >> view.tree.levels[0].order >= ALIAS_ONLY_FROM
                assert kind not in READABLE or (alias_tells and (probe.alias or probe.gfn in answered))
                continue
            assert kind in READABLE and run is not None and run.frame == trace.frame
            if probe.read.value is not None and kind != "mmio_direct_io":
                assert probe.read.value == run.frame, hex(probe.gpa)
            if probe.write.word == "ok":
                assert kind in WRITABLE
            elif probe.write.cause == 23:
                assert kind == "map_foreign_ro"
            if probe.run.value is not None:
                assert kind == "ram_rw" and probe.run.value == run.frame
            asked += 1
    assert asked > 100


def test_tables_and_metadata_are_those_that_the_program_allocated(decoded: Decoded) -> None:
    domains = decoded.target.domain_list.domains
    uses = FrameUses(decoded.target.xen, decoded.views, domains)
    for table in decoded.report.tables:
        (found,) = [u for u in uses.tables(table.mfn) if u.domain == table.domain]
        assert (found.level, found.gfn, found.md_mfn) == (table.level, table.first_gfn, table.metadata_mfn)
        assert uses.frames.read(table.mfn).used_entries == table.used
        if table.metadata_mfn is not None:
            assert [m.table for m in uses.metadata(table.metadata_mfn)] == [table.mfn]


def test_what_was_left_behind_on_purpose_means_nothing(decoded: Decoded) -> None:
    assert decoded.report.leftovers
    for left in decoded.report.leftovers:
        view = decoded.views[left.domain]
        trace = view.trace(left.gfn)
        wanted = decoded.report.intended(left.domain, left.gfn)
        if wanted is None:
            assert trace.kind is Kind.INVALID
        else:
            leaves, mfn = wanted
            assert (trace.kind.word, trace.frame) == (leaves.type.removeprefix("p2m_"), mfn)


def test_no_rule_finds_an_error_and_none_is_without_an_answer(decoded: Decoded) -> None:
    for domain in decoded.target.domain_list.domains:
        context = GstContext(decoded.target, domain, Views(domain))
        for rule in GST_RULES:
            result = run_rule(rule, context)
            assert result.status != "could_not_check", (domain.id, rule.id, result.reason)
            assert result.status != "failed" or rule.severity == "note", (domain.id, rule.id, result.findings)


def test_the_layout_is_told_by_the_debug_information(decoded: Decoded) -> None:
    variant, facts = decoded.report.variant, decoded.target.xen.facts
    v5 = variant.endswith("-v5")
    assert facts.metadata.name == ("pte_t" if v5 else "md_t")
    form = "globals" if v5 else "embedded" if "embedded" in variant else "pointer"
    assert facts.mode_form == form
    assert facts.fact("OFFSET", "p2m_domain.root").source.startswith("DWARF")
