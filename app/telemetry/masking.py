"""Masks what looks like a secret, in log lines and in the messages of errors.

Defined once, so that both hide the same. The text comes from strangers, so the time must grow with
its length and no faster. Two rules ensure that: no pattern can start a second time inside of what
it has already read, and none reads the same characters twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MASK = "[masked]"

READ_FACTOR = 4
"""How many times more of a text is read than shown: a mask is shorter than most secrets."""

_LOOKS = re.compile(
    r"\b(?:exkey_\w+"  # this service's own
    r"|whsec_[\w+/]+=*"  # of webhooks
    r"|sk-[\w\-]{8,}"  # OpenAI and those that copied its form
    r"|AKIA[0-9A-Z]{16}\b"  # AWS
    r"|AIza[\w\-]{30,}"  # Google
    r"|gh[pousr]_\w{20,}"  # GitHub
    r"|xox[abprs]-[\w\-]{10,})"  # Slack
)

# A JSON Web Token. The first part looks ahead for the two dots, once for each run of letters. The
# token itself is read only if they are there. `++` and `*+` never give back what they have read.
_WEB_TOKEN = re.compile(
    r"(?<![\w\-])(?=[\w\-]++\.[\w\-]++\.)[\w\-]*?\b"
    r"(?P<value>eyJ[\w\-]++\.[\w\-]++\.[\w\-]*+(?:\.[\w\-]++)*+)"
)

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
    (
        re.compile("://"),
        re.compile(r"[^/@\s:]*+:[^/@\s]++(?=@)"),
    ),  # user and password in an address
)
"""Pairs of a label, in lower case, and of the secret that follows it."""

_LONGEST_NAME = 16
"""Characters of the longest name in the first label, with some to spare."""

_SECRET_NAMES = re.compile(
    r"passw(?:or)?d|passphrase|secret|credential|authorization"
    r"|apikey|accesskey|privatekey|signingkey"
    r"|(?:token|cookie|pwd|jwt|bearer)$"
)


class Mask:
    """Hides these secrets, and what looks like one. Called with a text."""

    def __init__(self, secrets: Iterable[str] = ()):
        # The longest first: a secret may begin with another one.
        known = "|".join(
            re.escape(secret) for secret in sorted(secrets, key=len, reverse=True) if secret
        )
        self._known = re.compile(known or "(?!)")  # "(?!)" matches nothing

    def __call__(self, text: str, limit: int | None = None) -> str:
        """Returns the text with `[masked]` in place of each secret, and at most `limit` characters.

        A longer text is cut before it is masked, so that the time is bounded, and once more
        afterwards.
        """
        if limit is None or len(text) <= limit:
            return self._masked(text)[:limit]
        read = text[: limit * READ_FACTOR]
        shown = self._masked(read)
        # If much was masked, the end of what was read comes near. The first cut may have gone
        # through a secret there, and half a secret does not look like one. So the last word is
        # masked too.
        if len(shown) < 2 * limit and len(read) < len(text):
            shown = shown[: _last_word_at(shown)] + MASK
        return shown[:limit]

    def _masked(self, text: str) -> str:
        parts: list[str] = []
        reached = 0
        for start, end in sorted(self.places(text)):
            # Where secrets overlap, one mask stands for all of them.
            if start >= reached:
                parts += [text[reached:start], MASK]
            reached = max(reached, end)
        return "".join([*parts, text[reached:]])

    def places(self, text: str) -> Iterator[tuple[int, int]]:
        """Yields the start and the end of each secret, in no order. They may overlap."""
        for pattern in (self._known, _LOOKS):
            yield from (found.span() for found in pattern.finditer(text))
        if "eyJ" in text:  # far cheaper than the pattern, which is rarely needed
            yield from (found.span("value") for found in _WEB_TOKEN.finditer(text))
        # `lower` makes two characters of U+0130, which would shift all places after it, and leaves
        # U+017F (a long s) as it is, so `\u017fecret` would not be found.
        lower = text.replace("\u0130", "i").replace("\u017f", "s").lower()
        for label, value in _LABELLED:
            yield from _labelled(text, lower, label, value)


def _labelled(
    text: str, lower: str, label: re.Pattern[str], value: re.Pattern[str]
) -> Iterator[tuple[int, int]]:
    # Labels are searched in a copy in lower case: a pattern that ignores case takes ten times as
    # long.
    place = 0
    while found := label.search(lower, place):
        place = found.end()
        if secret := value.match(text, place):
            yield secret.span()
            # A label may stand at the end of a value (`token=my_token: abc`), so the search goes on
            # just before that end.
            place = max(place, secret.end() - _LONGEST_NAME)


def _last_word_at(text: str) -> int:
    bare = text.rstrip()
    return len(bare) - len(bare.rsplit(None, 1)[-1]) if bare else 0


def is_secret_name(name: str) -> bool:
    """Returns whether a field of this name holds a secret: `X-Api-Key`, but not `max_tokens`."""
    return _SECRET_NAMES.search(re.sub(r"[\W_]", "", name).lower()) is not None


mask = Mask()
"""Masks what looks like a secret, if no secrets are known."""
