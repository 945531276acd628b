"""Reads what a step's input is mapped to: a key, a part of its value (`{from: …}`), or a constant.

`pipelines` calls `read` for each entry of `input_mapping`; the runtime calls `value_of` when a step
starts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from app.catalog.inputs import type_of
from app.catalog.model import Source

_PATH = re.compile(r"(?:\.[^.\[\]]+|\[-?\d{1,9}\])*")
_SEGMENT = re.compile(r"\.([^.\[\]]+)|\[(-?\d+)\]")
_INDEX = re.compile(r"-?\d{1,9}")


class BadPath(Exception):
    """A path that is not written as one, or that leads nowhere in a value. Says why."""


def read(written: str | Mapping[str, Any], keys: Collection[str]) -> Source:
    """The source that an entry of `input_mapping` means. Raises `BadPath`.

    `keys` are the known inputs and output keys. They may contain dots themselves, so the longest
    one that the path begins with is meant.
    """
    if isinstance(written, str):
        return Source(written)
    if "value" in written:
        return Source(None, value=written["value"])
    text = written["from_"]
    matching = [key for key in keys if text == key or text.startswith((f"{key}.", f"{key}["))]
    key = max(matching, key=len, default=re.split(r"[.\[]", text, maxsplit=1)[0])
    rest = text.removeprefix(key)
    if not key or not _PATH.fullmatch(rest):
        raise BadPath(f"{text!r} is not a path. Write it as key.name or key[0].name.")
    path = tuple(name or int(index) for name, index in _SEGMENT.findall(rest))
    return Source(key, path)


def value_of(source: Source, values: Mapping[str, Any]) -> Any:
    """The value of a source, or None if its key has none. Raises `BadPath` if a part is missing.

    A path into a key without a value gives None too: its step was skipped, or it failed and may.
    """
    if source.key is None:
        return source.value
    value = values.get(source.key)
    if value is None:
        return None
    for position, segment in enumerate(source.path):
        try:
            value = _part(value, segment)
        except BadPath as error:
            place = Source(source.key, source.path[:position])
            raise BadPath(f"{place} {error}") from None
    return value


def _part(value: Any, segment: str | int) -> Any:
    if isinstance(value, list) and _INDEX.fullmatch(str(segment)):
        try:
            return value[int(segment)]
        except IndexError:
            raise BadPath(f"has no item {segment}: it has {len(value)} items") from None
    if isinstance(value, dict) and isinstance(segment, str):
        if segment in value:
            return value[segment]
        raise BadPath(f"has no {segment!r}")
    wanted = "a list" if isinstance(segment, int) else "an object"
    raise BadPath(f"is of the type {type_of(value)}, not {wanted}")
