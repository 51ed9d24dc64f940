"""The verbs on other formats than plain ELF: --raw, identify's words, excerpts of cores."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from gdb_p2m.cli import run
from gdb_p2m.errors import NotUnderstood
from gdb_p2m.model.writers import image_of, write_raw
from gdb_p2m.model.writers_kdump import KdumpOptions, write_kdump
from gdb_p2m.model.writers_xen import crash_image, write_xen_core
from gdb_p2m.sources.probe import open_source
from support.dump_files import LEFT_OUT, model, system_map, tiny


def verb(*argv: str) -> dict[str, Any]:
    out = io.StringIO()
    assert run([*argv, "--json"], out, io.StringIO()) in (0, 1)
    document: dict[str, Any] = json.loads(out.getvalue())
    return document


def text(*argv: str) -> str:
    out = io.StringIO()
    run(argv, out, io.StringIO())
    return out.getvalue()


@pytest.fixture
def names(tmp_path: Path) -> str:
    return str(system_map(tiny(), tmp_path / "System.map"))


def test_raw_memory_gives_the_same_map_as_the_elf_dump(tmp_path: Path, names: str) -> None:
    tiny().write_elf(tmp_path / "elf")
    write_raw(tmp_path / "ram", image_of(tiny()))
    raw = verb("map", str(tmp_path / "ram"), "--raw", "0", "--kernel", names)
    assert raw == verb("map", str(tmp_path / "elf"))


def test_identify_names_what_the_writer_left_out(tmp_path: Path) -> None:
    write_kdump(tmp_path / "dump", image_of(tiny()), KdumpOptions(filtered=LEFT_OUT, dump_level=17))
    source = verb("identify", str(tmp_path / "dump"))["source"]
    assert source["format"] == "kdump-compressed, version 6, zlib"
    assert source["loses"] == ["6 pages (24 KiB) left out by the writer, dump level 17: free pages"]
    assert source["xen_crash"] is None


def test_identify_shows_the_crashed_xen(tmp_path: Path) -> None:
    machine = model()
    write_kdump(tmp_path / "dump", crash_image(machine))
    source = verb("identify", str(tmp_path / "dump"))["source"]
    assert source["xen_crash"] == {
        "version": "4.17.0-model",
        "tainted": 0,
        "xen_phys_start": machine.xen.m2p_first << 12,
        "frame_list_list": machine.page("p2m_top_mfn"),
    }
    assert "gcc (model) 12" in text("identify", str(tmp_path / "dump"))


def test_an_excerpt_of_a_core_keeps_its_table(tmp_path: Path, names: str) -> None:
    core, out = str(tmp_path / "core"), str(tmp_path / "out.core")
    write_xen_core(core, tiny())
    verb("excerpt", core, out, "--kernel", names)
    for view in ("linear", "list-list", "core-table"):
        assert verb("map", out, "--view", view) == verb("map", core, "--view", view, "--kernel", names)
    assert verb("identify", out)["source"]["core_table_pages"] == len(open_source(core).info.core_table.pfn)  # type: ignore[union-attr]


def test_the_m2p_of_a_core_could_not_be_checked_rather_than_failed(tmp_path: Path, names: str) -> None:
    core = str(tmp_path / "core")
    write_xen_core(core, tiny())
    rules = {r["id"]: r for r in verb("check", core, "--kernel", names)["rules"]}
    assert rules["M2P-001"]["status"] == "could_not_check"
    assert rules["DMP-001"]["status"] == rules["DMP-002"]["status"] == "passed"
    assert not [r for r in rules.values() if r["status"] == "failed"]


def test_filtered_frames_of_the_guest_are_noted(tmp_path: Path) -> None:
    lost = tiny().frames.mfns(2000, 2010)
    write_kdump(tmp_path / "dump", image_of(tiny()), KdumpOptions(filtered=lost))
    document = verb("check", str(tmp_path / "dump"))
    (finding,) = [f for f in document["findings"] if f["rule"] == "DMP-002"]
    assert finding["severity"] == "note"
    assert "10" in finding["message"]


def test_damage_deep_in_the_descriptors_is_found_by_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gdb_p2m.sources import kdump

    monkeypatch.setattr(kdump, "CHECKED_AT_OPEN", 10)
    path = tmp_path / "dump"
    write_kdump(path, image_of(tiny()))
    at = open_source(str(path)).header.descriptors_at + 24 * 5000  # type: ignore[attr-defined]
    with open(path, "r+b") as file:
        file.seek(at)
        file.write((1 << 60).to_bytes(8, "little"))
    assert verb("map", str(path))["runs"], "no page of the P2M is hit"
    failed = {r["id"] for r in verb("check", str(path))["rules"] if r["status"] == "failed"}
    assert failed == {"DMP-001"}


def test_a_truncated_kdump_is_refused_unless_the_user_insists(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    write_kdump(path, image_of(tiny()))
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(NotUnderstood, match="damaged"):
        text("map", str(path))
    assert verb("map", str(path), "--damaged")["runs"]
