"""Texts from outside are shown as texts, in every place of every page, with and without a script.

Targets, inputs, outputs, errors, logs, answers of models and tags are full of what would harm a
page that does not escape them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import Seen
from tests.support.model_server import Answer, ModelServer
from tests.support.service import Service
from tests.ui.hostile_targets import ALL, HIDDEN, INVISIBLE, LONG, PAYLOADS, write_hostile_targets
from tests.ui.looks import fits_its_width
from tests.ui.visitor import Visitor

AGENT, PIPELINE = "/ui/targets/agent/evil", "/ui/targets/pipeline/evils"
NEVER = re.compile(
    r"on|style$|srcdoc|formaction|http-equiv|xlink|hx-(on|vals|headers|target|post|select)"
)
"""How attributes begin that our own templates never have."""

FORBIDDEN = "main :is(script, img, iframe, object, embed, base, meta, link, style, animate)"


class Parsed(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.addresses: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]
        self.addresses |= {
            value or "" for name, value in attributes if name in ("href", "src", "action", "hx-get")
        }


def outside_fields(text: str) -> str:
    """A page without the values of its fields, which are sent as they are."""
    return re.sub(r"<textarea.*?</textarea>", "", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_hostile_targets(tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def service(
    shared_service: Callable[..., Service], folders: tuple[Path, Path], model: ModelServer
) -> Service:
    return shared_service(
        agents=folders[0],
        pipelines=folders[1],
        OPENAI_BASE_URL=model.url,
        OPENAI_API_KEY="sk-secret-key-1",
    )


def started(service: Service, **do: object) -> str:
    """An execution that returns, logs and says hostile texts. Returns its page."""
    inputs = {"text": ALL, "long": LONG, "do": do}
    tags = [PAYLOADS[1][:60], PAYLOADS[0]]
    return f"/ui/executions/{service.start('evil', inputs, tags=tags)}"


def all_pages(service: Service) -> list[str]:
    """Every page on which such a text can be, with executions that have ended."""
    done, failed = started(service, say="x"), started(service, fail=True)
    steps = service.start("evils", {"text": ALL, "long": LONG}, type="pipeline")
    broken = service.start("evils", {"text": ALL, "do": {"fail": 1}}, type="pipeline")
    for id in (done, failed, steps, broken):
        service.ended(id.rpartition("/")[2])
    executions = [done, failed, f"/ui/executions/{steps}", f"/ui/executions/{broken}"]
    again = [f"{AGENT}?from={failed.rpartition('/')[2]}", f"{PIPELINE}?from={steps}&as=json"]
    return ["/", "/ui/targets", AGENT, PIPELINE, "/ui/workers", *executions, *again]


def test_no_page_has_a_tag_or_an_attribute_that_a_text_brought(
    service: Service, model: ModelServer
) -> None:
    model.begin(Answer(pieces=[ALL]))
    visitor = Visitor(service)
    for path in all_pages(service):
        for headers in ({}, {"HX-Request": "true"}):
            text = visitor.get(path, headers=headers).text
            page = Parsed(text)
            assert path == "/ui/workers" or "window.hit" in text
            assert [name for name in page.attributes if NEVER.match(name)] == [], path
            assert page.attributes.count("hx-get") <= 1, path
            assert page.attributes.count("popovertarget") == 0, path
            assert set(page.tags) & {"iframe", "img", "base", "style", "object", "animate"} == set()
            foreign = [url for url in page.addresses if not url.startswith(("/", "#"))]
            assert foreign == [], path
            assert [url for url in page.addresses if "evil.example" in url] == [], path
            assert [hex(ord(sign)) for sign in HIDDEN if sign in outside_fields(text)] == [], path


def test_no_text_becomes_a_part_of_the_page_in_a_browser(
    service: Service, page: Page, seen: Seen, model: ModelServer
) -> None:
    model.begin(Answer(pieces=[ALL]))
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.set_viewport_size({"width": 390, "height": 800})
    for path in all_pages(service):
        page.goto(service.url + path)
        page.wait_for_timeout(300)
        harmless(page, path)
    assert dialogs == []


def harmless(page: Page, path: str) -> None:
    expect(page.locator(FORBIDDEN)).to_have_count(0)
    assert page.evaluate("window.hit") is None, path
    # Nothing but our own live parts asks for anything by itself.
    names, addresses = page.evaluate(
        "[[...document.querySelectorAll('*')].flatMap(one => one.getAttributeNames()),"
        " [...document.querySelectorAll('[href], [src], [action]')]"
        ".map(one => one.getAttribute('href') ?? one.getAttribute('src') ?? one.getAttribute('action'))]"
    )
    assert [name for name in names if NEVER.match(name)] == [], path
    assert [address for address in addresses if not address.startswith(("/", "#"))] == [], path
    assert page.evaluate("document.querySelectorAll('[hx-get]').length") <= 1, path
    assert page.evaluate("document.querySelectorAll('[id=main]').length") == 1, path
    fits_its_width(page)


def test_what_a_stream_brings_is_text_too(
    service: Service, page: Page, seen: Seen, model: ModelServer, tmp_path: Path
) -> None:
    model.begin(Answer(pieces=[PAYLOADS[0], *PAYLOADS, INVISIBLE]))
    flag = tmp_path / "flag"
    path = started(service, until=str(flag), say="x")
    page.goto(service.url + path)
    expect(page.locator("#log li").first).to_be_visible()
    page.wait_for_timeout(2500)  # it refreshes meanwhile
    flag.touch()
    expect(page.locator(".heading .status")).to_have_text("completed")
    expect(page.locator("#answers .said")).to_contain_text(PAYLOADS[0])
    expect(page.locator("#log")).to_contain_text(PAYLOADS[0])
    harmless(page, path)
    text = page.locator("main").inner_text()
    assert [hex(ord(sign)) for sign in HIDDEN if sign in text] == []
