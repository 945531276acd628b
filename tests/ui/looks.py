"""Checks of what a page looks like."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


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
