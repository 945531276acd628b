"""Which form an answer takes is the client's choice."""

from __future__ import annotations

import pytest
from flask import Flask

from app.api import accept
from app.api.problems import Problem

STREAM, JSON = "text/event-stream", "application/json"


def chosen(header: str | None) -> str:
    headers = {} if header is None else {"Accept": header}
    with Flask(__name__).test_request_context(headers=headers) as context:
        return accept.chosen(context.request, (STREAM, JSON))


@pytest.mark.parametrize(
    ("header", "form"),
    [
        (None, STREAM),
        ("", STREAM),
        ("*/*", STREAM),
        ("text/event-stream", STREAM),
        ("text/*", STREAM),
        ("application/json", JSON),
        ("APPLICATION/JSON", JSON),
        ("application/json; charset=utf-8", JSON),
        ("application/*", JSON),
        ("application/json, */*;q=0.1", JSON),
        ("text/event-stream;q=0.5, application/json", JSON),
        ("application/json, text/event-stream", STREAM),
        ("text/event-stream;q=0, */*", JSON),
        ("application/json;q=0, */*", STREAM),
        ("text/html,application/xhtml+xml,*/*;q=0.8", STREAM),
        ("garbage", STREAM),
        (";;;,,,", STREAM),
        ("application/json;q=abc", STREAM),
    ],
)
def test_the_form_that_the_client_prefers(header: str | None, form: str) -> None:
    assert chosen(header) == form


@pytest.mark.parametrize("header", ["text/html", "image/*", "*/*;q=0", "application/problem+json"])
def test_a_client_that_takes_neither_is_refused(header: str) -> None:
    with pytest.raises(Problem) as refused:
        chosen(header)
    assert refused.value.status == 406
    assert JSON in refused.value.detail
