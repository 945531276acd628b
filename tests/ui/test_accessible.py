"""Every page, by axe-core and on a phone, in both colour schemes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import opened_page
from tests.support.service import Service
from tests.ui.looks import fits_its_width, no_serious_violation
from tests.ui.scene import Filled

KEY = "key-of-the-shop-0001"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_is_accessible_and_fits(
    filled: Filled, browser: Browser, scheme: str, width: int
) -> None:
    service, addresses = filled
    size = {"width": width, "height": 800}
    with opened_page(browser, viewport=size, color_scheme=scheme) as page:
        for address in addresses:
            page.goto(address)
            page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
            no_serious_violation(page)
            fits_its_width(page)
        page.goto(service.url)
        page.locator("summary").click()
        expect(page.get_by_role("link", name="all agents")).to_be_visible()
        page.evaluate("document.getElementById('stale').hidden = false")
        no_serious_violation(page)
        fits_its_width(page)


def test_every_page_has_a_heading_landmarks_and_a_title(filled: Filled, page: Page) -> None:
    titles = set()
    for address in filled[1]:
        page.goto(address)
        for role in ("banner", "navigation", "main"):
            expect(page.get_by_role(role).first).to_be_visible()  # type: ignore[arg-type]
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        assert page.title().endswith(" · Async executions")
        titles.add(page.title())
    assert len(titles) > 5


def test_the_keyboard_shows_where_it_is_on_every_page(filled: Filled, page: Page) -> None:
    for address in filled[1]:
        page.goto(address)
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            what, outline = page.evaluate(
                """() => {
                    const found = document.activeElement;
                    const style = getComputedStyle(found);
                    return [found.outerHTML.slice(0, 120), `${style.outlineStyle} ${style.outlineWidth}`];
                }"""
            )
            if what.startswith("<body"):
                break
            reached.add(what)
            assert outline == "solid 2px", f"{address}: {what}"
        assert len(reached) > 5, address


def test_nothing_moves_for_a_person_who_asked_for_that(filled: Filled, page: Page) -> None:
    page.goto(filled[1][0])
    moving = page.evaluate(
        """() => {
            const found = [];
            const look = (rules, asked) => {
                for (const rule of rules) {
                    const here = asked || /prefers-reduced-motion: no-preference/.test(rule.conditionText);
                    if (rule.cssRules?.length) look(rule.cssRules, here);
                    if (!here && /(transition|animation|scroll-behavior)/.test(rule.style?.cssText ?? "")) {
                        found.push(rule.cssText);
                    }
                }
            };
            for (const sheet of document.styleSheets) look(sheet.cssRules, false);
            return found;
        }"""
    )
    assert moving == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_login_and_the_empty_list_are_accessible(
    shared_service: Callable[..., Service], browser: Browser, scheme: str
) -> None:
    service = shared_service(workers=0, API_KEYS=KEY)
    with opened_page(browser, viewport={"width": 390, "height": 800}, color_scheme=scheme) as page:
        page.goto(service.url)
        no_serious_violation(page)
        for key in ("wrong-key-0123456", KEY):
            page.get_by_label("API key").fill(key)
            page.get_by_role("button", name="Log in").click()
            no_serious_violation(page)
            fits_its_width(page)
        expect(page.locator("main")).to_contain_text("Nothing has been started yet")
