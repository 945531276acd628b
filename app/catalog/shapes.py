"""What is known of a value before it exists, as a JSON Schema; `{}` if nothing is known.

`step_types` follows these shapes through the steps of a pipeline. Nothing here is guessed: a shape
says only what every value of a step or an input is sure to have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.catalog.inputs import type_of
from app.catalog.model import Flow, InputType, PromptFlow
from app.catalog.sources import BadPath
from app.catalog.suggestions import did_you_mean

Shape = Mapping[str, Any]

ANYTHING: Shape = {}
TEXT: Shape = {"type": "string"}
LIST: Shape = {"type": "array"}


def of_input(type_name: InputType) -> Shape:
    """The shape of a declared input."""
    return ANYTHING if type_name == "any" else {"type": type_name}


def of_constant(value: Any) -> Shape:
    """The shape of a constant: exactly this value."""
    if isinstance(value, dict):
        parts = {name: of_constant(part) for name, part in value.items()}
        return {"type": "object", "properties": parts, "additionalProperties": False}
    return {"type": type_of(value)}


def of_flow(flow: Flow) -> Shape:
    """The shape of a flow's output. What code returns is unknown."""
    if not isinstance(flow, PromptFlow):
        return ANYTHING
    parser = flow.output_parser
    if parser.type == "none":
        return TEXT
    shape = parser.schema or ANYTHING
    return {**shape, "type": "array"} if parser.type == "list" else shape


def of_aggregation(step: Mapping[str, Any], items: Shape) -> Shape:
    """The shape of what a `batch_aggregator` makes of a list."""
    strategy = step["aggregation_strategy"]
    if strategy == "concat":
        return TEXT
    if strategy == "filter":
        return {"type": "array", "items": item(items)}
    if strategy == "summary":
        return {"type": "array", "items": _object(step["summary_fields"], ANYTHING)}
    if strategy == "stats":
        figures = _object(("count", "sum", "mean", "min", "max"), ANYTHING)
        return _object(step["fields_"], figures)
    return {"type": "object", "additionalProperties": {"type": "array", "items": item(items)}}


def _object(names: Any, value: Shape) -> Shape:
    properties = dict.fromkeys(names, value)
    return {"type": "object", "properties": properties, "additionalProperties": False}


def types(shape: Shape) -> frozenset[str] | None:
    """The types that the value can have, with `null` for None; None if nothing is known."""
    if "$ref" in shape:  # in older versions of JSON Schema, it overrides the keywords beside it
        return None
    known = shape.get("type")
    if isinstance(known, str):
        return frozenset([known])
    if isinstance(known, list):
        return frozenset(known)
    values = [shape["const"]] if "const" in shape else shape.get("enum")
    return frozenset(map(type_of, values)) if values else None


def can_be_list(shape: Shape) -> bool:
    known = types(shape)
    return known is None or "array" in known


def is_list(shape: Shape) -> bool:
    """Whether the value is a list whenever it is not null."""
    known = types(shape)
    return known is not None and known - {"null"} == {"array"}


def item(shape: Shape) -> Shape:
    """The shape of the items of a list."""
    items = shape.get("items") if can_be_list(shape) and "prefixItems" not in shape else None
    return items if isinstance(items, dict) else ANYTHING


def part(shape: Shape, segment: str | int, place: str) -> tuple[Shape, str]:
    """The shape of a part, and a doubt about whether the part exists, or nothing.

    Raises `BadPath` if no value of the shape has the part. `place` is what the shape is of.
    """
    known = types(shape)
    if known is None:
        return ANYTHING, ""
    if "array" in known and str(segment).lstrip("-").isdigit():
        return item(shape), ""
    if "object" in known and isinstance(segment, str):
        return _property(shape, segment, place)
    wanted = "a list" if isinstance(segment, int) else "an object"
    raise BadPath(f"{place!r} is of the type {' or '.join(sorted(known))}, not {wanted}.")


def _property(shape: Shape, name: str, place: str) -> tuple[Shape, str]:
    properties = shape.get("properties")
    if not isinstance(properties, dict) or "patternProperties" in shape:
        rest = shape.get("additionalProperties")
        return (rest if isinstance(rest, dict) else ANYTHING), ""
    if name in properties:
        found = properties[name]
        return (found if isinstance(found, dict) else ANYTHING), ""
    message = f"{place!r} has no {name!r}.{did_you_mean(name, properties)}"
    if shape.get("additionalProperties") is False:
        raise BadPath(message)
    is_all = properties and not shape.keys() & _MORE_PROPERTIES
    return ANYTHING, f"The schema of {message}" if is_all else ""


_MORE_PROPERTIES = frozenset(["allOf", "anyOf", "oneOf", "if", "dependentSchemas", "$dynamicRef"])
"""Keywords of JSON Schema that may describe properties elsewhere."""
