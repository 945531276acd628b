"""The pages of targets and workers in a real browser: the form, the live parts, and for everyone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Seen, opened_page
from tests.support.service import Service
from tests.ui.looks import fits_its_width, no_serious_violation

FORM = "/ui/targets/agent/mem_l1_summarizer"
PIPELINE = "/ui/targets/pipeline/customer_service_flow"
FREE = "/ui/targets/pipeline/free"
PATHS = ("/ui/targets", PIPELINE, FORM, FREE, "/ui/workers")
STARTED = re.compile(r".*/ui/executions/(exec_\w+)$")


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with an input of each type, and a step of each kind."""
    folder = tmp_path_factory.mktemp("pipelines")
    (folder / "free.yaml").write_text(
        """
name: Everything <b>at once</b>
inputs:
  - {name: text, type: string, required: true}
  - {name: list, type: array, default: [1, 2]}
  - {name: object, type: object}
  - {name: count, type: integer, default: 5}
  - {name: share, type: number}
  - {name: deep, type: boolean, default: false}
  - {name: free}
steps:
  - {id: first, agent: relay_step, input_mapping: {work: object}, output_key: one, retries: 2}
  - {id: many, agent: relay_step, input_mapping: {work: list}, batch_mode: true, required: false}
  - {id: maybe, agent: relay_step, input_mapping: {work: one, free: free}, when: "deep", depends_on: [many]}
"""
    )
    return folder


@pytest.fixture
def quiet(shared_service: Callable[..., Service], pipelines: Path) -> Service:
    return shared_service(workers=0, pipelines=pipelines)


def stored(service: Service, page: Page) -> dict[str, object]:
    """The request of the execution that the browser was sent to."""
    page.wait_for_url(STARTED)
    found = STARTED.match(page.url)
    assert found
    return dict(service.get(f"/executions/{found[1]}?include=inputs,config").json())


def fill_everything(page: Page) -> None:
    page.get_by_label("text string required").fill("One line.\n\nAnother <b>one</b>.")
    page.get_by_label("object object").fill('{"seconds": 0}')
    page.get_by_label("count integer").fill("7")
    page.get_by_label("share number").fill("0.5")
    page.get_by_label("deep boolean").select_option("true")
    page.get_by_label("free", exact=True).fill("[3]")
    page.get_by_label("JSON", exact=True).check()


EVERYTHING = {
    "text": "One line.\n\nAnother <b>one</b>.",
    "list": [1, 2],
    "object": {"seconds": 0},
    "count": 7,
    "share": 0.5,
    "deep": True,
    "free": [3],
}


@pytest.mark.parametrize("javascript", [True, False])
def test_a_person_fills_in_the_form_and_starts_an_execution(
    quiet: Service, browser: Browser, javascript: bool
) -> None:
    with opened_page(browser, java_script_enabled=javascript) as page:
        page.goto(quiet.url + FREE)
        fill_everything(page)
        page.get_by_role("button", name="Start").click()
        assert stored(quiet, page)["inputs"] == EVERYTHING


@pytest.mark.parametrize("javascript", [True, False])
def test_a_person_corrects_a_mistake_without_writing_anything_again(
    quiet: Service, browser: Browser, javascript: bool
) -> None:
    with opened_page(browser, java_script_enabled=javascript) as page:
        page.goto(quiet.url + FREE)
        fill_everything(page)
        page.get_by_label("count integer").fill("seven")
        page.get_by_label("object object").fill("{seconds}")
        page.get_by_role("button", name="Start").click()
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("Nothing was started. Please correct object, count.")
        count = page.get_by_label("count integer")
        expect(count).to_have_accessible_description(re.compile("Write a whole number, such as 42"))
        expect(count).to_have_value("seven")
        alert.get_by_role("link", name="count").click()
        expect(count).to_be_focused()
        count.fill("7")
        page.get_by_label("object object").fill('{"seconds": 0}')
        page.get_by_role("button", name="Start").click()
        assert stored(quiet, page)["inputs"] == EVERYTHING


def test_a_text_comes_back_from_the_form_as_it_was(quiet: Service, page: Page) -> None:
    text = "\n\n  begins with empty lines,\n\tand ends with some.\n\n"
    id = quiet.start("mem_l1_summarizer", {"text": text})
    page.goto(f"{quiet.url}{FORM}?from={id}")
    page.get_by_role("button", name="Start").click()
    assert stored(quiet, page)["inputs"] == {"text": text, "max_sentences": 3}


def test_a_second_click_starts_no_second_execution(quiet: Service, page: Page) -> None:
    page.goto(quiet.url + FORM)
    page.get_by_label("text string required").fill("a")
    with redis.Redis.from_url(quiet.env["REDIS_URL"]) as store:
        store.client_pause(700)  # so that the second click comes before the answer
    button = page.get_by_role("button", name="Start").bounding_box()
    assert button
    for _ in range(3):
        page.mouse.click(button["x"] + 5, button["y"] + 5)
        time.sleep(0.15)
    page.wait_for_url(STARTED)
    total = quiet.get("/executions").json()["pagination"]["total_items"]
    assert total == 1
    page.go_back()
    page.get_by_label("text string required").fill("b")
    page.get_by_role("button", name="Start").click()
    assert stored(quiet, page)["inputs"] == {"text": "b", "max_sentences": 3}


def test_an_input_may_have_any_name(
    make_service: Callable[..., Service], tmp_path: Path, page: Page
) -> None:
    odd = ["a b", 'say "what"', "<i>", "名称", "a.b"]
    pipelines = tmp_path / "pipelines"
    pipelines.mkdir()
    (pipelines / "odd.yaml").write_text(
        "inputs: "
        + json.dumps([{"name": name} for name in odd])
        + "\nsteps: [{id: a, agent: behaves, output_key: a}]"
    )
    service = make_service(workers=0, pipelines=pipelines)
    page.goto(f"{service.url}/ui/targets/pipeline/odd")
    for name in odd:
        page.get_by_label(name, exact=True).fill(name)
    page.get_by_role("button", name="Start").click()
    assert stored(service, page)["inputs"] == {name: name for name in odd}


def test_the_last_runs_appear_without_a_reload(quiet: Service, page: Page) -> None:
    page.goto(quiet.url + FORM)
    page.get_by_label("text string required").fill("half written")
    id = quiet.start("mem_l1_summarizer", {"text": "a"})
    expect(page.get_by_role("link", name=id)).to_be_visible(timeout=30_000)
    quiet.cancel(id)
    expect(page.locator(f"#run-{id}")).to_contain_text("cancelled", timeout=30_000)
    expect(page.get_by_label("text string required")).to_have_value("half written")


def test_the_workers_appear_without_a_reload(
    make_service: Callable[..., Service], page: Page
) -> None:
    service = make_service(workers=0)
    page.goto(service.url + "/ui/workers")
    expect(page.get_by_text("No worker is alive.")).to_be_visible()
    service.start_worker()
    expect(page.get_by_text("No worker is alive.")).not_to_be_visible(timeout=60_000)
    expect(page.get_by_text("1 at work.").first).to_be_visible(timeout=60_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_form_with_every_kind_of_field_and_mistakes_is_accessible_and_fits(
    quiet: Service, browser: Browser, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 800}
    with opened_page(browser, color_scheme=scheme, viewport=size) as page:
        page.goto(quiet.url + FREE)
        no_serious_violation(page)
        fits_its_width(page)
        page.get_by_label("count integer").fill("seven")
        page.get_by_label("object object").fill("{" + "very_long_" * 100)
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("alert")).to_be_visible()
        no_serious_violation(page)
        fits_its_width(page)


@pytest.mark.parametrize("path", PATHS)
def test_a_page_has_no_errors_and_asks_nobody_else(
    quiet: Service, page: Page, seen: Seen, path: str
) -> None:
    quiet.start("mem_l1_summarizer", {"text": "a"})
    page.goto(quiet.url + path)
    page.wait_for_load_state("networkidle")
    assert seen.addresses


@pytest.mark.parametrize("path", PATHS)
def test_a_page_is_readable_without_javascript(quiet: Service, browser: Browser, path: str) -> None:
    with opened_page(browser, java_script_enabled=False) as page:
        page.goto(quiet.url + path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert len(page.inner_text("main").split()) > 10


def test_names_from_files_stay_text(quiet: Service, page: Page) -> None:
    page.goto(quiet.url + FREE)
    expect(page.get_by_role("heading", level=1)).to_have_text("Everything <b>at once</b>")
    expect(page.get_by_role("img", name="The steps of Everything <b>at once</b>")).to_be_visible()


def test_the_keyboard_reaches_the_drawing_and_the_form(quiet: Service, page: Page) -> None:
    page.goto(quiet.url + FREE)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.getAttribute('aria-label') || document.activeElement.name"
            )
        )
    assert "The drawing of the steps" in reached
    assert "inputs.text" in reached
