"""The options that a prompt file may give the model; sent as they stand, so checked at load."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError

MODEL_OPTIONS = (
    "temperature",
    "max_tokens",
    "max_completion_tokens",
    "response_format",
    "top_p",
    "stop",
    "seed",
    "reasoning_effort",
    "extra_body",
)

MAX_STOPS = 64

MAX_DEPTH = 50

_OWN = ("messages", "model", "stream")
"""Keys of the request that the service sets itself."""


def response_format(value: Mapping[str, Any]) -> None:
    """An object with a `type`; that of `json_schema` needs a schema that is one."""
    is_json(value)
    kind = value.get("type")
    if not isinstance(kind, str) or not kind:
        raise ValidationError("Must have a type, such as {type: json_object}.")
    if kind == "json_schema":
        _check_schema(value.get("json_schema"))


def _check_schema(value: Any) -> None:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValidationError("Must have a json_schema with a name and a schema.")
    schema = value.get("schema")
    if schema is None:
        return
    import jsonschema

    try:
        jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator).check_schema(
            schema
        )
    except (jsonschema.SchemaError, AttributeError, TypeError) as error:
        said = getattr(error, "message", "it must be a mapping")
        raise ValidationError(f"json_schema.schema is no JSON Schema: {said}") from None


def stop(value: Any) -> None:
    """A text at which the model stops, or a list of them."""
    texts = value if isinstance(value, list) else [value]
    if not (1 <= len(texts) <= MAX_STOPS and all(isinstance(text, str) and text for text in texts)):
        raise ValidationError(
            f"Must be a text or a list of 1 to {MAX_STOPS} texts, in YAML with quotes around each."
        )


def extra_body(value: Mapping[str, Any]) -> None:
    """Whatever else the server takes."""
    is_json(value)
    own = [key for key in _OWN if key in value]
    if own:
        raise ValidationError(f"The service sets {own[0]!r} itself.")


def is_json(value: Any, place: str = "", depth: int = 0) -> None:
    """Refuses what YAML can write and JSON cannot: dates, infinity, keys that are no text."""
    if depth > MAX_DEPTH:
        raise ValidationError(f"Nested deeper than {MAX_DEPTH}, or contains itself.")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValidationError(
                    f"{place or 'A key'}: the key {key!r} must be text; put it in quotes."
                )
            is_json(inner, f"{place}.{key}" if place else key, depth + 1)
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            is_json(inner, f"{place}[{position}]", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValidationError(f"{place}: JSON has no {value}.")
    elif not (value is None or isinstance(value, (str, bool, int, float))):
        raise ValidationError(
            f"{place}: a {type(value).__name__} of YAML is no JSON; put it in quotes to have a text."
        )
