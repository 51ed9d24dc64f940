"""A page in headless Chromium, driven by selenium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
)
FAULTY_PFN = 0x4321


class Browser:
    """One page at a time; what it asked the network for and what it wrote to the console are kept."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1280, scheme: str = "light") -> None:
        """Open a page from disk, with the logs of the pages before forgotten."""
        self.look(scheme, width)
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(page.as_uri())
        assert self.js("return document.documentElement.dataset.ready"), self.console()

    def look(self, scheme: str, width: int) -> None:
        """The system's colour scheme, and how wide the window is."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        # The page draws again a moment after the last change of its size.
        self.driver.execute_async_script("setTimeout(arguments[0], 120)")

    def js(self, code: str, *arguments: object) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(code, *arguments)

    def console(self) -> list[str]:
        """Messages since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        asked = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.append(message["params"]["request"]["url"])
        return asked

    def one(self, selector: str) -> Any:
        """The first element of a CSS selector."""
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        """All elements of a CSS selector."""
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        """Text of an element, hidden or not."""
        text: str = self.one(selector).get_attribute("textContent")
        return text

    def keys(self, selector: str, *keys: str) -> None:
        """Give an element the focus and type."""
        self.js("arguments[0].focus({preventScroll: true})", self.one(selector))
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def window(self, strip: str = "pfn") -> tuple[int, int]:
        """First number and the one past the last that a strip shows."""
        a, b = self.js(f"return strips.{strip}.window")
        return a, b
