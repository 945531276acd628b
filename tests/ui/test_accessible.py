"""Every page, by axe-core and on a phone, in both colour schemes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import opened_page
from tests.support.service import Service

KEY = "key-of-the-shop-0001"
PAGES = [
    *("/", "/?status=failed", "/?status=cancelled", "/?page=7", "/ui/nothing"),
    *("/ui/targets", "/ui/targets/pipeline/customer_service_flow", "/ui/targets/agent/behaves"),
    "/ui/workers",
]
"""Every page that a person can see, with something on it."""


@pytest.fixture
def filled(shared_service: Callable[..., Service]) -> Service:
    """A service with executions in each state."""
    service = shared_service()
    service.run("behaves", {"do": "echo"})
    service.run("behaves", {"do": "no such thing"}, config={"retries": {"max": 1}})
    service.run("customer_service_flow", {"customer_query": "Where is it?"}, type="pipeline")
    running = service.start("behaves", {"do": "listen", "seconds": 600})
    service.until(running, "running")
    return service


def no_serious_violation(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    told = [
        f"{violation['id']}: {node['html']}"
        for violation in found
        for node in violation["nodes"]
        if violation["impact"] in ("serious", "critical", "moderate")
    ]
    assert told == [], page.url


def fits_its_width(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_is_accessible_and_fits(
    filled: Service, browser: Browser, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 800}
    with opened_page(browser, viewport=size, color_scheme=scheme) as page:
        for path in PAGES:
            page.goto(filled.url + path)
            no_serious_violation(page)
            fits_its_width(page)
        page.goto(filled.url)
        page.locator("summary").click()
        expect(page.get_by_role("link", name="all agents")).to_be_visible()
        no_serious_violation(page)
        fits_its_width(page)


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
