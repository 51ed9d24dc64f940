"""The report page in a real browser, opened from disk: it draws, zooms, searches and leads from findings to places."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.browser import FAULTY_PFN, Browser
from support.command_line import run_cli
from support.places import DOM0

pytestmark = pytest.mark.browser

END, HOME = "\ue010", "\ue011"
LEFT, RIGHT = "\ue012", "\ue014"
DETAIL = "#strip-pfn canvas.detail"

COLOUR_AT = """
const strip = strips.pfn, ratio = devicePixelRatio, [y, h] = strip.laneBox(0);
const x = Math.round((strip.scale(arguments[0]) + strip.scale(arguments[0] + 1)) / 2 * ratio);
const d = strip.detail.node().getContext("2d").getImageData(x - 4, Math.round((y + h - 9) * ratio), 8, 8).data;
let best = null, least = 1e9;
for (const [i, kind] of data.kinds.entries()) {
  const c = d3.color(paint.colour(i));
  let nearest = 1e9;
  for (let p = 0; p < d.length; p += 4) nearest = Math.min(nearest, Math.hypot(d[p] - c.r, d[p + 1] - c.g, d[p + 2] - c.b));
  if (nearest < least - 1) { least = nearest; best = kind.name; }
}
return [best, least];
"""


def pages_of_all_kinds() -> list[str]:
    return ["dom0_page", "riscv_page", "faulty_page", "hostile_page"]


@pytest.fixture(params=pages_of_all_kinds())
def any_page(request: pytest.FixtureRequest) -> Path:
    page: Path = request.getfixturevalue(request.param)
    return page


def test_a_page_opens_from_disk_without_a_word_and_asks_for_nothing(browser: Browser, any_page: Path) -> None:
    browser.open(any_page)
    browser.look("dark", 360)
    assert browser.js("return document.documentElement.scrollWidth") <= 360, "nothing is wider than a telephone"
    browser.look("light", 768)
    assert browser.js("return document.documentElement.scrollWidth") <= 768
    assert browser.console() == []
    assert [u for u in browser.requests() if not u.startswith("data:")] == [any_page.as_uri()]
    assert browser.js("return window.hit") is None
    # A figure, not a limit: how long it takes is measured by hand, never in a test.
    assert 0 < float(browser.js("return document.documentElement.dataset.drawn")) < 60_000


def test_zoom_leads_from_512_gib_to_single_frames(browser: Browser, dom0_page: Path) -> None:
    browser.open(dom0_page)
    browser.one("#strip-pfn button[data-do=whole]").click()
    assert browser.window() == (0, 1 << 27)
    assert "512 GiB of 512 GiB" in browser.text("#strip-pfn .window")
    browser.js("strips.pfn.select(0x9f, true)")
    for _ in range(40):
        browser.one("#strip-pfn button[data-do=in]").click()
    a, b = browser.window()
    assert b - a == 8 and a <= 0x9F < b
    found = {n: browser.js(COLOUR_AT, n)[0] for n in range(a, b)}
    assert found == {n: "mfn" if n < 0x9F else "identity" for n in range(a, b)}


def test_a_single_frame_is_seen_when_everything_is_shown(browser: Browser, faulty_page: Path) -> None:
    """One corrupt frame of 2^27 still has its pixels, in the lane of its kind."""
    browser.open(faulty_page)
    browser.one("#strip-pfn button[data-do=whole]").click()
    pixels = browser.js(
        """const s = strips.pfn, i = s.lanes.findIndex(l => l.name === "corrupt"), [y, h] = s.laneBox(i);
        const d = s.detail.node().getContext("2d").getImageData(s.gutter, y + 3, s.width - s.gutter - 4, h - 4).data;
        const c = d3.color(paint.colour(5)); let n = 0;
        for (let p = 0; p < d.length; p += 4) if (Math.hypot(d[p] - c.r, d[p + 1] - c.g, d[p + 2] - c.b) < 12) n++;
        return n;"""
    )
    assert pixels >= 10


def test_the_wheel_zooms_at_the_pointer_once_the_strip_has_the_focus(browser: Browser, dom0_page: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    browser.open(dom0_page)
    canvas = browser.one(DETAIL)
    before = browser.window()
    wheel = ScrollOrigin.from_element(canvas, 100, 0)
    ActionChains(browser.driver).scroll_from_origin(wheel, 0, -10).perform()
    assert browser.window() == before
    browser.js("arguments[0].focus()", canvas)
    ActionChains(browser.driver).scroll_from_origin(wheel, 0, -400).perform()
    a, b = browser.window()
    assert b - a < before[1] - before[0]


def test_the_keyboard_does_all_that_the_pointer_does(browser: Browser, dom0_page: Path) -> None:
    browser.open(dom0_page)
    start = browser.window()
    browser.keys(DETAIL, "+")
    zoomed = browser.window()
    assert zoomed[1] - zoomed[0] == pytest.approx((start[1] - start[0]) / 2, abs=2)
    browser.keys(DETAIL, RIGHT)
    assert browser.window()[0] > zoomed[0]
    browser.keys(DETAIL, LEFT, "-", END)
    assert browser.window() == (0, 1 << 27)
    browser.keys(DETAIL, HOME)
    assert browser.window() == start
    browser.keys(DETAIL, "]", "]")
    assert browser.text("#strip-pfn .readout") == "PFN 0x100: mfn → MFN 0x30100, run 0x100..0x7fff (32,512, 127 MiB)"
    browser.keys(DETAIL, "[")
    assert browser.text("#strip-pfn .readout").startswith("PFN 0x9f: identity, run 0x9f..0xff (97")
    browser.keys(DETAIL, "/")
    assert browser.js("return document.activeElement.id") == "query"


def test_tab_reaches_every_control_and_every_control_has_a_name(browser: Browser, dom0_page: Path) -> None:
    browser.open(dom0_page)
    names = browser.js(
        """return [...document.querySelectorAll("button, input, canvas[tabindex], #picture")].map(e =>
        e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels.length ? e.labels[0].textContent.trim() : ""))"""
    )
    assert names and all(names)
    tab, order = "\ue004", []
    browser.js("document.body.tabIndex = -1; document.body.focus()")
    for _ in range(45):
        browser.driver.switch_to.active_element.send_keys(tab)
        order.append(
            browser.js(
                "const e = document.activeElement; return e.id || e.dataset.do || e.className || e.getAttribute('href') || e.name"
            )
        )
    assert order[0] == "skip" and "theme" in order and "detail" in order and "picture" in order
    assert order.index("theme") < order.index("in") < order.index("detail") < order.index("picture")
    assert browser.js("return getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_search_finds_by_number_in_both_spaces_and_by_kind(browser: Browser, dom0_page: Path) -> None:
    browser.open(dom0_page)
    runs = run_cli("map", DOM0.path, "--json").json["runs"]
    box = browser.one("#query")

    def search(text: str) -> list[list[str]]:
        box.send_keys("\ue009a\ue000\ue017", text)  # Control-a, Delete
        rows = browser.js(
            "return [...document.querySelectorAll('#run-table tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
        )
        return rows  # type: ignore[no-any-return]

    assert search("0x8110")[0][:3] == ["0x8110", "0x8110", "1"]
    inside = [r for r in runs if any(f <= 0x30100 < f + r["count"] for f in (r["start"], r.get("frame", -1 << 40)))]
    assert len(search("0x30100")) == len(inside) == 2
    assert search("identity")[0][3].endswith("identity") and browser.text("#hits") == "2 of 474 runs"
    assert len(search("")) == 200
    browser.one("#more").click()
    assert len(browser.all("#run-table tbody tr")) == 400
    search("0x8110")
    browser.one("#run-table tbody button").click()
    assert browser.text("#strip-pfn .readout").startswith("PFN 0x8110: mfn → MFN 0x3aa7e, run 0x8110..0x8110")
    a, b = browser.window()
    assert a <= 0x8110 < b and b - a < 64


def test_a_finding_leads_to_its_places(browser: Browser, faulty_page: Path) -> None:
    browser.open(faulty_page)
    button = next(b for b in browser.all("button.place") if "ENT-006" in b.text)
    button.click()
    assert browser.text("#strip-pfn .readout").startswith(f"PFN {FAULTY_PFN:#x}: corrupt")
    a, b = browser.window()
    assert a <= FAULTY_PFN < b
    lit = browser.one(".p2m-box.lit")
    assert int(lit.get_attribute("data-first")) <= FAULTY_PFN <= int(lit.get_attribute("data-last"))
    assert "corrupt" in lit.get_attribute("textContent")
    assert "lit" in button.find_element("xpath", "..").get_attribute("class")
    assert button.find_element("xpath", "../details").get_attribute("open") is not None
    top = browser.js("return document.getElementById('pfns').getBoundingClientRect().top")
    assert -10 <= top < 200, "the strip was scrolled into view"
    assert browser.console() == []


def test_a_finding_about_a_page_leads_to_its_box_and_its_frame(browser: Browser, overwritten_page: Path) -> None:
    browser.open(overwritten_page)
    button = next(b for b in browser.all("button.place") if "LIN-003" in b.text)
    browser.js("arguments[0].click()", button)
    lit = browser.one(".p2m-box.lit")
    assert lit.get_attribute("id") == "box-p2m_identity" and "overwritten" in lit.get_attribute("textContent")
    assert "pages of the P2M: P2M page" in browser.text("#strip-mfn .readout")
    box, frame = browser.js(
        "const r = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };"
        "return [r(arguments[0].querySelector('.p2m-frame')), r(document.getElementById('picture'))]",
        lit,
    )
    assert frame[0] <= box[0] and box[2] <= frame[2] and frame[1] <= box[1] < frame[3], (
        "the box was moved into the frame"
    )


def test_a_box_of_the_drawing_shows_its_frames_in_the_strip(browser: Browser, dom0_page: Path) -> None:
    browser.open(dom0_page)
    box = next(b for b in browser.all(".p2m-box") if b.get_attribute("data-first") == str(0x19000))
    browser.js("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", box)
    assert browser.text("#strip-pfn .readout").startswith("PFN 0x19000: mfn")
    a, b = browser.window()
    assert a <= 0x19000 and b > 0x191FF and b - a < 0x400
    assert browser.one(".p2m-box.lit").get_attribute("id") == box.get_attribute("id")


def test_a_machine_frame_leads_to_its_pfn(browser: Browser, dom0_page: Path) -> None:
    browser.open(dom0_page)
    form = browser.one("#strip-mfn form.go input")
    form.send_keys("0x30100\n")
    assert "domain 0: mfn → PFN 0x100" in browser.text("#strip-mfn .readout")
    assert "M2P agrees → PFN 0x100" in browser.text("#strip-mfn .readout")
    assert browser.text("#strip-pfn .readout").startswith("PFN 0x100: mfn → MFN 0x30100")
    form.clear()
    form.send_keys("nonsense\n")
    assert browser.text("#strip-mfn .readout").startswith("not a MFN below")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_and_the_switch_between_them(browser: Browser, dom0_page: Path, scheme: str) -> None:
    browser.open(dom0_page, scheme=scheme)
    paper = "return getComputedStyle(document.body.parentNode).backgroundColor"
    light = lambda: sum(int(n) for n in browser.js(paper).split("(")[1].split(")")[0].split(",")[:3]) > 380  # noqa: E731
    assert light() == (scheme == "light")
    before = browser.js(COLOUR_AT, 0x200)
    browser.one("#theme").click()
    assert light() != (scheme == "light")
    assert browser.one("#theme").get_attribute("aria-pressed") == str(scheme == "light").lower()
    after = browser.js(COLOUR_AT, 0x200)
    assert before[0] == after[0] == "mfn" and max(before[1], after[1]) < 12, "the canvas has the colours of its theme"


def test_hostile_strings_are_words_on_the_page(browser: Browser, hostile_page: Path) -> None:
    browser.open(hostile_page)
    assert browser.js("return [window.hit, document.images.length, document.scripts.length]") == [None, 0, 4]
    assert "<script>window.hit=1</script>" in browser.text("h1")
    assert "{{7*7}}" in browser.driver.title
    for button in browser.all("button.place"):
        button.click()
    assert browser.js("return window.hit") is None and browser.console() == []


def test_a_g_stage_is_drawn_with_its_metadata(browser: Browser, riscv_page: Path) -> None:
    browser.open(riscv_page)
    boxes = [b.get_attribute("textContent") for b in browser.all(".p2m-box")]
    assert any("root page 3" in b for b in boxes) and any("live" in b and "metadata" in b for b in boxes)
    browser.keys(DETAIL, END)
    assert browser.window() == (0, 1 << 47)
    browser.one("#strip-pfn form.go input").send_keys("0x7fffffffffff\n")
    assert browser.text("#strip-pfn .readout").startswith("GFN 0x7fffffffffff: map_foreign_ro → MFN 0x9fff0")


def test_the_drawing_zooms_and_moves_by_buttons_and_keys(browser: Browser, dom0_page: Path) -> None:
    browser.open(dom0_page)
    scale = "return d3.zoomTransform(svg.node()).k"
    first = browser.js(scale)
    browser.one("#p-in").click()
    assert browser.js("return new Promise(r => setTimeout(() => r(d3.zoomTransform(svg.node()).k), 50))") > first
    browser.keys("#picture", HOME)
    box = browser.js(
        "const r = svg.select('.p2m-all').node().getBoundingClientRect(), f = frame.node().getBoundingClientRect(); return [r.height, f.height]"
    )
    assert box[0] <= box[1] + 1
    browser.one("#p-full").click()
    assert browser.js(scale) == 1
