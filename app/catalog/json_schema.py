"""Checks JSON Schemas at load, and models' answers against them, in bounded time.

`agents` calls `problems` for the `output_parser.schema` of a prompt; the runtime calls `complaint`
for each answer. Answers are checked in threads that nothing can stop, so no schema and no answer
may take long: `json_schema_rules` replaces the rules of jsonschema that could. Nothing is fetched:
a reference must be found in the schema itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import jsonschema
import re2
from jsonschema import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

from app.catalog.json_schema_rules import UnfitSchema, bounded, bounded_references, compiled
from app.catalog.nodes import Problem

MAX_COMPLAINT_CHARACTERS = 500  # the complaint is sent back to the model, and shown to people

_DIALECTS = frozenset(uri.rstrip("#") for uri in REGISTRY)

# jsonschema would check patterns with Python's `re`. They are checked by RE2, which runs them.
_NO_FORMATS = jsonschema.FormatChecker(formats=())

_ANNOTATIONS = (
    *("$id", "$schema", "$defs", "definitions"),
    *("title", "description", "default", "examples"),
)


def problems(schema: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with a schema, and where in it. Nothing if it can be used."""
    try:
        dialect = _dialect(schema)
        dialect.check_schema(schema, format_checker=_NO_FORMATS)
    except UnfitSchema as error:
        yield ("$schema",), str(error)
        return
    except jsonschema.SchemaError as error:
        yield tuple(error.absolute_path), f"This is not a valid JSON Schema: {error.message}"
        return
    # `{name: string}` is a valid schema that accepts everything: an example, taken for a schema.
    if schema and not schema.keys() & {*dialect.VALIDATORS, *_ANNOTATIONS}:
        keywords = "it has none of the keywords (type, properties, items, …)"
        yield (), f"This is not a valid JSON Schema: {keywords}."
    yield from _inner_problems(dict(schema))


def complaint(schema: Mapping[str, Any], value: Any) -> str | None:
    """Why a value does not fit the schema, in one sentence; None if it fits."""
    try:
        with bounded_references():
            validator = _validator(json.dumps(schema))
            error = jsonschema.exceptions.best_match(validator.iter_errors(value))
        return None if error is None else _short(f"{_place(error)}{error.message}")
    except UnfitSchema as error:
        return str(error)
    except (RecursionError, ArithmeticError) as error:  # `multipleOf` of huge numbers overflows
        return f"It cannot be compared with the schema: {type(error).__name__}."


def _short(text: str) -> str:
    is_short = len(text) <= MAX_COMPLAINT_CHARACTERS
    return text if is_short else f"{text[:MAX_COMPLAINT_CHARACTERS]}…"


def _place(error: ValidationError) -> str:
    return f"{error.json_path}: " if error.absolute_path else ""


@lru_cache(maxsize=512)
def _validator(schema_json: str) -> Validator:
    """The validator for a schema, which is given as JSON since a cache needs hashable keys."""
    schema = json.loads(schema_json)
    dialect = _dialect(schema)
    # With `$schema` in the schema, jsonschema would use the dialect's own, unbounded rules.
    schema.pop("$schema", None)
    validator: Validator = dialect(schema, registry=REGISTRY)
    return validator


def _dialect(schema: Mapping[str, Any]) -> Any:
    """The validator class of the dialect that the schema names, made bounded."""
    name = schema.get("$schema")
    if name is not None and str(name).rstrip("#") not in _DIALECTS:
        raise UnfitSchema(f"The dialect {name!r} is unknown. Leave $schema out to use 2020-12.")
    named = {} if name is None else {"$schema": name}
    return bounded(validator_for(named, jsonschema.Draft202012Validator))


def _inner_problems(schema: dict[str, Any]) -> Iterator[Problem]:
    """Walks through all parts of a schema, also along references, and checks each one once."""
    uri = schema.get("$schema")
    specification = specification_with(uri) if uri else DRAFT202012
    root = specification.create_resource(schema)
    registry = REGISTRY.with_resource(root.id() or "", root)
    keywords: set[str] = set()
    waiting = [(root, registry.resolver_with_root(root))]
    seen: set[int] = set()  # ids of parts: a reference may lead back to a part around it
    while waiting:
        resource, resolver = waiting.pop()
        contents = resource.contents
        if not isinstance(contents, dict) or id(contents) in seen:
            continue
        seen.add(id(contents))
        if contents is not schema and "$schema" in contents and not _is_standard(contents):
            yield (), "$schema can only be at the top of the schema, not in a part of it."
        keywords |= contents.keys()
        yield from _pattern_problems(contents)
        for keyword in ("$ref", "$dynamicRef"):
            if not isinstance(contents.get(keyword), str):
                continue
            try:
                target = resolver.lookup(contents[keyword])
            except Unresolvable:
                yield (), _unresolved(contents[keyword])
                continue
            waiting.append((specification.create_resource(target.contents), target.resolver))
        waiting += [(inner, resolver.in_subresource(inner)) for inner in resource.subresources()]
    # For the two together, jsonschema matches the patterns with `re`, whose time has no bound.
    if {"patternProperties", "unevaluatedProperties"} <= keywords:
        yield (), "unevaluatedProperties cannot be used together with patternProperties."


def _is_standard(schema: Mapping[str, Any]) -> bool:
    """Whether the schema is the description of a dialect, which jsonschema brings along."""
    return str(schema.get("$id", schema.get("id"))).rstrip("#") in _DIALECTS


def _unresolved(reference: str) -> str:
    if reference.startswith("#"):
        return f"The reference {reference!r} is not in this schema."
    return (
        f"The reference {reference!r} points outside this schema. Nothing is fetched:"
        " put the definition under $defs."
    )


def _pattern_problems(schema: Mapping[str, Any]) -> Iterator[Problem]:
    patterns = [schema.get("pattern"), *(schema.get("patternProperties") or ())]
    for pattern in patterns:
        try:
            if isinstance(pattern, str):
                compiled(pattern)
        except (re2.error, UnicodeEncodeError) as error:
            reason = error.args[0] if error.args else "it is malformed"
            reason = reason.decode() if isinstance(reason, bytes) else reason
            yield (
                (),
                f"The pattern {pattern!r} cannot be used: {reason}. Patterns use the syntax of"
                " RE2, which has no look-around and no back-references.",
            )
