"""What a setting's value must be like, in code and in words. Which settings there are stands in `app.settings`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from marshmallow import ValidationError
from marshmallow.validate import OneOf, Range, Regexp

NEAR = 0.88
"""How alike two names are when one is taken for the other misspelt: a letter or two in a word or two."""

ONE_WORD = Regexp(r"[^\s\x00-\x1f\x7f]+\Z", error="Must be one word, without spaces or line breaks.")


def kind_of(each: Field[Any]) -> str:
    """`int`, `float`, `bool`, `str` or `tuple[Path, ...]`; an optional setting is of the kind of its values."""
    return str(each.type).removesuffix(" | None")


def checks_of(each: Field[Any]) -> list[Callable[[Any], Any]]:
    """Every number has limits, every text is one word unless it is a list; a setting may ask for more by `check`."""
    kind, meta = kind_of(each), each.metadata
    checks: list[Callable[[Any], Any]] = []
    if kind in ("int", "float"):
        checks.append(Range(meta["min"], meta["max"]))
    elif "one_of" in meta:
        checks.append(OneOf(meta["one_of"]))
    elif kind.startswith("tuple"):
        checks.append(_folders)
    elif kind == "str" and not meta.get("several_words"):
        checks.append(ONE_WORD)
    return [*checks, *([meta["check"]] if "check" in meta else [])]


def allowed(each: Field[Any]) -> str:
    """What may be set, in words."""
    kind, meta = kind_of(each), each.metadata
    if kind in ("int", "float"):
        return f"a {'whole ' if kind == 'int' else ''}number from {meta['min']} to {meta['max']}"
    if "one_of" in meta:
        return f"one of {', '.join(meta['one_of'])}"
    if kind == "bool":
        return "0 or 1"
    if kind.startswith("tuple"):
        return f"folders that exist, separated by {os.pathsep!r}"
    return str(meta["check"].__doc__) if "check" in meta else "one word"


_SENTINELS = re.compile(r"sentinel://([^@/]*@)?[^@/:,]+(:\d{1,5})?(,[^@/:,]+(:\d{1,5})?)*/[^/?]+(\?db=\d+)?")


def store_url(text: str) -> None:
    """an address that begins with redis://, rediss:// or unix://, or sentinel://HOST:PORT,HOST:PORT/SERVICE"""
    if text.startswith("sentinel://") and not _SENTINELS.fullmatch(text):
        raise ValidationError("Must be like sentinel://host:26379,host:26379/service?db=0.")
    if not text.startswith(("redis://", "rediss://", "unix://", "sentinel://")):
        raise ValidationError("Must begin with redis://, rediss://, unix:// or sentinel://.")
    parts = _split(text)
    if text.startswith(("redis://", "rediss://")):
        if not parts.hostname or not re.fullmatch(r"(/\d{0,5})?", parts.path):
            raise ValidationError("Must be like redis://[user:password@]host[:port][/number]; escape / and @ in both.")
    elif text.startswith("unix://") and not parts.path.strip("/"):
        raise ValidationError("Must be like unix:///path/of/the/socket?db=0.")
    unknown = sorted(parse_qs(parts.query, keep_blank_values=True).keys() - _STORE_OPTIONS)
    if unknown:
        raise ValidationError(f"Has an option that is not known: {unknown[0]!r}.")


_STORE_OPTIONS = frozenset(["db", "protocol", "ssl_cert_reqs", "ssl_ca_certs", "ssl_check_hostname"])


def _split(text: str) -> SplitResult:
    """The parts of an address. What is wrong with one is said without it: it may hold a password."""
    try:
        parts = urlsplit(text)
        if not text.startswith("sentinel://"):
            _ = parts.port  # which is looked at only when asked for
    except ValueError:
        raise ValidationError("Is no address: a password with / or @ in it must be escaped.") from None
    return parts


def http_url(text: str) -> None:
    """an address that begins with http:// or https://"""
    if not text.startswith(("http://", "https://")) or not _split(text).hostname:
        raise ValidationError("Must be like http://host:port/path.")


_RATE = r"[1-9][0-9]{0,8}/(second|minute|hour|day)"
_RATES = re.compile(f"{_RATE}(;{_RATE})*")


def rate(text: str) -> None:
    """a rate like 100/minute (of second, minute, hour, day), several separated by a semicolon"""
    if not _RATES.fullmatch(text):
        raise ValidationError("Must be like 100/minute, several separated by a semicolon.")


def misspelt(environ: Mapping[str, str], names: Collection[str]) -> Iterable[tuple[str, str]]:
    """Variables that are no setting but look like one, each with the setting's name."""
    several_words = [name for name in names if "_" in name]  # HOST is near to too many others
    for variable in sorted(environ.keys() - set(names)):
        near = difflib.get_close_matches(variable, several_words, 1, NEAR)
        if near and near[0][:3] == variable[:3]:  # PIP_DEFAULT_TIMEOUT is somebody else's
            yield variable, near[0]


def _folders(paths: Iterable[Path]) -> None:
    if missing := [str(path) for path in paths if not path.is_dir()]:
        raise ValidationError(f"Not a folder: {', '.join(missing)}.")
