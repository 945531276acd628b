"""The examples of problems in the description quote the sentences that callers get."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import abort

from app.api import access, credentials, examples, json_body, problems
from app.api.application import Application
from app.domain import errors
from app.domain.key import Scope

_ID = "exec_0mwunom46t1oafptp2rj"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("already_ended", errors.AlreadyEnded(_ID, "completed")),
        ("not_retryable", errors.NotRetryable(_ID, "completed")),
        ("not_found", errors.NotFound.of_execution(_ID)),
        ("idempotency_key_reused", errors.KeyReused()),
        ("too_many_unfinished", errors.TooManyUnfinished(100)),
        ("too_much_retried", errors.TooMuchRetried(268_435_456)),
        ("store_unavailable", errors.StoreUnavailable()),
        ("store_full", errors.StoreFull()),
        ("too_many_large", errors.TooManyLarge()),
        ("queue_full", errors.QueueFull()),
    ],
)
def test_an_example_has_the_sentence_of_its_error(code: str, error: errors.ServiceError) -> None:
    assert examples.PROBLEMS[code]["detail"] == str(error)


@pytest.mark.parametrize(
    ("code", "refuse"),
    [
        ("forbidden", lambda: access.refuse_scope(Scope.START)),
        ("too_many_wrong_keys", lambda: credentials.too_many_invalid_keys(1)),
        ("unauthorized", credentials.invalid_key),
    ],
)
def test_an_example_has_the_sentence_of_its_refusal(
    code: str, refuse: Callable[[], problems.Problem]
) -> None:
    assert examples.PROBLEMS[code]["detail"] == refuse().detail


@pytest.mark.parametrize(
    "code",
    ["precondition_failed", "body_too_large", "rate_limited", "internal_error"],
)
def test_an_example_has_the_sentence_of_its_status(code: str) -> None:
    app = Application(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 1_048_576
    problems.register(app)
    app.add_url_rule("/", view_func=lambda: abort(examples.PROBLEMS[code]["status"]))
    assert app.test_client().get("/").get_json()["detail"] == examples.PROBLEMS[code]["detail"]


@pytest.mark.parametrize(
    ("code", "content_type"),
    [("unsupported_media_type", "text/plain"), ("invalid_json", "application/json")],
)
def test_an_example_has_the_sentence_of_its_body(code: str, content_type: str) -> None:
    app = Application(__name__)
    app.config["MAX_TEXT_LENGTH"] = 1_000
    context = app.test_request_context(method="POST", data=b"?", content_type=content_type)
    with context, pytest.raises(problems.Problem) as refused:
        json_body.read_json_object(context.request)
    assert refused.value.detail == examples.PROBLEMS[code]["detail"]
