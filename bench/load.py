"""Sends requests to a web process and measures rates and times. `bench.figures` uses it.

Rates are measured with `wrk` if it is installed, else with keep-alive connections in one thread.
Client, server and store share the machine's cores, so a slow client lowers every rate. The client
is the same for all contenders of a run.
"""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import shutil
import socket
import subprocess
import tempfile
import time
from typing import Any

CONNECTIONS = 16  # enough to keep two web processes busy on a small machine
WRK = shutil.which("wrk")

_ANSWERED = re.compile(r"(\d+) requests in")
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")


def client() -> str:
    """Names the client that `requests_per_second` uses, for the table."""
    return (
        f"wrk -t1 -c{CONNECTIONS}"
        if WRK
        else f"{CONNECTIONS} connections of bench/load.py (wrk is not installed)"
    )


def requests_per_second(port: int, request: bytes, seconds: float) -> tuple[float, int]:
    """Sends one request over and over on `CONNECTIONS` connections.

    Returns the rate and the number of answers. Raises `RuntimeError` if an answer is no success.
    """
    return (
        _by_wrk(WRK, port, request, max(1, round(seconds)))
        if WRK
        else _by_ourselves(port, request, seconds)
    )


def _by_wrk(wrk: str, port: int, request: bytes, seconds: int) -> tuple[float, int]:
    head, _, body = request.decode().partition("\r\n\r\n")
    first, *headers = head.split("\r\n")
    method, path, _ = first.split()
    pairs = dict(line.split(": ", 1) for line in headers)
    # wrk takes method and body of a request from a Lua script only.
    script = [
        f"wrk.method = {json.dumps(method)}",
        f"wrk.body = {json.dumps(body)}" if body else "",
    ]
    script += [
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in pairs.items()
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write("\n".join(script))
        file.flush()
        command = [
            wrk,
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{seconds}s",
            "-s",
            file.name,
            f"http://127.0.0.1:{port}{path}",
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate, answered = _RATE.search(said), _ANSWERED.search(said)
    # wrk counts refusals as answers, so a rate with any of them would be wrong.
    if "Non-2xx" in said or not rate or not answered:
        raise RuntimeError(said)
    return float(rate[1]), int(answered[1])


def _by_ourselves(port: int, request: bytes, seconds: float) -> tuple[float, int]:
    answered = 0
    with contextlib.ExitStack() as opened:
        selector = opened.enter_context(selectors.DefaultSelector())
        for _ in range(CONNECTIONS):
            connection = opened.enter_context(connect(port))
            selector.register(connection, selectors.EVENT_READ, bytearray())
            connection.sendall(request)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            for key, _ in selector.select(1):
                key.data.extend(key.fileobj.recv(65536))  # type: ignore[union-attr]
                if body_of(key.data) is not None:
                    key.data.clear()
                    answered += 1
                    key.fileobj.sendall(request)  # type: ignore[union-attr]
        return answered / (time.perf_counter() - began), answered


def connect(port: int, timeout_seconds: float = 30) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout_seconds)


def exchange(connection: socket.socket, request: bytes) -> bytes:
    """Sends a request and returns the answer's body."""
    connection.sendall(request)
    answer = bytearray()
    while (body := body_of(answer)) is None:
        part = connection.recv(65536)
        if not part:
            raise RuntimeError("The server closed the connection.")
        answer += part
    return body


def exchange_json(connection: socket.socket, request: bytes) -> Any:
    return json.loads(exchange(connection, request))


def took_ms(connection: socket.socket, request: bytes) -> float:
    began = time.perf_counter()
    exchange(connection, request)
    return (time.perf_counter() - began) * 1000


def body_of(answer: bytearray) -> bytes | None:
    """Returns the body of an answer, or None while a part is missing.

    Raises `RuntimeError` if the answer is no success.
    """
    head_bytes = answer.find(b"\r\n\r\n") + 4
    if head_bytes < 4:
        return None
    if not answer.startswith(b"HTTP/1.1 20"):
        raise RuntimeError(bytes(answer[:300]))
    at = answer.index(b"Content-Length: ") + 16
    body_bytes = int(answer[at : answer.index(b"\r", at)])
    return bytes(answer[head_bytes:]) if len(answer) == head_bytes + body_bytes else None


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: Any = None) -> bytes:
    text = b"" if body is None else json.dumps(body).encode()
    kind = "" if body is None else "Content-Type: application/json\r\n"
    head = f"Host: localhost\r\n{kind}Content-Length: {len(text)}\r\n\r\n"
    return f"POST {path} HTTP/1.1\r\n{head}".encode() + text
