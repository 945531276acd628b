"""Decides which `ModelError` a server's refusal is, and whether the same call may succeed later.

`openai_provider.py` calls `refused` for replies without success; `answers.py` calls the others for
replies that report success and contain an error, or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.providers.base import (
    ModelAnswerInvalid,
    ModelAuthenticationError,
    ModelError,
    ModelRateLimited,
    ModelRejected,
    ModelUnavailable,
)
from app.providers.reasons import one_line, reason_of
from app.providers.reply import Reply

BY_STATUS: Mapping[int, type[ModelError]] = {
    401: ModelAuthenticationError,
    403: ModelAuthenticationError,
    408: ModelUnavailable,
    409: ModelUnavailable,  # a conflict with another call, which will end
    425: ModelUnavailable,
    429: ModelRateLimited,
}
"""Any other status is `ModelUnavailable` from 500 on, and `ModelRejected` below."""

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
"""For an error with status 200: parts of its `type` or `code`. The first that fits decides.

An error without such a word is `ModelUnavailable`.
"""

NEVER_PASSES = (b'"insufficient_quota"', b'"billing_hard_limit_reached"')
"""In the body of a 429: somebody has to pay first, so waiting does not help."""

NO_TEXT: Mapping[str, tuple[type[ModelError], bool, str]] = {
    "length": (
        ModelAnswerInvalid,
        False,
        "The answer was cut off before its first word (finish_reason: length). "
        "Raise max_tokens or max_completion_tokens, or shorten the prompt.",
    ),
    "content_filter": (
        ModelRejected,
        False,
        "The provider's content filter withheld the answer (finish_reason: content_filter).",
    ),
}
"""By the `finish_reason` of an empty answer: the error, whether it is transient, and a sentence.

Any other reason is a `ModelAnswerInvalid`, which is transient.
"""


def refused(reply: Reply) -> ModelError:
    """The error of a reply whose status is not a success."""
    status = reply.status
    headers = reply.headers
    if 300 <= status < 400:
        where = one_line(headers.get("location", ""), reply.secret) or "nowhere"
        return ModelRejected(
            f"The model's server answered {status}, a redirect to {where}. Check OPENAI_BASE_URL."
        )
    kind = ModelUnavailable if status >= 500 else BY_STATUS.get(status, ModelRejected)
    # OpenAI's servers say in this header whether a retry makes sense.
    transient = {"true": True, "false": False}.get(headers.get("x-should-retry", ""))
    if status == 429 and any(word in reply.body for word in NEVER_PASSES):
        transient = False
    reason = f": {reply.reason}" if reply.reason else " without a reason."
    message = f"The model's server answered {status}{reason}"
    return kind(message, reply.wait_seconds, transient=transient)


def refused_within(error: Any, reply: Reply) -> ModelError:
    """The error in a reply with status 200. `error` is the part of the body that has it."""
    reason = reason_of(error, reply.secret) or "it gives no reason."
    message = f"The model's server answered 200 with an error: {reason}"
    return _kind_within(error)(message, reply.wait_seconds)


def without_text(finish_reason: str | None, reasoned: bool) -> ModelError:
    """The error of an answer without text, refusal and tool calls. `reasoned`: it has reasoning."""
    if finish_reason is not None and finish_reason in NO_TEXT:
        kind, transient, sentence = NO_TEXT[finish_reason]
        return kind(sentence, transient=transient)
    what = "only its reasoning and no answer" if reasoned else "nothing"
    return ModelAnswerInvalid(
        f"The model answered with {what} (finish_reason: {finish_reason or 'not given'})."
    )


def _kind_within(error: Any) -> type[ModelError]:
    fields = error if isinstance(error, dict) else {}
    names = [str(fields.get(key, "")) for key in ("code", "status", "type")]
    # Some servers put the status that they mean into one of these fields.
    for name in names:
        if re.fullmatch("[45][0-9][0-9]", name):
            return ModelUnavailable if name >= "500" else BY_STATUS.get(int(name), ModelRejected)
    words = " ".join(names).lower()
    return next((kind for part, kind in BY_WORD.items() if part in words), ModelUnavailable)
