"""The type and message that users get of an exception, even if its class misbehaves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.runtime.errors import MAX_MESSAGE_BYTES, RunFailed, failure_from
from tests.support.cpu_time import cpu_seconds


class _Text(str):
    """A text whose own methods give wrong answers."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, _: Any) -> str:
        return "x" * 100_000_000

    def encode(self, *_: Any, **__: Any) -> bytes:
        raise RuntimeError

    def __bool__(self) -> bool:
        raise RuntimeError


class _Named(type):
    @property
    def __name__(cls) -> Any:  # type: ignore[override]
        return 7


class _Odd(Exception, metaclass=_Named):
    pass


class _Silent(Exception):
    def __str__(self) -> str:
        raise SystemExit


class _Says(Exception):
    def __str__(self) -> str:
        return _Text("the words")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("No such customer."), "No such customer."),
        (ValueError(), "ValueError"),
        (_Odd("odd"), "odd"),
        (_Silent(), "The run raised _Silent, but its message cannot be read."),
        (_Says(), "the words"),
        (ValueError(10**5000), "The run raised ValueError, but its message cannot be read."),
        (ValueError("a \ud800 surrogate"), "a ? surrogate"),
        (SystemExit(3), "The flow called sys.exit(3)."),
        (SystemExit("no"), "The flow called sys.exit('no')."),
        (SystemExit(10**5000), "The run raised SystemExit, but its message cannot be read."),
    ],
)
def test_every_exception_has_a_name_and_a_message(error: BaseException, message: str) -> None:
    failure = failure_from(error, {})
    assert failure.message == message
    assert type(failure.message) is type(failure.type) is str
    json.dumps([failure.type, failure.message], ensure_ascii=False).encode()


def test_a_name_is_cut_and_masked_like_a_message() -> None:
    assert failure_from(type("sk-abcdefghijkl", (Exception,), {})(), {}).type == "[masked]"
    assert failure_from(type("É" * 1000, (Exception,), {})(), {}).type == "É" * 200


@pytest.mark.parametrize("unit", ["eyJ-", "eyJ.", "token=", "://a:", "é", "\ud800", " ", "sk-"])
@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyError])
def test_a_message_of_many_megabytes_costs_next_to_nothing(
    unit: str, kind: type[BaseException]
) -> None:
    error = kind(unit * 500_000)
    assert len(failure_from(error, {}).message.encode()) <= MAX_MESSAGE_BYTES
    # `KeyError.__str__` makes a copy of the whole text with escapes, before anything can be cut.
    limit_seconds = 4 if kind is KeyError else 1
    assert cpu_seconds(lambda: failure_from(error, {})) < limit_seconds


def test_a_secret_that_ends_beyond_the_cut_is_masked() -> None:
    for shift in range(40):
        message = failure_from(
            ValueError("x" * (MAX_MESSAGE_BYTES - shift) + " sk-s3cr3tvalue0123456789 more"), {}
        ).message
        assert "s3c" not in message


class _Unreadable(Exception):
    """All of its attributes raise, `__class__` too, which `isinstance` reads."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class _Disguised(Exception):
    __class__ = RunFailed  # type: ignore[assignment]


class _DisguisedGroup(Exception):
    __class__ = ExceptionGroup  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [_Unreadable, _Disguised, _DisguisedGroup])
def test_an_exception_that_lies_about_its_class_is_a_failure_like_others(
    kind: type[Exception],
) -> None:
    failed = RunFailed.from_error(kind("why"), {"agent_id": "a"})
    assert failed.failure.type == kind.__name__
    unreadable = f"The run raised {kind.__name__}, but its message cannot be read."
    assert failed.failure.message in ("why", unreadable)
    assert failed.retryable


def test_groups_in_groups_may_be_deeper_than_the_limit_of_recursion() -> None:
    error: Exception = ValueError("core")
    for _ in range(20_000):
        error = ExceptionGroup("around", [error])
    failed = RunFailed.from_error(ExceptionGroup("all", [error, KeyError("k")]), {})
    assert (failed.failure.type, failed.failure.message) == ("ValueError", "core")
    assert failed.failure.details["other_errors"] == [{"type": "KeyError", "message": "'k'"}]
