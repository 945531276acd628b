"""Any request gets an answer, and never a 500, which would be an error of the service."""

from __future__ import annotations

import contextlib
import json
import os
import socket

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import odd
from tests.support.service import Service

HUGE = 10**400
EXAMPLES = int(os.environ.get("EXAMPLES", "150"))
NAMES = (*odd.NAMES, "Content-Length", "Transfer-Encoding", "Connection")
"""Those of the fuzzer, and those that it leaves alone because they frame its own requests."""

PATHS = (
    *(
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/docs/",
        "/docs/swagger-ui.css",
        "/",
        "//",
        "*",
    ),
    *(
        "/api/v1",
        "/api/v1/",
        "/api/v1/agents",
        "/api/v1/agents/behaves",
        "/api/v1/pipelines",
        "/api/v1/executions",
    ),
    *(
        "/api/v1/executions/exec_00000000000000000000",
        "/api/v1/executions/exec_00000000000000000000/steps",
    ),
    *(
        "/api/v1/executions/exec_00000000000000000000/cancel",
        "/api/v1/executions/exec_00000000000000000000/retry",
    ),
)
KNOWN = (
    *(
        "text/plain;version=abc",
        "text/plain; version=",
        "application/openmetrics-text; version=1.0.0.0.0",
        "*/*;q=x",
    ),
    *(
        "application/openmetrics-text;version=9;escaping=allow-utf-8",
        "text/plain;version=1.0.0;escaping=x",
        "/foo",
    ),
    *(
        "application/json; charset=utf-16",
        "application/json; charset=\xff",
        "bytes=0-",
        "bytes=5-1,9-",
        'W/"x"',
        "*",
    ),
    *(
        "Bearer ",
        "Basic Og==",
        "100-continue",
        "gzip",
        "1" * 5000,
        "00-" + "a" * 32 + "-" + "b" * 16 + "-zz",
    ),
    *(
        "Thu, 32 Foo 99999 99:99:99 GMT",
        "localhost:99999999",
        "[::1",
        "a.b:c",
        "trailers",
        "close, x",
        "h2c",
    ),
)
QUERIES = (
    "",
    "?",
    "?include=steps",
    "?page=1&page=2",
    "?page=" + "9" * 5000,
    "?%ff=%00",
    "?order=%E2%80%AE",
    "?a[b]=c",
)

values = st.one_of(
    st.sampled_from(KNOWN),
    st.text(
        st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"),
        max_size=60,
    ),
)
requests_sent = st.tuples(
    st.sampled_from(
        ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT")
    ),
    st.builds(str.__add__, st.sampled_from(PATHS), st.sampled_from(QUERIES)),
    st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=5),
    st.sampled_from((b"", b"{}", b"[1]", b"\xff", b'{"type": "agent"}')),
)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(requests_sent)
def test_no_request_and_no_header_gives_500(
    service: Service, request_sent: tuple[str, str, list[tuple[str, str]], bytes]
) -> None:
    method, target, headers, body = request_sent
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    given_names = {name.lower() for name, _ in headers}
    lines += [] if "host" in given_names else ["Host: localhost"]
    lines += [] if "content-length" in given_names or not body else [f"Content-Length: {len(body)}"]
    sent = "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := client.recv(65536):
                answer += piece
    for status in (b" 500 ", b" 502 "):
        assert status not in answer[:20], (sent, answer[:500])


@pytest.mark.parametrize(
    "config",
    [
        {"timeout": HUGE},
        {"timeout": -HUGE},
        {"max_workers": HUGE},
        {"max_attempts": HUGE},
        {"retries": {"max": HUGE}},
        {"retries": {"max": 1, "backoff_seconds": [1, HUGE]}},
        {"budget": {"max_seconds": -HUGE}},
        {"budget": {"max_tokens": -HUGE}},
    ],
    ids=lambda config: "-".join(config),
)
def test_numbers_of_four_hundred_digits_are_refused_by_their_field(
    service: Service, config: dict[str, object]
) -> None:
    body = {"type": "agent", "target_id": "behaves", "inputs": {"do": "echo"}, "config": config}
    response = service.post(
        "/executions", data=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400
    [error] = response.json()["errors"]
    assert error["field"].startswith("config." + next(iter(config)))


@pytest.mark.parametrize("field", ["expires_in", "type", "target_id", "inputs", "config"])
def test_so_are_they_anywhere_else(service: Service, field: str) -> None:
    body = {"type": "agent", "target_id": "behaves", "inputs": {"do": "echo"}, field: HUGE}
    response = service.post(
        "/executions", data=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400


@pytest.mark.parametrize("value", [HUGE, 1.5, {"deep": [HUGE]}], ids=["huge", "plain", "deep"])
def test_an_input_may_be_any_number(service: Service, value: object) -> None:
    body = {"type": "agent", "target_id": "behaves", "inputs": {"do": "echo", "value": value}}
    response = service.post(
        "/executions", data=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (202, 400)


@pytest.mark.parametrize(
    "accept", ["text/plain;version=abc", "application/openmetrics-text;version=..", "x" * 5000]
)
def test_metrics_are_given_whatever_is_accepted(service: Service, accept: str) -> None:
    response = requests.get(f"{service.url}/metrics", headers={"Accept": accept}, timeout=10)
    assert response.status_code == 200
    assert "execution_store_up 1" in response.text
