"""Pages that stay open for long: over restarts, refusals, and outages."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.browser import watch
from tests.support.service import Service

WITHOUT_A_CLOCK = "window.setInterval = () => 0"  # a page then asks again only if it hears of it


@pytest.fixture
def quiet(shared_service: Callable[..., Service]) -> Service:
    return shared_service(workers=0)


class Proxy:
    """Stands before the service, and refuses some requests of a page while `is_away`."""

    def __init__(self, page: Page, refuses: Callable[[Route], bool]):
        self.is_away, self.refused, self._refuses = True, 0, refuses
        page.route("**/*", self._answer)

    def _answer(self, route: Route) -> None:
        if self.is_away and self._refuses(route):
            self.refused += 1
            route.fulfill(status=502, body="Bad gateway")
        else:
            route.continue_()


def is_stream(route: Route) -> bool:
    return urlsplit(route.request.url).path.endswith(("/changes", "/events"))


def is_refresh(route: Route) -> bool:
    return "hx-request" in route.request.headers


@pytest.mark.parametrize("is_list", [True, False])
def test_a_stream_that_was_refused_is_opened_again(
    quiet: Service, page: Page, is_list: bool
) -> None:
    id = quiet.start("behaves")
    page.add_init_script(WITHOUT_A_CLOCK)
    proxy = Proxy(page, is_stream)
    page.goto(quiet.url if is_list else f"{quiet.url}/ui/executions/{id}")
    page.wait_for_timeout(5000)
    assert 2 <= proxy.refused <= 4
    proxy.is_away = False
    quiet.cancel(id)
    state = page.locator(f"tr#{id} .status" if is_list else ".heading .status")
    expect(state).to_have_text("cancelled")


def test_a_page_asks_less_often_while_the_service_is_away_and_recovers(
    quiet: Service, page: Page
) -> None:
    quiet.start("behaves")
    page.clock.install()
    proxy = Proxy(page, lambda route: is_refresh(route) or is_stream(route))
    page.goto(f"{quiet.url}/ui/workers")
    for _ in range(150):  # five minutes
        page.clock.run_for(2000)
        page.wait_for_timeout(20)
    expect(page.locator("#stale")).to_be_visible()
    # Each of the two is asked for after 2, 4, 8, 16, 30, 30, ... seconds, or after half of it.
    assert 20 <= proxy.refused <= 60
    proxy.is_away = False
    for _ in range(20):
        page.clock.run_for(2000)
        page.wait_for_timeout(50)
    expect(page.locator("#stale")).to_be_hidden()


def test_an_open_page_goes_on_after_a_restart_of_the_web_process(
    make_service: Callable[..., Service], page: Page
) -> None:
    service = make_service(workers=0)
    id = service.start("behaves")
    page.add_init_script(WITHOUT_A_CLOCK)
    page.goto(service.url)
    expect(page.locator(f"tr#{id}")).to_be_visible()
    seen = watch(page)
    assert service.web is not None
    service.web.terminate()
    service.web.wait(60)
    page.wait_for_timeout(3000)
    service.start_web()
    service.cancel(id)
    expect(page.locator(f"tr#{id} .status")).to_have_text("cancelled")
    assert len([url for url in seen.addresses if "/ui/changes" in url]) <= 6
