"""JSON Schemas for a model's answers: checked when they are loaded, and bounded when they are used.

An answer is checked in a process of many threads. So patterns run on RE2, whose time is linear in the
text (Python's `re` needs centuries for `^(a+)+$`), items are compared by their JSON, references are
counted, and nothing is ever fetched: a reference must be found in the schema itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any

import jsonschema
import re2
from jsonschema import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

from app.catalog.nodes import Place

MAX_REFERENCES = 50_000
"""Followed for one answer. A schema whose references fork could follow them without end."""

MAX_PATTERN_BYTES = 8 * 1024 * 1024
"""What RE2 may use for one pattern."""

MAX_COMPLAINT_CHARACTERS = 500

Problem = tuple[Place, str]

_DIALECTS = frozenset(uri.rstrip("#") for uri in REGISTRY)

_NO_FORMATS = jsonschema.FormatChecker(formats=())
"""Patterns are looked at here, by the engine that runs them."""

_UNICODE = re.compile(r"(\\\\)|\\u([0-9a-fA-F]{4})")
_ANNOTATIONS = (
    "$id",
    "$schema",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
)

_references: ContextVar[list[int]] = ContextVar("references left for this answer")


class UnfitSchema(Exception):
    """A schema that is valid and cannot be used."""


def problems(schema: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with a schema, and where in it. Nothing where it can be used."""
    try:
        kind = _kind(schema)
        kind.check_schema(schema, format_checker=_NO_FORMATS)
    except UnfitSchema as error:
        yield ("$schema",), str(error)
        return
    except jsonschema.SchemaError as error:
        yield tuple(error.absolute_path), f"This is no JSON Schema: {error.message}"
        return
    if schema and not schema.keys() & {*kind.VALIDATORS, *_ANNOTATIONS}:
        yield (
            (),
            "This is no JSON Schema: it has none of its keywords (type, properties, items, …).",
        )
    yield from _inner_problems(dict(schema))


def complaint(schema: Mapping[str, Any], value: Any) -> str | None:
    """Why a value does not fit the schema; None where it fits."""
    token = _references.set([MAX_REFERENCES])
    try:
        error = jsonschema.exceptions.best_match(_validator(_key(schema)).iter_errors(value))
        return None if error is None else _short(f"{_place(error)}{error.message}")
    except UnfitSchema as error:
        return str(error)
    except (RecursionError, ArithmeticError) as error:
        return f"It cannot be compared with the schema: {type(error).__name__}."
    finally:
        _references.reset(token)


def _short(text: str) -> str:
    return text if len(text) <= MAX_COMPLAINT_CHARACTERS else f"{text[:MAX_COMPLAINT_CHARACTERS]}…"


def _place(error: ValidationError) -> str:
    return f"{error.json_path}: " if error.absolute_path else ""


def _key(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema)


@lru_cache(maxsize=512)
def _validator(key: str) -> Validator:
    schema = json.loads(key)
    kind = _kind(schema)
    schema.pop("$schema", None)  # jsonschema would take the dialect's own, unbounded rules for it
    validator: Validator = kind(schema, registry=REGISTRY)
    return validator


def _kind(schema: Mapping[str, Any]) -> Any:
    """The dialect that the schema names, made bounded."""
    name = schema.get("$schema")
    if name is not None and str(name).rstrip("#") not in _DIALECTS:
        raise UnfitSchema(f"The dialect {name!r} is not known; leave it out for 2020-12.")
    return _bounded(
        validator_for({} if name is None else {"$schema": name}, jsonschema.Draft202012Validator)
    )


@cache
def _bounded(kind: Any) -> Any:
    own = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    counted = {
        name: _counted(kind.VALIDATORS[name])
        for name in ("$ref", "$dynamicRef")
        if name in kind.VALIDATORS
    }
    known = {name: function for name, function in own.items() if name in kind.VALIDATORS}
    return extend(kind, known | counted)  # type: ignore[no-untyped-call]


def _counted(function: Any) -> Any:
    def counted(*args: Any) -> Any:
        left = _references.get()
        left[0] -= 1
        if left[0] < 0:
            raise UnfitSchema(
                f"More than {MAX_REFERENCES} references of the schema would have to be followed."
            )
        return function(*args)

    return counted


@lru_cache(maxsize=2048)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_PATTERN_BYTES
    return re2.compile(
        _UNICODE.sub(lambda found: found[1] or f"\\x{{{found[2]}}}", pattern), options
    )


def _found(pattern: str, text: str) -> bool:
    try:
        return _compiled(pattern).search(text) is not None
    except UnicodeEncodeError:
        return False  # a lone surrogate, which no answer is accepted with


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _found(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, inner in patterns.items():
        for name, value in instance.items():
            if _found(pattern, name):
                yield from validator.descend(value, inner, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, allowed: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    patterns = schema.get("patternProperties", {})
    known = schema.get("properties", {})
    extra = [
        name
        for name in instance
        if name not in known and not any(_found(one, name) for one in patterns)
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
    """One text for what JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def _inner_problems(schema: dict[str, Any]) -> Iterator[Problem]:
    """References that lead out of the schema or nowhere, and patterns that RE2 cannot read."""
    uri = schema.get("$schema")
    specification = specification_with(uri) if uri else DRAFT202012
    root = specification.create_resource(schema)
    registry = REGISTRY.with_resource(root.id() or "", root)
    keywords: set[str] = set()
    waiting = [(root, registry.resolver_with_root(root))]
    seen: set[int] = set()
    while waiting:
        resource, resolver = waiting.pop()
        contents = resource.contents
        if not isinstance(contents, dict) or id(contents) in seen:
            continue
        seen.add(id(contents))
        if contents is not schema and "$schema" in contents and not _is_standard(contents):
            yield (), "Only the whole schema names its dialect ($schema), and no part of it."
        keywords |= contents.keys()
        yield from _pattern_problems(contents)
        for keyword in ("$ref", "$dynamicRef"):
            if not isinstance(contents.get(keyword), str):
                continue
            try:
                found = resolver.lookup(contents[keyword])
            except Unresolvable:
                yield (), _unresolved(contents[keyword])
                continue
            waiting.append((specification.create_resource(found.contents), found.resolver))
        waiting += [(inner, resolver.in_subresource(inner)) for inner in resource.subresources()]
    if {
        "patternProperties",
        "unevaluatedProperties",
    } <= keywords:  # jsonschema runs `re` for the two together
        yield (), "unevaluatedProperties cannot be used together with patternProperties."


def _is_standard(schema: Mapping[str, Any]) -> bool:
    """Whether it is one of the dialects' own descriptions, which are at hand."""
    return str(schema.get("$id", schema.get("id"))).rstrip("#") in _DIALECTS


def _unresolved(reference: str) -> str:
    if reference.startswith("#"):
        return f"The reference {reference!r} leads nowhere in this schema."
    return f"The reference {reference!r} leads out of this schema. Nothing is fetched: put it under $defs."


def _pattern_problems(schema: Mapping[str, Any]) -> Iterator[Problem]:
    patterns = [schema.get("pattern"), *(schema.get("patternProperties") or ())]
    for pattern in patterns:
        try:
            if isinstance(pattern, str):
                _compiled(pattern)
        except (re2.error, UnicodeEncodeError) as error:
            reason = error.args[0] if error.args else "it is not well formed"
            reason = reason.decode() if isinstance(reason, bytes) else reason
            yield (
                (),
                (
                    f"The pattern {pattern!r} cannot be used: {reason}. Patterns are those of RE2,"
                    " which has no look-around and no back-references."
                ),
            )
