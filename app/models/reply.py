"""What a model's server replied, as it came."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message

from app.models.reasons import reason_in


@dataclass(frozen=True, slots=True)
class Reply:
    """One response. The names of `headers` are in lower case; `secret` must be masked.

    `wait_seconds` is how long the server asks to wait, within the bound.
    """

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float | None = None
    secret: str | None = None

    @property
    def encoding(self) -> str | None:
        """The encoding that the server names, if it is none of those that JSON has anyway."""
        sort = self.headers.get("content-type", "")
        if "charset" not in sort.lower():
            return None  # as most servers do: nothing to parse
        header = Message()
        header["content-type"] = sort
        try:
            name = codecs.lookup(str(header.get_content_charset("utf-8"))).name
        except (LookupError, ValueError):
            return None
        return None if name.startswith(("utf", "ascii")) else name

    @property
    def reason(self) -> str:
        """See `reason_in`."""
        return reason_in(self.body, self.encoding, self.secret)
