"""The values of a target's form: `entered` makes the texts of its fields from values, and `read`
makes values of the texts that a browser sent.

A field has the name that the API's errors have for it (`inputs.text`, `config.flow_id`). An empty
field is left out, so its default applies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from app.api.json_body import BadJson, check_body, decode
from app.api.parsing import loaded
from app.api.problems import Problem
from app.api.schemas import StartSchema
from app.catalog.inputs import fits
from app.catalog.model import MISSING, Agent, InputField, InputType, Target
from app.domain.errors import FieldError, InvalidRequest

INPUTS, CONFIG, TAGS = "inputs", "config", "tags"
AS_JSON = "json"
"""The value of the field `kind.<name>` if an input without a type is written as JSON."""

MAX_LINE = 60
"""Longer JSON is written in several lines."""

Texts = Mapping[str, str]
"""What the fields of a form hold, by their names."""

Options = tuple[tuple[str, str], ...]
"""The values of a choice, and their labels."""

_SCHEMA = StartSchema()

_WRONG: dict[InputType, str] = {
    "integer": "Write a whole number, such as 42.",
    "number": "Write a number, such as 4.5.",
    "boolean": "Choose true or false.",
    "array": 'Write a JSON list, such as ["a", "b"].',
    "object": 'Write a JSON object, such as {"a": 1}.',
}
_NUMBERS = ("integer", "number")

_NEVER_SENT = re.compile("[\x00\r\ud800-\udfff]")
"""Browsers change these characters in the fields of forms."""


def entered(
    target: Target,
    inputs: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    tags: Iterable[str] = (),
    as_json: bool = False,
) -> dict[str, str]:
    """The texts of a new form. `inputs` are values to begin with; other fields get defaults.

    Inputs are written as one JSON object if the form has no fields for them, or if a browser would
    change them in these.
    """
    given = dict(inputs or {})
    declared = {field.name: field for field in target.inputs or ()}
    texts = _config_texts(target, config or {}) | {TAGS: "\n".join(tags)}
    known = {name: field.default for name, field in declared.items()} | given
    known = {name: value for name, value in known.items() if value is not MISSING}
    is_kept = given.keys() <= declared.keys() and not any(map(_is_changed, known.values()))
    if target.inputs is None or as_json or not is_kept:
        return texts | {INPUTS: _written(known)}
    for name, field in declared.items():
        value = given.get(name, field.default)
        if value is MISSING or value is None:  # None counts as left out
            texts[input_name(name)] = ""
        elif isinstance(value, str) and field.type in ("any", "string"):
            texts[input_name(name)] = value
        else:
            texts[input_name(name)] = _written(value)
            texts |= {kind_name(name): AS_JSON} if field.type == "any" else {}
    return texts


def read(target: Target, type: str, texts: Texts, max_text: int) -> dict[str, Any]:
    """The body of a start, as the API reads it. Raises `InvalidRequest`."""
    errors: list[FieldError] = []
    inputs = (
        _object(INPUTS, texts.get(INPUTS, ""), errors)
        if INPUTS in texts or target.inputs is None
        else _inputs(target.inputs, texts, errors)
    )
    config = _config(target, texts, errors)
    tags = [line for line in plain_lines(texts.get(TAGS, "")).split("\n") if line.strip()]
    body = {"type": type, "target_id": target.id, INPUTS: inputs, CONFIG: config, TAGS: tags}
    try:
        # By the same steps as a request to the API: it has limits for sizes, texts and names.
        body = loaded(_SCHEMA, check_body(json.dumps(body).encode(), max_text))
    except InvalidRequest as error:
        errors += error.errors
    except Problem as problem:
        errors.append(FieldError("", problem.detail, problem.code))
    if errors:
        raise InvalidRequest(errors)
    return body


def choices_of(target: Target) -> dict[str, Options]:
    """The fields for a flow or a variant, with their values and labels."""
    if isinstance(target, Agent):
        others = sorted(target.flows.keys() - {target.default_flow})
        default = target.default_flow
        default += "" if default == "default" else " (default)"
        flows = [("", default), *((name, name) for name in others)]
        return {f"{CONFIG}.flow_id": tuple(flows)} if others else {}
    variants = [("", "none"), *((name, name) for name in sorted(target.variants))]
    return {f"{CONFIG}.variant": tuple(variants)} if target.variants else {}


def input_name(name: str) -> str:
    return f"{INPUTS}.{name}"


def kind_name(name: str) -> str:
    return f"kind.{name}"


def plain_lines(text: str) -> str:
    """Undoes what browsers do to the ends of lines when they send a form."""
    return text.replace("\r\n", "\n")


def as_json_text(value: Any, indent: int | None = None) -> str:
    # `default=str`, since the default of an input in a YAML file may contain a date.
    return json.dumps(value, ensure_ascii=False, indent=indent, default=str)


def _is_changed(value: Any) -> bool:
    return isinstance(value, str) and _NEVER_SENT.search(value) is not None


def _inputs(
    declared: Iterable[InputField], texts: Texts, errors: list[FieldError]
) -> dict[str, Any]:
    values = {}
    for field in declared:
        text = plain_lines(texts.get(input_name(field.name), ""))
        is_json = texts.get(kind_name(field.name)) == AS_JSON
        is_text = field.type == "string" or (field.type == "any" and not is_json)
        if text if is_text else text.strip():
            try:
                values[field.name] = _value(field.type, text, is_json)
            except BadJson as error:
                errors.append(FieldError(input_name(field.name), str(error), error.code))
        elif field.needed:
            errors.append(FieldError(input_name(field.name), "This input is required.", "required"))
    return values


def _value(type: InputType, text: str, is_json: bool) -> Any:
    """The value that a text means. Raises `BadJson`."""
    if type == "string" or (type == "any" and not is_json):
        return text
    try:
        value = decode(text.strip().encode(), "This text")
    except BadJson as error:
        if type in _NUMBERS or type == "boolean":
            raise BadJson("invalid_type", _WRONG[type]) from None
        raise error
    if not fits(type, value):
        raise BadJson("invalid_type", _WRONG[type])
    return value


def _object(name: str, text: str, errors: list[FieldError]) -> dict[str, Any]:
    """The JSON object in a field; an empty one if nothing is written, or if it is wrong."""
    try:
        value = _value("object", text, is_json=True) if text.strip() else {}
    except BadJson as error:
        errors.append(FieldError(name, str(error), error.code))
        return {}
    return dict(value)


def _config(target: Target, texts: Texts, errors: list[FieldError]) -> dict[str, Any]:
    config = _object(CONFIG, texts.get(CONFIG, ""), errors)
    for name in choices_of(target):
        key = name.removeprefix(f"{CONFIG}.")
        if texts.get(name):
            if key in config:
                message = f"The settings below have a {key!r} too. Remove one of them."
                errors.append(FieldError(name, message, "repeated"))
            config[key] = texts[name]
    return config


def _config_texts(target: Target, config: Mapping[str, Any]) -> dict[str, str]:
    texts, rest = {}, dict(config)
    for name, options in choices_of(target).items():
        key = name.removeprefix(f"{CONFIG}.")
        if isinstance(target, Agent) and rest.get(key) == target.default_flow:
            rest[key] = ""  # as the choice names the default
        if rest.get(key) in dict(options):
            texts[name] = rest.pop(key)
    return {**texts, CONFIG: _written(rest) if rest else ""}


def _written(value: Any) -> str:
    """JSON as people write it: a short one in one line."""
    text = as_json_text(value)
    return text if len(text) <= MAX_LINE else as_json_text(value, indent=2)
