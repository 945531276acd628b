"""Checks the values of settings: types, limits, addresses, rates, and variables that are misspelt.

Called by `app.settings`, which defines the settings; `app.setting_texts` describes them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import SplitResult, parse_qs, urlsplit

from marshmallow import ValidationError
from marshmallow.validate import OneOf, Range, Regexp

from app.domain.webhook_secret import is_secret, secrets_of

NEAR = 0.88
"""Similarity from which a variable counts as a misspelt setting: about one wrong letter in ten."""

ONE_WORD = Regexp(
    r"[^\s\x00-\x1f\x7f]+\Z", error="Must be one word, without spaces or line breaks."
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of the settings' dataclass.

    `kind` is the type of its values: `int`, `float`, `bool`, `str` or `tuple[Path, ...]`. For an
    optional setting it leaves out None: `float` for `float | None`. `meta` holds the group, the
    variable, its meaning and its limits.
    """

    name: str
    kind: Any
    default: Any
    meta: Mapping[str, Any]

    @property
    def variable(self) -> str:
        return str(self.meta["env"])

    @property
    def is_number(self) -> bool:
        return self.kind in (int, float)

    @property
    def is_list(self) -> bool:
        return get_origin(self.kind) is tuple


def settings_of(owner: type) -> list[Setting]:
    """Returns the settings that a dataclass defines, in its order."""
    types = get_type_hints(owner)
    return [
        Setting(field.name, _without_none(types[field.name]), field.default, field.metadata)
        for field in fields(owner)
    ]


def _without_none(hint: Any) -> Any:
    if NoneType not in get_args(hint):
        return hint
    [kind] = (member for member in get_args(hint) if member is not NoneType)
    return kind


def checks_of(setting: Setting) -> list[Callable[[Any], Any]]:
    """Returns the validators of a setting; each raises marshmallow's `ValidationError`.

    Every number has limits, and every text is one word unless the setting says `several_words`. The
    setting's own `check` comes last.
    """
    meta = setting.meta
    checks: list[Callable[[Any], Any]] = []
    if setting.is_number:
        checks.append(Range(meta["min"], meta["max"]))
    elif "one_of" in meta:
        checks.append(OneOf(meta["one_of"]))
    elif setting.is_list:
        checks.append(_folders)
    elif setting.kind is str and not meta.get("several_words"):
        # A space or a line break in an address or a key is a mistake of copying.
        checks.append(ONE_WORD)
    return [*checks, *([meta["check"]] if "check" in meta else [])]


_SENTINELS = re.compile(
    r"sentinel://([^@/]*@)?[^@/:,]+(:\d{1,5})?(,[^@/:,]+(:\d{1,5})?)*/[^/?]+(\?db=\d+)?"
)

_STORE_OPTIONS = frozenset(
    ["db", "protocol", "ssl_cert_reqs", "ssl_ca_certs", "ssl_check_hostname"]
)
"""redis-py passes query options to its connections, where an unknown one would fail too late."""


def store_url(text: str) -> None:
    """a redis://, rediss:// or unix:// address, or sentinel://HOST:PORT,HOST:PORT/SERVICE"""
    if text.startswith("sentinel://") and not _SENTINELS.fullmatch(text):
        raise ValidationError("Must be like sentinel://host:26379,host:26379/service?db=0.")
    if not text.startswith(("redis://", "rediss://", "unix://", "sentinel://")):
        raise ValidationError("Must begin with redis://, rediss://, unix:// or sentinel://.")
    parts = _split(text)
    if text.startswith(("redis://", "rediss://")):
        if not parts.hostname or not re.fullmatch(r"(/\d{0,5})?", parts.path):
            raise ValidationError(
                "Must be like redis://[user:password@]host[:port][/number]. "
                "Escape / and @ in the user name and the password."
            )
    elif text.startswith("unix://") and not parts.path.strip("/"):
        raise ValidationError("Must be like unix:///path/of/the/socket?db=0.")
    unknown = sorted(parse_qs(parts.query, keep_blank_values=True).keys() - _STORE_OPTIONS)
    if unknown:
        raise ValidationError(f"Unknown option {unknown[0]!r}.")


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        if not text.startswith("sentinel://"):
            _ = parts.port  # `urlsplit` checks a port only when it is read
    except ValueError:
        # Python's own message quotes the address, which may hold a password.
        raise ValidationError("Not a valid address. Escape / and @ in the password.") from None
    return parts


def origins_of(text: str | None) -> list[str]:
    """The origins in CORS_ORIGINS, in the spelling of browsers: lower case, no default port."""
    found = []
    for origin in filter(None, (part.strip().lower() for part in (text or "").split(","))):
        scheme = origin.partition("://")[0]
        found.append(origin.removesuffix({"http": ":80", "https": ":443"}.get(scheme) or "\0"))
    return found


def origins(text: str) -> None:
    """https://host, with commas between; or *"""
    names = origins_of(text)
    if "*" in names and len(names) > 1:
        raise ValidationError("'*' means all pages, so no other origin can stand beside it.")
    for name in names:
        if name != "*" and not _is_origin(name):
            raise ValidationError(
                f"{name!r} is not an origin. Write http:// or https:// and a host, perhaps with a "
                "port, but without a path: https://app.example.com."
            )


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    rest = parts.path or parts.query or parts.fragment or parts.username or parts.password
    plain = re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d+)?", text)
    return bool(plain and parts.hostname and port != 0 and not rest)


def long_secret(text: str) -> None:
    """at least 32 characters"""
    if len(text) < 32:
        raise ValidationError(f"It has {len(text)} characters, which could be guessed.")


def http_url(text: str) -> None:
    """an http:// or https:// address"""
    if not text.startswith(("http://", "https://")) or not _split(text).hostname:
        raise ValidationError("Must be like http://host:port/path.")


_RATE = r"[1-9][0-9]{0,8}/(second|minute|hour|day)"
_RATES = re.compile(f"{_RATE}(;{_RATE})*")


def rate(text: str) -> None:
    """a rate such as 100/minute (second, minute, hour, day), or several separated by semicolons"""
    if not _RATES.fullmatch(text):
        raise ValidationError("Must be like 100/minute; separate several rates with semicolons.")


def webhook_secrets(text: str) -> None:
    """whsec_ and the base64 of 24 to 64 random bytes, or several of these with commas between"""
    found = secrets_of(text)
    if not found or not all(map(is_secret, found)):
        raise ValidationError(
            "Must be like whsec_ and the base64 of 24 to 64 bytes. "
            "Make one with: python -m app.admin webhook-secret."
        )
    if len(set(found)) < len(found):
        raise ValidationError("The same secret must not be in it twice.")


def misspelt(environ: Mapping[str, str], names: Collection[str]) -> Iterable[tuple[str, str]]:
    """Yields variables that look like a misspelt setting, sorted, each with the setting's name."""
    # Short names such as HOST and PORT are too similar to variables of other programs.
    several_words = [name for name in names if "_" in name]
    for variable in sorted(environ.keys() - set(names)):
        near = difflib.get_close_matches(variable, several_words, 1, NEAR)
        # A variable with another beginning belongs to another program: PIP_DEFAULT_TIMEOUT is not
        # a misspelt DEFAULT_TIMEOUT.
        if near and near[0][:3] == variable[:3]:
            yield variable, near[0]


def _folders(paths: Iterable[Path]) -> None:
    if missing := [str(path) for path in paths if not path.is_dir()]:
        raise ValidationError(f"Not a folder: {', '.join(missing)}.")


MOST_PAUSES = 30
LONGEST_PAUSE_SECONDS = 7 * 86_400


def pauses_of(text: str) -> list[float]:
    """The numbers in WEBHOOK_PAUSES. Raises `ValueError`."""
    return [float(number) for number in text.split(",")]


def pauses(text: str) -> None:
    """up to 30 numbers of seconds, with commas between, each at most 604800"""
    try:
        found = pauses_of(text)
    except ValueError:
        found = []
    # NaN fails the comparison, as it should.
    sound = all(0 <= pause <= LONGEST_PAUSE_SECONDS for pause in found)
    if not sound or not 0 < len(found) <= MOST_PAUSES:
        raise ValidationError("Must be like 5,300,1800: seconds, with commas between.")
