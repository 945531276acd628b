"""The login in a real browser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import opened_page
from tests.support.service import Service

KEY = "key-of-the-shop-0001"


@pytest.fixture
def service(shared_service: Callable[..., Service]) -> Service:
    return shared_service(API_KEYS=f"shop:{KEY}")


def log_in(page: Page, key: str = KEY) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()


@pytest.mark.usefixtures("seen")
def test_a_person_logs_in_sees_the_tenant_s_executions_and_logs_out(
    service: Service, page: Page
) -> None:
    page.goto(f"{service.url}/?status=pending")
    log_in(page)
    expect(page).to_have_url(f"{service.url}/?status=pending")
    expect(page.locator(".who")).to_contain_text("shop")
    page.get_by_role("link", name="Show all executions").click()
    page.get_by_role("button", name="Start it").click()
    expect(page.locator(".heading .status")).to_have_text("completed")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_focused()
    page.goto(service.url)
    expect(page.get_by_label("API key")).to_be_visible()


def test_another_tenant_sees_nothing_of_it(service: Service, page: Page) -> None:
    body = {"type": "agent", "target_id": "behaves", "inputs": {}}
    started = service.post("/executions", json=body, headers={"X-API-Key": KEY})
    assert started.status_code == 202
    page.goto(service.url)
    log_in(page, service.add_key("ben", tenant="bank"))
    expect(page.locator("main")).to_contain_text("Nothing has been started yet")


def test_a_key_that_may_only_read_gets_no_button_to_start(service: Service, page: Page) -> None:
    page.goto(service.url)
    log_in(page, service.add_key("reader", scopes="read"))
    expect(page.locator("main")).to_contain_text("Nothing has been started yet")
    expect(page.get_by_role("button", name="Start it")).to_have_count(0)


def test_a_wrong_key_is_refused_beside_the_field(service: Service, page: Page) -> None:
    page.goto(service.url)
    log_in(page, "not-a-key-of-anybody")
    expect(page.get_by_role("alert")).to_have_text("Invalid API key.")
    expect(page.get_by_label("API key")).to_have_attribute("aria-invalid", "true")
    log_in(page)
    expect(page.locator(".who")).to_be_visible()


def test_an_open_page_goes_to_the_login_when_its_key_is_revoked(
    service: Service, page: Page
) -> None:
    page.goto(service.url)
    log_in(page, service.add_key("ann"))
    expect(page.locator(".who")).to_contain_text("ann")
    service.keys().revoke("ann")
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_link_on_another_website_leads_to_the_page_and_not_to_the_login(
    service: Service, page: Page
) -> None:
    """Browsers send no SameSite=Strict cookie with the first request that follows such a link."""
    page.goto(service.url)
    log_in(page)
    expect(page.locator(".who")).to_be_visible()
    page.route(
        "http://another.example/**",
        lambda route: route.fulfill(
            body=f'<a href="{service.url}/?status=failed">look</a>', content_type="text/html"
        ),
    )
    page.goto("http://another.example/chat")
    page.get_by_text("look").click()
    expect(page).to_have_url(f"{service.url}/?status=failed")
    expect(page.locator(".who")).to_be_visible()


def test_the_login_works_without_javascript(service: Service, browser: Browser) -> None:
    with opened_page(browser, java_script_enabled=False) as page:
        page.goto(service.url)
        log_in(page)
        page.get_by_role("button", name="Start it").click()
        page.wait_for_url("**/ui/executions/exec_*")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("API key")).to_be_visible()
