"""What looks like a secret, defined once: for log lines and for the messages of errors."""

from __future__ import annotations

import re

MASK = "[masked]"

_LOOKS = (
    r"\bexkey_\w+",  # this service's own
    r"\bsk-[\w\-]{8,}",  # OpenAI and those that copied its form
    r"\bAKIA[0-9A-Z]{16}\b",  # AWS
    r"\bAIza[\w\-]{30,}",  # Google
    r"\bgh[pousr]_\w{20,}",  # GitHub
    r"\bxox[abprs]-[\w\-]{10,}",  # Slack
    r"\beyJ[\w\-]+\.[\w\-]+\.[\w\-]*",  # a JSON web token
    r"(?<=(?i:bearer) )[^\s'\",]+",
    r"(?<=(?i:basic) )[A-Za-z0-9+/=]{8,}",
    r"(?<=://)[^/@\s:]*:[^/@\s]+(?=@)",  # user and password in an address
)

_NAMED = r"(?i:(?:api[_-]?key|access[_-]?key|token|passw(?:or)?d|secret|authorization)['\"]?\s*[=:]\s*['\"]?)"
"""What stands in front of a value that is one by its name: `api_key=`, `"password": "`, `Authorization: `."""

_SECRET = re.compile(rf"({_NAMED})(?!(?i:bearer|basic) )[^\s'\",}}&]+|{'|'.join(_LOOKS)}")


def mask(text: str) -> str:
    """The text, with `[masked]` in place of each secret."""
    return _SECRET.sub(lambda found: (found[1] or "") + MASK, text)
