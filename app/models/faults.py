"""Which `ModelError` a server's refusal is, and whether the same call may succeed later."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.models.base import (
    ModelAnswerInvalid,
    ModelAuthenticationError,
    ModelError,
    ModelRateLimited,
    ModelRejected,
    ModelUnavailable,
)
from app.models.reasons import one_line, reason_of
from app.models.reply import Reply

BY_STATUS: Mapping[int, type[ModelError]] = {
    401: ModelAuthenticationError,
    403: ModelAuthenticationError,
    408: ModelUnavailable,
    409: ModelUnavailable,  # another call holds something
    425: ModelUnavailable,
    429: ModelRateLimited,
}
"""What is not here is `ModelUnavailable` from 500 on, and `ModelRejected` below."""

BY_WORD: Mapping[str, type[ModelError]] = {
    "rate_limit": ModelRateLimited,
    "ratelimit": ModelRateLimited,
    "too_many": ModelRateLimited,
    "exhausted": ModelRateLimited,
    "throttl": ModelRateLimited,
    "quota": ModelRateLimited,
    "auth": ModelAuthenticationError,
    "api_key": ModelAuthenticationError,
    "permission": ModelAuthenticationError,
    "invalid": ModelRejected,
    "bad_request": ModelRejected,
    "badrequest": ModelRejected,
    "not_found": ModelRejected,
    "notfound": ModelRejected,
    "context_length": ModelRejected,
    "content_filter": ModelRejected,
    "content_policy": ModelRejected,
    "unsupported": ModelRejected,
}
"""For an error with status 200: parts of its `type` or `code`, the first that fits.

One without such a word is `ModelUnavailable`.
"""

NEVER_PASSES = (b'"insufficient_quota"', b'"billing_hard_limit_reached"')
"""In the body of a 429: waiting does not help."""

NO_TEXT: Mapping[str, tuple[type[ModelError], bool, str]] = {
    "length": (
        ModelAnswerInvalid,
        False,
        "The answer was cut off before its first word (finish_reason: length): "
        "raise max_tokens or max_completion_tokens, or shorten the prompt.",
    ),
    "content_filter": (
        ModelRejected,
        False,
        "The provider's content filter withheld the answer (finish_reason: content_filter).",
    ),
}
"""By `finish_reason`, of an answer without a word: the error, whether it may pass, and a sentence.

Any other is `ModelAnswerInvalid`, which may pass.
"""


def refused(reply: Reply) -> ModelError:
    """The error of a reply whose status is none of success."""
    status, headers = reply.status, reply.headers
    if 300 <= status < 400:
        where = one_line(headers.get("location", ""), reply.secret) or "nowhere"
        return ModelRejected(
            f"The model's server answered {status}, a redirect to {where}: see OPENAI_BASE_URL."
        )
    kind = ModelUnavailable if status >= 500 else BY_STATUS.get(status, ModelRejected)
    transient = {"true": True, "false": False}.get(headers.get("x-should-retry", ""))
    if status == 429 and any(word in reply.body for word in NEVER_PASSES):
        transient = False
    said = f": {reply.reason}" if reply.reason else ", without a reason."
    return kind(
        f"The model's server answered {status}{said}", reply.wait_seconds, transient=transient
    )


def refused_within(error: Any, reply: Reply) -> ModelError:
    """The error that stands in a reply whose status is 200."""
    said = reason_of(error, reply.secret) or "it gives no reason."
    return _kind_within(error)(
        f"The model's server answered 200 with an error: {said}", reply.wait_seconds
    )


def without_text(finish_reason: str | None, reasoned: bool) -> ModelError:
    """The error of an answer that says nothing at all."""
    if finish_reason is not None and finish_reason in NO_TEXT:
        kind, transient, sentence = NO_TEXT[finish_reason]
        return kind(sentence, transient=transient)
    what = "only its reasoning, and no answer" if reasoned else "nothing"
    return ModelAnswerInvalid(
        f"The model answered with {what} (finish_reason: {finish_reason or 'not given'})."
    )


def _kind_within(error: Any) -> type[ModelError]:
    names = (
        [str(error.get(key, "")) for key in ("code", "status", "type")]
        if isinstance(error, dict)
        else []
    )
    for name in names:
        if re.fullmatch("[45][0-9][0-9]", name):
            return ModelUnavailable if name >= "500" else BY_STATUS.get(int(name), ModelRejected)
    words = " ".join(names).lower()
    return next((kind for part, kind in BY_WORD.items() if part in words), ModelUnavailable)
