"""A headless Chromium for all tests of this folder, and the pages that they open from disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.browser import FAULTY_PFN, FLAGS, Browser
from support.command_line import run_cli
from support.machine import Healthy
from support.places import DOM0, FIXTURES
from support.report_pages import hostile, page_of


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    yield Browser(running)
    running.quit()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for pages."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="session")
def dom0_page(pages: Path) -> Path:
    out = pages / "dom0.html"
    assert run_cli("report", DOM0.path, "-o", out).code == 0
    return out


@pytest.fixture(scope="session")
def riscv_page(pages: Path) -> Path:
    out = pages / "riscv.html"
    assert run_cli("report", FIXTURES / "xen-riscv-sv57x4.core.zst", "-o", out).code == 0
    return out


@pytest.fixture(scope="session")
def faulty_page(pages: Path, dom0: Healthy) -> Path:
    """The dom0 with one entry that makes no sense."""
    machine = dom0.machine.copy()
    machine.set_u64(dom0.entry(FAULTY_PFN), 0xC000_0000_DEAD_0000)
    out = pages / "faulty.html"
    out.write_text(page_of(machine.source()).html)
    return out


@pytest.fixture(scope="session")
def overwritten_page(pages: Path, dom0: Healthy) -> Path:
    """The dom0 with a word written into p2m_identity, which 261,632 slots share."""
    machine = dom0.machine.copy()
    machine.set_u64((dom0.guest.page_of("p2m_identity") << 12) + 8 * 5, 0x123)
    out = pages / "overwritten.html"
    out.write_text(page_of(machine.source()).html)
    return out


@pytest.fixture(scope="session")
def hostile_page(pages: Path, dom0: Healthy) -> Path:
    out = pages / "hostile.html"
    out.write_text(page_of(hostile(dom0.machine)).html)
    return out
