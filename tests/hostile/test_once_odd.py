"""Requests that the fuzzer once found answered in an undocumented form."""

from __future__ import annotations

import pytest

from tests.hostile.conftest import Town
from tests.hostile.fuzzed import Sent
from tests.hostile.judge import judge
from tests.hostile.wire import exchange

KEY = b"X-API-Key: the-key-of-a-stranger"
AGENTS, FILE = b"GET /api/v1/agents", b"GET /docs/swagger-ui.css"


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        pytest.param(
            [AGENTS + b" HTTP/1.1", b"Host: x", b"If-Match: other"],
            412,
            b"precondition_failed",
            id="match",
        ),
        pytest.param(
            [FILE + b" HTTP/1.1", b"Host: x", b'If-Match: "x"'],
            412,
            b"precondition_failed",
            id="file-match",
        ),
        pytest.param(
            [FILE + b" HTTP/1.1", b"Host: x", b"Range: U7"],
            416,
            b"requested_range_not_satisfiable",
            id="range",
        ),
        pytest.param([AGENTS + b" HTTP/1.1", b"Host: .x"], 400, b"invalid_host", id="host"),
        pytest.param(
            [AGENTS + b" HTTP/1.5"], 400, b"missing_host", id="later-version-without-host"
        ),
    ],
)
def test_an_odd_request_is_refused_in_the_documented_form(
    town: Town, lines: list[bytes], status: int, code: bytes
) -> None:
    request = b"\r\n".join([*lines, KEY, b"", b""])
    [answer] = judge(
        Sent([request], [b"GET"], plain=False, framed=False), exchange(town.port, [request])
    )
    assert (answer.status, code in answer.body) == (status, True)


def test_a_later_version_of_http_1_is_answered_in_the_version_that_is_spoken(town: Town) -> None:
    answered = exchange(town.port, [b"GET /healthz HTTP/1.7\r\nHost: x\r\n\r\n"])
    assert answered.startswith(b"HTTP/1.1 200 ")
