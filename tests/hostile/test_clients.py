"""Attacks by slow, silent, many or greedy clients: others are served, and memory is freed."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import redis
import requests

from app.domain.payload import pack
from tests.hostile.conftest import MAX_RETRIED_BYTES, STRANGER, Town
from tests.hostile.neighbours import unharmed

pytestmark = pytest.mark.timeout(240)

POST = (
    b"POST /api/v1/executions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-API-Key: %s\r\n"
    % (STRANGER.encode())
)
SILENT = 2_000  # half of the connections that a web process takes
LARGE = json.dumps({"output": os.urandom(7_900_000).hex()}).encode()
"""Slightly below the limit of 16 MiB for outputs."""

MEBIBYTE = 1024 * 1024


def web_of(town: Town) -> psutil.Process:
    assert town.web is not None
    [process] = psutil.Process(town.web.pid).children()
    return process


@contextlib.contextmanager
def bounded_memory(town: Town, most: int, left: int) -> Iterator[None]:
    """Checks that the web process grows by at most `most` bytes, and soon shrinks to `left`."""
    process = web_of(town)
    before = process.memory_info().rss
    yield
    assert process.is_running()
    assert process.memory_info().rss - before < most
    deadline = time.monotonic() + 60
    while process.memory_info().rss - before > left:
        assert time.monotonic() < deadline, process.memory_info()
        time.sleep(0.2)


@contextlib.contextmanager
def crowd(town: Town, count: int, *, buffer_bytes: int = 0) -> Iterator[list[socket.socket]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The clients are sockets of this process, whose usual limit is 1,024 files.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 500)), hard))
    try:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.socket()) for _ in range(count)]
            for client in clients:
                if buffer_bytes:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
                client.settimeout(30)
                client.connect(("127.0.0.1", town.port))
            yield clients
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_two_thousand_silent_clients_keep_nobody_out(town: Town) -> None:
    with (
        bounded_memory(town, 400 * MEBIBYTE, 200 * MEBIBYTE),
        unharmed(town, "thread"),
        crowd(town, SILENT),
    ):
        time.sleep(3)


def test_bodies_without_their_last_byte_keep_nobody_out(town: Town) -> None:
    with (
        bounded_memory(town, 400 * MEBIBYTE, 200 * MEBIBYTE),
        unharmed(town, "thread"),
        crowd(town, 140) as clients,
    ):
        for client in clients:
            with contextlib.suppress(OSError):  # it was refused: the others hold too much memory
                client.sendall(POST + b"Content-Length: 1048576\r\n\r\n" + b" " * 1048575)
        time.sleep(2)


def test_chunked_trailers_without_end_keep_nobody_out(town: Town) -> None:
    with (
        bounded_memory(town, 300 * MEBIBYTE, 200 * MEBIBYTE),
        unharmed(town, "thread"),
        crowd(town, 20) as clients,
    ):
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
                for number in range(2_000):
                    client.sendall(b"X-Trailer-%d: %s\r\n" % (number, b"x" * 1000))


@pytest.fixture
def large(town: Town, store_of_town: redis.Redis) -> str:
    """Returns an execution of the stranger with the largest outputs that are allowed."""
    id = town.run("behaves", {"do": "echo"})["execution_id"]
    store_of_town.set(f"rq:job:{id}:outputs", pack(LARGE))
    return str(id)


def test_thirty_readers_of_the_largest_outputs_keep_nobody_out(town: Town, large: str) -> None:
    def read(_: int) -> int:
        headers = {"X-API-Key": STRANGER}
        response = requests.get(
            f"{town.url}/api/v1/executions/{large}", headers=headers, timeout=120
        )
        if response.status_code == 200:
            assert response.json()["outputs"] == json.loads(LARGE)
        return response.status_code

    with (
        bounded_memory(town, 500 * MEBIBYTE, 250 * MEBIBYTE),
        unharmed(town, "thread"),
        ThreadPoolExecutor(30) as pool,
    ):
        statuses = Counter(pool.map(read, range(30)))
    assert set(statuses) <= {200, 503}
    assert statuses[200]


def test_two_hundred_slow_readers_of_them_keep_nobody_out(town: Town, large: str) -> None:
    ask = f"GET /api/v1/executions/{large} HTTP/1.1\r\nHost: x\r\nX-API-Key: {STRANGER}\r\n\r\n".encode()
    with (
        bounded_memory(town, 500 * MEBIBYTE, 250 * MEBIBYTE),
        unharmed(town, "thread"),
        crowd(town, 200, buffer_bytes=4096) as clients,
    ):
        for client in clients:
            client.sendall(ask)
        time.sleep(4)


def test_retries_that_copy_outputs_fill_nothing_but_the_share_of_their_tenant(town: Town) -> None:
    """Each has an empty body."""
    first = {"text": os.urandom(150_000).hex()}
    failed = town.run("relay", {"first": first, "second": {"fail": "No."}}, type="pipeline")[
        "execution_id"
    ]
    with unharmed(town, "thread"), ThreadPoolExecutor(4) as pool:
        headers = {"X-API-Key": STRANGER}
        url = f"{town.url}/api/v1/executions/{failed}/retry"
        retries = list(
            pool.map(lambda _: requests.post(url, json={}, headers=headers, timeout=60), range(30))
        )
    statuses = Counter(retry.status_code for retry in retries)
    assert statuses.keys() == {202, 429}
    assert statuses[202] <= MAX_RETRIED_BYTES / 150_000
    refused = next(retry for retry in retries if retry.status_code == 429)
    assert refused.json()["code"] == "too_much_retried"
