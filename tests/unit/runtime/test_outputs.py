"""The values that a flow may return, and the messages for all others."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import types
import typing
import uuid
from typing import Any

import pydantic
import pytest

from app.runtime.errors import InvalidOutput
from app.runtime.outputs import encode

UTC = datetime.UTC


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(str, enum.Enum):  # noqa: UP042  as code before Python 3.11 has it
    HELLO = "hello"


@dataclasses.dataclass
class Point:
    x: decimal.Decimal
    tags: list[Any]


class Pair(typing.NamedTuple):
    left: int
    right: Any


class Order(pydantic.BaseModel):
    at: datetime.datetime
    total: decimal.Decimal
    id: uuid.UUID
    site: pydantic.HttpUrl
    children: list[Order] = []


def written(value: Any) -> Any:
    return json.loads(encode(value, 1_000_000))


ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (
            datetime.datetime(
                2026, 1, 2, 3, 4, tzinfo=datetime.timezone(datetime.timedelta(hours=2))
            ),
            "2026-01-02T01:04:00Z",
        ),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, 678), "2026-01-02T03:04:05.000678"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.time(3, 4), "03:04:00"),
        (datetime.timedelta(hours=1, seconds=1), "PT1H1S"),
        (decimal.Decimal("1.10"), "1.10"),
        (ID, str(ID)),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Word.HELLO, "hello"),
        (pathlib.Path("/a/b"), "/a/b"),
        (ipaddress.ip_address("::1"), "::1"),
        (Point(decimal.Decimal(2), [Colour.RED]), {"x": "2", "tags": ["red"]}),
        (Pair(1, Level.HIGH), [1, 3]),
        (collections.deque([1, 2]), [1, 2]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (types.MappingProxyType({"a": Colour.RED}), {"a": "red"}),
        ({Word.HELLO: 1, Colour.RED: 2}, {"hello": 1, "red": 2}),
        ((1, "a", None, True, 1.5), [1, "a", None, True, 1.5]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_plainly_data_becomes_json(value: Any, expected: Any) -> None:
    assert written({"deep": [value]}) == {"deep": [expected]}


def test_a_pydantic_model_becomes_json_by_its_own_rules() -> None:
    at = datetime.datetime(2026, 1, 2, tzinfo=UTC)
    order = Order(at=at, total=decimal.Decimal("9.90"), id=ID, site="https://example.org/a")
    whole = Order(at=at, total=1, id=ID, site="https://example.org/", children=[order])
    one = {"at": "2026-01-02T00:00:00Z", "total": "9.90", "id": str(ID), "children": []}
    assert written([whole])[0]["children"] == [{**one, "site": "https://example.org/a"}]


def test_scalars_and_arrays_of_numpy_become_numbers_and_lists() -> None:
    numpy = pytest.importorskip("numpy")
    value = {
        "scalar": numpy.float32(0.5),
        "whole": numpy.int64(7),
        "truth": numpy.bool_(True),
        "array": numpy.arange(4).reshape(2, 2),
        "moment": numpy.datetime64("2026-01-02T03:04:05"),
        "objects": numpy.array([Colour.RED, None], dtype=object),
    }
    assert written(value) == {
        "scalar": 0.5,
        "whole": 7,
        "truth": True,
        "array": [[0, 1], [2, 3]],
        "moment": "2026-01-02T03:04:05",
        "objects": ["red", None],
    }
    for wrong in (
        numpy.float64("nan"),
        numpy.array([1.0, numpy.inf]),
        numpy.complex64(1),
        numpy.datetime64("NaT"),
    ):
        with pytest.raises(InvalidOutput, match=r"outputs\.it"):
            written({"it": wrong})


def test_messages_of_langchain_become_objects_with_their_content() -> None:
    messages = pytest.importorskip("langchain_core.messages")
    [human, answer] = written([messages.HumanMessage("hi"), messages.AIMessage("hello")])
    assert (human["type"], human["content"]) == ("human", "hi")
    assert (answer["type"], answer["content"]) == ("ai", "hello")


def loop() -> Any:
    inner: dict[str, Any] = {}
    inner["again"] = {"list": [inner]}
    return inner


def deep() -> Any:
    value: Any = 1
    for _ in range(300):
        value = [value]
    return value


class Broken:
    @property
    def x(self) -> int:
        raise RuntimeError


@dataclasses.dataclass
class Raises:
    x: int

    def __getattribute__(self, name: str) -> Any:
        if name == "x":
            raise ValueError("no x")
        return super().__getattribute__(name)


class Money(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    thing: Broken
    amount: float = 0.0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (decimal.Decimal("NaN"), "NaN"),
        ({1, 2}, "set"),
        (frozenset(), "frozenset"),
        (b"x", "bytes"),
        (bytearray(), "bytearray"),
        ((number for number in ()), "generator"),
        (json.dumps, "function dumps"),
        (lambda: 1, "function"),
        (Colour, "class Colour"),
        (json, "module json"),
        (object(), "object"),
        (1j, "complex"),
        (10**5000, "digits"),
        ({1: 2}, "key 1"),
        ({None: 2}, "key None"),
        ({(1, 2): 3}, "key (1, 2)"),
        (Raises(1), "ValueError"),
        (Money(thing=Broken()), "Money"),
        (Money.model_construct(thing=None, amount=float("inf")), "inf"),
        (loop(), "contains itself"),
        ({}.keys(), "dict_keys"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_not_data_is_refused_by_its_place(value: Any, words: str) -> None:
    with pytest.raises(InvalidOutput) as refused:
        written({"list": [0, value]})
    assert "outputs.list[1]" in str(refused.value)
    assert words in str(refused.value)


def test_what_is_nested_too_deep_and_lone_surrogates_are_refused() -> None:
    with pytest.raises(InvalidOutput, match="deeper than 200"):
        written(deep())
    with pytest.raises(InvalidOutput, match="lone surrogate"):
        written("\ud800")


def test_an_async_generator_and_a_coroutine_are_refused_with_what_to_do() -> None:
    async def numbers() -> Any:
        yield 1

    async def number() -> int:
        return 1

    with pytest.raises(InvalidOutput, match=r"outputs\.it is an async generator \(collect it"):
        written({"it": numbers()})
    waiting = number()
    with pytest.raises(InvalidOutput, match="a coroutine that was never awaited"):
        written({"it": waiting})
    waiting.close()
