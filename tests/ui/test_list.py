"""The list of executions in a real browser: live, filtered, in pages, and without JavaScript."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser import Seen, opened_page
from tests.support.service import Service

TICKING = {"do": "progress", "steps": 40, "pause": 0.25}
ENDLESS = {"do": "listen", "seconds": 600}

ASKS_AGAIN = 16_000
"""Milliseconds of the page's own clock, after which a list that does not move has asked again."""


@pytest.fixture
def service(shared_service: Callable[..., Service]) -> Service:
    return shared_service()


def path_of(page: Page) -> str:
    parts = urlsplit(page.url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def row(page: Page, execution_id: str):
    return page.locator(f"tr#{execution_id}")


@pytest.mark.usefixtures("seen")
def test_the_empty_list_starts_the_first_execution_and_goes_to_its_page(
    service: Service, page: Page
) -> None:
    page.goto(service.url)
    expect(page.locator("main")).to_contain_text("Nothing has been started yet")
    page.get_by_role("button", name="Start it").click()
    page.wait_for_url("**/ui/executions/exec_*")
    page.evaluate("window.notReloaded = true")
    expect(page.locator(".heading .status")).to_have_text("completed")
    expect(page.locator("section:has(#outputs)")).to_be_visible()
    assert page.evaluate("window.notReloaded")
    [execution] = service.get("/executions").json()["executions"]
    assert path_of(page) == f"/ui/executions/{execution['execution_id']}"
    page.get_by_role("link", name="Executions", exact=True).first.click()
    expect(row(page, execution["execution_id"]).locator(".status")).to_have_text("completed")


@pytest.mark.usefixtures("seen")
def test_the_list_refreshes_itself_without_losing_the_reader_s_place(
    service: Service, page: Page
) -> None:
    execution_id = service.start("behaves", TICKING)
    for _ in range(45):
        service.start("behaves", {"do": "echo"})
    page.set_viewport_size({"width": 1280, "height": 400})
    page.goto(service.url)
    mine = row(page, execution_id)
    expect(mine.locator("progress")).to_have_count(1)
    page.get_by_text("Target: all targets").click()
    mine.locator(".id a").focus()
    page.evaluate(
        """id => {
            window.kept = document.getElementById(id);
            window.scrollTo(0, 600);
            window.place = window.scrollY;
            getSelection().selectAllChildren(window.kept.querySelector(".target a"));
        }""",
        execution_id,
    )
    before = mine.locator("progress").get_attribute("value")
    expect(mine.locator("progress")).not_to_have_attribute("value", str(before))
    assert page.evaluate("window.kept.isConnected")
    assert page.evaluate("window.scrollY === window.place && window.place > 0")
    assert page.evaluate("String(getSelection())") == "behaves"
    expect(mine.locator(".id a")).to_be_focused()
    expect(page.locator("details.menu")).to_have_attribute("open", "")
    expect(mine.locator(".status")).to_have_text("completed")
    expect(mine.locator("progress")).to_have_count(0)


@pytest.mark.usefixtures("seen")
def test_a_new_execution_appears_by_itself_at_the_top(service: Service, page: Page) -> None:
    old = service.start("behaves", {"do": "echo"})
    page.goto(service.url)
    expect(row(page, old)).to_be_visible()
    new = service.start("behaves", ENDLESS)
    expect(page.locator("tbody tr").first).to_have_attribute("id", new)
    expect(row(page, new).locator(".status")).to_have_text("running")
    service.cancel(new)
    expect(row(page, new).locator(".status")).to_have_text("cancelled")


@pytest.mark.usefixtures("seen")
def test_changes_are_shown_at_once_and_not_only_when_the_page_asks_again(
    service: Service, page: Page
) -> None:
    page.add_init_script("window.setInterval = () => 0")  # by which it would ask again
    service.run("behaves", {"do": "echo"})
    page.goto(service.url)
    new = service.start("behaves", ENDLESS)
    expect(row(page, new).locator(".status")).to_have_text("running")
    service.cancel(new)
    expect(row(page, new).locator(".status")).to_have_text("cancelled")


def test_a_page_in_the_background_asks_for_nothing(
    service: Service, page: Page, seen: Seen
) -> None:
    """A browser opens six connections to a server at most, for all of its pages together."""
    page.add_init_script(
        "Object.defineProperty(document, 'hidden', {get: () => window.isHidden ?? true})"
    )
    service.run("behaves", {"do": "echo"})
    page.goto(service.url)
    execution_id = service.start("behaves", {"do": "echo"})
    page.wait_for_timeout(4000)
    assert [url for url in seen.addresses if "/ui/changes" in url] == []
    assert len([url for url in seen.addresses if urlsplit(url).path == "/"]) == 1
    page.evaluate("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")
    expect(row(page, execution_id)).to_be_visible()


@pytest.mark.usefixtures("seen")
def test_filters_are_links_that_survive_a_reload(service: Service, page: Page) -> None:
    failed = service.run("behaves", {"do": "no such thing"})["execution_id"]
    done = service.run("behaves", {"do": "echo"})["execution_id"]
    other = service.run("keyword_extractor", {"text": "a lamp"})["execution_id"]
    page.goto(service.url)
    expect(page.locator("#filter-all .count")).to_have_text("3")
    page.locator("#filter-failed").click()
    assert path_of(page) == "/?status=failed"
    page.reload()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(row(page, failed).locator(".failure")).to_have_text("KeyError 'no such thing'")
    expect(page.locator("#filter-failed")).to_have_attribute("aria-current", "true")
    page.locator("#filter-all").click()
    page.get_by_text("Target: all targets").click()
    page.get_by_role("link", name="keyword_extractor", exact=True).first.click()
    assert path_of(page) == "/?target_id=keyword_extractor"
    expect(row(page, other)).to_be_visible()
    expect(row(page, done)).to_have_count(0)
    expect(page.locator("#filter-completed .count")).to_have_text("1")
    page.locator("#filter-completed").click()
    assert path_of(page) == "/?status=completed&target_id=keyword_extractor"


@pytest.mark.usefixtures("seen")
def test_the_list_counts_the_time_since_the_first_start_as_the_page_does(
    service: Service, page: Page
) -> None:
    retried = {"retries": {"max": 1, "backoff_seconds": [3]}}
    id = service.run("behaves", {"do": "no such thing"}, config=retried)["execution_id"]
    page.goto(service.url)
    in_list = row(page, id).locator(".time").inner_text()
    assert float(in_list.removesuffix(" s")) >= 2, "with the pause between the attempts"
    page.goto(f"{service.url}/ui/executions/{id}")
    expect(page.locator(".figures")).to_contain_text(in_list)


@pytest.mark.usefixtures("seen")
def test_a_click_in_a_row_opens_its_execution(service: Service, page: Page) -> None:
    id = service.run("behaves", {"do": "echo"})["execution_id"]
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(service.url)
        row(page, id).locator(".status").click(force=True)  # the row's link lies above
        page.wait_for_url(f"**/ui/executions/{id}")
        expect(page.get_by_role("link", name="Executions", exact=True).first).to_have_attribute(
            "aria-current", "true"
        )
        page.goto(service.url)
        row(page, id).locator("time").hover(timeout=5000)  # its tooltip has the exact time
        row(page, id).locator(".target a").click()
        page.wait_for_url("**/ui/targets/agent/behaves")


@pytest.mark.usefixtures("seen")
def test_older_executions_are_on_further_pages(service: Service, page: Page) -> None:
    ids = [service.start("behaves", {"do": "echo"}) for _ in range(60)]
    page.goto(service.url)
    expect(page.locator("tbody tr")).to_have_count(50)
    expect(page.locator(".pager")).to_contain_text("1 to 50 of 60")
    page.get_by_role("link", name="Older").click()
    assert path_of(page) == "/?page=2"
    expect(page.locator("tbody tr")).to_have_count(10)
    expect(row(page, ids[0])).to_be_visible()
    page.get_by_role("link", name="Newer").click()
    assert path_of(page) == "/"
    page.goto(f"{service.url}/?page=9")
    page.get_by_role("link", name="Go to its first page").click()
    expect(row(page, ids[-1])).to_be_visible()


def test_without_javascript_the_list_is_complete_and_its_form_works(
    service: Service, browser: Browser
) -> None:
    with opened_page(browser, java_script_enabled=False) as page:
        page.goto(service.url)
        page.get_by_role("button", name="Start it").click()
        page.wait_for_url("**/ui/executions/exec_*")
        [execution] = service.get("/executions").json()["executions"]
        service.ended(execution["execution_id"])
        page.goto(service.url)
        expect(page.locator("tbody tr")).to_have_count(1)
        page.locator("#filter-completed").click()
        expect(row(page, execution["execution_id"])).to_contain_text("completed")
        page.get_by_text("Target: all targets").click()
        page.get_by_role("link", name="all agents").click()
        assert path_of(page) == "/?status=completed&type=agent"
        expect(page.locator("main")).to_contain_text("There are no such executions")


def test_the_page_says_that_it_is_out_of_date_while_the_service_does_not_answer(
    service: Service, page: Page
) -> None:
    execution_id = service.run("behaves", {"do": "echo"})["execution_id"]
    page.clock.install()
    page.goto(service.url)
    expect(page.locator("#stale")).to_be_hidden()

    def gone(route: Route) -> None:
        if "hx-request" in route.request.headers:
            route.abort()
        else:
            route.continue_()

    page.route("**/*", gone)
    page.clock.run_for(ASKS_AGAIN)
    expect(page.locator("#stale")).to_be_visible()
    expect(row(page, execution_id)).to_be_visible()
    page.unroute("**/*")
    page.clock.run_for(2 * ASKS_AGAIN)  # it asks less often meanwhile
    expect(page.locator("#stale")).to_be_hidden()


def test_an_error_on_the_way_leaves_what_is_shown(service: Service, page: Page) -> None:
    execution_id = service.run("behaves", {"do": "echo"})["execution_id"]
    page.clock.install()
    page.goto(service.url)
    page.route(
        "**/*",
        lambda route: route.fulfill(status=503, body="<p>away</p>", content_type="text/html"),
    )
    page.clock.run_for(ASKS_AGAIN)
    expect(page.locator("#stale")).to_be_visible()
    expect(row(page, execution_id)).to_be_visible()
    expect(page.get_by_text("away")).to_have_count(0)


@pytest.mark.usefixtures("seen")
def test_names_that_look_like_html_are_shown_as_text(
    service: Service, page: Page, seen: Seen
) -> None:
    page.goto(f"{service.url}/?target_id=<img src=x onerror=alert(1)>")
    expect(page.locator("summary")).to_contain_text("<img src=x onerror=alert(1)>")
    expect(page.locator("main img")).to_have_count(0)
    page.goto(f"{service.url}/ui/<script>alert(1)</script>")
    expect(page.locator("h1")).to_have_text("Not Found")
    seen.console = [line for line in seen.console if "404" not in line]


@pytest.mark.parametrize("query", ["status=odd", "page=0", "page=x", "page=1&page=2", "color=red"])
def test_a_wrong_filter_gets_a_page_that_says_what_is_wrong(
    service: Service, page: Page, query: str
) -> None:
    answer = page.goto(f"{service.url}/?{query}")
    assert answer is not None
    assert answer.status == 400
    expect(page.locator(".notice li code")).to_have_text(re.split("=", query)[0])
    page.get_by_role("link", name="Show all executions").click()
    assert path_of(page) == "/"


@pytest.mark.usefixtures("seen")
def test_the_keyboard_reaches_the_content_first(service: Service, page: Page) -> None:
    page.goto(service.url)
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("summary")).to_be_focused()
