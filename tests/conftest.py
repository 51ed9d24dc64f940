"""Fixtures for all tests: the bundled excerpts, opened once, and hypothesis' profiles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, settings

from support.machine import Healthy, healthy
from support.places import BOTH, DOM0, ODD, Truth

# Runs are repeatable: a fault found once is found again. HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("search", settings.get_profile("repeatable"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def dom0() -> Healthy:
    """Linux 6.1, 400 MiB dom0 on 1 GiB."""
    return healthy(DOM0)


@pytest.fixture(scope="session")
def odd() -> Healthy:
    """Linux 6.12, dom0 with an odd number of pages on 5 GiB."""
    return healthy(ODD)


@pytest.fixture(scope="session", params=BOTH, ids=lambda t: t.name)
def either(request: pytest.FixtureRequest) -> Healthy:
    """Each bundled dom0."""
    return healthy(request.param)


def _unpacked(truth: Truth, folder: Path) -> Path:
    path = folder / f"{truth.name}.core"
    with open(truth.path, "rb") as packed, open(path, "wb") as out:
        zstandard.ZstdDecompressor().copy_stream(packed, out)
    return path


@pytest.fixture(scope="session")
def dom0_core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 6.1 excerpt as a plain ELF file. Tests must not change it."""
    return _unpacked(DOM0, tmp_path_factory.mktemp("dom0"))


@pytest.fixture(scope="session")
def odd_core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 6.12 excerpt as a plain ELF file. Tests must not change it."""
    return _unpacked(ODD, tmp_path_factory.mktemp("odd"))
