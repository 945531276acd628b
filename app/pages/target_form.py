"""What the form of a target shows: its fields, with what was entered and the errors beside it.

Pure functions for the template `target_form.html`. `target_values` reads what the form sends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from app.catalog.model import MISSING, InputField, Target
from app.domain.errors import FieldError
from app.pages.target_values import (
    AS_JSON,
    CONFIG,
    INPUTS,
    TAGS,
    Options,
    Texts,
    as_json_text,
    choices_of,
    input_name,
    kind_name,
    plain_lines,
)

MAX_ROWS = 14
MAX_SHOWN_DEFAULT = 80

SETTINGS_HINT = 'Such as {"timeout": 60, "retries": {"max": 2}}; the API page lists them all.'
TAGS_HINT = "Names of your own, one in each line."


@dataclass(frozen=True, slots=True)
class Field:
    """A field as the template shows it. `control` is `text`, `json`, `number`, `choice` or `any`,
    which is a text that may be JSON (`is_json`).
    """

    name: str
    id: str
    label: str
    control: str
    value: str
    type: str = ""
    required: bool = False
    description: str = ""
    default: str = ""
    choices: Options = ()
    is_json: bool = False
    errors: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """The height of a text field."""
        lines = self.value.count("\n") + 1 + len(self.value) // 90
        return min(max(lines, 3 if self.control == "json" else 2), MAX_ROWS)


@dataclass(frozen=True, slots=True)
class Form:
    """`errors` are those that belong to no field."""

    inputs: tuple[Field, ...]
    choices: tuple[Field, ...]
    settings: Field
    tags: Field
    errors: tuple[str, ...]
    as_json: bool

    @property
    def wrong(self) -> tuple[Field, ...]:
        fields = (*self.inputs, *self.choices, self.settings, self.tags)
        return tuple(field for field in fields if field.errors)


def form(target: Target, texts: Texts, errors: Iterable[FieldError] = ()) -> Form:
    """What the template shows."""
    as_json = INPUTS in texts or target.inputs is None
    options = choices_of(target)
    declared = () if as_json else target.inputs or ()
    names = [*([INPUTS] if as_json else []), *(input_name(field.name) for field in declared)]
    placed = _by_field(errors, [*names, *options, CONFIG, TAGS])
    inputs = tuple(
        _input_field(number, field, texts, placed[input_name(field.name)])
        for number, field in enumerate(declared)
    )
    return Form(
        inputs=(_text_field(INPUTS, "Inputs", "json", texts, placed[INPUTS], type="object"),)
        if as_json
        else inputs,
        choices=tuple(
            _choice_field(name, choices, texts, placed[name]) for name, choices in options.items()
        ),
        settings=_text_field(
            CONFIG, "Settings as JSON", "json", texts, placed[CONFIG], description=SETTINGS_HINT
        ),
        tags=_text_field(TAGS, "Tags", "text", texts, placed[TAGS], description=TAGS_HINT),
        errors=placed[""],
        as_json=as_json,
    )


def _by_field(errors: Iterable[FieldError], names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The messages by the names of fields, and those of no field under an empty name.

    An error in a part of a value (`inputs.list.3`) belongs to the field with the longest name that
    fits, since names may have dots themselves.
    """
    longest_first = sorted(names, key=len, reverse=True)
    placed: dict[str, tuple[str, ...]] = dict.fromkeys([*longest_first, ""], ())
    for error in errors:
        path = f"{error.field}."
        name = next((name for name in longest_first if path.startswith(f"{name}.")), "")
        placed[name] = (*placed[name], _sentence(error, name))
    return placed


def _input_field(number: int, field: InputField, texts: Texts, errors: tuple[str, ...]) -> Field:
    control = {"string": "text", "any": "any", "array": "json", "object": "json"}.get(
        field.type, "number"
    )
    choices: Options = ()
    if field.type == "boolean":
        empty = "Choose …" if field.needed else "not set"
        control, choices = "choice", (("", empty), ("true", "true"), ("false", "false"))
    return Field(
        name=input_name(field.name),
        id=f"input-{number}",
        label=field.name,
        control=control,
        value=plain_lines(texts.get(input_name(field.name), "")),
        type="" if field.type == "any" else field.type,
        required=field.needed,
        description=field.description,
        default=_shown(field.default),
        choices=choices,
        is_json=texts.get(kind_name(field.name)) == AS_JSON,
        errors=errors,
    )


def _choice_field(name: str, options: Options, texts: Texts, errors: tuple[str, ...]) -> Field:
    key = name.removeprefix(f"{CONFIG}.")
    label = {"flow_id": "Flow", "variant": "Variant"}[key]
    return Field(name, key, label, "choice", texts.get(name, ""), choices=options, errors=errors)


def _text_field(
    name: str,
    label: str,
    control: str,
    texts: Texts,
    errors: tuple[str, ...],
    type: str = "",
    description: str = "",
) -> Field:
    """A field that is no input of the target: it has one text."""
    value = plain_lines(texts.get(name, ""))
    return Field(
        name, name, label, control, value, type=type, description=description, errors=errors
    )


def _sentence(error: FieldError, name: str) -> str:
    """The message; with the part of the value that it is about, if it is about a part."""
    part = error.field.removeprefix(name).lstrip(".")
    return f"{part}: {error.message}" if part else error.message


def _shown(default: Any) -> str:
    if default is MISSING:
        return ""
    text = as_json_text(default)
    return text if len(text) <= MAX_SHOWN_DEFAULT else f"{text[: MAX_SHOWN_DEFAULT - 1]}…"
