"""`export --csv` and `--parquet`: the runs of the map, for other programs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gdb_p2m.commands import export
from support.command_line import run_cli
from support.places import BOTH, DOM0, FIXTURES, Truth

RISCV = FIXTURES / "xen-riscv-sv39x4.core.zst"


@pytest.mark.parametrize("path", [DOM0.path, RISCV], ids=["pv", "riscv"])
def test_csv_is_what_map_prints(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "RUNS_AT_A_TIME", 7)
    ran = run_cli("export", path, "--csv", tmp_path / "runs.csv", "--json")
    assert ran.code == 0
    text = (tmp_path / "runs.csv").read_text()
    assert text == run_cli("map", path, "--format", "csv").out
    assert ran.json["files"][0]["runs"] == len(text.splitlines()) - 1


def test_csv_can_be_compressed_and_of_another_view(tmp_path: Path) -> None:
    import gzip

    out = tmp_path / "runs.csv.gz"
    assert run_cli("export", DOM0.path, "--csv", out, "--view", "list-list").code == 0
    printed = run_cli("map", DOM0.path, "--format", "csv", "--view", "list-list").out
    assert gzip.decompress(out.read_bytes()).decode() == printed


@pytest.mark.parametrize("truth", BOTH, ids=lambda t: t.name)
def test_parquet_holds_the_runs_with_types_and_facts(
    truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra parquet)")
    monkeypatch.setattr(export, "RUNS_AT_A_TIME", 100)
    out = tmp_path / "runs.parquet"
    assert run_cli("export", truth.path, "--parquet", out).code == 0
    table = parquet.read_table(out)
    assert (
        table.schema.metadata[b"gdb_p2m.view"] == b"linear" and table.schema.metadata[b"gdb_p2m.limit"] == b"134217728"
    )
    runs = run_cli("map", truth.path, "--json").json["runs"]
    assert table.to_pylist() == [{"frame": None, **r} for r in runs]
    totals: dict[str, int] = {}
    for row in table.to_pylist():
        totals[row["kind"]] = totals.get(row["kind"], 0) + row["count"]
    assert totals == truth.totals


def test_parquet_of_a_page_table_has_the_order(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra parquet)")
    out = tmp_path / "runs.parquet"
    assert run_cli("export", RISCV, "--parquet", out).code == 0
    runs = run_cli("map", RISCV, "--json").json["runs"]
    assert parquet.read_table(out).to_pylist() == [{"frame": None, **r} for r in runs]


def test_without_pyarrow_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ran = run_cli("export", DOM0.path, "--parquet", tmp_path / "runs.parquet", "--csv", tmp_path / "runs.csv")
    assert ran.code == 3 and 'pip install "gdb-p2m[parquet]"' in ran.err and "--csv" in ran.err
    assert not list(tmp_path.iterdir()), "nothing is written when a part cannot be"


def test_a_folder_that_is_not_there_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    for option in ("--csv", "--elf"):
        ran = run_cli("export", DOM0.path, option, tmp_path / "no" / "out")
        assert ran.code == 3 and "no/out: cannot be written" in ran.err
