"""The page of one execution in a real browser: live, with its buttons, and for everyone."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Seen, opened_page
from tests.support.model_server import Answer, ModelServer
from tests.support.receiver import SECRET, Receiver
from tests.support.receiver import Answer as ReceiverAnswer
from tests.support.service import Service
from tests.ui.looks import fits_its_width, no_serious_violation
from tests.ui.run_targets import HTML, write_targets
from tests.ui.test_page_access import SECRET as SESSION_SECRET
from tests.ui.test_page_access import visitor_with

DOES = {"flow_id": "does"}
SAYS = {"flow_id": "says"}
PAGE = re.compile(r".*/ui/executions/(exec_\w+)$")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_targets(tmp_path_factory.mktemp("targets"))


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
def service(
    shared_service: Callable[..., Service], folders: tuple[Path, Path], model: ModelServer
) -> Service:
    return shared_service(
        agents=folders[0],
        pipelines=folders[1],
        OPENAI_BASE_URL=model.url,
        OPENAI_API_KEY="sk-secret-key-1",
        WEBHOOK_SECRET=SECRET,
        WEBHOOK_ALLOW_PRIVATE=1,
    )


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """A file that flows wait for."""
    return tmp_path / "flag"


def url(service: Service, id: str) -> str:
    return f"{service.url}/ui/executions/{id}"


def review(service: Service, flag: Path, **last: object) -> str:
    """Starts the pipeline, whose step `right` waits for the file."""
    inputs = {"first": {}, "second": {"until": str(flag)}, "last": last}
    return service.start("review", inputs, type="pipeline")


def status(page: Page):
    return page.locator(".heading .status")


def expect_soon(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def step(page: Page, name: str):
    return page.locator(".waterfall tbody tr").filter(
        has=page.get_by_role("rowheader", name=re.compile(f"^{name}"))
    )


@pytest.mark.usefixtures("seen")
def test_the_progress_bar_moves_without_a_reload_and_the_end_is_shown(
    service: Service, page: Page, flag: Path
) -> None:
    id = service.start("doer", {"until": str(flag), "returns": "all read"}, config=DOES)
    service.until(id, "running")
    page.goto(url(service, id))
    page.evaluate("window.notReloaded = true")
    bar = page.locator(".bigprogress progress")
    before = bar.get_attribute("value")
    expect(bar).not_to_have_attribute("value", str(before))
    expect(page.locator(".bigprogress")).to_contain_text("page ")
    flag.touch()
    expect(status(page)).to_have_text("completed")
    expect(page.locator("section:has(#outputs)")).to_contain_text('"all read"')
    expect(bar).to_have_count(0)
    assert page.evaluate("window.notReloaded")


def test_a_page_of_what_has_ended_asks_for_nothing_more(
    service: Service, page: Page, seen: Seen, flag: Path
) -> None:
    id = service.start("doer", {"until": str(flag)}, config=DOES)
    page.goto(url(service, id))
    flag.touch()
    expect(status(page)).to_have_text("completed")
    page.wait_for_timeout(1500)  # what it has begun may end
    asked = len(seen.addresses)
    page.wait_for_timeout(5000)
    assert seen.addresses[asked:] == []


@pytest.mark.usefixtures("seen")
def test_the_steps_are_drawn_where_they_ran(service: Service, page: Page, flag: Path) -> None:
    id = review(service, flag, seconds=0.3)
    page.goto(url(service, id))
    expect(step(page, "right").locator(".status")).to_have_text("running")
    expect(step(page, "report").locator(".status")).to_have_text("pending")
    expect(page.locator("section:has(#partial)")).to_contain_text("left")
    stored = service.http.get(f"{page.url}/json").json()
    assert stored["outputs_partial"]["left"] == "done"
    assert [found["id"] for found in stored["steps"]] == ["read", "left", "right", "report"]
    page.wait_for_timeout(500)
    flag.touch()
    expect(status(page)).to_have_text("completed")
    boxes = {}
    for name in ("read", "left", "right", "report"):
        box = step(page, name).locator("rect:not(.wait)").bounding_box()
        assert box
        boxes[name] = (box["x"], box["x"] + box["width"])
    assert boxes["left"][0] < boxes["right"][1]
    assert boxes["right"][0] < boxes["left"][1], "they ran side by side"
    assert boxes["report"][0] >= boxes["right"][1] - 1
    assert boxes["report"][0] >= boxes["left"][1] - 1


@pytest.mark.usefixtures("seen")
def test_the_tries_of_a_step_and_the_waits_between_them_are_drawn(
    service: Service, page: Page, flag: Path
) -> None:
    inputs = {"first": {}, "second": {"seconds": 0.3, "fails_until": str(flag)}, "last": {}}
    id = service.start("review", inputs, type="pipeline")
    page.goto(url(service, id))
    tried = step(page, "right")
    expect(tried.locator("rect.failed")).not_to_have_count(0)
    flag.touch()
    expect(status(page)).to_have_text("completed")
    expect(tried.locator("rect.completed")).to_have_count(1)
    expect(tried.locator("rect.wait")).not_to_have_count(0)
    expect(tried.locator(".again")).to_have_text(re.compile("[0-9]+"))


@pytest.mark.usefixtures("seen")
def test_a_step_says_which_model_it_asked_and_how_many_tokens_that_took(
    service: Service, page: Page, model: ModelServer
) -> None:
    model.play(Answer("From the model."))
    inputs = {"first": {"answers": "Hi"}, "second": {}, "last": {}}
    id = service.run("review", inputs, type="pipeline")["execution_id"]
    page.goto(url(service, id))
    expect(step(page, "read").locator(".model")).to_have_text(re.compile("-served$"))
    expect(step(page, "read").locator("td").last).to_have_text("16")
    expect(step(page, "left").locator("td").last).to_have_text("")
    page.get_by_text("What the model says").click()
    expect(page.locator("#answers article")).to_contain_text("From the model.")
    expect(page.locator("#answers h3")).to_have_text("read")


COUNTING = ["<b>0</b> ", *(f"{number} " for number in range(1, 600))]


def counted(page: Page, at_least: int) -> int:
    """Waits until the model has counted so far on the page. Returns how far it is then.

    It fails if a piece of the answer is missing, or there twice.
    """
    said = "document.querySelector('#answers .said')?.textContent ?? ''"
    page.wait_for_function(f"least => ({said}).split(' ').length > least + 1", arg=at_least)
    words = str(page.evaluate(said)).split()
    assert words == [piece.strip() for piece in COUNTING][: len(words)]
    return len(words)


@pytest.mark.usefixtures("seen")
def test_the_answer_of_a_model_appears_as_it_comes_and_is_text(
    service: Service, page: Page, model: ModelServer
) -> None:
    model.play(Answer(pieces=list(COUNTING), pause_seconds=0.1))
    id = service.start("doer", {"text": "Count."}, config=SAYS)
    service.until(id, "running")
    page.goto(url(service, id))
    first = counted(page, 3)
    more = counted(page, first + 10)
    expect(status(page)).to_have_text("running")
    page.reload()  # what was said before is there, and more comes
    counted(page, more + 10)
    service.cancel(id)
    expect(status(page)).to_have_text("cancelled")
    expect(page.locator("#answers .said")).to_contain_text("<b>0</b> 1 2 3")


@pytest.mark.usefixtures("seen")
def test_a_page_that_comes_back_from_the_background_continues_where_it_was(
    service: Service, page: Page, model: ModelServer, seen: Seen
) -> None:
    page.add_init_script("Object.defineProperty(document, 'hidden', {get: () => window.isHidden})")
    look = "hidden => { window.isHidden = hidden; document.dispatchEvent(new Event('visibilitychange')); }"
    model.play(Answer(pieces=list(COUNTING), pause_seconds=0.1))
    id = service.start("doer", {"text": "Count."}, config=SAYS)
    page.goto(url(service, id))
    before = counted(page, 3)
    page.evaluate(look, True)
    page.wait_for_timeout(500)
    asked = len(seen.addresses)
    page.wait_for_timeout(4000)
    assert seen.addresses[asked:] == []
    page.evaluate(look, False)
    counted(page, before + 30)
    service.cancel(id)


@pytest.mark.usefixtures("seen")
def test_changes_are_shown_at_once_and_not_only_when_the_page_asks_again(
    service: Service, page: Page, flag: Path
) -> None:
    page.add_init_script("window.setInterval = () => 0")  # by which it would ask again
    id = service.start("doer", {"until": str(flag)}, config=DOES)
    page.goto(url(service, id))
    expect(page.locator(".bigprogress")).to_contain_text("page ")
    flag.touch()
    expect(status(page)).to_have_text("completed")


@pytest.mark.usefixtures("seen")
def test_lines_of_the_log_appear_as_they_are_written(
    service: Service, page: Page, flag: Path
) -> None:
    inputs = {"work": {"until": str(flag)}, "lines": ["first <i>line</i>"]}
    id = service.start("doer", inputs, config=DOES)
    page.goto(url(service, id))
    lines = page.locator("#log li")
    expect(lines).to_have_count(1)
    expect(lines).to_contain_text("first <i>line</i>")
    expect(lines.locator("code")).to_have_text(re.compile(r'\{"page": ?3\}'))
    flag.touch()
    expect(status(page)).to_have_text("completed")
    expect(lines).to_have_count(1)
    page.reload()
    expect(lines).to_have_count(1)
    expect(lines).to_contain_text("first <i>line</i>")


@pytest.mark.usefixtures("seen")
def test_a_cancel_asks_first(service: Service, page: Page, flag: Path) -> None:
    id = service.start("doer", {"until": str(flag)}, config=DOES)
    page.goto(url(service, id))
    page.get_by_role("button", name="Cancel", exact=True).click()
    question = page.get_by_role("dialog")
    expect(question).to_contain_text("What it is working on is lost.")
    page.wait_for_timeout(2500)  # the page refreshes meanwhile
    expect(question).to_be_visible()
    page.get_by_role("button", name="Let it run").click()
    expect(question).to_be_hidden()
    assert service.status(id)["status"] in ("pending", "running")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the execution").click()
    expect(status(page)).to_have_text("cancelled")
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_have_count(0)
    assert service.status(id)["status"] == "cancelled"


@pytest.mark.usefixtures("seen")
def test_a_retry_continues_behind_the_finished_steps(
    service: Service, page: Page, flag: Path
) -> None:
    inputs = {"first": {"returns": "kept"}, "second": {}, "last": {"fails_until": str(flag)}}
    id = service.start("review", {**inputs, "last": {}, "second": inputs["last"]}, type="pipeline")
    service.ended(id)
    page.goto(url(service, id))
    expect(page.locator(".alarm")).to_contain_text("ValueError It went wrong.")
    expect(step(page, "right")).to_contain_text("failed")
    expect(page.locator("section:has(#partial)")).to_contain_text("read")
    flag.touch()
    page.get_by_role("button", name="Retry from the failed step").click()
    expect(page.locator(".ids")).to_contain_text(f"a retry of {id}")
    expect(status(page)).to_have_text("completed")
    expect(step(page, "read")).to_contain_text("kept from an earlier execution")
    expect(step(page, "right").locator("rect.completed")).to_have_count(1)
    page.get_by_role("link", name="an earlier execution").first.click()
    page.wait_for_url(url(service, id))


@pytest.mark.usefixtures("seen")
def test_a_person_runs_it_again_with_edited_inputs(service: Service, page: Page) -> None:
    id = service.run("doer", {"returns": "old"}, config=DOES)["execution_id"]
    page.goto(url(service, id))
    page.get_by_role("link", name="Run again").click()
    text = page.locator("textarea[name=inputs]")
    expect(text).to_have_value(re.compile('"old"'))
    text.fill('{"returns": "new"}')
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(PAGE)
    expect(status(page)).to_have_text("completed")
    expect(page.locator("section:has(#outputs)")).to_contain_text('"new"')


@pytest.mark.usefixtures("seen")
def test_a_person_runs_it_again_as_it_was_without_its_callback(
    service: Service, page: Page, receiver: Receiver
) -> None:
    asked = {"inputs": {"returns": 'it\'s "fine" ß 名称'}, "config": {"timeout": 50}}
    callback = {"callback_url": f"http://127.0.0.1:{receiver.port}/hook"}
    tags = ["nightly import", "eu"]
    id = service.run("doer", asked["inputs"], config=asked["config"], tags=tags, **callback)
    page.goto(url(service, id["execution_id"]))
    page.get_by_role("link", name="Run again").click()
    expect(page.locator("main")).to_contain_text("Its webhooks are not taken over")
    expect(page.get_by_label("Tags")).to_have_value("nightly import\neu")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(PAGE)
    expect(page.locator(".ids .tag")).to_have_text(tags)
    expect(page.locator("#deliveries")).to_have_count(0)
    again = PAGE.match(page.url)[1]  # type: ignore[index]
    stored = service.get(f"/executions/{again}?include=inputs,config").json()
    assert {name: stored[name] for name in asked} == asked


@pytest.mark.usefixtures("seen")
def test_a_retry_says_what_it_takes_over(
    service: Service, page: Page, receiver: Receiver, flag: Path
) -> None:
    callback = {"callback_url": f"http://127.0.0.1:{receiver.port}/hook"}
    failing = {"fails_until": str(flag)}
    id = service.run("doer", failing, config=DOES, tags=["eu"], **callback)["execution_id"]
    page.goto(url(service, id))
    expect(page.locator("main")).to_contain_text(
        "A retry is a new execution with the same inputs, settings and tags. "
        "Its webhooks go to the same address."
    )
    flag.touch()
    page.get_by_role("button", name="Retry").click()
    expect(status(page)).to_have_text("completed")
    expect(page.locator(".ids .tag")).to_have_text(["eu"])
    expect(page.locator("#delivery-1")).to_contain_text("delivered")


def test_the_commands_work_when_they_are_pasted_into_a_shell(service: Service, page: Page) -> None:
    odd = 'it\'s $HOME `id` \\ !x "double" ß ünïcode 名称 😀\n\ttab <b> %s & ; #'
    inputs = {"returns": odd, 'say "it\'s" $HOME': [None, True, 1.5]}
    first = service.run("doer", inputs, config=DOES, tags=["it's", "eu"])["execution_id"]
    page.goto(url(service, first))

    def pasted(id: str) -> dict[str, object]:
        command = page.locator(id).text_content()
        assert command
        shell = ["bash", "-c", command.replace("curl", "curl -sS", 1)]
        return dict(json.loads(subprocess.run(shell, capture_output=True, check=True).stdout))

    assert pasted("#curl-read")["execution_id"] == first
    started = str(pasted("#curl-start")["execution_id"])
    assert service.ended(started)["outputs"]["output"] == odd
    again, before = (
        service.get(f"/executions/{id}?include=inputs,config").json() for id in (started, first)
    )
    for name in ("type", "target_id", "inputs", "config", "tags"):
        assert again[name] == before[name], name


@pytest.mark.usefixtures("seen")
def test_outputs_and_errors_that_are_html_are_shown_as_text(service: Service, page: Page) -> None:
    returns = {"html": HTML, HTML: [HTML]}
    done = service.run("doer", {"returns": returns, "lines": [HTML]}, config=DOES)["execution_id"]
    failing = {"fails_until": "/no/such/file", "message": HTML}
    failed = service.run("doer", failing, config=DOES)["execution_id"]
    for id in (done, failed):
        page.goto(url(service, id))
        expect(page.locator("main")).to_contain_text(HTML)
        expect(page.locator("main img")).to_have_count(0)
        expect(page.locator("main script")).to_have_count(0)
        assert "broken" not in page.title()


@pytest.mark.usefixtures("seen")
def test_a_large_output_is_cut_with_a_link_to_all_of_it(service: Service, page: Page) -> None:
    id = service.run("doer", {"letters": 6_000_000}, config=DOES)["execution_id"]
    answer = page.goto(url(service, id))
    assert answer is not None
    assert len(answer.body()) < 300_000
    outputs = page.locator("section:has(#outputs)")
    expect(outputs).to_contain_text("This is only the beginning of 5.7 MiB.")
    with page.expect_navigation():
        outputs.get_by_role("link", name="Show all of it as JSON").click()
    stored = json.loads(service.http.get(page.url, timeout=60).text)
    assert len(stored["outputs"]["output"]) == 6_000_000
    assert stored["inputs"] == {"letters": 6_000_000}


@pytest.mark.usefixtures("seen")
def test_the_id_and_the_command_can_be_copied(service: Service, browser: Browser) -> None:
    id = service.run("doer", {"returns": "it's $HOME"}, config=DOES)["execution_id"]
    with opened_page(browser, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(url(service, id))
        page.get_by_role("button", name="Copy id").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == id
        expect(page.locator("#told")).to_have_text("Copied")
        page.get_by_role("button", name="Copied").click()  # and once more, before it is "Copy id"
        expect(page.get_by_role("button", name="Copy id")).to_be_visible()
        page.wait_for_timeout(2000)
        expect(page.get_by_role("button", name="Copy id")).to_be_visible()
        page.get_by_text("The same with curl").click()
        page.get_by_role("button", name="Copy this command").first.click()
        page.wait_for_function("navigator.clipboard.readText().then(t => t.startsWith('curl'))")
        command = page.evaluate("navigator.clipboard.readText()")
    assert f"{service.url}/api/v1/executions" in command
    assert "API_KEY" not in command


@pytest.mark.usefixtures("seen")
def test_what_a_reader_opened_and_closed_stays_so(service: Service, page: Page, flag: Path) -> None:
    id = review(service, flag)
    service.until(id, "running")
    page.goto(url(service, id))
    summary = page.locator("#inputs summary").filter(has_text="second")
    summary.click()
    expect(summary.locator("..")).not_to_have_attribute("open", "")
    page.get_by_text("The same with curl").click()
    output = page.locator("section:has(#partial) details").first
    expect(page.locator("section:has(#partial) details")).to_have_count(2)
    was_open = output.evaluate("details => details.open")  # it was if it came alone
    output.locator("summary").click()
    before = page.evaluate("document.querySelector('.figures').textContent")
    page.wait_for_function(
        "before => document.querySelector('.figures').textContent !== before", arg=before
    )
    expect(summary.locator("..")).not_to_have_attribute("open", "")
    expect(page.locator("details.curl")).to_have_attribute("open", "")
    assert output.evaluate("details => details.open") is not was_open
    flag.touch()


@pytest.mark.usefixtures("seen")
def test_a_refresh_keeps_the_focus_the_place_and_what_is_selected(
    service: Service, page: Page, flag: Path
) -> None:
    id = service.start("doer", {"until": str(flag)}, config=DOES)
    service.until(id, "running")
    page.set_viewport_size({"width": 1280, "height": 400})
    page.goto(url(service, id))
    page.get_by_role("link", name="as JSON").last.focus()
    page.evaluate(
        """() => {
            window.scrollTo(0, 150);
            window.place = window.scrollY;
            getSelection().selectAllChildren(document.getElementById("execution-id"));
        }"""
    )
    bar = page.locator(".bigprogress progress")
    for _ in range(2):
        before = bar.get_attribute("value")
        expect(bar).not_to_have_attribute("value", str(before))
    assert page.evaluate("window.scrollY === window.place && window.place > 0")
    assert page.evaluate("String(getSelection())") == id
    expect(page.get_by_role("link", name="as JSON").last).to_be_focused()
    flag.touch()


@pytest.mark.usefixtures("seen")
def test_a_screen_reader_is_told_the_status_when_it_changes_and_nothing_else(
    service: Service, page: Page, flag: Path
) -> None:
    id = service.start("doer", {"until": str(flag), "lines": ["a line"]}, config=DOES)
    service.until(id, "running")
    page.goto(url(service, id))
    page.evaluate(
        """() => {
            window.told = [];
            const note = (found) => {
                for (const { target } of found) {
                    const region = (target.closest ? target : target.parentElement).closest(
                        "[role=status], [role=alert], [aria-live]");
                    if (region) window.told.push(region.textContent.trim());
                }
            };
            new MutationObserver(note).observe(
                document.body, {subtree: true, childList: true, characterData: true});
        }"""
    )
    bar = page.locator(".bigprogress progress")
    before = bar.get_attribute("value")
    expect(bar).not_to_have_attribute("value", str(before))
    assert page.evaluate("window.told") == []
    flag.touch()
    expect(status(page)).to_have_text("completed")
    assert set(page.evaluate("window.told")) == {"completed"}


@pytest.mark.usefixtures("seen")
def test_the_keyboard_alone_starts_looks_and_cancels(
    service: Service, page: Page, flag: Path
) -> None:
    def reach(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            focused = "document.activeElement.textContent.trim() || document.activeElement.name"
            if page.evaluate(focused) == name:
                return
        raise AssertionError(f"The key Tab does not reach {name}.")

    page.goto(f"{service.url}/ui/targets/pipeline/review")
    reach("inputs.second")
    page.keyboard.type(json.dumps({"until": str(flag)}))
    reach("Start")
    page.keyboard.press("Enter")
    page.wait_for_url(PAGE)
    expect(status(page)).to_have_text("running")
    reach("Cancel")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Let it run")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Cancel the execution")).to_be_focused()
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text("cancelled")


@pytest.mark.usefixtures("seen")
def test_webhooks_are_shown_and_can_be_sent_again(
    service: Service, page: Page, receiver: Receiver
) -> None:
    receiver.answer = lambda _: ReceiverAnswer(500, b"<b>no</b>")
    callback = {"callback_url": f"http://127.0.0.1:{receiver.port}/hook"}
    id = service.start("doer", {"returns": "x"}, config=DOES, **callback)
    page.goto(url(service, id))
    row = page.locator("#delivery-1")
    expect(row).to_contain_text("waiting for its next try")
    expect(row).to_contain_text("500")
    receiver.answer = lambda _: ReceiverAnswer()
    page.get_by_role("button", name="Send completed again").click()
    expect(row).to_contain_text("delivered")


@pytest.fixture
def keyed(shared_service: Callable[..., Service], folders: tuple[Path, Path]) -> Service:
    keys = "alpha:key-of-tenant-alpha-1,beta:key-of-tenant-beta-02"
    return shared_service(
        agents=folders[0], pipelines=folders[1], SECRET_KEY=SESSION_SECRET, API_KEYS=keys
    )


def start_for_alpha(service: Service, inputs: dict[str, object]) -> str:
    body = {"type": "agent", "target_id": "doer", "inputs": inputs, "config": DOES}
    headers = {"X-API-Key": "key-of-tenant-alpha-1"}
    return str(service.post("/executions", json=body, headers=headers).json()["execution_id"])


def test_a_key_sees_only_the_buttons_that_it_may_press(keyed: Service, flag: Path) -> None:
    id = start_for_alpha(keyed, {"until": str(flag)})
    failed = start_for_alpha(keyed, {"fails_until": "/no/such/file"})
    for scopes, expected in (
        ("read", set()),
        ("read,start", {"Retry", "Run again"}),
        ("read,cancel", {"Cancel"}),
        ("read,start,cancel", {"Retry", "Run again", "Cancel"}),
    ):
        key = keyed.add_key(f"key-{scopes.replace(',', '-')}", scopes, "alpha")
        visitor, _ = visitor_with(keyed, key)
        while "failed" not in (text := visitor.get(f"/ui/executions/{failed}").text):
            pass
        texts = visitor.get(f"/ui/executions/{id}").text + text
        found = set(re.findall(r">(Retry|Run again|Cancel)</(?:button|a)>", texts))
        assert found == expected
    keyed.post(f"/executions/{id}/cancel", headers={"X-API-Key": "key-of-tenant-alpha-1"})


@pytest.mark.parametrize("path", ["", "/json", "/events"])
def test_another_tenant_has_no_such_execution(keyed: Service, path: str) -> None:
    id = start_for_alpha(keyed, {"returns": "secret of alpha"})
    visitor, token = visitor_with(keyed, "key-of-tenant-beta-02")
    answer = visitor.get(f"/ui/executions/{id}{path}")
    assert answer.status_code == 404
    assert "secret" not in answer.text
    for action in ("cancel", "retry", "deliveries/1/redeliver"):
        path = f"/ui/executions/{id}/{action}"
        assert visitor.post(path, data={"csrf_token": token}).status_code == 404


@pytest.mark.parametrize("id", ["exec_0mwyc2rors6ckgf3429m", "x", "exec_<b>", "%00"])
def test_an_execution_that_does_not_exist_has_a_page_that_says_so(
    service: Service, id: str
) -> None:
    answer = service.http.get(url(service, id), timeout=60)
    assert answer.status_code == 404
    assert "<h1>Not Found</h1>" in answer.text


def test_without_javascript_the_page_is_complete_and_its_forms_work(
    service: Service, browser: Browser, flag: Path, receiver: Receiver
) -> None:
    receiver.answer = lambda _: ReceiverAnswer()
    callback = {"callback_url": f"http://127.0.0.1:{receiver.port}/hook"}
    inputs = {"until": str(flag), "lines": ["a line"]}
    id = service.start("doer", inputs, config=DOES, tags=["eu"], **callback)
    service.until(id, "running")
    with opened_page(browser, java_script_enabled=False) as page:
        page.goto(url(service, id))
        expect(page.get_by_role("button", name="Copy id")).to_be_hidden()
        page.get_by_role("button", name="Cancel", exact=True).click()
        page.get_by_role("button", name="Cancel the execution").click()
        expect(status(page)).to_have_text("cancelled")
        expect(page.locator("#log")).to_contain_text("a line")
        expect_soon(lambda: len(receiver.of(id)) == 1)
        page.get_by_role("button", name="Send cancelled again").click()
        expect_soon(lambda: len(receiver.of(id)) == 2)
        flag.touch()
        page.get_by_role("button", name="Retry").click()
        page.wait_for_url(PAGE)
        service.ended(PAGE.match(page.url)[1])  # type: ignore[index]
        page.reload()
        expect(page.locator("section:has(#outputs)")).to_contain_text('"done"')
        page.get_by_text("The same with curl").click()
        expect(page.locator("#curl-start")).to_contain_text("/api/v1/executions")
        page.get_by_role("link", name="Run again").click()
        page.locator("textarea[name=inputs]").fill('{"returns": "other"}')
        page.get_by_role("button", name="Start").click()
        page.wait_for_url(PAGE)
        again = service.ended(PAGE.match(page.url)[1])  # type: ignore[index]
        assert (again["outputs"]["output"], again["tags"]) == ("other", ["eu"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_state_is_accessible_and_fits(
    service: Service,
    browser: Browser,
    receiver: Receiver,
    flag: Path,
    scheme: str,
    width: int,
) -> None:
    callback = {"callback_url": f"http://127.0.0.1:{receiver.port}/hook"}
    long = {"long": "word " * 200, "wide": "x" * 400, "deep": {"a": [1, {"b": None}]}}
    ids = [
        service.run("doer", {"returns": long, "lines": ["y" * 300]}, config=DOES, **callback),
        service.run(
            "review",
            {
                "first": long,
                "second": {"fails_until": "/no/file", "message": "z" * 300},
                "last": {},
            },
            type="pipeline",
        ),
    ]
    running = review(service, flag)
    service.until(running, "running")
    paths = [*(ended["execution_id"] for ended in ids), running]
    size = {"width": width, "height": 800}
    with opened_page(browser, viewport=size, color_scheme=scheme) as page:
        for id in paths:
            page.goto(url(service, id))
            page.get_by_text("The same with curl").click()
            no_serious_violation(page)
            fits_its_width(page)
        page.get_by_role("button", name="Cancel", exact=True).click()
        no_serious_violation(page)
    flag.touch()
