"""Pages with what is long, wide or many: nothing is cut off, at any width."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import opened_page
from tests.support.service import Service
from tests.ui.looks import fits_its_width
from tests.ui.run_targets import AGENT, FLOW

LONG = "a_name_that_somebody_made_of_the_title_of_a_document_and_of_its_chapter_and_version_2"
PIPELINE = f"{LONG}_whole"
WIDTHS = (1280, 1000, 820, 390)

STEPS = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An agent with a long name, and a pipeline of steps with long names, one of which is a batch."""
    folder = tmp_path_factory.mktemp("long")
    agents, pipelines = folder / "agents", folder / "pipelines"
    home = agents / LONG
    (home / "prompts").mkdir(parents=True)
    (home / "agent.yaml").write_text(f"description: {LONG}\n{AGENT}")
    (home / "flow.py").write_text(FLOW)
    (home / "prompts" / "says.yaml").write_text('user_template: "{text}"\n')
    pipelines.mkdir()
    steps = [_step(0, f"input_mapping: {{work: {LONG}}}, batch_mode: true, max_workers: 20")]
    steps += [_step(n, f"depends_on: [{LONG}_{n // 2}]") for n in range(1, STEPS)]
    head = [f"name: {LONG}", f"inputs: [{{name: {LONG}, type: array}}]", "steps:"]
    (pipelines / f"{PIPELINE}.yaml").write_text("\n".join([*head, *steps]) + "\n")
    return agents, pipelines


def _step(number: int, more: str) -> str:
    names = f"id: {LONG}_{number}, agent: {LONG}, flow: does, output_key: {LONG}_out_{number}"
    return f"  - {{{names}, {more}}}"


@pytest.fixture
def service(shared_service: Callable[..., Service], folders: tuple[Path, Path]) -> Service:
    return shared_service(agents=folders[0], pipelines=folders[1])


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_stay_inside_of_every_page(
    service: Service, browser: Browser, width: int
) -> None:
    config = {"flow_id": "does", "retries": {"max": 1, "backoff_seconds": [0.1]}}
    failing = {"fails_until": "/no/file", "message": LONG * 6, "lines": [LONG * 4]}
    failed = service.run(LONG, failing, config=config, tags=[LONG[:60]] * 3)["execution_id"]
    inputs = {LONG: [{} for _ in range(500)]}
    whole = service.run(PIPELINE, inputs, type="pipeline")["execution_id"]
    with opened_page(browser, viewport={"width": width, "height": 800}) as page:
        for path in (
            *("/", "/ui/targets", f"/ui/targets/agent/{LONG}", f"/ui/targets/pipeline/{PIPELINE}"),
            *(f"/ui/executions/{failed}", f"/ui/executions/{whole}", "/ui/workers"),
        ):
            page.goto(service.url + path)
            fits_its_width(page)
            for name in page.locator("tbody th").all() if width < 400 else ():
                box = name.bounding_box()
                assert box
                assert box["width"] > width / 2, "names have room"
        page.goto(f"{service.url}/ui/executions/{whole}")
        expect(page.locator(".waterfall")).to_contain_text("500 items")
        expect(page.locator(".waterfall tbody tr")).to_have_count(STEPS + 1)
        for line in page.locator(".waterfall tbody .line").all():
            box = line.bounding_box()
            assert box
            assert box["width"] > 150, "the bars have room"


def test_the_message_of_a_failure_is_in_the_list_in_one_line(
    service: Service, browser: Browser
) -> None:
    failing = {"fails_until": "/no/file", "message": f"{LONG} is missing. " * 20}
    id = service.run(LONG, failing, config={"flow_id": "does"})["execution_id"]
    with opened_page(browser, viewport={"width": 1280, "height": 800}) as page:
        page.goto(service.url)
        failure = page.locator(f"#{id} .failure")
        expect(failure).to_contain_text(f"ValueError {LONG} is missing.")
        box = failure.bounding_box()
        assert box
        assert box["height"] < 30


@pytest.mark.parametrize("width", WIDTHS)
def test_the_menu_of_targets_lies_above_the_list_and_inside_of_the_window(
    service: Service, browser: Browser, width: int
) -> None:
    for _ in range(10):
        service.start(LONG, {"seconds": 0}, config={"flow_id": "does"})
    with opened_page(browser, viewport={"width": width, "height": 800}) as page:
        for path in ("/", f"/?target_id={LONG}"):
            page.goto(service.url + path)
            page.locator(".menu summary").click()
            menu = page.locator(".menu ul")
            box = menu.bounding_box()
            assert box
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            covered = menu.evaluate(
                """menu => {
                    const { left, top, width, height } = menu.getBoundingClientRect();
                    const found = new Set();
                    for (let x = 1; x < 40; x++) for (let y = 1; y < 40; y++) {
                        const at = document.elementFromPoint(left + width * x / 40, top + height * y / 40);
                        if (!menu.contains(at)) found.add(at.outerHTML.slice(0, 80));
                    }
                    return [...found];
                }"""
            )
            assert covered == []
