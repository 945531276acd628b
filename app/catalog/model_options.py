"""Validates the options of a prompt file that are sent to the model's server unchanged.

`schemas` uses these functions as marshmallow validators: each raises `ValidationError` or returns.
Without them, a wrong option would go unnoticed until the server refuses the first run.
"""

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

MAX_STOPS = 64  # more than common servers take, which know their own limits
MAX_DEPTH = 50  # far below the limits of JSON parsers and of Python's recursion

# Keys of the request that the service sets itself. In `extra_body`, they would replace its own.
_RESERVED_KEYS = ("messages", "model", "stream")


def response_format(value: Mapping[str, Any]) -> None:
    """An object with a `type`; the type `json_schema` needs a valid schema."""
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
    import jsonschema  # imports much, and few prompts have a schema

    try:
        dialect = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        dialect.check_schema(schema)
    except (jsonschema.SchemaError, AttributeError, TypeError) as error:
        # jsonschema itself fails with the last two if the schema is a list or a number.
        reason = getattr(error, "message", "it must be a mapping")
        message = f"json_schema.schema is not a valid JSON Schema: {reason}"
        raise ValidationError(message) from None


def stop(value: Any) -> None:
    """A text that ends the model's answer, or a list of them."""
    texts = value if isinstance(value, list) else [value]
    is_text = all(isinstance(text, str) and text for text in texts)
    if not (1 <= len(texts) <= MAX_STOPS and is_text):
        raise ValidationError(
            f"Must be a text or a list of 1 to {MAX_STOPS} texts. Put each text in quotes."
        )


def extra_body(value: Mapping[str, Any]) -> None:
    """Any JSON object without the keys that the service sets."""
    is_json(value)
    reserved = [key for key in _RESERVED_KEYS if key in value]
    if reserved:
        raise ValidationError(f"The service sets {reserved[0]!r} itself. Remove it.")


def is_json(value: Any, place: str = "", depth: int = 0) -> None:
    """Refuses what YAML has and JSON has not: infinity, binary data, keys that are not text."""
    prefix = f"{place}: " if place else ""
    if depth > MAX_DEPTH:
        raise ValidationError(f"Nested more than {MAX_DEPTH} levels deep, or contains itself.")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValidationError(f"{prefix}The key {key!r} must be text. Put it in quotes.")
            is_json(inner, f"{place}.{key}" if place else key, depth + 1)
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            is_json(inner, f"{place}[{position}]", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValidationError(f"{prefix}JSON cannot represent {value}.")
    elif not (value is None or isinstance(value, (str, bool, int, float))):
        raise ValidationError(
            f"{prefix}JSON cannot represent a {type(value).__name__}. Put it in quotes to get text."
        )
