"""What open pages are told when executions change."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.pace import within
from tests.support.service import Service
from tests.ui.visitor import COOKIE, Visitor

SHOP, BANK = "key-of-the-shop-0001", "key-of-the-bank-0002"


@pytest.fixture
def keyed(shared_service: Callable[..., Service]) -> Service:
    return shared_service(workers=0, API_KEYS=f"shop:{SHOP},bank:{BANK}")


def start(service: Service, key: str, count: int = 1) -> None:
    for _ in range(count):
        body = {"type": "agent", "target_id": "behaves", "inputs": {}}
        answer = service.post("/executions", json=body, headers={"X-API-Key": key})
        assert answer.status_code == 202


@contextlib.contextmanager
def opened(service: Service) -> Iterator[socket.socket]:
    """The stream of somebody who has logged in for the shop."""
    visitor = Visitor(service)
    visitor.log_in(SHOP)
    head = f"GET /ui/changes HTTP/1.1\r\nHost: x\r\nCookie: {COOKIE}={visitor.cookie}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(head.encode())
        assert b"text/event-stream" in connection.recv(65_536)
        yield connection


@pytest.fixture
def stream(keyed: Service) -> Iterator[socket.socket]:
    with opened(keyed) as connection:
        yield connection


def told(stream: socket.socket, seconds: float) -> int:
    """How often it says that something has changed, within this time."""
    text, ends_at = b"", time.monotonic() + seconds
    while (left_seconds := ends_at - time.monotonic()) > 0:
        if select.select([stream], [], [], left_seconds)[0]:
            text += stream.recv(65_536)
    return text.count(b"event: changed")


def test_a_change_is_told(keyed: Service, stream: socket.socket) -> None:
    assert told(stream, 1) == 0
    start(keyed, SHOP)
    assert told(stream, within(5)) == 1


def test_many_changes_are_told_about_once_a_second(keyed: Service, stream: socket.socket) -> None:
    began = time.monotonic()
    start(keyed, SHOP, 200)
    seconds = time.monotonic() - began + 4
    assert 1 <= told(stream, 4) <= seconds + 1


def test_the_changes_of_another_tenant_are_not_told(keyed: Service, stream: socket.socket) -> None:
    start(keyed, BANK, 5)
    assert told(stream, within(4)) == 0


def test_many_pages_can_open_their_streams_at_the_same_moment(keyed: Service) -> None:
    """As after a restart of the service."""
    visitor = Visitor(keyed)
    visitor.log_in(SHOP)
    head = f"GET /ui/changes HTTP/1.1\r\nHost: x\r\nCookie: {COOKIE}={visitor.cookie}\r\n\r\n"
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            address = ("127.0.0.1", keyed.port)
            streams = [
                stack.enter_context(socket.create_connection(address, timeout=60))
                for _ in range(200)
            ]
            for stream in streams:
                stream.sendall(head.encode())
            assert {stream.recv(65_536)[:15] for stream in streams} == {b"HTTP/1.1 200 OK"}
    assert keyed.get("/executions", headers={"X-API-Key": SHOP}).status_code == 200


def test_not_all_pages_are_told_at_the_same_moment(keyed: Service) -> None:
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(opened(keyed)) for _ in range(10)]
        start(keyed, SHOP)
        times = []
        while waiting:
            for stream in select.select(waiting, [], [], 60)[0]:
                if b"event: changed" in stream.recv(65_536):
                    times.append(time.monotonic())
                    waiting.remove(stream)
    assert max(times) - min(times) > 0.1
