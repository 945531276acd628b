"""The fuzzer can be repeated, and its judge finds wrong answers."""

from __future__ import annotations

import pytest

from tests.hostile.fuzzed import Fuzzer, Sent
from tests.hostile.judge import CODES, judge

PROBLEM = (
    b'{"type": "urn:problem:not-found", "title": "Not Found", "status": 404, "detail": "x", "instance": "/", '
    b'"request_id": "r", "code": "not_found"}'
)
SENT = Sent([b""], [b"GET"], plain=False, framed=False)


def answer(
    status: bytes, body: bytes, *lines: bytes, kind: bytes = b"application/problem+json"
) -> bytes:
    length = b"Content-Length: %d" % len(body)
    head = [b"HTTP/1.1 " + status, b"X-Request-ID: r", b"Content-Type: " + kind, length, *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def test_what_is_documented_is_read() -> None:
    assert "invalid_json" in CODES[400]
    assert CODES[401] >= {"unauthorized"}


def test_an_answer_as_it_must_be_passes() -> None:
    assert [passed.status for passed in judge(SENT, answer(b"404 Not Found", PROBLEM))] == [404]


STREAM = answer(b"200 OK", b": still here\n\n", kind=b"text/event-stream").replace(
    b"Content-Length: 14", b"Connection: close"
)


def test_a_stream_over_http_1_0_has_no_length() -> None:
    assert judge(SENT, STREAM.replace(b"HTTP/1.1", b"HTTP/1.0"))[0].body == b": still here\n\n"


WRONG = {
    "a stream without chunks": STREAM,
    "a crash": answer(b"500 Internal Server Error", PROBLEM.replace(b"404", b"500")),
    "an undocumented code": answer(b"404 Not Found", PROBLEM.replace(b"not_found", b"lost")),
    "another status in the body": answer(b"404 Not Found", PROBLEM.replace(b"404", b"400")),
    "a web page": answer(b"404 Not Found", b"<html>", kind=b"text/html"),
    "NaN": answer(b"200 OK", b'{"a": NaN}', kind=b"application/json"),
    "a header that the client wrote": answer(b"404 Not Found", PROBLEM, b"X-Injected: 1"),
    "a header twice": answer(b"404 Not Found", PROBLEM, b"Content-Type: text/html"),
    "a body that breaks off": answer(b"404 Not Found", PROBLEM)[:-1],
    "more than it says": answer(b"404 Not Found", PROBLEM) + b"x",
    "no length": answer(b"404 Not Found", PROBLEM).replace(b"Content-Length", b"Server"),
    "another version": answer(b"404 Not Found", PROBLEM).replace(b"HTTP/1.1", b"HTTP/1.5"),
    "no request id on an open connection": answer(b"404 Not Found", b"").replace(
        b"X-Request-ID", b"Server"
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found(wrong: str) -> None:
    with pytest.raises(AssertionError):
        judge(SENT, WRONG[wrong])


def test_a_request_of_which_too_much_or_too_little_was_read_is_found() -> None:
    followed = Sent([b""], [b"GET", b"GET"], plain=False, framed=True)
    for answers in (1, 3):
        with pytest.raises(AssertionError):
            judge(followed, answer(b"404 Not Found", PROBLEM) * answers)


def test_the_same_seed_and_number_give_the_same_request() -> None:
    made = [
        [Fuzzer(["exec_a"], "key").request(5, number) for number in range(300)] for _ in range(2)
    ]
    assert made[0] == made[1]
    assert len({b"".join(sent.pieces) for sent in made[0]}) > 250
    assert any(sent.plain for sent in made[0])
