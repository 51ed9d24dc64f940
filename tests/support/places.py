"""Where the bundled memory lies, and what is known to be true of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "gdb_p2m"
FIXTURES = ROOT / "fixtures"
SCHEMAS = ROOT / "tests" / "schemas"
SHARED_REAL = ROOT.parent / "shared" / "real"


@dataclass(frozen=True)
class Truth:
    """A bundled dom0 excerpt and its P2M: `runs` are (first PFN, last PFN, kind), runs of frames joined."""

    name: str
    path: Path
    totals: dict[str, int]
    runs: tuple[tuple[int, int, str], ...]
    nr_pages: int
    release: str
    build_id: str
    machine_frames: int


DOM0 = Truth(
    "linux-6.1-400M",
    FIXTURES / "linux-6.1-dom0-400M.core.zst",
    {"mfn": 102_400, "identity": 133_955_713, "missing": 159_615},
    (
        (0x0, 0x9E, "mfn"),
        (0x9F, 0xFF, "identity"),
        (0x100, 0x19060, "mfn"),
        (0x19061, 0x3FFDF, "missing"),
        (0x3FFE0, 0x7FFFFFF, "identity"),
    ),
    0x19000,
    "6.1.0-56-amd64",
    "eb4fbcd037e7253717950bf2b93bd5566f47c56f",
    0x3FFE0,
)
ODD = Truth(
    "linux-6.12-odd-5G",
    FIXTURES / "linux-6.12-dom0-odd-5G.core.zst",
    {"mfn": 150_250, "identity": 132_907_168, "missing": 1_160_310},
    (
        (0x0, 0x7F, "mfn"),
        (0x80, 0xFF, "identity"),
        (0x100, 0x24B69, "mfn"),
        (0x24B6A, 0xBFFDF, "missing"),
        (0xBFFE0, 0xFFFFF, "identity"),
        (0x100000, 0x17FFFF, "missing"),
        (0x180000, 0x7FFFFFF, "identity"),
    ),
    0x24AEA,
    "6.12.117+deb13-amd64",
    "b1d7a9114053a488ef493f85f85e9fc75ba9f632",
    0x180000,
)
BOTH = (DOM0, ODD)


def bundled() -> list[Path]:
    """Every excerpt that comes with the project."""
    return sorted(FIXTURES.glob("*.core.zst"))


def shared() -> list[Path]:
    """Real excerpts that lie beside some checkouts; tests skip those that are not there."""
    names = ("linux-3.16-tree", "linux-3.18-tree", "xen-riscv-sv39")
    return [SHARED_REAL / f"{name}.core.zst" for name in names]
