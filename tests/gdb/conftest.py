"""The GDBs that tests run."""

from __future__ import annotations

import pytest

from support.gdb_process import Gdb, find_gdb


@pytest.fixture(scope="session")
def gdb() -> Gdb:
    """GDB."""
    return find_gdb("gdb")


@pytest.fixture(scope="session", params=["gdb", "gdb-multiarch"])
def any_gdb(request: pytest.FixtureRequest) -> Gdb:
    """Each GDB that people use."""
    return find_gdb(str(request.param))
