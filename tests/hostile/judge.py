"""Judges answers to any request: well-formed HTTP, never 500, errors as documented.

`test_any_request` calls `judge` for every exchange; `test_judge` checks this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from tests.hostile.fuzzed import Sent
from tests.hostile.wire import Answer, read_answers
from tests.support.service import ROOT
from tests.support.sse import parse

_HEADERS = frozenset(
    (
        *(
            "server",
            "date",
            "connection",
            "content-type",
            "content-length",
            "transfer-encoding",
            "x-request-id",
        ),
        *(
            "location",
            "retry-after",
            "ratelimit",
            "ratelimit-policy",
            "www-authenticate",
            "allow",
            "etag",
            "vary",
        ),
        *(
            "idempotency-replayed",
            "content-security-policy",
            "cache-control",
            "last-modified",
            "content-disposition",
        ),
        *("accept-ranges", "content-range", "x-accel-buffering"),
        *("x-content-type-options", "referrer-policy", "refresh", "hx-refresh", "set-cookie"),
        *("cross-origin-opener-policy", "cross-origin-resource-policy"),
    )
)
_OURS = ("type", "title", "status", "detail", "instance", "request_id", "code")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")


def _documented() -> dict[int, set[str]]:
    """Reads the codes of each status from `docs/errors.md`."""
    codes: dict[int, set[str]] = {}
    for line in (ROOT / "docs" / "errors.md").read_text().splitlines():
        if found := re.match(r"\| ([45]\d\d(?:, [45]\d\d)*) \| ([^|]+) \|", line):
            for status in found[1].split(", "):
                codes.setdefault(int(status), set()).update(re.findall(r"`(\w+)`", found[2]))
    return codes


CODES = _documented()


def judge(sent: Sent, answered: bytes) -> list[Answer]:
    """Returns the answers. Raises `AssertionError` if anything about them is wrong."""
    answers = read_answers(answered, sent.methods)
    for answer in answers:
        _judge(answer)
    if sent.plain:
        assert answers, "no answer"
        assert answers[0].status < (400 if "location" in answers[0].headers else 300), answers[0]
    if sent.framed:
        _look_for_canary(answers)
    return answers


def _look_for_canary(answers: Sequence[Answer]) -> None:
    assert 1 <= len(answers) <= 2, f"{len(answers)} answers to a request and its canary"
    if not answers[0].closes:
        assert len(answers) == 2, "the connection was closed without `Connection: close`"
        assert (answers[1].status, answers[1].headers.get("x-request-id")) == (200, "canary"), (
            answers[1]
        )


def _judge(answer: Answer) -> None:
    assert answer.headers.keys() <= _HEADERS, answer.headers
    ours = "x-request-id" in answer.headers
    if not ours:
        assert answer.closes, "an answer without a request id must close the connection"
        assert 400 <= answer.status < 500 or answer.status == 501, answer
        return
    assert _REQUEST_ID.fullmatch(answer.headers["x-request-id"])
    assert answer.status < 500, (answer.status, answer.body[:1000])
    if "script-src 'self'; style-src 'self'" in answer.headers.get("content-security-policy", ""):
        _judge_page(answer)
    elif answer.status >= 400 and answer.body:
        _judge_problem(answer)
    elif answer.headers.get("content-type") == "application/json" and answer.body:
        strict(answer.body)
    elif answer.headers.get("content-type") == "text/event-stream":
        for event in parse([answer.body]):
            strict(event.data.encode())


def _judge_page(answer: Answer) -> None:
    """A page, or what a page asks for: nothing of the request may be markup in it."""
    assert answer.headers["x-content-type-options"] == "nosniff"
    if answer.headers.get("content-type") != "text/html; charset=utf-8":
        assert answer.status < 400, answer
        return
    assert answer.headers["cache-control"] == "no-store"
    text = answer.body.decode()
    assert len(text) < 4 * 1024 * 1024, f"a page of {len(text)} characters"
    for start in ("<img", "<iframe", "<svg/", "<svg onload", "<script>"):
        assert start not in text, (start, text[:2000])


def _judge_problem(answer: Answer) -> None:
    assert answer.headers["content-type"] == "application/problem+json", answer
    problem = strict(answer.body)
    assert set(_OURS) <= problem.keys() <= {*_OURS, "errors"}, problem
    assert problem["status"] == answer.status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["code"] in CODES.get(answer.status, ()), (
        f"{answer.status} {problem['code']} is not documented"
    )
    # A refusal may quote what was sent, but must not multiply it.
    assert len(answer.body) < 128 * 1024, f"a refusal of {len(answer.body)} bytes"
    for error in problem.get("errors", ()):
        assert error.keys() == {"field", "message", "code"}, error
    if answer.status in (429, 503):
        assert int(answer.headers["retry-after"]) > 0
    if answer.status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer ")


def strict(text: bytes) -> Any:
    """Parses JSON by the standard: without NaN and Infinity, which Python accepts."""
    return json.loads(text.decode("utf-8"), parse_constant=_no_constant)


def _no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} in JSON")
