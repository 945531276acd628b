"""One HTTP response of a model's server.

`openai_provider.py` makes a `Reply` of each response; `answers.py` and `faults.py` read it.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message

from app.providers.reasons import reason_in


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. The names of `headers` are in lower case. `secret` is masked in all messages.

    `wait_seconds` is the wait that the server asks for, from 0 to MAX_RETRY_AFTER.
    """

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float | None = None
    secret: str | None = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def encoding(self) -> str | None:
        """The encoding that the server names; None if it is one that JSON may have anyway."""
        content_type = self.headers.get("content-type", "")
        if "charset" not in content_type.lower():
            return None  # most servers name none, and parsing costs time
        header = Message()
        header["content-type"] = content_type
        try:
            name = codecs.lookup(str(header.get_content_charset("utf-8"))).name
        except (LookupError, ValueError):
            return None
        return None if name.startswith(("utf", "ascii")) else name

    @property
    def reason(self) -> str:
        """The reason for an error in the body; see `reason_in`."""
        return reason_in(self.body, self.encoding, self.secret)
