"""The examples of problems in the description quote the sentences that callers get."""

from __future__ import annotations

import pytest

from app.api import examples
from app.domain import errors

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
