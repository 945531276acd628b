"""Implements keywords of JSON Schema in bounded time, where the jsonschema package has no bound.

`json_schema` builds its validators from these rules:

- Patterns run on RE2, in time that is linear in the text. Python's `re` needs centuries for
  `^(a+)+$` and a text of 60 characters.
- `uniqueItems` compares the items by their JSON texts, in linear time, instead of in pairs.
- References are counted: a schema whose references fork could follow them without end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any

import re2
from jsonschema import ValidationError
from jsonschema.validators import extend

MAX_REFERENCES = 50_000  # for one answer; a recursive schema follows one for each nested value

MAX_PATTERN_BYTES = 8 * 1024 * 1024  # of memory for one pattern: RE2's own default

# `\uXXXX` is JSON Schema's, RE2 has `\x{XXXX}`. `\\` is matched first, so that `\\u0041` (a
# backslash and a text) stays as it is.
_UNICODE = re.compile(r"(\\\\)|\\u([0-9a-fA-F]{4})")

_references_left: ContextVar[list[int]] = ContextVar("references left for this answer")


class UnfitSchema(Exception):
    """A schema is valid but cannot be used; the message says why."""


@contextmanager
def bounded_references() -> Iterator[None]:
    """Limits what is validated inside to `MAX_REFERENCES`; then `UnfitSchema` is raised."""
    token = _references_left.set([MAX_REFERENCES])
    try:
        yield
    finally:
        _references_left.reset(token)


@cache
def bounded(validator_class: Any) -> Any:
    """A validator class of jsonschema with the rules of this module."""
    rules = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    existing = validator_class.VALIDATORS  # old dialects lack some of the keywords
    counted = {
        name: _counted(existing[name]) for name in ("$ref", "$dynamicRef") if name in existing
    }
    replaced = {name: rule for name, rule in rules.items() if name in existing}
    return extend(validator_class, replaced | counted)  # type: ignore[no-untyped-call]


def _counted(rule: Any) -> Any:
    def counted(*args: Any) -> Any:
        left = _references_left.get()
        left[0] -= 1
        if left[0] < 0:
            raise UnfitSchema(f"The schema needs more than {MAX_REFERENCES} references for this.")
        return rule(*args)

    return counted


@lru_cache(maxsize=2048)
def compiled(pattern: str) -> Any:
    """The pattern for RE2. Raises `re2.error`, or `UnicodeEncodeError` for a lone surrogate."""
    options = re2.Options()
    options.log_errors = False  # RE2 would write them to stderr, past the log
    options.max_mem = MAX_PATTERN_BYTES
    translated = _UNICODE.sub(lambda found: found[1] or f"\\x{{{found[2]}}}", pattern)
    return re2.compile(translated, options)


def _matches(pattern: str, text: str) -> bool:
    try:
        return compiled(pattern).search(text) is not None
    except UnicodeEncodeError:
        return False  # a text with a lone surrogate, which no answer can have


# The signature of the rules is jsonschema's: the keyword's value in the schema comes second, the
# value that is checked third. They yield errors.


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, inner in patterns.items():
        for name, value in instance.items():
            if _matches(pattern, name):
                yield from validator.descend(value, inner, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, allowed: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    known = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    extra = [
        name
        for name in instance
        if name not in known and not any(_matches(pattern, name) for pattern in patterns)
    ]
    if validator.is_type(allowed, "object"):
        for name in extra:
            yield from validator.descend(instance[name], allowed, path=name)
    elif not allowed and extra:
        names = ", ".join(map(repr, extra[:10]))
        yield ValidationError(f"Additional properties are not allowed: {names}")


def _unique_items(
    validator: Any, wanted: bool, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not wanted or not validator.is_type(instance, "array"):
        return
    if len({_canonical(item) for item in instance}) < len(instance):
        yield ValidationError("Two items are equal")


def _canonical(value: Any) -> str:
    """The same text for values that JSON Schema calls equal: 1 and 1.0, but not 1 and true."""
    return json.dumps(_with_integers(value), sort_keys=True)


def _with_integers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _with_integers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_integers(item) for item in value]
    return value
