"""What of an exception is logged: its type and places; of its words, only the store's."""

from __future__ import annotations

from typing import Any

import redis

from app.logs import describe_exception, masking


def described(error: Exception) -> list[dict[str, Any]]:
    try:
        raise error
    except Exception:
        return describe_exception(None, "error", {"event": "x", "exc_info": True})["errors"]


def test_the_words_of_a_flow_are_not() -> None:
    [line] = described(ValueError("mark3r"))
    assert line["type"] == "ValueError"
    assert "mark3r" not in str(line)


def test_the_words_of_the_store_are_but_not_what_it_quotes() -> None:
    [line] = described(redis.ResponseError("unknown command 'EVALSHA', with args beginning with: 'mark3r'"))
    assert line["said"] == "unknown command 'EVALSHA'"
    [line] = described(redis.ConnectionError("Error 111 connecting to redis://:hunter22@host:6379"))
    assert line["said"] == "Error 111 connecting to redis://[masked]@host:6379"


def test_a_secret_is_masked_however_deep_it_stands() -> None:
    event = masking([])(None, "info", {"event": "x", "facts": {"list": ["sk-abcdefghijkl"]}, "number": 5})
    assert event == {"event": "x", "facts": {"list": ["[masked]"]}, "number": 5}
