"""Malformed and slow requests over a raw socket to a real gunicorn: each is refused in time."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from app.process.prctl import end_with_parent
from tests.support.pace import within
from tests.support.service import ROOT, Service, free_port

LIST = b"/api/v1/executions"
ONE = LIST + b"/exec_00000000000000000000"
LIMIT_BYTES = 1024 * 1024
CLOSED_SECONDS = 15.0
SLOW_CLIENTS = 50


@contextlib.contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    with socket.create_connection(
        ("127.0.0.1", service.port), timeout=CLOSED_SECONDS
    ) as connection:
        yield connection


def answer_to(service: Service, *pieces: bytes) -> bytes:
    """All that comes back until the server closes; the client itself never does."""
    with connected(service) as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer.split(b" ", 2)[1])


def get(
    *lines: bytes, path: bytes = LIST, version: bytes = b"HTTP/1.1", method: bytes = b"GET"
) -> bytes:
    head = [method + b" " + path + b" " + version, b"Host: localhost", *lines, b"Connection: close"]
    return b"\r\n".join(head) + b"\r\n\r\n"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return get(b"Content-Type: application/json", *lines, method=b"POST") + body


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        pytest.param(
            post(b"Content-Length: 2", b"Transfer-Encoding: chunked", body=b"{}"),
            {400},
            id="1-both-lengths",
        ),
        pytest.param(
            post(b"Content-Length: 2", b"Content-Length: 3", body=b"{}"), {400}, id="2-two-lengths"
        ),
        pytest.param(
            post(b"Content-Length: 2", b"Content-Length: 2", body=b"{}"),
            {400},
            id="2-one-length-twice",
        ),
        pytest.param(post(b"Content-Length: 2, 2", body=b"{}"), {400}, id="2-list-of-lengths"),
        pytest.param(post(b"Content-Length: +2", body=b"{}"), {400}, id="2-signed-length"),
        pytest.param(post(b"Content-Length: -1"), {400}, id="2-negative-length"),
        pytest.param(post(b"Content-Length: 1" + b"0" * 30), {413}, id="3-huge-length"),
        pytest.param(post(b"Transfer-Encoding: xchunked"), {400, 501}, id="4-unknown-coding"),
        pytest.param(post(b"Transfer-Encoding: chunked, identity"), {400}, id="5-chunked-not-last"),
        pytest.param(post(b"Transfer-Encoding: \x0bchunked"), {400, 501}, id="5-control-character"),
        pytest.param(post(b"Transfer-Encoding : chunked"), {400}, id="5-space-before-colon"),
        pytest.param(get(b"X-Name: a", b" b"), {400}, id="6-folded-header"),
        pytest.param(get(b"X-Name: a\x00b"), {400}, id="6-nul-in-header"),
        pytest.param(get(path=LIST + b"\x00"), {400}, id="6-nul-in-path"),
        pytest.param(get().replace(b"\r\n", b"\n"), {400}, id="6-bare-line-feeds"),
        pytest.param(get().replace(b"\r\n", b"\n", 1), {400}, id="6-one-bare-line-feed"),
        pytest.param(
            b"GET " + LIST + b" HTTP/1.1\r\nConnection: close\r\n\r\n", {400}, id="7-no-host"
        ),
        pytest.param(get(version=b"HTTP/9.9"), {400}, id="10-version"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}, id="10-http2-preface"),
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get(), {400}, id="10-proxy-line"),
        pytest.param(get(path=b"/" + b"a" * 4094), {414}, id="13-long-line"),
        pytest.param(b"GET /" + b"a" * 9000, {414}, id="13-long-line-without-end"),
        pytest.param(
            get(*(b"X-%d: 1" % number for number in range(70))), {431}, id="13-many-headers"
        ),
        pytest.param(get(b"X-Long: " + b"a" * 8200), {431}, id="13-long-header"),
        pytest.param(get(b"X-A: " + b"a" * 8000), {200}, id="13-headers-within-the-limits"),
        pytest.param(get(method=b"get"), {400}, id="15-lower-case-method"),
        pytest.param(get(b"Expect: bogus"), {417}, id="17-expectation"),
        pytest.param(
            post(b"Transfer-Encoding: chunked", body=b"xyz\r\n"),
            {400},
            id="chunk-size-is-no-number",
        ),
        pytest.param(
            post(b"Transfer-Encoding: chunked", body=b"-5\r\n"), {400}, id="chunk-size-is-negative"
        ),
        pytest.param(b"\r\n\r\n", {400}, id="nothing-but-line-ends"),
    ],
)
def test_what_is_not_plain_http_is_refused_and_the_connection_closed(
    service: Service, request_bytes: bytes, statuses: set[int]
) -> None:
    began = time.monotonic()
    answer = answer_to(service, request_bytes)
    assert status_of(answer) in statuses
    assert time.monotonic() - began < within(5)
    assert b"Traceback" not in answer


@pytest.mark.parametrize("method", [b"FOO", b"TRACE", b"DELETE"])
def test_an_unknown_method_is_405_with_those_allowed(service: Service, method: bytes) -> None:
    """Row 14."""
    answer = answer_to(service, get(method=method, path=ONE))
    assert status_of(answer) == 405
    allow = next(line for line in answer.split(b"\r\n") if line.lower().startswith(b"allow:"))
    assert b"GET" in allow
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("method", [b"HEAD", b"OPTIONS"])
def test_head_and_options_are_answered_and_other_origins_get_no_permission(
    service: Service, method: bytes
) -> None:
    """Row 16."""
    answer = answer_to(service, get(b"Origin: http://elsewhere.example", method=method))
    assert status_of(answer) in (200, 204)
    assert b"access-control" not in answer.lower()


@pytest.mark.parametrize("path", [b"/healthz", b"/docs", LIST])
def test_a_target_with_another_host_never_comes_back_in_the_answer(
    service: Service, path: bytes
) -> None:
    """Row 9."""
    answer = answer_to(service, get(path=b"http://evil.example" + path))
    assert status_of(answer) in (200, 301, 308, 400)
    assert b"evil" not in answer


def test_a_compressed_body_is_415(service: Service) -> None:
    """Row 18."""
    answer = answer_to(service, post(b"Content-Encoding: gzip", b"Content-Length: 2", body=b"{}"))
    assert status_of(answer) == 415
    assert b"unsupported_encoding" in answer


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("more_bytes", [1, 3_000_000, 20_000_000])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_over_the_limit_is_413_as_a_problem_and_the_client_lives_to_read_it(
    service: Service, chunked: bool, more_bytes: int
) -> None:
    """Rows 19 and 20. Beyond 16 MiB nobody reads on, and a client may find its connection reset."""
    body = b'"' + b"x" * (LIMIT_BYTES + more_bytes - 2) + b'"'
    parts = [body[at : at + 60_000] for at in range(0, len(body), 60_000)]
    how, sent = (
        (b"Transfer-Encoding: chunked", chunks(*parts))
        if chunked
        else (b"Content-Length: %d" % len(body), body)
    )
    try:
        answer = answer_to(service, post(how), sent)
    except ConnectionError:
        assert more_bytes > 16_000_000
        return
    assert status_of(answer) == 413
    assert b"application/problem+json" in answer
    assert b"body_too_large" in answer


def test_a_body_of_exactly_the_limit_is_read_whatever_its_pieces(service: Service) -> None:
    start = {
        "type": "agent",
        "target_id": "behaves",
        "inputs": {"do": "echo", "x": "x" * 512 * 1024, "y": ""},
    }
    start["inputs"]["y"] = "x" * (LIMIT_BYTES - len(json.dumps(start)))  # type: ignore[index]
    body = json.dumps(start).encode()
    assert len(body) == LIMIT_BYTES
    assert (
        status_of(answer_to(service, post(b"Content-Length: %d" % len(body)), body[:7], body[7:]))
        == 202
    )


@pytest.mark.parametrize("cut", [1, 3, 60, 200, 240])
def test_a_chunked_body_is_read_wherever_its_pieces_are_cut(service: Service, cut: int) -> None:
    body = b'{"type": "agent", "target_id": "mem_l1_summarizer", "inputs": {"text": "Test"}}'
    whole = post(b"Transfer-Encoding: chunked", body=chunks(body[:10], body[10:11], body[11:]))
    with connected(service) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(whole), cut):
            connection.sendall(whole[at : at + cut])
        assert status_of(connection.recv(65536)) == 202


def test_requests_in_one_piece_are_answered_one_after_the_other(service: Service) -> None:
    ask = b"GET " + ONE + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = answer_to(service, ask * 3 + get(path=b"/healthz"))
    assert [answer.count(b"HTTP/1.1 404"), answer.count(b"HTTP/1.1 200")] == [3, 1]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_packed_body_is_501_however_it_arrives(service: Service, at_once: bool) -> None:
    head, body = post(b"Transfer-Encoding: gzip, chunked"), b"2\r\n{}\r\n0\r\n\r\n"
    assert status_of(answer_to(service, *([head + body] if at_once else [head, body]))) == 501


def test_a_body_behind_an_unclear_length_is_never_taken_for_a_request(service: Service) -> None:
    hidden = get(path=b"/healthz")
    for how in (
        b"Content-Length : %d" % len(hidden),
        b"Content-Length: %d, 0" % len(hidden),
        b"Content-Length: 0x9",
    ):
        answer = answer_to(service, post(how).replace(b"Connection: close\r\n", b"") + hidden)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert status_of(answer) == 400


def test_a_client_that_asks_first_is_told_to_go_on_once(service: Service) -> None:
    body = b'{"type": "agent", "target_id": "mem_l1_summarizer", "inputs": {"text": "Test"}}'
    with connected(service) as connection:
        connection.sendall(post(b"Expect: 100-continue", b"Content-Length: %d" % len(body)))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert status_of(connection.recv(65536)) == 202


def test_a_client_that_asks_right_behind_another_request_is_told_to_go_on_after_its_answer(
    service: Service,
) -> None:
    body = b'{"type": "agent", "target_id": "mem_l1_summarizer", "inputs": {"text": "Test"}}'
    before = get(path=b"/healthz").replace(b"Connection: close\r\n", b"")
    with connected(service) as connection:
        connection.sendall(
            before + post(b"Expect: 100-continue", b"Content-Length: %d" % len(body))
        )
        answer = b""
        while not answer.endswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            piece = connection.recv(65536)
            assert piece
            answer += piece
        assert status_of(answer) == 200
        connection.sendall(body)
        assert status_of(connection.recv(65536)) == 202


def test_an_old_client_that_asks_first_gets_no_answer_that_it_does_not_know(
    service: Service,
) -> None:
    body = b'{"type": "agent", "target_id": "mem_l1_summarizer", "inputs": {"text": "Test"}}'
    asking = post(b"Expect: 100-continue", b"Content-Length: %d" % len(body)).replace(
        b"HTTP/1.1", b"HTTP/1.0"
    )
    with connected(service) as connection:
        connection.sendall(asking)
        time.sleep(0.1)
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.0 202 ")


def test_a_client_that_asks_first_whether_it_may_send_too_much_is_refused_at_once(
    service: Service,
) -> None:
    began = time.monotonic()
    assert (
        status_of(answer_to(service, post(b"Expect: 100-continue", b"Content-Length: 2000000")))
        == 413
    )
    assert time.monotonic() - began < within(5)


TLS_HELLO = (
    bytes.fromhex("160301006c010000680303")
    + bytes(range(32, 96))
    + b"\x00\x20\x13\x02\x13\x03\x13\x01"
)

SLOW = {
    "11-tls-hello": (TLS_HELLO, b""),
    "21-body-shorter-than-its-length": (post(b"Content-Length: 100", body=b"{"), b""),
    "silence": (b"", b""),
    "drips-a-header": (b"GET / HTTP/1.1\r\nX-Name: ", b"a"),
    "drips-a-body": (post(b"Content-Length: 100000"), b" "),
    "drips-chunks": (post(b"Transfer-Encoding: chunked"), b"1\r\n \r\n"),
    "drips-too-large-a-body": (post(b"Content-Length: 2000000"), b" "),
    "drips-a-too-large-chunk": (post(b"Transfer-Encoding: chunked", body=b"ffffff\r\n"), b" "),
}


def lifetime(service: Service, beginning: bytes, drip: bytes) -> Callable[[], float]:
    """A slow client in a thread of its own; the function waits for its end and says after how many
    seconds.
    """
    ended = [0.0]

    def live() -> None:
        with connected(service) as connection, contextlib.suppress(OSError):
            began = time.monotonic()
            connection.sendall(beginning)
            while time.monotonic() - began < 2 * CLOSED_SECONDS:
                readable, _, _ = select.select([connection], [], [], 1.0)
                ended[0] = time.monotonic() - began
                if readable and not connection.recv(65536):
                    return
                connection.sendall(drip)

    thread = threading.Thread(target=live)
    thread.start()

    def wait() -> float:
        thread.join()
        return ended[0]

    return wait


@pytest.mark.parametrize("kind", SLOW)
def test_slow_clients_disturb_nobody_and_are_closed_in_time(service: Service, kind: str) -> None:
    """Rows 11 and 21, and fault 38: fifty at once, against the one web process."""
    slow = [lifetime(service, *SLOW[kind]) for _ in range(SLOW_CLIENTS)]
    worst_seconds, until = 0.0, time.monotonic() + 5
    while time.monotonic() < until:
        began = time.monotonic()
        assert requests.get(f"{service.url}/healthz", timeout=50).status_code == 200
        worst_seconds = max(worst_seconds, time.monotonic() - began)
        time.sleep(0.05)
    assert worst_seconds < within(1)
    assert max(wait() for wait in slow) < CLOSED_SECONDS


def test_clients_that_were_refused_and_stay_disturb_nobody(service: Service) -> None:
    """Each is given two seconds to read its answer, by nobody's time."""
    with contextlib.ExitStack() as stack:
        for _ in range(SLOW_CLIENTS):
            connection = stack.enter_context(connected(service))
            connection.sendall(get(version=b"HTTP/9.9"))
            connection.sendall(b"more")
        assert requests.get(f"{service.url}/healthz", timeout=50).elapsed.total_seconds() < within(
            1
        )


CROWD = {
    "headers": (b"GET / HTTP/1.1\r\nX-Name: ", b"a"),
    "bodies": (post(b"Content-Length: 100000"), b" "),
    "answers": (b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3, b""),
}


@pytest.mark.parametrize("kind", CROWD)
def test_a_thousand_slow_clients_keep_nobody_waiting_and_lose_their_connections(
    make_service: Callable[..., Service], kind: str
) -> None:
    service = make_service(workers=0)
    assert service.get("/executions").status_code == 200
    [process] = psutil.Process(service.web.pid).children()
    beginning, drip = CROWD[kind]
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(socket.socket()) for _ in range(1000)]
        for client in crowd:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", service.port))
            client.sendall(beginning)
        assert (
            requests.get(f"{service.url}/healthz", timeout=50).status_code == 200
        )  # behind a thousand requests
        took = []
        for _ in range(20):
            for client in crowd[::7]:
                with contextlib.suppress(OSError):
                    client.sendall(drip) if drip else client.recv(4, socket.MSG_DONTWAIT)
            began = time.monotonic()
            assert requests.get(f"{service.url}/healthz", timeout=50).status_code == 200
            took.append(time.monotonic() - began)
            time.sleep(0.1)
        assert statistics.median(took) < within(1)
        ports = {client.getsockname()[1] for client in crowd}
        deadline = time.monotonic() + 6 * CLOSED_SECONDS
        while ports & peers_of(service):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert process.is_running()
    assert process.memory_info().rss < 500 * 1024 * 1024


def test_a_client_that_said_all_it_has_to_say_is_still_answered(service: Service) -> None:
    """It has closed its half of the connection."""
    with connected(service) as client:
        client.sendall(get(path=b"/healthz").replace(b"Connection: close\r\n", b""))
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert status_of(answer) == 200


def test_an_old_client_is_answered_and_its_connection_closed(service: Service) -> None:
    answer = answer_to(service, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200 ")
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("name", [b"SCRIPT_NAME", b"PATH_INFO", b"REMOTE_USER", b"X_FORWARDED_FOR"])
def test_no_header_moves_the_path_or_says_who_asks(service: Service, name: bytes) -> None:
    assert status_of(answer_to(service, get(name + b": /healthz", path=b"/healthz"))) == 200
    assert status_of(answer_to(service, get(name + b": /foo", path=b"/foo/healthz"))) == 404


def test_trailers_without_end_end_the_connection(service: Service) -> None:
    with connected(service) as client:
        client.sendall(post(b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n"))
        with contextlib.suppress(ConnectionError):
            for number in range(20_000):
                client.sendall(b"X-Trailer-%d: %s\r\n" % (number, b"x" * 100))
        assert status_of(client.recv(65536)) == 431
    assert requests.get(f"{service.url}/healthz", timeout=50).status_code == 200


def test_bodies_without_their_last_byte_hold_a_bounded_memory_and_give_it_back(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0)
    assert service.get("/executions").status_code == 200
    [process] = psutil.Process(service.web.pid).children()
    before = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(service)) for _ in range(160)]
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(post(b"Content-Length: 1048576") + b" " * 1048575)
        readable, _, _ = select.select(clients, [], [], 50)
        assert status_of(readable[0].recv(65536)) == 503
        assert requests.get(f"{service.url}/healthz", timeout=50).status_code == 200
        assert process.memory_info().rss - before < 300 * 1024 * 1024
    deadline = time.monotonic() + 60
    while process.memory_info().rss - before > 100 * 1024 * 1024:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_connection_whose_body_nobody_read_takes_the_next_request(
    service: Service, chunked: bool
) -> None:
    """It was not said that it would close: a client that comes back to it at once must not find it
    closed.
    """
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=CLOSED_SECONDS)
    with contextlib.closing(connection):
        for method, body, status in (
            ("POST", b"x" * (LIMIT_BYTES // 2), 405),
            ("GET", None, 404),
        ) * 3:
            connection.request(
                method,
                ONE.decode(),
                iter([body]) if body and chunked else body,
                encode_chunked=chunked,
            )
            response = connection.getresponse()
            response.read()
            assert (response.status, response.will_close) == (status, False)


def peers_of(service: Service) -> set[int]:
    """The ports of the clients to whom a web process holds a connection."""
    assert service.web is not None
    processes = psutil.Process(service.web.pid).children()
    return {
        connection.raddr.port
        for process in processes
        for connection in process.net_connections("tcp4")
        if connection.raddr
    }


def test_more_clients_than_files_wait_and_end_no_process(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0)
    assert service.get("/executions").status_code == 200  # it is connected to the store
    [process] = psutil.Process(service.web.pid).children()
    most_files = process.num_fds() + 10
    process.rlimit(psutil.RLIMIT_NOFILE, (most_files, most_files))
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connected(service)) for _ in range(2 * most_files)]
        deadline = time.monotonic() + 60
        while process.num_fds() < most_files:
            assert time.monotonic() < deadline
        for connection in crowd:
            connection.sendall(get(path=b"/healthz"))
        assert status_of(crowd[0].recv(65536)) == 200
    assert requests.get(f"{service.url}/healthz", timeout=50).status_code == 200
    assert process.is_running()
    assert "exited" not in service.output("web")


def test_a_full_process_says_with_each_answer_that_it_closes(
    make_service: Callable[..., Service],
) -> None:
    """Clients that come back at once, again and again, would keep all others out."""
    service = make_service(workers=0, GUNICORN_CMD_ARGS="--worker-connections 6")
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connected(service)) for _ in range(6)]
        ports = {client.getsockname()[1] for client in crowd}
        deadline = time.monotonic() + 60
        while not ports <= peers_of(service):
            assert time.monotonic() < deadline
        for _ in range(2):
            crowd[0].sendall(get(path=b"/healthz").replace(b"Connection: close\r\n", b""))
        answer = b""
        while piece := crowd[0].recv(65536):
            answer += piece
        assert status_of(answer) == 200
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.count(b"HTTP/1.1 ") == 1
    for _ in range(3):
        assert requests.get(f"{service.url}/healthz", timeout=50).status_code == 200


def test_a_web_process_may_have_as_many_files_as_it_takes_connections(
    make_service: Callable[..., Service],
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        service = make_service(workers=0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    [process] = psutil.Process(service.web.pid).children()
    assert process.rlimit(psutil.RLIMIT_NOFILE)[0] >= min(1500, hard)


def test_a_client_that_does_not_read_its_answer_loses_its_connection(service: Service) -> None:
    """More answers than the buffers between hold, asked for in one go; the connection ends, and the
    log is quiet.
    """
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", service.port))
        connection.settimeout(1)
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with contextlib.suppress(TimeoutError):
            connection.sendall(ask * 1000)
        own_port, deadline = connection.getsockname()[1], time.monotonic() + 2 * CLOSED_SECONDS
        for is_there in (True, False):  # it may be a moment before it is taken in
            while (own_port in peers_of(service)) is not is_there:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    assert "Socket error processing request" not in service.output("web")


def test_clients_that_take_their_answers_in_drips_disturb_nobody(
    make_service: Callable[..., Service],
) -> None:
    """Each has more answers than the buffers between hold."""
    service = make_service(workers=0)
    clients = [socket.socket() for _ in range(32)]
    ask = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    try:
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", service.port))
            client.sendall(ask * 4)
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            for client in clients:
                client.recv(1024, socket.MSG_DONTWAIT) if select.select([client], [], [], 0)[
                    0
                ] else None
            began = time.monotonic()
            assert requests.get(f"{service.url}/healthz", timeout=50).status_code == 200
            assert time.monotonic() - began < within(1)
            time.sleep(0.1)
    finally:
        for client in clients:
            client.close()


def test_a_large_answer_reaches_a_client_that_takes_its_time(service: Service) -> None:
    whole = requests.get(f"{service.url}/docs/swagger-ui-bundle.js", timeout=10).content
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", service.port))
        client.settimeout(10)
        client.sendall(
            b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3
            + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        answer = bytearray()
        while piece := client.recv(65536):
            answer += piece
            time.sleep(0.002)
    assert answer.count(whole) == 3
    assert answer.endswith(b'{"status": "ok"}')


def breaks_off(
    environ: dict[str, object], start_response: Callable[..., object]
) -> Iterator[bytes]:
    """An application whose answer ends in an error after its first half."""
    start_response("200 OK", [("Content-Length", "8")])
    yield b"half"
    if environ["PATH_INFO"] != "/half":
        yield b"half"
    raise RuntimeError


def loses_a_greenlet(
    environ: dict[str, object], start_response: Callable[..., object]
) -> Iterator[bytes]:
    """An application that starts work beside an answer, which fails."""
    import gevent

    from app.telemetry import logs

    logs.configure("INFO")
    gevent.spawn(divmod, 1, 0).join()
    start_response("200 OK", [("Content-Length", "4")])
    yield b"done"


@contextlib.contextmanager
def bare_server(folder: Path, application: str) -> Iterator[int]:
    """Serves a function of this module by the service's worker class, with none of its settings.

    Yields the port; what the server prints is in the file `log`.
    """
    port = free_port()
    options = ["-k", "app.web.worker.LoopWorker", "--no-control-socket", "-b", f"127.0.0.1:{port}"]
    command = [sys.executable, "-m", "gunicorn", "-c", os.devnull, *options]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, f"{__name__}:{application}"],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent,
        )
    try:
        yield port
    finally:
        server.terminate()
        server.wait(30)


def bodies_of(port: int, *paths: bytes) -> list[bytes]:
    """The bodies of answers to these paths, once the server is there."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return [raw_body(port, path) for path in paths]
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_an_answer_that_breaks_off_harms_no_other(tmp_path: Path) -> None:
    with bare_server(tmp_path, "breaks_off") as port:
        assert bodies_of(port, b"/half", b"/half", b"/whole") == [b"half", b"half", b"halfhalf"]
    assert "Exception in worker process" not in (tmp_path / "log").read_text()


def test_what_fails_beside_a_request_is_one_line_of_the_log(tmp_path: Path) -> None:
    with bare_server(tmp_path, "loses_a_greenlet") as port:
        assert bodies_of(port, b"/") == [b"done"]
    lines = (tmp_path / "log").read_text().splitlines()
    [crashed] = [line for line in lines if "ZeroDivisionError" in line]
    assert json.loads(crashed)["event"] == "crashed"
    assert not any(line.startswith("Traceback") for line in lines)


def raw_body(port: int, path: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(get(path=path))
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer.partition(b"\r\n\r\n")[2]
