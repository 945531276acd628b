"""Parses a model's answer into what a prompt flow declares as its output: text, JSON or a list."""

from __future__ import annotations

import json
import re
from typing import Any

from app.catalog.model import OutputParser
from app.runtime.errors import InvalidOutput

_FENCE = re.compile(r"\A\s*```\w*\n(.*?)\n?```\s*\Z", re.DOTALL)

_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)、])\s*")


def parse(parser: OutputParser, text: str) -> Any:
    """A model's answer as the flow wants it. Raises `InvalidOutput` with what is wrong with it."""
    if parser.type == "none":
        return text
    fenced = _FENCE.match(text)
    bare = fenced[1] if fenced else text
    try:
        value = json.loads(bare)
    except ValueError as error:
        if parser.type == "json":
            raise InvalidOutput(f"The answer is not JSON: {error}.") from None
        lines = [_BULLET.sub("", line).strip() for line in bare.splitlines()]
        value = [line for line in lines if line]
    if parser.type == "list" and not isinstance(value, list):
        raise InvalidOutput("The answer is not a list.")
    if parser.schema is not None:
        import jsonschema

        try:
            jsonschema.validate(value, dict(parser.schema))
        except jsonschema.ValidationError as error:
            raise InvalidOutput(f"The answer does not fit its schema: {error.message}") from None
    return value
