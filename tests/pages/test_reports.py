"""What people see of the reports: on a screen and a phone, light and dark, by keyboard and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page

SCREENS = {"screen": (1280, 800), "phone": (390, 844)}
A4 = (718, 1000)
"""Pixels of CSS between margins of 1 cm."""
ENOUGH = 4.5
"""Contrast of text, WCAG 2.1 AA."""

both = pytest.mark.parametrize("kind", ["plan", "handover"])
screens = pytest.mark.parametrize("screen", SCREENS)

LOOKS = Path(__file__).with_name("looks.js")


@contextmanager
def opened(
    browser: Browser, path: Path, size: tuple[int, int] = SCREENS["screen"],
    scheme: Literal["light", "dark"] = "light",
) -> Iterator[Page]:  # fmt: skip
    """The page in a window of its own, of that size in pixels, without network."""
    width, height = size
    with browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    ) as context:  # fmt: skip
        page = context.new_page()
        page.goto(path.as_uri())
        page.add_script_tag(path=LOOKS)
        yield page


@both
@screens
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_needs_nothing_else_and_nothing_goes_wrong(
    browser: Browser, pages: dict[str, Path], kind: str, screen: str, scheme: Literal["light", "dark"]
) -> None:
    with opened(browser, pages[kind], SCREENS[screen], scheme) as page:
        asked: list[str] = []
        wrong: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(error.message))
        page.reload(wait_until="load")
        assert [url for url in asked if not url.startswith("data:")] == [pages[kind].as_uri()]
        assert wrong == []
        broken = page.eval_on_selector_all(
            "img", "all => all.filter(each => !each.complete || !each.naturalWidth).length"
        )
        assert broken == 0


@both
@screens
def test_nothing_is_cut_off(browser: Browser, pages: dict[str, Path], kind: str, screen: str) -> None:
    with opened(browser, pages[kind], SCREENS[screen]) as page:
        page.eval_on_selector_all("details", "all => all.forEach(each => each.open = true)")
        assert page.evaluate("cutOff()") == []


@both
@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_all_text_can_be_read(
    browser: Browser, pages: dict[str, Path], kind: str, scheme: Literal["light", "dark"], is_dark: bool
) -> None:
    with opened(browser, pages[kind], scheme=scheme) as page:
        paper, faint = page.evaluate(f"faint({ENOUGH})")
        assert (paper < 0.2) is is_dark
        assert faint == []


@both
def test_paper_is_white_and_has_all(browser: Browser, pages: dict[str, Path], kind: str) -> None:
    with opened(browser, pages[kind], A4, "dark") as page:
        page.emulate_media(media="print")
        paper, faint = page.evaluate(f"faint({ENOUGH})")
        assert paper == 1 and faint == []
        assert page.evaluate("cutOff()") == []
        assert page.evaluate("tooWide()") == []
        assert page.pdf(format="A4").startswith(b"%PDF")


@both
@screens
def test_the_keyboard_reaches_everything_and_shows_where_it_is(
    browser: Browser, pages: dict[str, Path], kind: str, screen: str
) -> None:
    with opened(browser, pages[kind], SCREENS[screen]) as page:
        reached = []
        for _ in range(page.evaluate("interactive().length")):
            page.keyboard.press("Tab")
            place, visible = page.evaluate("focused()")
            assert visible, f"the focus on element {place} cannot be seen"
            reached.append(place)
        assert reached and reached == list(range(len(reached)))


def test_the_keyboard_opens_details(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["plan"]) as page:
        summaries = page.locator("summary")
        assert summaries.count() > 1
        for summary in summaries.all():
            summary.focus()
            for key, is_open in (("Enter", True), ("Space", False)):
                page.keyboard.press(key)
                assert summary.evaluate("each => each.parentElement.open") is is_open


@both
def test_who_does_not_see_the_page_can_use_it(browser: Browser, pages: dict[str, Path], kind: str) -> None:
    with opened(browser, pages[kind]) as page:
        levels = page.eval_on_selector_all("h1, h2, h3, h4, h5", "all => all.map(each => Number(each.tagName[1]))")
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels)), levels
        pictures = page.eval_on_selector_all(
            "svg, img", "all => all.map(each => each.getAttribute('alt') ?? each.getAttribute('aria-label'))"
        )
        assert pictures and all(pictures)
        assert page.locator("html[lang] title").count() == page.locator("main").count() == 1
        unnamed = "all => all.filter(each => !(each.textContent.trim() || each.getAttribute('aria-label'))).length"
        assert page.eval_on_selector_all("a, th, summary, [role=region]", unnamed) == 0
        assert page.locator(".scroll:not([role=region][aria-label][tabindex='0'])").count() == 0


@screens
def test_the_first_screen_has_the_verdict(browser: Browser, pages: dict[str, Path], screen: str) -> None:
    """Which mechanism won, by how much, how sure: without scrolling; where there is room, also the first figure."""
    with opened(browser, pages["plan"], SCREENS[screen]) as page:
        assert page.locator("h1").inner_text().startswith("M-TCP keeps 9")
        assert "95 % interval" in page.locator(".lead").inner_text().replace("\u00a0", " ")
        last = page.locator("figure svg:visible").first if screen == "screen" else page.locator(".matrix")
        box = last.bounding_box()
        assert box is not None and box["y"] + box["height"] <= SCREENS[screen][1]
