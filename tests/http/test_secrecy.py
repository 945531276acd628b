"""An API key appears in no log line and in no answer, however the client sent it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from app.domain.key import new_key
from tests.http.test_refusals import GOOD
from tests.support.service import Service

OF_ENVIRONMENT = "chosen.key-of+the/environment"


def answer_to(service: Service, request: bytes) -> str:
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.decode("latin-1")


def ways_to_send(key: str) -> list[bytes]:
    """Right ways, wrong ways, and ways that the web server itself refuses."""
    get, end = b"GET /api/v1/executions", b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    k = key.encode()
    return [
        *(get + end + line + b"\r\n\r\n" for line in _headers(k)),
        get + b"?api_key=" + k + end + b"\r\n",
        get + b"?" + k + end + b"\r\n",
        get + b"/" + k + end + b"\r\n",
        get + b"?key=" + k + b" HTTP/9.9\r\nHost: x\r\n\r\n",
        get + b"?key=" + k + b" and more HTTP/1.1\r\nHost: x\r\n\r\n",
        get + b"?key=" + k + b"\x00" + end + b"\r\n",
        b"get /" + k + end + b"\r\n",
        k + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/v1/executions"
        + end
        + b"X-API-Key: "
        + k
        + b"\r\nContent-Length: "
        + k
        + b"\r\n\r\n",
        b"POST /api/v1/executions"
        + end
        + b"X-API-Key: "
        + k
        + b"\r\nTransfer-Encoding: "
        + k
        + b"\r\n\r\n",
    ]


def _headers(k: bytes) -> list[bytes]:
    return [
        b"X-API-Key: " + k,
        b"Authorization: Bearer " + k,
        b"authorization: bearer " + k,
        b"Authorization: Basic " + k,
        b"Authorization: " + k,
        b"X-API-Key: " + k + b"," + k,
        b"X-API-Key: " + k + b"\r\nX-API-Key: " + k + b"2",
        b"X_API_Key: " + k,
        b"X-API-Key: \xff" + k,
        b"X-API-Key: \x00" + k,
        b"X-API-Key: a\r\n " + k,
        b"X-API-Key : " + k,
        b"Bearer " + k,
        b"X-Request-ID: " + k,
    ]


def gets_itself_back(request: bytes, answer: str, key: str) -> bool:
    """A problem names the address and the request id that were sent; gunicorn's own refusal, what
    it could not read.
    """
    sent = (b"/" + key.encode(), b"X-Request-ID: " + key.encode())
    return any(text in request for text in sent) or "text/html" in answer


@pytest.mark.parametrize("kind", ["of the store", "revoked", "never made", "of the environment"])
def test_a_key_is_in_no_log_and_no_answer(make_service: Callable[..., Service], kind: str) -> None:
    service = make_service(API_KEYS=f"acme:{OF_ENVIRONMENT}", LOG_LEVEL="DEBUG")
    key = {"never made": new_key(), "of the environment": OF_ENVIRONMENT}.get(
        kind
    ) or service.add_key("key")
    if kind == "revoked":
        service.keys().revoke("key")
    if kind in ("of the store", "of the environment"):
        service.http.headers["X-API-Key"] = key
        service.run("mem_l1_summarizer", GOOD["inputs"])
        assert key not in service.get("/executions").text
    for request in ways_to_send(key):
        answer = answer_to(service, request)
        assert answer.startswith("HTTP/1.1 ")
        if not gets_itself_back(request, answer, key):
            assert key not in answer, request
    listed = service.flask("keys", "list")
    service.__exit__()
    for output in (service.output("web"), service.output("worker0"), listed.stdout, listed.stderr):
        assert key not in output
        assert key.removeprefix("exkey_") not in output
    assert "request_refused" in service.output("web")
