"""What looks like a secret, defined once: for log lines and for the messages of errors.

The text comes from strangers, so the time must grow with its length and no faster. Two rules keep it so: no
pattern can begin a second time inside of what it has already read, and none reads the same characters twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MASK = "[masked]"

READ_FACTOR = 4
"""How much more of a text is read than is shown: what is masked makes room for what comes after it."""

_LOOKS = re.compile(
    r"\b(?:exkey_\w+"  # this service's own
    r"|sk-[\w\-]{8,}"  # OpenAI and those that copied its form
    r"|AKIA[0-9A-Z]{16}\b"  # AWS
    r"|AIza[\w\-]{30,}"  # Google
    r"|gh[pousr]_\w{20,}"  # GitHub
    r"|xox[abprs]-[\w\-]{10,})"  # Slack
)

_WEB_TOKEN = re.compile(
    r"(?<![\w\-])(?=[\w\-]++\.[\w\-]++\.)[\w\-]*?\b(?P<value>eyJ[\w\-]++\.[\w\-]++\.[\w\-]*+(?:\.[\w\-]++)*+)"
)
"""A JSON web token. The first lines look ahead for its dots, once for each run of letters: only then is it read."""

_LABELLED = (
    (  # `api_key=`, `"password": "`, `Authorization: `
        re.compile(
            r"(?:api[_-]?key|access[_-]?key|token|passw(?:or)?d|secret|authorization)"
            r"['\"]?\s*+[=:]\s*+['\"]?+(?!(?:bearer|basic) )"
        ),
        re.compile(r"[^\s'\",}&]+"),
    ),
    (re.compile("bearer "), re.compile(r"[^\s'\",]+")),
    (re.compile("basic "), re.compile(r"[A-Za-z0-9+/=]{8,}")),
    (re.compile("://"), re.compile(r"[^/@\s:]*+:[^/@\s]++(?=@)")),  # user and password in an address
)
"""What stands in front of a secret, in lower case, and the secret."""

_LONGEST_NAME = 16

_SECRET_NAMES = re.compile(
    r"passw(?:or)?d|passphrase|secret|credential|authorization|apikey|accesskey|privatekey|signingkey"
    r"|(?:token|cookie|pwd|jwt|bearer)$"
)


class Mask:
    """Hides what looks like a secret, and these secrets themselves."""

    def __init__(self, secrets: Iterable[str] = ()):
        known = "|".join(re.escape(secret) for secret in sorted(secrets, key=len, reverse=True) if secret)
        self._known = re.compile(known or "(?!)")

    def __call__(self, text: str, limit: int | None = None) -> str:
        """The text, with `[masked]` in place of each secret; of a longer text, the first `limit` characters.

        A longer text is cut before it is masked, and once more after that. Where so much was masked that the
        first cut is near, the word that it went through is masked too: half a secret does not look like one.
        """
        if limit is None or len(text) <= limit:
            return self._masked(text)[:limit]
        read = text[: limit * READ_FACTOR]
        shown = self._masked(read)
        if len(shown) < 2 * limit and len(read) < len(text):
            shown = shown[: _last_word_at(shown)] + MASK
        return shown[:limit]

    def _masked(self, text: str) -> str:
        parts, reached = [], 0
        for start, end in sorted(self.places(text)):
            if start >= reached:
                parts += [text[reached:start], MASK]
            reached = max(reached, end)
        return "".join([*parts, text[reached:]])

    def places(self, text: str) -> Iterator[tuple[int, int]]:
        """Where secrets begin and end. They may overlap."""
        for pattern in (self._known, _LOOKS):
            yield from (found.span() for found in pattern.finditer(text))
        if "eyJ" in text:
            yield from (found.span("value") for found in _WEB_TOKEN.finditer(text))
        lower = text.replace("\u0130", "i").replace("\u017f", "s").lower()  # these two would move the rest
        for label, value in _LABELLED:
            yield from _labelled(text, lower, label, value)


def _labelled(text: str, lower: str, label: re.Pattern[str], value: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """A label may stand at the end of a value (`token=my_token: abc`), so the search goes on just before that end.

    Labels are sought in a copy in lower case: a pattern that ignores case takes ten times as long.
    """
    place = 0
    while found := label.search(lower, place):
        place = found.end()
        if secret := value.match(text, place):
            yield secret.span()
            place = max(place, secret.end() - _LONGEST_NAME)


def _last_word_at(text: str) -> int:
    bare = text.rstrip()
    return len(bare) - len(bare.rsplit(None, 1)[-1]) if bare else 0


def is_secret_name(name: str) -> bool:
    """Whether what bears this name is a secret: `password`, `X-Api-Key`, `refreshToken`; not `max_tokens`."""
    return _SECRET_NAMES.search(re.sub(r"[\W_]", "", name).lower()) is not None


mask = Mask()
