"""Machines shared by the tests of this folder; skipped with the reason where a tool is missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .machine import VARIANTS, Machine, Missing, Program, build, qemu

MEMORY = {"sv39x4": "2G"}
"""1 GiB leaves of RAM need 2 GiB; one variant with them is enough."""


def pytest_configure(config: pytest.Config) -> None:
    """The marker of this folder."""
    config.addinivalue_line("markers", "riscv: boots a RISC-V machine under QEMU")


def built(variant: str) -> Program:
    """The program, or a skip."""
    try:
        qemu()
        return build(variant)
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session", params=VARIANTS)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Each variant in turn, booted and done."""
    variant: str = request.param
    with Machine(built(variant), memory=MEMORY.get(variant, "256M")) as running:
        yield running


@pytest.fixture(scope="module")
def guest_machine() -> Iterator[Machine]:
    """The first variant with a guest running; it takes a whole CPU, so not for longer than needed."""
    with Machine(built("sv39x4"), memory="256M", guest=True) as running:
        yield running
