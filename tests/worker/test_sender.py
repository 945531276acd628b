"""Webhooks are sent to the address that was checked, signed, and in bounded time and memory.

The receivers are real servers on the loopback. Where a test needs a public name, its addresses come
from `look_up`, the place where `Sender` asks the system.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import trustme
from standardwebhooks import Webhook, WebhookVerificationError

from app.domain import callback_url
from app.domain.delivery import MAX_ANSWER_BYTES, Try
from app.settings import Settings
from app.worker.webhooks import connections, guard
from app.worker.webhooks.guard import AddressRefused, Resolver, socket_opener
from app.worker.webhooks.sender import Sender

SECRETS = tuple("whsec_" + base64.b64encode(bytes([i]) * 32).decode() for i in (1, 2, 3))
ID = "exec_0mwunom46t1oafptp2rj-1"
BODY = '{"type":"execution.completed","data":{"outputs":{"output":"Grüße"}}}'.encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NAME = "hooks.example.com"

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """A server that answers with these bytes, or as this function does; it keeps all requests."""

    def __init__(self, answer: bytes | Answer = OK, host: str = "127.0.0.1", tls: Any = None):
        self._answer, self._host, self._tls = answer, host, tls
        self.connections = 0
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.port = 0

    async def __aenter__(self) -> Receiver:
        self._server = await asyncio.start_server(self._serve, self._host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}/hook?run=1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        try:
            while True:
                await self._read(reader)
                if isinstance(self._answer, bytes):
                    writer.write(self._answer)
                    await writer.drain()
                else:
                    await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("Content-Length", 0)))
        self.requests.append((head[0], headers, body))


@asynccontextmanager
async def senders() -> AsyncIterator[Callable[..., Sender]]:
    async with AsyncExitStack() as stack:

        def make(allow_private: bool = True, secrets: str = SECRETS[0], **options: Any) -> Sender:
            settings = Settings(webhook_secret=secrets, webhook_allow_private=allow_private)
            made = Sender(settings, **options)
            stack.push_async_callback(made.close)
            return made

        yield make


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


async def send(to: Sender, url: str, body: bytes = BODY) -> Try:
    return await to.send(url, ID, body, datetime.now(UTC))


def one_answer(answer: bytes | Answer, **options: Any) -> Try:
    """What a sender makes of a receiver that answers like this."""
    found: list[Try] = []

    async def test() -> None:
        async with senders() as make, Receiver(answer) as receiver:
            found.append(await send(make(**options), receiver.url()))

    run(test())
    return found[0]


def of_status(line: str, *headers: str, body: bytes = b"") -> bytes:
    head = [f"HTTP/1.1 {line}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def test_a_webhook_arrives_as_it_was_given_and_its_signature_is_right() -> None:
    async def test() -> None:
        async with senders() as make, Receiver() as receiver:
            tried = await send(make(), receiver.url())
            assert (tried.code, tried.error, tried.answer) == (200, None, "ok")
            [(line, headers, body)] = receiver.requests
            assert line == "POST /hook?run=1 HTTP/1.1"
            assert body == BODY
            assert headers["Host"] == f"127.0.0.1:{receiver.port}"
            assert headers["Content-Type"] == "application/json"
            assert headers["Accept-Encoding"] == "identity"
            assert headers["webhook-id"] == ID
            assert Webhook(SECRETS[0]).verify(body, headers)["type"] == "execution.completed"
            with pytest.raises(WebhookVerificationError):
                Webhook(SECRETS[1]).verify(body, headers)
            with pytest.raises(WebhookVerificationError):
                Webhook(SECRETS[0]).verify(body + b" ", headers)

    run(test())


def test_a_receiver_can_be_an_ipv6_address() -> None:
    async def test() -> None:
        async with senders() as make:
            try:
                receiver = await Receiver(host="::1").__aenter__()
            except OSError:
                pytest.skip("This machine has no IPv6.")
            assert (await send(make(), receiver.url(host="[::1]"))).error is None
            assert receiver.requests[0][1]["Host"] == f"[::1]:{receiver.port}"
            await receiver.__aexit__()

    run(test())


class SilentNames:
    """A name server that does not answer until it is told to."""

    def __init__(self) -> None:
        self.asked, self.answer = threading.Event(), threading.Event()

    def look_up(self, *_: object) -> list[str]:
        self.asked.set()
        self.answer.wait(30)
        return ["127.0.0.1"]


def test_a_lookup_that_outlives_the_worker_is_no_error() -> None:
    names = SilentNames()

    async def test() -> None:
        async with senders() as make:
            waiting = asyncio.ensure_future(send(make(look_up=names.look_up), f"http://{NAME}/"))
            while not names.asked.is_set():
                await asyncio.sleep(0.01)
            waiting.cancel()

    before = set(threading.enumerate())
    run(test())
    names.answer.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)  # pytest fails a test whose thread raised


def test_while_secrets_are_rotated_receivers_may_verify_with_either() -> None:
    async def test() -> None:
        async with senders() as make, Receiver() as receiver:
            await send(make(secrets=f"{SECRETS[0]}, {SECRETS[1]}"), receiver.url())
            [(_, headers, body)] = receiver.requests
            for secret in SECRETS[:2]:
                assert Webhook(secret).verify(body, headers)
            with pytest.raises(WebhookVerificationError):
                Webhook(SECRETS[2]).verify(body, headers)

    run(test())


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
def test_any_2xx_is_a_success(code: int) -> None:
    assert one_answer(of_status(f"{code} Fine")).error is None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("302 Found", "The receiver answered 302 Found. Redirects are not followed."),
        ("304 Not Modified", "The receiver answered 304 Not Modified. Redirects are not followed."),
        ("404 Not Found", "The receiver answered 404 Not Found."),
        ("410 Gone", "The receiver answered 410 Gone."),
        ("500 Whatever the server says", "The receiver answered 500 Internal Server Error."),
        ("599 Odd", "The receiver answered 599."),
    ],
)
def test_any_other_status_is_a_failure_that_names_it(line: str, error: str) -> None:
    tried = one_answer(of_status(line, body=b"reason" if line[0] != "3" else b""))
    assert (tried.code, tried.error) == (int(line[:3]), error)
    assert tried.gone == line.startswith("410")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_to_an_internal_address_is_not_followed(code: int) -> None:
    async def test() -> None:
        async with senders() as make, Receiver() as internal:
            to = of_status(f"{code} Moved", f"Location: {internal.url()}")
            async with Receiver(to) as receiver:
                tried = await send(make(), receiver.url())
                assert tried.code == code
                assert "not followed" in str(tried.error)
                assert internal.connections == 0

    run(test())


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["93.184.215.14", "127.0.0.1"],
        ["2606:4700::1111", "::1"],
        ["169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["fe80::1%lo"],
        ["not an address"],
    ],
)
def test_a_name_that_stands_for_a_forbidden_address_is_refused_before_any_connection(
    addresses: list[str],
) -> None:
    async def test() -> None:
        async with senders() as make, Receiver() as internal:
            guarded = make(allow_private=False, look_up=lambda *_: addresses)
            tried = await send(guarded, internal.url(host=NAME))
            assert tried.code is None
            assert f"{NAME} stands for {addresses[-1].partition('%')[0]}" in str(tried.error)
            assert internal.connections == 0

    run(test())


def test_a_literal_address_is_checked_again_when_it_is_sent() -> None:
    async def test() -> None:
        async with senders() as make, Receiver() as internal:
            for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.1", "0x7f000001"):
                tried = await send(make(allow_private=False), internal.url(host=host))
                assert tried.code is None
                assert tried.error
            assert internal.connections == 0

    run(test())


def test_what_the_system_says_of_a_name_is_checked() -> None:
    async def test() -> None:
        with pytest.raises(AddressRefused, match=r"^localhost stands for .* not a public address"):
            await Resolver(allow_private=False).resolve("localhost", 80)
        assert await Resolver(allow_private=True).resolve("localhost", 80)

    run(test())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "169.254.169.254", "64:ff9b::1"])
def test_no_socket_is_opened_for_an_address_that_is_not_public(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    info = (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 80))
    with pytest.raises(AddressRefused):
        socket_opener(allow_private=False)(info)
    socket_opener(allow_private=True)(info).close()


def test_the_connection_goes_to_the_checked_address_and_the_name_is_not_looked_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        async with senders() as make, Receiver() as first:
            second = Receiver(host="127.0.0.2")
            second.port = first.port
            answers = iter([["127.0.0.1"], ["127.0.0.2"]])
            asked: list[str] = []

            def look_up(name: str, _: int) -> list[str]:
                asked.append(name)
                return next(answers)

            async with second:
                tried = await send(make(look_up=look_up), first.url(host=NAME))
                assert tried.error is None
                assert (first.connections, second.connections, asked) == (1, 0, [NAME])

    run(test())


def test_a_name_that_changes_to_a_private_address_between_two_tries_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 127.0.0.2 plays a public address here.
    monkeypatch.setattr(callback_url, "_PRIVATE_V4", (ipaddress.IPv4Network("127.0.0.1/32"),))
    monkeypatch.setattr(connections, "CHECKED_SECONDS", 0)
    closes = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    async def test() -> None:
        async with senders() as make, Receiver(closes, host="127.0.0.2") as public:
            private = Receiver()
            private.port = public.port
            answers = iter([["127.0.0.2"], ["127.0.0.1"]])
            guarded = make(allow_private=False, look_up=lambda *_: next(answers))
            async with private:
                assert (await send(guarded, public.url(host=NAME))).error is None
                tried = await send(guarded, public.url(host=NAME))
                assert "127.0.0.1 is not a public address" in str(tried.error)
                assert (public.connections, private.connections) == (1, 0)

    run(test())


def test_a_name_that_does_not_exist_is_told() -> None:
    def look_up(*_: object) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    tried = one_answer(OK)
    assert tried.error is None

    async def test() -> None:
        async with senders() as make:
            for find, reason in ((look_up, "Name or service not known"), (lambda *_: [], "no add")):
                tried = await send(make(look_up=find), f"http://{NAME}/")
                assert NAME in str(tried.error)
                assert reason in str(tried.error)

    run(test())


def test_a_name_server_that_does_not_answer_holds_up_neither_the_loop_nor_other_webhooks() -> None:
    names = SilentNames()

    async def test() -> None:
        async with senders() as make, Receiver() as receiver:
            slow = make(look_up=names.look_up, seconds=1.0)
            waiting = asyncio.ensure_future(send(slow, f"http://{NAME}:{receiver.port}/"))
            while not names.asked.is_set():
                await asyncio.sleep(0.01)
            assert (await send(slow, receiver.url())).error is None
            assert not waiting.done()
            tried = await waiting
            assert tried.error == f"The name {NAME} was not resolved within 1 s."

    try:
        run(test())
    finally:
        names.answer.set()


def test_many_slow_names_take_a_bounded_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_LOOKUPS", 5)
    lock, running, most = threading.Lock(), 0, 0

    def look_up(*_: object) -> list[str]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return ["127.0.0.1"]

    async def test() -> None:
        async with senders() as make, Receiver() as receiver:
            to = make(look_up=look_up)
            urls = [receiver.url(host=f"a{number}.example.com") for number in range(30)]
            assert not [
                it.error for it in await asyncio.gather(*(send(to, u) for u in urls)) if it.error
            ]

    run(test())
    assert most == 5


async def _drip_header(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def _silence(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def _endless_informational(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("answer", [_drip_header, _silence, _endless_informational])
def test_an_answer_that_does_not_come_in_time_is_a_failure(answer: Answer) -> None:
    begun = time.monotonic()
    tried = one_answer(answer, seconds=1.0)
    assert (tried.code, tried.error) == (None, "127.0.0.1 did not answer within 1 s.")
    assert 1.0 <= tried.seconds <= time.monotonic() - begun


@pytest.mark.parametrize(
    ("head", "unit", "code"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", None),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", None),
        (b"", b"\r\n", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1", b";name=value", 200),
    ],
)
def test_a_receiver_that_floods_the_worker_is_cut_off(
    head: bytes, unit: bytes, code: int | None
) -> None:
    """Beside an answer's body, whose beginning alone is read, and its headers, which aiohttp bounds."""

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(unit * 1000)
            await writer.drain()

    tried = one_answer(flood, seconds=15.0)
    assert tried.code == code
    if code is None:
        assert tried.error == "127.0.0.1 sent too much before its answer."
    assert tried.seconds < 10


def test_a_receiver_that_drips_the_body_has_accepted_the_event_all_the_same() -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    tried = one_answer(drip, seconds=1.0)
    assert (tried.code, tried.error) == (200, None)
    assert set(tried.answer) == {"x"}
    assert tried.seconds >= 1.0


def test_of_an_endless_body_only_the_beginning_is_read() -> None:
    written = 0
    broken = asyncio.Event()

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 10_000)
                await writer.drain()
                written += 10_000
        finally:
            broken.set()

    async def test() -> None:
        async with senders() as make, Receiver(flood) as receiver:
            tried = await send(make(), receiver.url())
            assert (tried.error, tried.answer) == (None, "x" * MAX_ANSWER_BYTES)
            await broken.wait()  # the sender hangs up
            assert written < 20_000_000  # what buffers of sockets take

    run(test())


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00" * 100,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 10_000 + b"\r\n",
        b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"+OK redis\r\n$5\r\nhello\r\n",
    ],
)
def test_an_answer_that_is_not_http_is_a_failure(answer: bytes) -> None:
    tried = one_answer(answer, seconds=20.0)
    assert (tried.code, tried.error) == (None, "The answer of 127.0.0.1 is not valid HTTP.")


def test_a_connection_that_breaks_off_is_a_failure() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        raise OSError

    tried = one_answer(hang_up)
    assert tried.error == "127.0.0.1 closed the connection without an answer."


def test_a_body_that_breaks_off_does_not_undo_its_status() -> None:
    async def broken(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")
        writer.close()
        raise OSError

    tried = one_answer(broken)
    assert (tried.code, tried.error) == (200, None)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more than it said",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a chunk",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore",
    ],
)
def test_a_body_of_a_wrong_form_does_not_undo_its_status(answer: bytes) -> None:
    tried = one_answer(answer, seconds=5.0)
    assert (tried.code, tried.error) == (int(answer.split(b"HTTP/1.1 ")[-1][:3]), None)
    assert tried.answer in ("ok", "")
    assert tried.seconds < 4


def test_a_receiver_that_is_down_is_told_with_its_port() -> None:
    async def test() -> None:
        async with senders() as make, Receiver() as gone:
            pass
        async with senders() as make:
            tried = await send(make(), gone.url())
            assert tried.error == f"Cannot connect to 127.0.0.1:{gone.port}: Connection refused."

    run(test())


def test_a_compressed_answer_is_not_unpacked() -> None:
    bomb = gzip.compress(b"x" * 50_000_000)
    tried = one_answer(of_status("200 OK", "Content-Encoding: gzip", body=bomb))
    assert tried.error is None
    assert len(tried.answer) <= MAX_ANSWER_BYTES
    assert "xxx" not in tried.answer


@pytest.mark.parametrize("value", ["120", "0"])
def test_the_wait_that_a_receiver_asks_for_is_read(value: str) -> None:
    tried = one_answer(of_status("503 Busy", f"Retry-After: {value}"))
    assert tried.retry_after_seconds == float(value)


def test_the_wait_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    seconds = one_answer(of_status("503 Busy", f"Retry-After: {date}")).retry_after_seconds
    assert seconds is not None
    assert 7000 <= seconds <= 7200


@pytest.mark.parametrize("value", ["8640000", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_very_long_wait_is_read_too(value: str) -> None:
    """`schedule` makes a day of it. Ignored, it would bring the next try after seconds."""
    seconds = one_answer(of_status("503 Busy", f"Retry-After: {value}")).retry_after_seconds
    assert seconds is not None
    assert seconds >= 8_640_000


@pytest.mark.parametrize("value", ["soon", "-5", "inf", "1e3", ""])
def test_a_wait_that_means_nothing_is_ignored(value: str) -> None:
    assert one_answer(of_status("503 Busy", f"Retry-After: {value}")).retry_after_seconds is None


def test_no_proxy_of_the_environment_is_used_and_no_cookie_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        sets = of_status("200 OK", "Set-Cookie: session=1; Path=/")
        async with senders() as make, Receiver(sets) as receiver, Receiver() as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url())
            to = make()
            for _ in range(2):
                assert (await send(to, receiver.url())).error is None
            assert proxy.connections == 0
            assert not any("Cookie" in headers for _, headers, _ in receiver.requests)

    run(test())


def test_a_connection_that_the_receiver_just_closed_is_no_failure() -> None:
    answered = 0

    async def once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        answered += 1
        if answered == 2:  # the second request came over the first connection
            raise OSError
        writer.write(OK)
        await writer.drain()

    async def test() -> None:
        async with senders() as make, Receiver(once) as receiver:
            to = make()
            assert (await send(to, receiver.url())).error is None
            assert (await send(to, receiver.url())).error is None
            assert (receiver.connections, len(receiver.requests)) == (2, 3)

    run(test())


def test_hundreds_are_sent_at_the_same_time() -> None:
    count, inside, most = 300, 0, 0

    async def together(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        while most < count:
            await asyncio.sleep(0.01)
        writer.write(OK)
        await writer.drain()

    async def test() -> None:
        async with senders() as make, Receiver(together) as receiver:
            to = make(seconds=50.0)
            tries = await asyncio.gather(*(send(to, receiver.url()) for _ in range(count)))
            assert {tried.error for tried in tries} == {None}

    run(test())


def test_a_try_that_is_cancelled_hangs_up() -> None:
    hung_up = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        if await reader.read(1) == b"":
            hung_up.set()
        raise OSError

    async def test() -> None:
        async with senders() as make, Receiver(wait) as receiver:
            trying = asyncio.ensure_future(send(make(), receiver.url()))
            while not receiver.requests:
                await asyncio.sleep(0.01)
            trying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await trying
            await hung_up.wait()

    run(test())


def test_without_a_secret_nothing_is_sent() -> None:
    async def test() -> None:
        async with senders() as make, Receiver() as receiver:
            tried = await send(make(secrets=""), receiver.url())
            assert "WEBHOOK_SECRET" in str(tried.error)
            assert receiver.connections == 0

    run(test())


# TLS


def _trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def _certified(authority: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


def over_tls(server: ssl.SSLContext, trusted: ssl.SSLContext | bool) -> tuple[Try, Receiver]:
    found: list[Any] = []

    async def test() -> None:
        async with senders() as make, Receiver(tls=server) as receiver:
            to = make(tls=trusted, look_up=lambda *_: ["127.0.0.1"])
            found.extend([await send(to, receiver.url("https", NAME)), receiver])

    run(test())
    return found[0], found[1]


def test_tls_and_the_host_header_use_the_name_though_the_connection_goes_to_an_address() -> None:
    authority = trustme.CA()
    server = _certified(authority, NAME)
    asked: list[str | None] = []
    server.sni_callback = lambda _, name, __: asked.append(name)  # type: ignore[assignment]
    tried, receiver = over_tls(server, _trusting(authority))
    assert (tried.code, tried.error) == (200, None)
    assert asked == [NAME]
    assert receiver.requests[0][1]["Host"] == f"{NAME}:{receiver.port}"


def test_a_certificate_for_another_name_is_refused() -> None:
    authority = trustme.CA()
    tried, receiver = over_tls(_certified(authority, "other.example.com"), _trusting(authority))
    assert f"The certificate of {NAME} is not valid: Hostname mismatch" in str(tried.error)
    assert receiver.requests == []


def test_a_certificate_that_nobody_trusts_is_refused() -> None:
    tried, receiver = over_tls(_certified(trustme.CA(), NAME), True)
    assert f"The certificate of {NAME} is not valid" in str(tried.error)
    assert receiver.requests == []


def test_a_certificate_that_has_expired_is_refused() -> None:
    authority = trustme.CA()
    server = _certified(authority, NAME, not_after=datetime(2020, 1, 1, tzinfo=UTC))
    tried, receiver = over_tls(server, _trusting(authority))
    assert str(tried.error) == f"The certificate of {NAME} is not valid: certificate has expired."
    assert receiver.requests == []


def test_a_receiver_that_speaks_no_tls_is_told() -> None:
    async def not_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def test() -> None:
        server = await asyncio.start_server(not_tls, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with senders() as make:
            tried = await send(make(), f"https://127.0.0.1:{port}/")
            assert tried.error == "TLS with 127.0.0.1 failed: wrong version number."
        server.close()

    run(test())


def test_a_tls_handshake_that_does_not_end_in_time_is_a_failure() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()

    async def test() -> None:
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with senders() as make:
            tried = await send(make(seconds=1.0), f"https://127.0.0.1:{port}/")
            assert tried.error == "No connection to 127.0.0.1 within 1 s."
        server.close()

    run(test())
