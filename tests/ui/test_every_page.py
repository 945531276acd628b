"""Every page, with and without JavaScript: complete, without errors, and from this machine alone."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Seen, opened_page
from tests.ui.scene import Filled


def test_no_page_has_an_error_or_asks_another_machine(
    filled: Filled,
    page: Page,
    seen: Seen,
) -> None:
    for address in filled[1]:
        page.goto(address)
        page.wait_for_timeout(300)  # what its scripts begin
        if address.endswith("/ui/nothing"):
            seen.console = [line for line in seen.console if "404" not in line]
    assert seen.addresses


def test_every_page_says_the_same_without_javascript(
    filled: Filled,
    browser: Browser,
) -> None:
    with (
        opened_page(browser, java_script_enabled=False) as plain,
        opened_page(browser) as scripted,
    ):
        for address in filled[1]:
            plain.goto(address)
            scripted.goto(address)
            texts = [_lasting(page.locator("main").inner_text()) for page in (plain, scripted)]
            assert texts[0] == texts[1], address
            assert len(texts[0]) > 5


def test_times_stay_true_on_a_page_that_asks_for_nothing_more(
    filled: Filled,
    page: Page,
) -> None:
    service = filled[0]
    [ended, *_] = service.get("/executions?status=completed").json()["executions"]
    page.clock.install()
    page.goto(f"{service.url}/ui/executions/{ended['execution_id']}")
    created = page.locator(".figures time").first
    expect(created).to_have_text(re.compile(r"just now|\d+ s ago"))
    page.clock.fast_forward("05:00")
    expect(created).to_have_text("5 min ago")
    page.clock.fast_forward("03:00:00")
    expect(created).to_have_text("3 h ago")


def _lasting(text: str) -> list[str]:
    """The words of a page without what grows between two looks, and without the copy buttons."""
    text = re.sub(r"\d+(\.\d+)? (s|min)\b( ago)?|just now", "", text)
    text = re.sub(r"Request [0-9a-f]{16}|\d+ %|page \d+|Copy (id|this command)", "", text)
    return text.split()
