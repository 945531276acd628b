"""Encodes outputs as strict JSON. Refuses what JSON cannot hold, and names its place.

`run.py` calls `encode` for the outputs of a run, `steps.py` for the output of a step. Besides
JSON's own types it takes values that are plainly data; `docs/agents.md` has the table. It never
guesses: values without an order (sets), an end (generators) or data (functions) are refused.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import ipaddress
import json
import math
import pathlib
import sys
import types
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from app.runtime.errors import InvalidOutput

MAX_DEPTH = 200
"""Levels of nesting. The conversion of each takes some four frames of Python's stack of 1,000."""

MAX_INTEGER = 10**4000
"""By default Python refuses to write integers of more than 4,300 digits as text."""


def encode(outputs: Any, limit_bytes: int, place: str = "outputs") -> bytes:
    """The outputs as strict JSON in UTF-8. `place` is what messages call them.

    Raises `InvalidOutput`, which says what is wrong and where, or names the limit.
    """
    data = jsonable(outputs, place)
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise InvalidOutput(
            f"{place} contains text that is not valid Unicode (a lone surrogate)."
        ) from None
    if len(text) > limit_bytes:
        raise InvalidOutput(
            f"{place} is too large: {len(text)} bytes; MAX_RESULT_BYTES allows {limit_bytes}."
        )
    return text


def jsonable(value: Any, place: str) -> Any:
    """The value in JSON's own types. Raises `InvalidOutput` if there is no rule for its type."""
    return _converted(value, place, ())


def _converted(value: Any, place: str, inside: tuple[int, ...]) -> Any:
    """`inside` are the identities of the containers around the value."""
    # The plain types first, without the table: nearly all values of large outputs are of these.
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return value
    if kind is int:
        return _integer(value, place)
    if kind is float:
        return _number(value, place)
    if id(value) in inside:
        raise InvalidOutput(f"{place} contains itself.")
    if len(inside) > MAX_DEPTH:
        raise InvalidOutput(f"The outputs are nested deeper than {MAX_DEPTH} at {place[:200]}.")
    try:
        return _by_rule(value, place, (*inside, id(value)))
    except InvalidOutput:
        raise
    except Exception as error:  # from the value's own code, such as a property or a serializer
        reason = type(error).__name__
        raise InvalidOutput(f"{place} ({kind.__name__}) cannot be read: {reason}.") from error


def _by_rule(value: Any, place: str, inside: tuple[int, ...]) -> Any:
    for kinds, rule in _RULES:
        if isinstance(value, kinds):
            return rule(value, place, inside)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _converted(getattr(value, name), f"{place}.{name}", inside) for name in names}
    if _is_model(value):
        return _converted(value.model_dump(mode="json"), place, inside)
    if _is_numpy(value):
        return _from_numpy(value, place, inside)
    raise InvalidOutput(f"{place} is {_described(value)}, which JSON cannot hold.")


def _integer(value: int, place: str) -> int:
    if -MAX_INTEGER < value < MAX_INTEGER:
        return int(value)
    raise InvalidOutput(f"{place} is an integer of more than 4,000 digits.")


def _number(value: float, place: str) -> float:
    if not math.isfinite(value):
        raise InvalidOutput(f"{place} is {value}, which JSON cannot hold.")
    return float(value)


def _decimal(value: decimal.Decimal, place: str, _: Any) -> str:
    if not value.is_finite():
        raise InvalidOutput(f"{place} is {value}, which is not a number.")
    return str(value)


def _mapping(value: Mapping[Any, Any], place: str, inside: tuple[int, ...]) -> dict[str, Any]:
    converted = {}
    for key, item in value.items():
        if isinstance(key, enum.Enum):
            key = key.value
        if not isinstance(key, str):
            raise InvalidOutput(f"{place} has the key {key!r:.100}, but JSON keys must be text.")
        converted[str(key)] = _converted(item, f"{place}.{key}", inside)
    return converted


def _list(value: Any, place: str, inside: tuple[int, ...]) -> list[Any]:
    return [_converted(item, f"{place}[{position}]", inside) for position, item in enumerate(value)]


def _datetime(value: datetime.datetime, place: str, _: Any) -> str:
    """RFC 3339 in UTC if the value has a time zone, else ISO 8601 without one: none is guessed."""
    if value != value:  # pandas' NaT is a datetime, and unequal to itself
        raise InvalidOutput(f"{place} is {value}, which is not a date and time.")
    if value.tzinfo is None:
        return value.isoformat()
    return value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")


def _duration(value: datetime.timedelta, *_: Any) -> Any:
    from pydantic_core import to_jsonable_python  # imported here because it is slow to import

    return to_jsonable_python(value)


def _text(value: Any, *_: Any) -> str:
    return str(value)


_Rule = Callable[[Any, str, tuple[int, ...]], Any]

_RULES: tuple[tuple[Any, _Rule], ...] = (
    (enum.Enum, lambda value, place, inside: _converted(value.value, place, inside)),
    (str, lambda value, *_: str.__str__(value)),
    (bool, lambda value, *_: bool(value)),
    (int, lambda value, place, _: _integer(int(value), place)),
    (float, lambda value, place, _: _number(float(value), place)),
    (decimal.Decimal, _decimal),
    (datetime.datetime, _datetime),
    ((datetime.date, datetime.time), lambda value, *_: value.isoformat()),
    (datetime.timedelta, _duration),
    ((uuid.UUID, pathlib.PurePath), _text),
    ((ipaddress.IPv4Address, ipaddress.IPv6Address), _text),
    ((ipaddress.IPv4Network, ipaddress.IPv6Network), _text),
    (Mapping, _mapping),
    ((list, tuple, deque), _list),
)
"""The first rule that fits decides. Enums come first, because their members may be text or numbers.

`bool` stands before `int`, and `datetime` before `date`, because the former are subclasses.
"""


def _is_model(value: Any) -> bool:
    """Whether it is a model of pydantic, such as a message of LangChain."""
    # By an attribute, so that pydantic need not be imported for outputs that have none.
    return not isinstance(value, type) and hasattr(type(value), "__pydantic_serializer__")


def _is_numpy(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.generic, numpy.ndarray))


def _from_numpy(value: Any, place: str, inside: tuple[int, ...]) -> Any:
    """An array as lists, a scalar as a number; dates and durations as text."""
    if value.dtype.kind in "mM":
        if sys.modules["numpy"].isnat(value).any():
            raise InvalidOutput(f"{place} contains NaT, which is not a date and time.")
        value = value.astype(str)
    return _converted(value.tolist(), place, inside)


_NAMES: tuple[tuple[Any, str], ...] = (
    (type, "the class {name}"),
    ((set, frozenset), "a {kind}, which has no order (make it a list)"),
    ((bytes, bytearray, memoryview), "{kind} (decode them, or encode them as base64 text)"),
    (types.GeneratorType, "a generator (make it a list)"),
    (types.AsyncGeneratorType, "an async generator (collect it in a list)"),
    (types.CoroutineType, "a coroutine that was never awaited (await it)"),
    ((types.FunctionType, types.BuiltinFunctionType, types.MethodType), "the function {name}"),
    (types.ModuleType, "the module {name}"),
)


def _described(value: Any) -> str:
    kind, name = type(value).__name__, getattr(value, "__name__", "")
    for kinds, words in _NAMES:
        if isinstance(value, kinds):
            return words.format(kind=kind, name=name)
    return f"a {kind}"
