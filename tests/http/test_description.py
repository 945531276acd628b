"""The description at /openapi.json agrees with the service; the page /docs shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import jsonschema
import pytest
import requests

from tests.support.browser import CHROMIUM, MISSING
from tests.support.measure import LONG
from tests.support.service import ROOT, Service

EXAMPLES, SECONDS = (
    (200, 1700.0) if LONG else (10, 240.0)
)  # it takes ten; more only where others want the machine, too


@pytest.fixture
def description(service: Service) -> dict[str, Any]:
    return dict(requests.get(f"{service.url}/openapi.json", timeout=10).json())


@pytest.mark.timeout(SECONDS + 20)
def test_no_request_is_answered_otherwise_than_described(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    """By schemathesis: requests that fit and requests that do not, one by one and in sequences.

    A failure shows the seed and the request.
    """
    service = make_service(MAX_WAIT=1)
    command = [
        *(
            Path(sys.executable).parent / "st",
            "--config-file",
            ROOT / "tests" / "schemathesis.toml",
        ),
        *("run", f"{service.url}/openapi.json", "--checks", "all", "--max-examples", str(EXAMPLES)),
        *("--continue-on-failure", "--warnings", "off"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout
    assert "No issues found" in done.stdout
    assert '"request_crashed"' not in service.output("web")


def _contents(description: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every content of every request and answer, with its place."""
    for path, item in description["paths"].items():
        for method, operation in item.items():
            if method not in ("get", "post"):
                continue
            holders = {"request": operation.get("requestBody", {}), **operation["responses"]}
            for name, holder in holders.items():
                for content in holder.get("content", {}).values():
                    yield f"{method} {path} {name}", content


def test_every_answer_has_examples_that_are_as_described(description: dict[str, Any]) -> None:
    for place, content in _contents(description):
        examples = [entry["value"] for entry in content.get("examples", {}).values()]
        examples += [content["example"]] if "example" in content else []
        assert examples, place
        for example in examples:
            schema = {**content["schema"], "components": description["components"]}
            jsonschema.Draft202012Validator(schema).validate(example)


def test_every_event_that_a_callback_can_be_sent_is_described_as_a_webhook(
    description: dict[str, Any],
) -> None:
    webhooks = description["webhooks"]
    start = description["components"]["schemas"]["Start"]["properties"]
    assert list(webhooks) == start["callback_events"]["items"]["enum"]
    content = webhooks["execution.completed"]["post"]["requestBody"]["content"]["application/json"]
    schema = {**content["schema"], "components": description["components"]}
    jsonschema.Draft202012Validator(schema).validate(content["example"])


def test_every_operation_has_a_name_and_says_what_it_answers(description: dict[str, Any]) -> None:
    items = description["paths"].values()
    operations = [item[method] for item in items for method in ("get", "post") if method in item]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names) == 15
    for operation in operations:
        assert operation["summary"]
        assert {"429", "503"} <= set(operation["responses"])
        assert "default" not in operation["responses"]
        for status in ("429", "503"):
            assert operation["responses"][status]["headers"]["Retry-After"]["required"]


def test_every_code_of_a_problem_that_a_view_may_answer_is_shown(
    description: dict[str, Any],
) -> None:
    start = description["paths"]["/api/v1/executions"]["post"]["responses"]
    contents = [content for answer in start.values() for content in answer["content"].values()]
    shown = {code for content in contents for code in content.get("examples", {})}
    assert shown >= {
        "rate_limited",
        "too_many_unfinished",
        "queue_full",
        "store_full",
        "idempotency_key_reused",
    }


def test_bounds_are_those_that_are_checked(description: dict[str, Any]) -> None:
    assert (
        description["components"]["schemas"]["Budget"]["properties"]["max_seconds"][
            "exclusiveMinimum"
        ]
        == 0
    )
    assert (
        description["components"]["schemas"]["Start"]["properties"]["inputs"]["maxProperties"]
        == 256
    )


def test_patterns_are_those_of_json_schema(description: dict[str, Any]) -> None:
    patterns = re.findall(r"'pattern': '(.*?)'[,}]", str(description))
    assert patterns
    for pattern in patterns:
        assert pattern.startswith("^")
        assert pattern.endswith("$")
        assert "\\Z" not in pattern


class _Assets(HTMLParser):
    """The addresses of all that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            value
            for name, value in attrs
            if name in ("src", "href", "data", "action", "srcset") and value
        ]


def test_the_docs_load_nothing_from_elsewhere_and_the_browser_is_told_so(service: Service) -> None:
    page = requests.get(f"{service.url}/docs/", timeout=10)
    assets = _Assets()
    assets.feed(page.text)
    assert len(assets.found) >= 5
    for address in assets.found:
        assert address.startswith("/docs/")
        asset = requests.get(urljoin(page.url, address), timeout=10)
        assert asset.status_code == 200
        if address.endswith(".css"):
            assert not re.search(r"(@import|url\(\s*['\"]?(https?:)?//)", asset.text)
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "sha256-" in policy


def test_the_docs_do_not_repeat_what_a_request_says_of_its_host(service: Service) -> None:
    page = requests.get(f"{service.url}/docs/", headers={"Host": "evil.localhost"}, timeout=10)
    assert "evil.localhost" not in page.text


@pytest.mark.skipif(not CHROMIUM, reason=MISSING)
def test_a_browser_without_a_network_shows_every_operation(
    service: Service, tmp_path: Path
) -> None:
    """All but this machine is behind a proxy that is not there; our own policy for scripts is in
    force.
    """
    command = [
        *(
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
        ),
        *(
            "--proxy-server=127.0.0.1:9",
            "--virtual-time-budget=15000",
            "--dump-dom",
            f"{service.url}/docs/",
        ),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=50).stdout
    described = requests.get(f"{service.url}/openapi.json", timeout=10).json()
    names = {*described["paths"], *described["webhooks"]}
    assert set(re.findall(r'data-path="([^"]+)"', shown)) == names
