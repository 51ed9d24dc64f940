"""How large report pages are, how long they take to make, and how long Chromium takes to draw them.

    python benchmarks/report_page.py [DUMP...]    (default: the bundled excerpts)

Chromium (Debian: chromium, chromium-driver) opens each page from disk ROUNDS times, headless; the page measures itself
with performance.now(): `script` is the time that its own script takes, `ready` the time from navigation to its end.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from gdb_p2m.api import open_dump
from gdb_p2m.report.page import build_page

ROUNDS = 7
ROOT = Path(__file__).resolve().parents[1]
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1280,1000")


def main() -> None:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    dumps = [Path(a) for a in sys.argv[1:]] or sorted((ROOT / "fixtures").glob("*.core.zst"))
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    print(f"{'dump':<44}{'runs':>9}{'KiB':>8}{'make':>9}{'script':>10}{'ready':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for flag in (*FLAGS, f"--user-data-dir={folder}/profile"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            for dump in dumps:
                start = time.perf_counter()
                with open_dump(str(dump)) as machine:
                    page = build_page(machine.context, None)
                made = time.perf_counter() - start
                file = Path(folder) / "page.html"
                file.write_text(page.html)
                figures = []
                for _ in range(ROUNDS):
                    driver.get(file.as_uri())
                    figures.append(
                        driver.execute_script("const d = document.documentElement.dataset; return [+d.drawn, +d.ready]")
                    )
                script, ready = (statistics.median(column) for column in zip(*figures, strict=True))
                size = file.stat().st_size / 1024
                name = dump.name.removesuffix(".core.zst")
                print(f"{name:<44}{page.runs:>9,}{size:>8.0f}{made * 1000:>6.0f} ms{script:>7.0f} ms{ready:>7.0f} ms")
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
